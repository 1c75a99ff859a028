//! Picture files with metadata, put together by the formats' specifications, not by our writers.

/// Wraps a chunk as the specification's section 5.3 says; the checksum is left to the decoder to doubt.
pub(crate) fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for &byte in kind.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &(!crc).to_be_bytes()].concat()
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
