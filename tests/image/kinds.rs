//! Every kind of PNG that other programs write, and files that lie about what they hold. Pixels here are written with the encoder's plain
//! interface, so that the expectation is PNG's definition (sections 7.2 and 11.2.1 of the specification), not our writer.

use std::path::Path;

use chiaro::image::{png_text, read_png, write_file};
use png::{BitDepth, ColorType};

use crate::support::picture_file::chunk;

fn write(path: &Path, size: (u32, u32), kind: (ColorType, BitDepth), palette: Option<&[u8]>, data: &[u8]) {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(kind.0);
    encoder.set_depth(kind.1);
    if let Some(palette) = palette {
        encoder.set_palette(palette.to_vec());
    }
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(data).expect("the data of that size");
    writer.finish().expect("an end");
    std::fs::write(path, bytes).expect("writable");
}

#[test]
fn every_kind_of_png_is_read_as_rgb() {
    use BitDepth::{Eight, Four, One, Sixteen, Two};
    use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let palette: &[u8] = &[9, 8, 7, 200, 100, 50];
    let (black, white) = ([0, 0, 0], [255, 255, 255]);
    /// Name, colour type, depth, the rows' bytes, the two pixels.
    type Case = (&'static str, ColorType, BitDepth, &'static [u8], [[u8; 3]; 2]);
    let cases: &[Case] = &[
        ("1-bit grey", Grayscale, One, &[0b0100_0000], [black, white]),
        ("2-bit grey", Grayscale, Two, &[0b0110_0000], [[85; 3], [170; 3]]),
        ("4-bit grey", Grayscale, Four, &[0x1f], [[17; 3], white]),
        ("8-bit grey", Grayscale, Eight, &[3, 4], [[3; 3], [4; 3]]),
        ("16-bit grey", Grayscale, Sixteen, &[3, 255, 4, 0], [[3; 3], [4; 3]]),
        ("grey with alpha", GrayscaleAlpha, Eight, &[3, 0, 4, 255], [[3; 3], [4; 3]]),
        ("1-bit palette", Indexed, One, &[0b0100_0000], [[9, 8, 7], [200, 100, 50]]),
        ("8-bit palette", Indexed, Eight, &[1, 0], [[200, 100, 50], [9, 8, 7]]),
        ("8-bit colour", Rgb, Eight, &[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]),
        ("16-bit colour", Rgb, Sixteen, &[1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9], [[1, 2, 3], [4, 5, 6]]),
        ("colour with alpha", Rgba, Eight, &[1, 2, 3, 0, 4, 5, 6, 255], [[1, 2, 3], [4, 5, 6]]),
        (
            "16-bit colour with alpha",
            Rgba,
            Sixteen,
            &[1, 0, 2, 0, 3, 0, 9, 9, 4, 0, 5, 0, 6, 0, 9, 9],
            [[1, 2, 3], [4, 5, 6]],
        ),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    for (name, colour, depth, data, want) in cases {
        write(&path, (2, 1), (*colour, *depth), (*colour == Indexed).then_some(palette), data);
        let image = read_png(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((image.width, image.height, image.data), (2, 1, want.concat()), "{name}");
    }
}

#[test]
fn a_header_that_asks_for_gigabytes_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("huge.png");
    let header = [&60_000u32.to_be_bytes()[..], &60_000u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let bytes = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &[0; 8])].concat();
    std::fs::write(&path, bytes).expect("writable");
    let message = read_png(&path).expect_err("too large").to_string();
    assert!(message.contains("huge.png") && message.contains("60000"), "{message}");
}

/// Other programs write compressed texts, and texts behind the pixels.
#[test]
fn texts_of_every_kind_and_place_are_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.add_text_chunk("plain".into(), "a".into()).expect("a text");
    encoder.add_ztxt_chunk("packed".into(), "b".repeat(1000)).expect("a text");
    encoder.add_itxt_chunk("international".into(), "ç猫".into()).expect("a text");
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&[0]).expect("one pixel");
    writer.write_text_chunk(&png::text_metadata::TEXtChunk::new("behind", "d")).expect("a text");
    writer.finish().expect("an end");
    write_file(&path, &bytes, false).expect("written");
    let mut texts = png_text(&path).expect("a PNG");
    texts.sort();
    let want = [("behind", "d"), ("international", "ç猫"), ("packed", &"b".repeat(1000)), ("plain", "a")];
    assert_eq!(texts, want.map(|(k, t)| (k.to_owned(), t.to_owned())));
    assert!(read_png(&path).is_ok());
}

/// 64 MiB of one letter pack into 64 KiB.
#[test]
fn a_text_that_unpacks_to_too_much_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bomb.png");
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.add_ztxt_chunk("bomb".into(), "b".repeat(64 << 20)).expect("a text");
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&[0]).expect("one pixel");
    writer.finish().expect("an end");
    std::fs::write(&path, bytes).expect("writable");
    let message = png_text(&path).expect_err("too large").to_string();
    assert!(message.contains("bomb.png"), "{message}");
}
