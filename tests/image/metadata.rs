//! What pictures say beside their pixels. Files are put together here by the formats' specifications, not by our writers.

use std::path::{Path, PathBuf};

use chiaro::image::{Metadata, XMP, open_picture, read_metadata};

use super::kinds::chunk;
use crate::support::allocations;

/// A file in a folder that vanishes.
pub(crate) fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("picture");
    std::fs::write(&path, bytes).expect("writable");
    (folder, path)
}

fn read(bytes: &[u8]) -> Metadata {
    let (_folder, path) = file(bytes);
    read_metadata(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// A PNG of one grey pixel with further chunks in front of it.
pub(crate) fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    let pixel = [0x78, 0x01, 0x01, 0x02, 0x00, 0xfd, 0xff, 0x00, 0x00, 0x00, 0x02, 0x00, 0x01];
    let head = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]);
    [b"\x89PNG\r\n\x1a\n".to_vec(), head, chunks.concat(), chunk(b"IDAT", &pixel), chunk(b"IEND", b"")].concat()
}

/// A TIFF block with a comment as piexif writes it: UTF-16 with the large end first.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let count = (text.len() as u32 + 8).to_be_bytes();
    let pointer = [&[0x87, 0x69, 0, 4, 0, 0, 0, 1, 0, 0, 0, 26][..], &[0; 4]].concat();
    let entry = [&[0x92, 0x86, 0, 7][..], &count, &[0, 0, 0, 44], &[0; 4]].concat();
    [&b"MM\0\x2a\0\0\0\x08\0\x01"[..], &pointer, &[0, 1], &entry, b"UNICODE\0", &text].concat()
}

/// A JPEG as far as its first scan, with segments.
pub(crate) fn jpeg(segments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    for (marker, data) in segments {
        bytes.extend([&[0xff, *marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat());
    }
    bytes.extend([0xff, 0xda]);
    bytes
}

/// A WebP of one lossless pixel in the extended layout, with chunks behind it.
pub(crate) fn webp(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let pixel = [0x2f, 0, 0, 0, 0, 0x07, 0x50, 0xcb, 0xff, 0x83, 0x88, 0x88, 0xfe, 0x07, 0];
    let extended = [0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let all = [&[(b"VP8X", &extended[..]), (b"VP8L", &pixel[..])], chunks].concat();
    let mut body = b"WEBP".to_vec();
    for (name, data) in all {
        body.extend([&name[..], &(data.len() as u32).to_le_bytes(), data].concat());
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

#[test]
fn comments_and_texts_of_every_container() {
    let text = "红色的圆 é, a red circle\nSteps: 2";
    let block = comment(text);
    let prefixed = [b"Exif\0\0", &block[..]].concat();
    let packet = "<x:xmpmeta>é</x:xmpmeta>";
    let xmp = [b"http://ns.adobe.com/xap/1.0/\0", packet.as_bytes()].concat();
    for bytes in [
        png(&[chunk(b"eXIf", &block)]),
        jpeg(&[(0xe0, vec![0; 14]), (0xe1, xmp), (0xe1, prefixed.clone()), (0xfe, "é".into())]),
        webp(&[(b"EXIF", &block), (b"XMP ", packet.as_bytes())]),
        webp(&[(b"EXIF", &prefixed)]),
    ] {
        let found = read(&bytes);
        assert_eq!(found.exif.and_then(|exif| exif.user_comment).as_deref(), Some(text));
        assert!(
            found
                .texts
                .iter()
                .all(|(name, text)| (name == XMP && text == packet) || (name == "Comment" && text == "é"))
        );
    }
}

/// UTF-8 as stable-diffusion.cpp writes it, and Latin-1 as the specification has it.
#[test]
fn both_alphabets_of_text_chunks() {
    let found = read(&png(&[
        chunk(b"tEXt", "a\0红 é".as_bytes()),
        chunk(b"tEXt", b"b\0caf\xe9"),
        chunk(b"iTXt", "c\0\0\0en\0\0红".as_bytes()),
    ]));
    assert_eq!(
        found.texts,
        [("a", "红 é"), ("b", "café"), ("c", "红")].map(|(name, text)| (name.to_owned(), text.to_owned()))
    );
}

fn packed(length: usize) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b'a'; length]).expect("in memory");
    encoder.finish().expect("in memory")
}

/// The sum counts: many texts that are small when packed and just allowed each.
#[test]
fn all_texts_of_a_file_have_one_limit() {
    let text = [b"parameters\0\0", &packed(15 << 20)[..]].concat();
    let many = png(&vec![chunk(b"zTXt", &text); 160]);
    assert!(many.len() < 3 << 20, "{}", many.len());
    let international = [b"parameters\0\x01\0\0\0", &packed(15 << 20)[..]].concat();
    let plain = chunk(b"tEXt", &[b"k\0".to_vec(), vec![b'a'; 1 << 20]].concat());
    let segment = (0xfe, vec![b'a'; 65_000]);
    for bytes in
        [many, png(&vec![chunk(b"iTXt", &international); 160]), png(&vec![plain; 20]), jpeg(&vec![segment; 300])]
    {
        let (_folder, path) = file(&bytes);
        let (read, largest) = allocations::largest(|| read_metadata(&path));
        let message = read.expect_err("too much").to_string();
        assert!(message.contains("16 MiB"), "{message}");
        assert!(largest <= 33 << 20, "{largest} bytes at once");
        // The pixels are there all the same, and cost no more.
        if bytes.starts_with(b"\x89PNG") {
            let (picture, largest) = allocations::largest(|| open_picture(&path));
            assert!(
                picture.is_ok() && largest <= bytes.len().max(16 << 20) + (1 << 20),
                "{largest} bytes at once: {picture:?}"
            );
        }
    }
}

/// A picture of a few bytes that says that it is large is refused before its pixels are asked for.
#[test]
fn large_pictures_of_every_format_are_refused() {
    let frame = |kind: u8| vec![8, 0x4e, 0x20, 0x4e, 0x20, kind, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
    let scan = vec![3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0];
    for kind in [0xc0, 0xc2] {
        let bytes = [jpeg(&[(kind, frame(3)), (0xda, scan.clone())]), vec![0, 2, 0xff, 0xd9]].concat();
        let (_folder, path) = file(&bytes);
        let (picture, largest) = allocations::largest(|| open_picture(&path));
        let message = picture.expect_err("too large").to_string();
        assert!(message.contains("20000×20000") && largest < 8 << 20, "{largest}: {message}");
    }
}

#[test]
fn damaged_files_end_in_an_error() {
    let whole = [
        png(&[chunk(b"zTXt", &[b"parameters\0\0", &packed(400)[..]].concat()), chunk(b"eXIf", &comment("a"))]),
        jpeg(&[(0xe1, [b"Exif\0\0", &comment("a")[..]].concat()), (0xfe, vec![b'a'; 20])]),
        webp(&[(b"EXIF", &comment("a"))]),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: &Path = &folder.path().join("damaged");
    for bytes in whole {
        for length in 0..bytes.len() {
            std::fs::write(path, &bytes[..length]).expect("writable");
            assert!(read_metadata(path).is_err(), "cut to {length} of {}", bytes.len());
        }
        for at in 0..bytes.len() {
            for value in [0, 0xff, bytes[at] ^ 1] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                std::fs::write(path, damaged).expect("writable");
                // An answer, not a panic.
                let _ = read_metadata(path);
            }
        }
    }
    let message = read_metadata(folder.path()).expect_err("a folder").to_string();
    assert!(message.contains("found a folder"), "{message}");
}
