//! Pictures out: PNG, JPEG and WebP with the texts that say how they were made.

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::png::encode_png;
use super::{Rgb8Image, write_file};
use crate::{Error, Result};

/// The keyword under which AUTOMATIC1111 keeps what made a picture.
const PARAMETERS: &str = "parameters";

/// Of 100: no loss that is seen, half of what a PNG takes or less.
const JPEG_QUALITY: u8 = 95;

/// A JPEG's segment holds its own length in 16 bits, and "Exif" with two zeros.
const MAX_EXIF_IN_JPEG: usize = 65_535 - 2 - 6;

/// What a picture's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PictureFormat {
    /// Every bit; texts in chunks of their own.
    Png,
    /// Small, with a loss; texts in its EXIF, of 64 KiB at most.
    Jpeg,
    /// Every bit, smaller than PNG; texts in its EXIF.
    WebP,
}

impl PictureFormat {
    /// What a name's ending says: .png, .jpg, .jpeg or .webp, in any case.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "png" => Some(PictureFormat::Png),
            "jpg" | "jpeg" => Some(PictureFormat::Jpeg),
            "webp" => Some(PictureFormat::WebP),
            _ => None,
        }
    }
}

/// Writes a picture and its texts as the name's ending says, PNG where it says nothing, whole or not at all. Gives a remark where texts did
/// not fit.
///
/// JPEG and WebP hold the text `parameters` in the EXIF field UserComment, as AUTOMATIC1111 and most programs write and read it (`UNICODE`
/// and UTF-16), and the first text of another keyword in DocumentName, as `keyword:text`.
///
/// # Errors
/// When the file exists and `overwrite` is false, or writing fails; nothing is left behind then.
pub fn write_picture(
    path: &Path,
    image: &Rgb8Image,
    texts: &[(String, String)],
    overwrite: bool,
) -> Result<Option<&'static str>> {
    let format = PictureFormat::of(path).unwrap_or(PictureFormat::Png);
    let (bytes, remark) =
        encode_picture(format, image, texts).map_err(|e| Error::io(path, std::io::Error::other(e)))?;
    write_file(path, &bytes, overwrite)?;
    Ok(remark)
}

/// The bytes of a picture's file, and a remark where texts did not fit.
///
/// # Errors
/// When the encoder refuses the picture's size or a keyword.
pub fn encode_picture(
    format: PictureFormat,
    image: &Rgb8Image,
    texts: &[(String, String)],
) -> std::result::Result<(Vec<u8>, Option<&'static str>), String> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width as u32, image.height as u32);
    let remark = match format {
        PictureFormat::Png => {
            bytes = encode_png(image, texts).map_err(|e| e.to_string())?;
            None
        }
        PictureFormat::Jpeg => {
            let (exif, remark) = fitting_exif(texts);
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
            encoder.set_exif_metadata(exif).map_err(|e| e.to_string())?;
            encoder.write_image(&image.data, width, height, ExtendedColorType::Rgb8).map_err(|e| e.to_string())?;
            remark
        }
        PictureFormat::WebP => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder.set_exif_metadata(exif(texts)).map_err(|e| e.to_string())?;
            encoder.write_image(&image.data, width, height, ExtendedColorType::Rgb8).map_err(|e| e.to_string())?;
            None
        }
    };
    Ok((bytes, remark))
}

/// As much as a JPEG takes: everything, what every program reads, or nothing.
fn fitting_exif(texts: &[(String, String)]) -> (Vec<u8>, Option<&'static str>) {
    let whole = exif(texts);
    if whole.len() <= MAX_EXIF_IN_JPEG {
        return (whole, None);
    }
    let common: Vec<_> = texts.iter().filter(|(keyword, _)| keyword == PARAMETERS).cloned().collect();
    let common = exif(&common);
    if common.len() <= MAX_EXIF_IN_JPEG {
        return (common, Some("a JPEG holds 64 KiB of parameters: those of other programs are in it, not all of ours"));
    }
    (Vec::new(), Some("a JPEG holds 64 KiB of parameters: these are longer and left out; .png and .webp hold them"))
}

/// Texts as EXIF (CIPA DC-008, section 4.6): a TIFF header, a directory that points to the EXIF directory, and that. Nothing without
/// texts.
fn exif(texts: &[(String, String)]) -> Vec<u8> {
    const DOCUMENT_NAME: u16 = 0x010d;
    const EXIF_DIRECTORY: u16 = 0x8769;
    const USER_COMMENT: u16 = 0x9286;
    const ASCII: u16 = 2;
    const LONG: u16 = 4;
    const UNDEFINED: u16 = 7;
    /// Bytes of a directory of so many entries.
    fn directory_bytes(entries: usize) -> usize {
        2 + 12 * entries + 4
    }
    if texts.is_empty() {
        return Vec::new();
    }
    let other = texts.iter().find(|(keyword, _)| keyword != PARAMETERS);
    let name = other.map(|(keyword, text)| format!("{keyword}:{text}\0").into_bytes());
    let comment = texts.iter().find(|(keyword, _)| keyword == PARAMETERS).map(|(_, text)| {
        let letters = text.encode_utf16().flat_map(u16::to_be_bytes);
        b"UNICODE\0".iter().copied().chain(letters).collect::<Vec<u8>>()
    });
    let entry = |tag: u16, kind: u16, count: usize, value: usize| {
        [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &(count as u32).to_be_bytes(), &(value as u32).to_be_bytes()]
            .concat()
    };
    let entries = [name.is_some(), comment.is_some()].map(usize::from);
    let first_directory = 8;
    let exif_directory = first_directory + directory_bytes(entries[0] + entries[1]);
    let mut place = exif_directory + if comment.is_some() { directory_bytes(1) } else { 0 };
    let mut bytes = b"MM\0\x2a\0\0\0\x08".to_vec();
    bytes.extend(((entries[0] + entries[1]) as u16).to_be_bytes());
    if let Some(name) = &name {
        bytes.extend(entry(DOCUMENT_NAME, ASCII, name.len(), place));
        place += name.len();
    }
    if comment.is_some() {
        bytes.extend(entry(EXIF_DIRECTORY, LONG, 1, exif_directory));
    }
    bytes.extend([0; 4]);
    if let Some(comment) = &comment {
        bytes.extend(1u16.to_be_bytes());
        bytes.extend(entry(USER_COMMENT, UNDEFINED, comment.len(), place));
        bytes.extend([0; 4]);
    }
    bytes.extend(name.into_iter().chain(comment).flatten());
    bytes
}
