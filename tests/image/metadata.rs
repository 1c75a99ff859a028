//! What pictures say beside their pixels. Files are put together here by the formats' specifications, not by our writers.

use std::path::{Path, PathBuf};

use chiaro::image::{Metadata, XMP, open_picture, read_metadata};

use crate::support::allocations;
use crate::support::picture_file::{chunk, comment, jpeg, png, webp};

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
