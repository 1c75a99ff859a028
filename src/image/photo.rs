//! Pictures from elsewhere: JPEG and WebP beside PNG, and other sizes.

use std::io::BufReader;
use std::path::Path;

use image::imageops::{FilterType, resize};
use image::{ImageReader, Limits, RgbImage};

use super::png::MAX_PIXELS;
use super::{Rgb8Image, check_names, read_png};
use crate::{Error, Result, files};

/// Sides above this are refused before pixels are allocated.
const MAX_SIDE: u32 = 1 << 15;
/// Bytes that a decoder may take.
const MAX_ALLOCATION: u64 = 1 << 30;

/// Reads a PNG, JPEG or WebP file, told apart by its first bytes.
///
/// # Errors
/// When the file cannot be read, is of another kind, damaged or too large.
pub fn open_picture(path: &Path) -> Result<Rgb8Image> {
    let damaged = |what: String| Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    // A device is no picture, and reading the console would wait for it.
    check_names(path)?;
    let file = files::open(path).map_err(|e| Error::io(path, e))?;
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| Error::io(path, e))?;
    match reader.format() {
        Some(image::ImageFormat::Png) => return read_png(path),
        Some(image::ImageFormat::Jpeg | image::ImageFormat::WebP) => {}
        _ => return Err(damaged("expected a PNG, JPEG or WebP picture".into())),
    }
    check_pixels(path)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| damaged(format!("not a picture that can be read: {e}")))?.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Ok(Rgb8Image { width, height, data: picture.into_raw() })
}

/// What decoders take beside the pixels that they give grows with their number, so it is known before they begin.
fn check_pixels(path: &Path) -> Result<()> {
    let size = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|e| Error::io(path, e))?;
    let damaged = |what: String| Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    let (width, height) =
        size.into_dimensions().map_err(|e| damaged(format!("not a picture that can be read: {e}")))?;
    match width as usize * height as usize {
        0..=MAX_PIXELS => Ok(()),
        _ => Err(damaged(format!("{width}×{height} pixels, at most {MAX_PIXELS} are read"))),
    }
}

impl Rgb8Image {
    /// The picture at another size (Lanczos of 3 lobes), not cropped.
    ///
    /// # Panics
    /// When the number of values is not that of the size, or a side is beyond 2³².
    pub fn resized(&self, width: usize, height: usize) -> Rgb8Image {
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        let side = |side: usize| u32::try_from(side).expect("a picture's side fits 32 bits");
        let own = RgbImage::from_raw(side(self.width), side(self.height), self.data.clone());
        let own = own.expect("the values cover the picture");
        let data = resize(&own, side(width), side(height), FilterType::Lanczos3).into_raw();
        Rgb8Image { width, height, data }
    }

    /// The largest middle part of the picture with the proportions of `width`:`height`.
    pub fn cropped_to(&self, width: usize, height: usize) -> Rgb8Image {
        let across = self.width.min((self.height * width).div_ceil(height.max(1))).max(1);
        let down = self.height.min((self.width * height).div_ceil(width.max(1))).max(1);
        let (left, top) = ((self.width - across) / 2, (self.height - down) / 2);
        let rows = self.data.chunks_exact(3 * self.width).skip(top).take(down);
        let data = rows.flat_map(|row| &row[3 * left..3 * (left + across)]).copied().collect();
        Rgb8Image { width: across, height: down, data }
    }
}
