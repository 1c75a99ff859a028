//! Pictures in requests: base64, never an address that this server would have to ask; masks.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chiaro::image::{Photo, PictureFormat, Rgb8Image, decode_photo, encode_picture};
use chiaro::order::File;
use serde_json::Value;

use crate::refusal::{Answer, Refusal};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The bytes of a picture in a request: base64, or a data URI.
///
/// # Errors
/// Addresses and paths are refused: this server fetches and opens nothing for others.
pub(crate) fn from_base64(field: &str, text: &str) -> Answer<Vec<u8>> {
    let lower: String = text.trim_start().chars().take(16).collect::<String>().to_lowercase();
    if lower.contains("://") {
        return Err(Refusal::bad(format!("{field}: expected a picture in base64, got an address; nothing is fetched")));
    }
    let letters = match lower.starts_with("data:") {
        false => text,
        true => {
            let (head, letters) = text.split_once(',').unwrap_or((text, ""));
            if !head.ends_with(";base64") {
                return Err(Refusal::field(field, "expected a data URI in base64"));
            }
            letters
        }
    };
    let letters: Vec<u8> = letters.bytes().filter(|sign| !sign.is_ascii_whitespace()).collect();
    let bytes = BASE64.decode(letters).ok().filter(|bytes| !bytes.is_empty());
    bytes.ok_or_else(|| Refusal::field(field, "expected a picture in base64, or a data URI"))
}

/// A picture in a request, of whatever JSON.
pub(crate) fn from_value(field: &str, value: &Value) -> Answer<Vec<u8>> {
    match value {
        Value::String(text) => from_base64(field, text),
        _ => Err(Refusal::field(field, "expected a picture in base64")),
    }
}

/// # Errors
/// Where the bytes are no PNG, JPEG or WebP, or too large; the message names the field.
pub(crate) fn decoded(field: &str, bytes: &[u8]) -> Answer<Photo> {
    decode_photo("bytes".as_ref(), bytes).map_err(|error| {
        let message = error.to_string();
        Refusal::field(field, message.strip_prefix("bytes: ").unwrap_or(&message))
    })
}

/// A picture as what a job holds.
pub(crate) fn file_of(image: &Rgb8Image) -> Answer<File> {
    let encoded = encode_picture(PictureFormat::Png, image, &[]);
    encoded.map(|(bytes, _)| File::Bytes(bytes)).map_err(Refusal::bad)
}

/// A mask of grey values, white where it is repainted.
pub(crate) struct Mask {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) values: Vec<u8>,
}

impl Mask {
    /// AUTOMATIC1111's (`modules/processing.py`, `create_binary_mask`): alpha where there is any, else brightness.
    pub(crate) fn of(photo: &Photo) -> Self {
        let grey = |pixel: &[u8]| {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
            // ITU-R 601, as PIL's `convert("L")`.
            ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
        };
        let image = &photo.image;
        let values = photo.alpha.clone().unwrap_or_else(|| image.data.chunks_exact(3).map(grey).collect());
        Mask { width: image.width, height: image.height, values }
    }

    /// OpenAI's: what is transparent is repainted.
    pub(crate) fn of_holes(photo: &Photo) -> Self {
        let image = &photo.image;
        let opaque = || vec![u8::MAX; image.width * image.height];
        let values = photo.alpha.clone().unwrap_or_else(opaque).into_iter().map(|value| u8::MAX - value).collect();
        Mask { width: image.width, height: image.height, values }
    }

    pub(crate) fn invert(&mut self) {
        for value in &mut self.values {
            *value = u8::MAX - *value;
        }
    }

    /// Softens edges along each axis by a Gaussian of these standard deviations in pixels, cut at 2.5 of them, as AUTOMATIC1111 does with its
    /// `mask_blur_x` and `mask_blur_y` (`modules/processing.py`, `StableDiffusionProcessingImg2Img.init`).
    pub(crate) fn blur(&mut self, across: f64, down: f64) {
        if across > 0.0 {
            for row in self.values.chunks_exact_mut(self.width) {
                let blurred = convolved(row, across);
                row.copy_from_slice(&blurred);
            }
        }
        if down > 0.0 {
            for x in 0..self.width {
                let column: Vec<u8> = self.values[x..].iter().step_by(self.width).copied().collect();
                for (y, value) in convolved(&column, down).into_iter().enumerate() {
                    self.values[y * self.width + x] = value;
                }
            }
        }
    }

    pub(crate) fn image(&self) -> Rgb8Image {
        let data = self.values.iter().flat_map(|value| [*value; 3]).collect();
        Rgb8Image { width: self.width, height: self.height, data }
    }
}

/// A line of values under a Gaussian; what is beyond its ends is mirrored.
fn convolved(line: &[u8], deviation: f64) -> Vec<u8> {
    let reach = (2.5 * deviation + 0.5) as isize;
    let weights: Vec<f64> = (-reach..=reach).map(|x| (-(x * x) as f64 / (2.0 * deviation * deviation)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let len = line.len() as isize;
    let mirrored = |at: isize| {
        let period = (2 * len).max(1);
        let at = at.rem_euclid(period);
        line[(if at < len { at } else { period - 1 - at }) as usize]
    };
    (0..len)
        .map(|x| {
            let near = (-reach..=reach).zip(&weights);
            let total: f64 = near.map(|(d, weight)| weight * f64::from(mirrored(x + d))).sum();
            (total / sum).round() as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_followed() {
        for address in ["http://10.0.0.1/x.png", "HTTPS://a/b", " https://a", "file:///etc/passwd", "ftp://x/y"] {
            let refusal = from_base64("mask", address).expect_err("an address");
            assert_eq!(refusal.status.as_u16(), 400, "{address}: {}", refusal.told());
        }
        assert!(from_base64("mask", "/etc/passwd*").is_err());
        assert!(from_base64("mask", "data:image/png,abc").is_err());
        assert!(from_base64("mask", "").is_err());
        assert_eq!(from_base64("mask", "data:image/png;base64,Zm9v").expect("right"), b"foo");
        assert_eq!(from_base64("mask", "Zm\n9v").expect("right"), b"foo");
    }

    #[test]
    fn masks_are_softened_and_keep_what_is_even() {
        let mut mask = Mask { width: 9, height: 9, values: vec![200; 81] };
        mask.blur(4.0, 2.0);
        assert!(mask.values.iter().all(|value| *value == 200));
        let mut mask = Mask { width: 21, height: 1, values: vec![0; 21] };
        mask.values[10..].fill(255);
        mask.blur(2.0, 0.0);
        assert!(mask.values.is_sorted() && mask.values[0] == 0 && mask.values[20] == 255);
        // Halfway between the two sides of the edge is half of white.
        let middle = (u32::from(mask.values[9]) + u32::from(mask.values[10])).div_ceil(2);
        assert!((127..=128).contains(&middle), "{middle}");
    }
}
