//! Pictures as people have them, written by Pillow (`tests/golden/pictures/make.py`), and pictures out in other formats.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ::image::ImageDecoder;
use ::image::codecs::jpeg::JpegDecoder;
use ::image::codecs::webp::WebPDecoder;
use chiaro::image::{PictureFormat, Rgb8Image, encode_picture, open_photo, open_picture, read_png, write_picture};

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures")
}

fn furthest(a: &Rgb8Image, b: &Rgb8Image) -> u8 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn every_orientation_is_turned_upright() {
    let upright = read_png(&pictures().join("upright.png")).expect("a PNG");
    for orientation in 1..=8 {
        for (ending, tolerance) in [("png", 0), ("webp", 0), ("jpg", 8)] {
            let path = pictures().join(format!("orientation/{orientation}.{ending}"));
            let picture = open_picture(&path).unwrap_or_else(|e| panic!("{e}"));
            let off = furthest(&picture, &upright);
            assert!(off <= tolerance, "{}: {off} of 255 from the upright picture", path.display());
        }
    }
}

/// PNG's chunk may stand behind the pixels, too.
#[test]
fn an_orientation_behind_the_pixels_counts() {
    let whole = std::fs::read(pictures().join("orientation/6.png")).expect("readable");
    let at = |name: &[u8; 4]| whole.windows(4).position(|w| w == name).expect("there") - 4;
    let exif = at(b"eXIf");
    let length = u32::from_be_bytes(whole[exif..exif + 4].try_into().expect("four bytes")) as usize + 12;
    let end = at(b"IEND");
    assert!(exif < at(b"IDAT"), "Pillow writes it in front");
    let moved = [&whole[..exif], &whole[exif + length..end], &whole[exif..exif + length], &whole[end..]].concat();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    std::fs::write(&path, moved).expect("writable");
    let upright = read_png(&pictures().join("upright.png")).expect("a PNG");
    assert_eq!(open_picture(&path).expect("a PNG"), upright);
}

#[test]
fn a_cut_file_of_any_kind_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cut");
    let mut kinds = 0;
    for entry in std::fs::read_dir(pictures().join("kinds")).expect("readable") {
        let source = entry.expect("readable").path();
        let name = source.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = std::fs::read(&source).expect("readable");
        let whole = open_photo(&source).unwrap_or_else(|e| panic!("{e}"));
        kinds += 1;
        let lengths = (0..bytes.len()).filter(|length| length % 11 == 0 || bytes.len() - length < 40);
        for length in lengths {
            std::fs::write(&path, &bytes[..length]).expect("writable");
            match open_photo(&path) {
                // Shorter ones are not known for what they were.
                Err(error) => assert!(length < 12 || error.to_string().contains("cut short"), "{name}: {error}"),
                // The last byte may be padding.
                Ok(picture) => assert!(
                    length + 1 == bytes.len() && picture == whole,
                    "{name}: {length} of {} bytes are taken for a picture",
                    bytes.len()
                ),
            }
            if name.ends_with(".jpg") {
                // A download into a file of its full size that stopped.
                let mut padded = bytes[..length].to_vec();
                padded.resize(bytes.len(), 0);
                std::fs::write(&path, padded).expect("writable");
                assert!(open_photo(&path).is_err(), "{name}: {length} bytes and zeros are taken for a picture");
            }
            if name.ends_with(".png") {
                assert!(std::fs::write(&path, &bytes[..length]).is_ok() && read_png(&path).is_err(), "{name}");
            }
        }
    }
    assert_eq!(kinds, 10);
}

/// What other programs put behind a JPEG's end (a film, a second picture) is not the picture's.
#[test]
fn what_follows_a_picture_is_passed_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.jpg");
    let bytes = std::fs::read(pictures().join("kinds/baseline.jpg")).expect("readable");
    std::fs::write(&path, [&bytes[..], b"\0\0\0\x18ftypmp42"].concat()).expect("writable");
    let whole = open_picture(&pictures().join("kinds/baseline.jpg")).expect("a JPEG");
    assert_eq!(open_picture(&path).expect("a JPEG"), whole);
}

#[test]
fn transparency_is_kept_apart() {
    for name in ["rgba.png", "rgba.webp", "la.png", "palette.png"] {
        let photo = open_photo(&pictures().join("alpha").join(name)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(photo.alpha.as_deref(), Some(&[0, 100, 200, 255, 0, 100, 200, 255][..]), "{name}");
        if name != "la.png" {
            assert_eq!(photo.image.data, [200, 10, 20].repeat(8), "{name}");
        }
    }
    assert_eq!(open_photo(&pictures().join("alpha/opaque.png")).expect("a PNG").alpha, None);
}

#[test]
fn folders_and_other_files_are_no_pictures() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(open_picture(folder.path()).is_err());
    std::fs::write(folder.path().join("a.gif"), b"GIF89a").expect("writable");
    let told = open_picture(&folder.path().join("a.gif")).expect_err("another kind").to_string();
    assert!(told.contains("a.gif") && told.contains("PNG, JPEG or WebP"), "{told}");
}

/// The bytes of a field of the directory that the first one's 0x8769 points to, or of the first (TIFF 6.0, section 2), large end first.
fn field(exif: &[u8], tag: u16) -> Option<Vec<u8>> {
    let number = |at: usize, wide: usize| exif[at..at + wide].iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    assert_eq!(&exif[..4], b"MM\0*");
    let find = |directory: usize, tag: u16| {
        let entries = (0..number(directory, 2)).map(|i| directory + 2 + 12 * i);
        entries.into_iter().find(|at| number(*at, 2) == usize::from(tag))
    };
    let first = number(4, 4);
    let second = number(find(first, 0x8769)? + 8, 4);
    let at = find(second, tag).or_else(|| find(first, tag))?;
    Some(exif[number(at + 8, 4)..][..number(at + 4, 4)].to_vec())
}

#[test]
fn jpeg_and_webp_hold_parameters_as_automatic1111_writes_them() {
    let text = std::fs::read_to_string(pictures().join("comment.txt")).expect("text");
    let by_piexif = std::fs::read(pictures().join("comment.exif")).expect("readable");
    let wanted = field(by_piexif.strip_prefix(b"Exif\0\0").expect("its head"), 0x9286).expect("a comment");
    let data = (0..32 * 24 * 3).map(|i| (i / 16 % 256) as u8).collect();
    let picture = Rgb8Image { width: 32, height: 24, data };
    let texts = [("parameters".to_owned(), text), ("chiaro".to_owned(), "{\"seed\":7}".to_owned())];
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, tolerance) in [("a.jpg", 24), ("b.JPEG", 24), ("c.webp", 0)] {
        let path = folder.path().join(name);
        assert_eq!(write_picture(&path, &picture, &texts, false).expect("written"), None);
        assert!(furthest(&open_picture(&path).expect("a picture"), &picture) <= tolerance, "{name}");
        let source = Cursor::new(std::fs::read(&path).expect("readable"));
        let exif = match PictureFormat::of(&path) {
            Some(PictureFormat::Jpeg) => JpegDecoder::new(source).and_then(|mut d| d.exif_metadata()),
            _ => WebPDecoder::new(source).and_then(|mut d| d.exif_metadata()),
        };
        let exif = exif.expect("readable").expect("there is one");
        assert_eq!(field(&exif, 0x9286).as_ref(), Some(&wanted), "{name}");
        assert_eq!(field(&exif, 0x010d).as_deref(), Some(&b"chiaro:{\"seed\":7}\0"[..]), "{name}");
    }
}

/// A JPEG's EXIF has 64 KiB. The picture is written all the same, with what fits.
#[test]
fn parameters_that_a_jpeg_cannot_hold_are_told() {
    let dot = Rgb8Image { width: 8, height: 8, data: vec![9; 192] };
    let long = |keyword: &str, letters: usize| (keyword.to_owned(), "x".repeat(letters));
    for (texts, keeps) in [
        ([long("parameters", 20_000), long("chiaro", 30_000)], true),
        ([long("parameters", 40_000), long("chiaro", 10)], false),
    ] {
        let (bytes, remark) = encode_picture(PictureFormat::Jpeg, &dot, &texts).expect("encoded");
        assert!(remark.is_some_and(|remark| remark.contains("64 KiB")));
        let exif = JpegDecoder::new(Cursor::new(&bytes)).and_then(|mut d| d.exif_metadata()).expect("a JPEG");
        assert_eq!(exif.is_some_and(|exif| field(&exif, 0x9286).is_some()), keeps);
        let (_, remark) = encode_picture(PictureFormat::WebP, &dot, &texts).expect("encoded");
        assert_eq!(remark, None);
    }
}
