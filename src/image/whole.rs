//! Whether a picture's file goes to its end: decoders paint what is missing grey, or as what stood above it.

use image::ImageFormat;

/// Whether the file ends before its picture does.
pub(super) fn is_cut(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => !jpeg_ends(bytes),
        ImageFormat::WebP => !webp_ends(bytes),
        // The decoder of PNG looks for the last chunk itself.
        _ => false,
    }
}

/// Goes through markers and segments to the end of the image (ITU-T T.81, annex B). Data between is passed over: in it every 0xFF is followed
/// by a zero or a restart's number. What stands behind the end is of other pictures.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0xff)) else {
            return false;
        };
        at += found + 1;
        let Some(marker) = bytes.get(at) else { return false };
        match marker {
            0xd9 => return true,
            // Fill bytes come in any number in front of a marker.
            0xff => {}
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}

/// Goes through the chunks that the file's head counts (RFC 9649, section 2.3). A missing last byte of padding is nobody's.
fn webp_ends(bytes: &[u8]) -> bool {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let Some(size) = number(4) else { return false };
    let (end, mut at) = (8 + size, 12);
    while at + 8 <= end {
        let Some(length) = number(at + 4) else { return false };
        at += 8 + length;
        if at > bytes.len() {
            return false;
        }
        at += length % 2;
    }
    true
}
