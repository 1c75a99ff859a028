//! Bytes as text (RFC 4648, section 4), for pictures inside JSON.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padded where it is written; where it is read, padding may be left out.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes as letters, padded with `=`.
pub(super) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// The bytes of a text; lines may be broken.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let letters: Vec<u8> = text.bytes().filter(|sign| !sign.is_ascii_whitespace()).collect();
    ENGINE.decode(letters).map_err(|error| format!("expected bytes in base64, got what is none: {error}"))
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
