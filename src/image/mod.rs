//! Pixels, PNG files, and pictures side by side.

mod file;
mod font;
mod montage;
mod png;

pub use file::write_file;
pub use montage::side_by_side;
pub use png::{png_text, read_png, write_png};

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

    /// Mean of all values, 0 black and 1 white.
    pub fn mean(&self) -> f64 {
        let sum: u64 = self.data.iter().map(|&v| u64::from(v)).sum();
        sum as f64 / (255.0 * self.data.len().max(1) as f64)
    }
}
