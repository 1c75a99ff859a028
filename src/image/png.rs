//! PNG in and out, with text chunks.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use png::{BitDepth, ColorType, OutputInfo, Transformations};

use super::{Rgb8Image, check_names, read_metadata, write_file};
use crate::{Error, Result, files};

/// Pictures above this many pixels (8192×8192) are refused: a damaged header could ask for any size.
pub(super) const MAX_PIXELS: usize = 1 << 26;

/// What chunks other than the pixels' may take together while these are read: they are passed over, a palette is all that is kept.
const MAX_CHUNK_BYTES: usize = 16 << 20;

/// Writes a picture and its texts (keyword of 1 to 79 Latin-1 letters, any text): to a temporary name in the same folder, then renamed.
///
/// # Errors
/// When the file exists and `overwrite` is false, or writing fails; nothing is left behind then.
pub fn write_png(path: &Path, image: &Rgb8Image, text: &[(String, String)], overwrite: bool) -> Result<()> {
    let bytes = encode_png(image, text).map_err(|e| Error::io(path, std::io::Error::other(e)))?;
    write_file(path, &bytes, overwrite)
}

pub(super) fn encode_png(
    image: &Rgb8Image,
    text: &[(String, String)],
) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in text {
        // tEXt holds Latin-1, which readers cannot tell from the UTF-8 that some programs put there.
        if text.is_ascii() {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.data)?;
    writer.finish()?;
    Ok(bytes)
}

/// The PNG at `path`, its header read. 16 bits keep their upper 8, palettes and greys of fewer bits are expanded.
fn open(path: &Path) -> Result<png::Reader<BufReader<File>>> {
    check_names(path)?;
    let file = files::open(path).map_err(|e| Error::io(path, e))?;
    read_head(path, BufReader::new(file))
}

fn read_head<R: BufRead + Seek>(path: &Path, source: R) -> Result<png::Reader<R>> {
    let mut decoder = png::Decoder::new_with_limits(source, png::Limits { bytes: MAX_CHUNK_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let reader = decoder.read_info().map_err(|e| refused(path, e))?;
    let info = reader.info();
    if info.width as usize * info.height as usize > MAX_PIXELS {
        return Err(damaged(path, format!("{}×{} pixels, at most {MAX_PIXELS} are read", info.width, info.height)));
    }
    Ok(reader)
}

fn refused(path: &Path, error: png::DecodingError) -> Error {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            damaged(path, "it is cut short; copy or download it again")
        }
        other => damaged(path, other),
    }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not a PNG that can be read: {what}")))
}

/// Reads a PNG of any kind (1 to 16 bits; grey, palette or colour; interlaced or not) as 8-bit RGB, as its pixels lie. Transparency is
/// dropped: the colour stays as it is stored. Of an animation, the first frame.
///
/// # Errors
/// When the file is missing, damaged, cut short, not a PNG, or too large.
pub fn read_png(path: &Path) -> Result<Rgb8Image> {
    let (info, buffer) = frame(path, &mut open(path)?)?;
    let samples = info.color_type.samples();
    let data = buffer
        .chunks_exact(samples)
        .flat_map(|pixel| if samples < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] })
        .collect();
    Ok(Rgb8Image { width: info.width as usize, height: info.height as usize, data })
}

/// A PNG with its transparency, turned as its EXIF says. `path` is for messages.
pub(super) fn decode_png(path: &Path, bytes: &[u8]) -> Result<DynamicImage> {
    let mut reader = read_head(path, Cursor::new(bytes))?;
    let (info, buffer) = frame(path, &mut reader)?;
    let (width, height) = (info.width, info.height);
    let picture = match info.color_type {
        ColorType::Rgb => RgbImage::from_raw(width, height, buffer).map(DynamicImage::from),
        ColorType::Rgba => RgbaImage::from_raw(width, height, buffer).map(DynamicImage::from),
        ColorType::GrayscaleAlpha => GrayAlphaImage::from_raw(width, height, buffer).map(DynamicImage::from),
        ColorType::Grayscale | ColorType::Indexed => GrayImage::from_raw(width, height, buffer).map(DynamicImage::from),
    };
    let mut picture = picture.ok_or_else(|| damaged(path, "its pixels are not those of its size"))?;
    // The chunk may stand behind the pixels.
    let exif = reader.info().exif_metadata.as_deref();
    picture.apply_orientation(exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms));
    Ok(picture)
}

/// The pixels, read to the file's end: one that is cut behind them is cut.
fn frame<R: BufRead + Seek>(path: &Path, reader: &mut png::Reader<R>) -> Result<(OutputInfo, Vec<u8>)> {
    let size = reader.output_buffer_size().ok_or_else(|| damaged(path, "its size overflows"))?;
    let mut buffer = vec![0; size];
    let frame = reader.next_frame(&mut buffer).map_err(|e| refused(path, e))?;
    reader.finish().map_err(|e| refused(path, e))?;
    buffer.truncate(frame.buffer_size());
    Ok((frame, buffer))
}

/// The texts of a PNG by keyword, from tEXt, zTXt and iTXt chunks in front of and behind the pixels ([`read_metadata`] alone says more).
///
/// # Errors
/// As [`read_metadata`].
pub fn png_text(path: &Path) -> Result<Vec<(String, String)>> {
    read_metadata(path).map(|metadata| metadata.texts)
}
