//! Pictures and masks as people have them.

use std::path::{Path, PathBuf};

use chiaro::image::{Rgb8Image, read_png, write_png};

use super::{chiaro, fails, stderr};

fn golden(name: &str) -> String {
    Path::new(crate::ROOT).join("tests/golden").join(name).display().to_string()
}

fn draw(folder: &Path, arguments: &[&str], output: &str) -> (Rgb8Image, String) {
    let model = golden("sd15");
    let always = ["--model", &model, "--steps", "2", "--device", "cpu", "-o", output, "--overwrite"];
    let run = chiaro(folder, &[&["x"], arguments, &always].concat());
    assert!(run.status.success(), "{arguments:?}: {}", stderr(&run));
    (read_png(&folder.join(output)).expect("a PNG"), stderr(&run))
}

fn gradient(width: usize, height: usize) -> Rgb8Image {
    let pixel = |i: usize| [(i % width * 255 / width) as u8, (i / width * 255 / height) as u8, 90];
    Rgb8Image { width, height, data: (0..width * height).flat_map(pixel).collect() }
}

fn write(folder: &Path, name: &str, picture: &Rgb8Image) -> PathBuf {
    let path = folder.join(name);
    write_png(&path, picture, &[], true).expect("written");
    path
}

/// Writes a picture with an opacity for each pixel.
fn write_rgba(path: &Path, width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 4]) {
    let data: Vec<u8> = (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect();
    let picture = ::image::RgbaImage::from_raw(width as u32, height as u32, data).expect("all pixels");
    let mut bytes = Vec::new();
    let encoder = ::image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    picture.write_with_encoder(encoder).expect("encoded");
    std::fs::write(path, bytes).expect("writable");
}

#[test]
fn start_pictures_masks_and_control_pictures_are_turned_upright() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    // The same pixels upright, and as a camera that was held sideways keeps them.
    let upright = gradient(96, 64);
    write(at, "upright.png", &upright);
    let lying = ::image::RgbImage::from_raw(96, 64, upright.data.clone()).expect("all pixels");
    let lying = ::image::imageops::rotate270(&lying);
    let lying = Rgb8Image { width: 64, height: 96, data: lying.into_raw() };
    let mut bytes = std::fs::read(write(at, "lying.png", &lying)).expect("readable");
    // eXIf with orientation 6, in front of the pixels (PNG specification, third edition, 11.3.4.5).
    let exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut crc = flate2::Crc::new();
    crc.update(b"eXIf");
    crc.update(exif);
    let chunk = [&(exif.len() as u32).to_be_bytes()[..], b"eXIf", exif, &crc.sum().to_be_bytes()].concat();
    bytes.splice(33..33, chunk);
    std::fs::write(at.join("lying.png"), bytes).expect("writable");

    let (wanted, _) = draw(at, &["--image", "upright.png"], "a.png");
    assert_eq!((wanted.width, wanted.height), (96, 64));
    assert_eq!(draw(at, &["--image", "lying.png"], "b.png").0, wanted);
    let (wanted, _) = draw(at, &["--image", "upright.png", "--mask", "upright.png"], "a.png");
    assert_eq!(draw(at, &["--image", "upright.png", "--mask", "lying.png"], "b.png").0, wanted);
}

#[test]
fn photos_are_fitted_to_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    write(at, "photo.png", &gradient(400, 300));
    // The model was made for 128x128: 147.8x110.9 have as many pixels in the photo's proportions.
    let (picture, said) = draw(at, &["--image", "photo.png"], "a.png");
    assert_eq!((picture.width, picture.height), (144, 112));
    assert!(said.contains("400x300") && said.contains("144x112") && said.contains("--width"), "{said}");
    let (picture, said) = draw(at, &["--image", "photo.png", "--width", "160"], "a.png");
    assert_eq!((picture.width, picture.height), (160, 120));
    assert!(!said.contains("400x300"), "{said}");
}

#[test]
fn the_alpha_of_a_mask_is_the_mask() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    write(at, "start.png", &gradient(64, 64));
    let half = |left: [u8; 3], right: [u8; 3]| Rgb8Image {
        width: 64,
        height: 64,
        data: (0..64 * 64).flat_map(|i| if i % 64 < 32 { left } else { right }).collect(),
    };
    write(at, "mask.png", &half([255; 3], [0; 3]));
    // All grey, or even the other way round: what is opaque counts.
    write_rgba(&at.join("grey.webp"), 64, 64, |x, _| [128, 128, 128, if x < 32 { 255 } else { 0 }]);
    write_rgba(&at.join("dark.webp"), 64, 64, |x, _| if x < 32 { [0, 0, 0, 255] } else { [255, 255, 255, 0] });
    write_rgba(&at.join("opaque.webp"), 64, 64, |x, _| if x < 32 { [255; 4] } else { [0, 0, 0, 255] });
    let (wanted, said) = draw(at, &["--image", "start.png", "--mask", "mask.png"], "a.png");
    assert!(!said.contains("alpha"), "{said}");
    for name in ["grey.webp", "dark.webp"] {
        let (picture, said) = draw(at, &["--image", "start.png", "--mask", name], "b.png");
        assert_eq!(picture, wanted, "{name}");
        assert!(said.contains("alpha"), "{said}");
    }
    let (picture, said) = draw(at, &["--image", "start.png", "--mask", "opaque.webp"], "b.png");
    assert!(picture == wanted && !said.contains("alpha"), "{said}");
    let (_, said) = draw(at, &["--image", "grey.webp"], "b.png");
    assert!(said.contains("--image: its transparent parts"), "{said}");

    for (value, says) in [(255, "white all over"), (0, "black all over")] {
        write(at, "plain.png", &half([value; 3], [value; 3]));
        let (_, said) = draw(at, &["--image", "start.png", "--mask", "plain.png", "-q"], "b.png");
        assert!(said.contains("warning") && said.contains(says), "{said}");
    }
    let mut dot = half([0; 3], [0; 3]);
    dot.data[3 * (64 * 3 + 3)..][..3].fill(255);
    write(at, "dot.png", &dot);
    let (_, said) = draw(at, &["--image", "start.png", "--mask", "dot.png"], "b.png");
    assert!(said.contains("too little"), "{said}");
}

#[test]
fn what_a_mask_keeps_does_not_change() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let start = gradient(64, 64);
    write(at, "start.png", &start);
    // White, grey and black columns.
    let shade = |i: usize| {
        if i % 64 < 24 {
            255
        } else if i % 64 < 40 {
            102
        } else {
            0u8
        }
    };
    let mask = Rgb8Image { width: 64, height: 64, data: (0..64 * 64).flat_map(|i| [shade(i); 3]).collect() };
    write(at, "mask.png", &mask);
    let masked = ["--image", "start.png", "--mask", "mask.png"];
    let (pasted, _) = draw(at, &masked, "pasted.png");
    let (drawn, _) = draw(at, &[&masked[..], &["--paste-back", "off"]].concat(), "drawn.png");
    for i in 0..64 * 64 {
        for at in 3 * i..3 * i + 3 {
            let (was, is, put) = (f64::from(start.data[at]), f64::from(drawn.data[at]), pasted.data[at]);
            let share = f64::from(shade(i)) / 255.0;
            let wanted = is * share + was * (1.0 - share);
            assert!((f64::from(put) - wanted).abs() <= 0.5 + 1e-3, "pixel {i}: {put}, not {wanted}");
        }
    }
    assert!(drawn != pasted, "without it the decoder changes every pixel");
    // Repeated: the parameters say which it was.
    let (again, _) = draw(at, &[&["--like", "drawn.png"], &masked[..]].concat(), "again.png");
    assert_eq!(again, drawn);

    // A model that was made for inpainting draws the whole, unless asked.
    let (model, unet) = (golden("sd15"), golden("inpaint9/unet"));
    let run = |more: &[&str]| {
        let always =
            ["x", "--model", &model, "--unet", &unet, "--steps", "2", "--device", "cpu", "-o", "i.png", "--overwrite"];
        let output = chiaro(at, &[&always[..], &masked, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        read_png(&at.join("i.png")).expect("a PNG")
    };
    let right =
        |picture: &Rgb8Image| picture.data.chunks(64 * 3).flat_map(|row| row[40 * 3..].to_vec()).collect::<Vec<_>>();
    assert_ne!(right(&run(&[])), right(&start));
    assert_eq!(right(&run(&["--paste-back", "on"])), right(&start));
    fails(at, &["x", "--image", "start.png", "--paste-back", "on"], 2, &["--mask"]);
}
