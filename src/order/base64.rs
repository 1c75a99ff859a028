//! Bytes as text (RFC 4648, section 4), for pictures inside JSON.

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes as letters, padded with `=`.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            // Of one byte two letters say something, of two bytes three.
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// The bytes of a text; lines may be broken.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut letters, mut padding) = (0u32, 0usize, 0usize);
    for sign in text.bytes().filter(|sign| !sign.is_ascii_whitespace()) {
        let value = match sign {
            b'A'..=b'Z' => sign - b'A',
            b'a'..=b'z' => sign - b'a' + 26,
            b'0'..=b'9' => sign - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return Err(format!("expected bytes in base64, got the sign {:?}", char::from(sign))),
        };
        if padding > 0 {
            return Err("expected bytes in base64, got letters behind its end".into());
        }
        bits = bits << 6 | u32::from(value);
        letters += 1;
        if letters.is_multiple_of(4) {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    let left = letters % 4;
    if left == 1 || padding > 2 || (padding > 0 && !(left + padding).is_multiple_of(4)) {
        return Err(format!(
            "expected bytes in base64, got {letters} letters and {padding} signs of padding; it is cut short"
        ));
    }
    if left > 1 {
        bytes.extend_from_slice(&(bits << (6 * (4 - left))).to_be_bytes()[1..left]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10.
    #[test]
    fn the_standards_vectors() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!((encode(bytes.as_bytes()), decode(text)), (text.to_owned(), Ok(bytes.into())), "{bytes}");
            assert_eq!(decode(text.trim_end_matches('=')), Ok(bytes.into()), "padding may be left out");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Ok(all.clone()));
        assert_eq!(decode("Zm9v\nYmFy\r\n"), Ok(b"foobar".to_vec()));
        for wrong in ["Z", "Zm9v*", "Zg=a", "Zg===", "Zm9vY", "Zm9v=", "é"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }
}
