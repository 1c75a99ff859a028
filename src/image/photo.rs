//! Pictures from elsewhere: JPEG and WebP beside PNG, turned as their EXIF says, and other sizes.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::webp::WebPDecoder;
use image::imageops::{FilterType, resize};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits, RgbImage};

use super::png::{MAX_PIXELS, decode_png};
use super::whole::is_cut;
use super::{Rgb8Image, check_names};
use crate::{Error, Result, files};

/// Sides above this are refused before pixels are allocated.
const MAX_SIDE: u32 = 1 << 15;
/// Bytes that a file may have, and that a decoder may take.
const MAX_BYTES: u64 = 1 << 30;

/// A picture from elsewhere, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Photo {
    /// Its colours, as they are stored also where nothing of them is seen.
    pub image: Rgb8Image,
    /// How much of each pixel is seen, 0 nothing and 255 all; `None` where all of the picture is.
    pub alpha: Option<Vec<u8>>,
}

/// Reads a PNG, JPEG or WebP file, told apart by its first bytes, and turns it as its EXIF says. Of an animation, the first frame.
///
/// # Errors
/// When the file cannot be read, is of another kind, damaged, cut short or too large.
pub fn open_photo(path: &Path) -> Result<Photo> {
    decode_photo(path, &read(path)?)
}

/// As [`open_photo`], of a file's bytes; `path` is what messages call it.
///
/// # Errors
/// As [`open_photo`].
pub fn decode_photo(path: &Path, bytes: &[u8]) -> Result<Photo> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        _ => return Err(damaged(path, "expected a PNG, JPEG or WebP picture".into())),
    };
    if is_cut(format, bytes) {
        return Err(damaged(path, "the picture is cut short; copy or download it again".into()));
    }
    let picture = match format {
        ImageFormat::Png => decode_png(path, bytes)?,
        ImageFormat::Jpeg => decode(path, JpegDecoder::new(Cursor::new(bytes)))?,
        _ => decode(path, WebPDecoder::new(Cursor::new(bytes)))?,
    };
    Ok(Photo::from_decoded(picture))
}

/// The colours of [`open_photo`].
///
/// # Errors
/// As [`open_photo`].
pub fn open_picture(path: &Path) -> Result<Rgb8Image> {
    Ok(open_photo(path)?.image)
}

/// A file's bytes. A device is no picture, and reading a pipe or the console would wait.
fn read(path: &Path) -> Result<Vec<u8>> {
    check_names(path)?;
    files::read(path, MAX_BYTES, "a picture")
}

fn decode(path: &Path, decoder: ImageResult<impl ImageDecoder>) -> Result<DynamicImage> {
    let refused = |e: ImageError| damaged(path, format!("not a picture that can be read: {e}"));
    let mut decoder = decoder.map_err(refused)?;
    let (width, height) = decoder.dimensions();
    // What decoders take beside the pixels that they give grows with their number, so it is known before they begin.
    if width as usize * height as usize > MAX_PIXELS {
        return Err(damaged(path, format!("{width}×{height} pixels, at most {MAX_PIXELS} are read")));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    decoder.set_limits(limits).map_err(refused)?;
    // A picture whose EXIF is damaged is shown as it lies, by every viewer.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn damaged(path: &Path, what: String) -> Error {
    Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

impl Photo {
    fn from_decoded(picture: DynamicImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let alpha: Option<Vec<u8>> =
            picture.color().has_alpha().then(|| picture.to_rgba8().pixels().map(|pixel| pixel.0[3]).collect());
        let alpha = alpha.filter(|alpha| alpha.iter().any(|value| *value < u8::MAX));
        Photo { image: Rgb8Image { width, height, data: picture.into_rgb8().into_raw() }, alpha }
    }
}

impl Rgb8Image {
    /// The picture at another size (Lanczos of 3 lobes), not cropped.
    ///
    /// # Errors
    /// When the number of values is not that of the size, a size is nothing, or it is of more than 2²⁶ pixels.
    pub fn resized(&self, width: usize, height: usize) -> Result<Rgb8Image> {
        let side = |side: usize| u32::try_from(side).ok().filter(|side| *side > 0);
        let is_sane = width.checked_mul(height).is_some_and(|pixels| pixels <= MAX_PIXELS);
        let sides = (side(self.width), side(self.height), side(width), side(height));
        let covered = self.width.checked_mul(self.height).and_then(|pixels| pixels.checked_mul(3));
        let (Some(own_width), Some(own_height), Some(new_width), Some(new_height)) = sides else {
            return Err(self.cannot_be(width, height));
        };
        if !is_sane || covered != Some(self.data.len()) {
            return Err(self.cannot_be(width, height));
        }
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let own = RgbImage::from_raw(own_width, own_height, self.data.clone());
        let own = own.ok_or_else(|| self.cannot_be(width, height))?;
        let data = resize(&own, new_width, new_height, FilterType::Lanczos3).into_raw();
        Ok(Rgb8Image { width, height, data })
    }

    fn cannot_be(&self, width: usize, height: usize) -> Error {
        Error::request(
            "picture",
            format!(
                "expected one of {}×{} pixels, three values each, to make {width}×{height} of, got {} values",
                self.width,
                self.height,
                self.data.len()
            ),
        )
    }

    /// The largest middle part of the picture with the proportions of `width`:`height`.
    pub fn cropped_to(&self, width: usize, height: usize) -> Rgb8Image {
        let across = self.width.min((self.height * width).div_ceil(height.max(1))).max(1);
        let down = self.height.min((self.width * height).div_ceil(width.max(1))).max(1);
        let (left, top) = ((self.width - across) / 2, (self.height - down) / 2);
        let rows = self.data.chunks_exact(3 * self.width.max(1)).skip(top).take(down);
        let data = rows.flat_map(|row| &row[3 * left..3 * (left + across)]).copied().collect();
        Rgb8Image { width: across, height: down, data }
    }
}
