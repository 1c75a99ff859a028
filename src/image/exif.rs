//! EXIF → how a picture is to be turned, and the texts that programs leave there.

use exif::{Context, In, Reader, Tag, Value};

/// What a picture's EXIF says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exif {
    /// How the pixels are to be turned to be seen upright: 1 (as they are) to 8 (EXIF 2.32, table 6).
    pub orientation: u8,
    /// The user's comment, where AUTOMATIC1111 and others write parameters.
    pub user_comment: Option<String>,
    /// Texts of the first directory with the numbers of their tags, as ComfyUI writes `prompt:…` and `workflow:…`.
    pub texts: Vec<(u16, String)>,
}

impl Exif {
    /// From a TIFF block, with or without `Exif\0\0` in front of it; `None` when it is none. What is damaged in it is passed over, as
    /// viewers do.
    pub fn parse(block: &[u8]) -> Option<Exif> {
        let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block).to_vec();
        let read = Reader::new().continue_on_error(true).read_raw(tiff);
        let read = read.or_else(|error| error.distill_partial_result(|_| {})).ok()?;
        let number = |tag| read.get_field(tag, In::PRIMARY).and_then(|field| field.value.get_uint(0));
        let orientation = number(Tag::Orientation).and_then(|n| u8::try_from(n).ok()).filter(|n| (1..=8).contains(n));
        let comment = read.get_field(Tag::UserComment, In::PRIMARY);
        let user_comment = comment.and_then(|field| match &field.value {
            Value::Undefined(bytes, _) | Value::Byte(bytes) => Some(comment_text(bytes, read.little_endian())),
            Value::Ascii(parts) => Some(ascii(parts)),
            _ => None,
        });
        let mut texts: Vec<(u16, String)> = Vec::new();
        for field in read.fields().filter(|field| field.ifd_num == In::PRIMARY && field.tag.context() == Context::Tiff)
        {
            if let Value::Ascii(parts) = &field.value {
                texts.push((field.tag.number(), ascii(parts)));
            }
        }
        texts.sort();
        Some(Exif { orientation: orientation.unwrap_or(1), user_comment, texts })
    }
}

fn ascii(parts: &[Vec<u8>]) -> String {
    utf8_or_latin1(&parts.join(&b'\n'))
}

/// A text whose writer may have taken either.
pub(super) fn utf8_or_latin1(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// EXIF 2.32, 4.6.5, UserComment: eight bytes that name the letters, and the text. The order of bytes under `UNICODE` is not defined; the
/// common writer (piexif) has the large end first in files of either order, others the file's own, and some write UTF-8.
fn comment_text(bytes: &[u8], little_endian: bool) -> String {
    let text = match bytes.split_at_checked(8) {
        Some((b"UNICODE\0", text)) => wide(text, little_endian),
        Some((b"ASCII\0\0\0" | b"JIS\0\0\0\0\0" | b"\0\0\0\0\0\0\0\0", text)) => utf8_or_latin1(text),
        _ => utf8_or_latin1(bytes),
    };
    text.trim_end_matches('\0').to_owned()
}

fn wide(bytes: &[u8], little_endian: bool) -> String {
    let zeros = |from: usize| bytes.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (high_first, low_first) = (zeros(0), zeros(1));
    let (little, text) = match bytes {
        [0xfe, 0xff, text @ ..] => (false, text),
        [0xff, 0xfe, text @ ..] => (true, text),
        // Letters of English have a zero above them, and parameters are full of those.
        _ if high_first != low_first => (low_first > high_first, bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => return text.to_owned(),
            Err(_) => (little_endian, bytes),
        },
    };
    let unit = |pair: &[u8]| {
        let pair = [pair[0], pair[1]];
        if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
    };
    String::from_utf16_lossy(&text.chunks_exact(2).map(unit).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One directory with an orientation and a text, and the directory that its pointer leads to, with a comment (TIFF 6.0, section 2).
    fn block(little: bool, orientation: u16, model: &[u8], comment: &[u8]) -> Vec<u8> {
        let two = |n: u16| if little { n.to_le_bytes() } else { n.to_be_bytes() };
        let four = |n: usize| if little { (n as u32).to_le_bytes() } else { (n as u32).to_be_bytes() };
        let entry = |tag: u16, kind: u16, count: usize, value: [u8; 4]| {
            [&two(tag)[..], &two(kind), &four(count), &value].concat()
        };
        let [low, high] = two(orientation);
        let (second, model_at) = (8 + 2 + 3 * 12 + 4, 8 + 2 + 3 * 12 + 4 + 2 + 12 + 4);
        [
            if little { b"II" } else { b"MM" },
            &two(42)[..],
            &four(8),
            &two(3),
            &entry(0x0110, 2, model.len(), four(model_at)),
            &entry(0x0112, 3, 1, [low, high, 0, 0]),
            &entry(0x8769, 4, 1, four(second)),
            &four(0),
            &two(1),
            &entry(0x9286, 7, comment.len(), four(model_at + model.len())),
            &four(0),
            model,
            comment,
        ]
        .concat()
    }

    #[test]
    fn comments_in_every_order_of_bytes() {
        let text = "a 红 circle\nSteps: 2";
        let large: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let small: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&b"\xff\xfe"[..], &small].concat();
        let cases: [(&[u8], &[u8]); 7] = [
            (b"UNICODE\0", &large),
            (b"UNICODE\0", &small),
            (b"UNICODE\0", &marked),
            (b"UNICODE\0", text.as_bytes()),
            (b"ASCII\0\0\0", text.as_bytes()),
            (b"\0\0\0\0\0\0\0\0", text.as_bytes()),
            (b"", text.as_bytes()),
        ];
        for little in [false, true] {
            for (charset, bytes) in cases {
                let exif = Exif::parse(&block(little, 6, b"prompt:{}\0", &[charset, bytes].concat())).expect("a block");
                assert_eq!(exif.user_comment.as_deref(), Some(text), "{charset:?}, little {little}");
                assert_eq!(exif.orientation, 6);
                assert_eq!(exif.texts, [(0x0110, "prompt:{}".to_owned())]);
            }
        }
    }

    #[test]
    fn damaged_blocks_say_what_is_whole() {
        let whole = block(true, 3, b"abcdefgh\0", b"ASCII\0\0\0text");
        for length in 0..whole.len() {
            if let Some(exif) = Exif::parse(&whole[..length]) {
                assert!([1, 3].contains(&exif.orientation));
            }
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                if let Some(exif) = Exif::parse(&damaged) {
                    assert!((1..=8).contains(&exif.orientation));
                }
            }
        }
        assert_eq!(Exif::parse(&block(true, 9, b"\0", b"")).map(|exif| exif.orientation), Some(1), "beyond the table");
        assert_eq!(Exif::parse(b"Exif\0\0no TIFF"), None);
    }
}
