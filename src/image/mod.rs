//! Pixels, picture files and what they say, and pictures side by side.

mod exif;
mod file;
mod leftovers;
mod letters;
mod metadata;
mod montage;
mod names;
mod photo;
mod png;
mod save;
mod whole;

pub use exif::Exif;
pub use file::write_file;
#[cfg_attr(not(feature = "unstable"), doc(hidden))]
pub use file::{check_folder, check_targets};
#[cfg_attr(not(feature = "unstable"), doc(hidden))]
pub use leftovers::remove_own as remove_temporary_files;
pub use letters::{draw_text, text_pixels, text_size};
pub use metadata::{Metadata, XMP, metadata_in, read_metadata};
pub use montage::{Stack, contact_sheet, side_by_side};
#[cfg_attr(not(feature = "unstable"), doc(hidden))]
pub use names::{check_names, is_windows_device, refused_by_windows};
pub use photo::{Photo, decode_photo, open_photo, open_picture};
pub use png::{png_text, read_png, write_png};
pub use save::{PictureFormat, encode_picture, write_picture};

use crate::{Error, Result};

/// A picture of 8-bit RGB, rows from the top, `[height, width, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb8Image {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Red, green, blue of each pixel.
    pub data: Vec<u8>,
}

impl Rgb8Image {
    /// A decoder's output `[height, width, 3]`, -1 black and 1 white, values beyond clipped. Rounded to nearest even, as diffusers does.
    ///
    /// # Errors
    /// When the number of values is not that of the size.
    pub fn from_unit_range(values: &[f32], width: usize, height: usize) -> Result<Self> {
        if values.len() != width * height * 3 {
            return Err(Error::shape("image", format!("expected {width}×{height}×3 values, got {}", values.len())));
        }
        let data = values.iter().map(|v| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
        Ok(Rgb8Image { width, height, data })
    }

    /// The picture at a smaller size, each pixel the mean of the area that it covers: what keeps means, for statistics and contact sheets.
    ///
    /// # Errors
    /// When either picture has no pixels.
    pub fn shrunk(&self, width: usize, height: usize) -> Result<Self> {
        if [self.width, self.height, width, height].contains(&0) {
            return Err(Error::shape(
                "shrunk",
                format!("{}×{} to {width}×{height}: a side is 0", self.width, self.height),
            ));
        }
        let (columns, rows) = (covered(self.width, width), covered(self.height, height));
        let mut data = Vec::with_capacity(width * height * 3);
        for row in &rows {
            for column in &columns {
                let mut sums = [0.0; 3];
                for &(y, tall) in row {
                    for &(x, wide) in column {
                        let pixel = &self.data[(y * self.width + x) * 3..][..3];
                        for (sum, &value) in sums.iter_mut().zip(pixel) {
                            *sum += tall * wide * f64::from(value);
                        }
                    }
                }
                data.extend(sums.map(|sum| sum.round_ties_even() as u8));
            }
        }
        Ok(Rgb8Image { width, height, data })
    }

    /// Means of red, green and blue, 0 to 1.
    pub fn channel_means(&self) -> [f64; 3] {
        let mut sums = [0u64; 3];
        for pixel in self.data.chunks_exact(3) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(value);
            }
        }
        sums.map(|sum| sum as f64 / (255.0 * (self.data.len() / 3).max(1) as f64))
    }

    /// Mean of all values, 0 black and 1 white.
    pub fn mean(&self) -> f64 {
        let sum: u64 = self.data.iter().map(|&v| u64::from(v)).sum();
        sum as f64 / (255.0 * self.data.len().max(1) as f64)
    }
}

/// For each of `to` cells along a side of `from` pixels: the pixels that it covers and each one's share of the cell.
fn covered(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let cell = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let (begin, end) = (i as f64 * cell, ((i + 1) as f64 * cell).min(from as f64));
            (begin as usize..(end.ceil() as usize).min(from))
                .map(|pixel| (pixel, (end.min((pixel + 1) as f64) - begin.max(pixel as f64)) / (end - begin)))
                .filter(|(_, share)| *share > 0.0)
                .collect()
        })
        .collect()
}
