//! Pictures that a run starts from: pixels and masks as networks take them.

use sha2::{Digest, Sha256};

use crate::image::Rgb8Image;
use crate::models::layout::to_channels_first;
use crate::pipeline::request::fields::STRENGTH;
use crate::record::Shape;
use crate::weights::hex;
use crate::{Error, Result};

/// A picture to start from, and what of it to repaint.
#[derive(Debug, Clone, PartialEq)]
pub struct InitImage {
    /// Pixels across: the request's width.
    pub width: usize,
    /// Pixels down: the request's height.
    pub height: usize,
    /// `[height, width, 3]`, 0 black and 1 white.
    pub rgb: Vec<f32>,
    /// How much is drawn anew: 1 all, towards 0 nothing. ⌊strength·steps⌋ steps are done, as in diffusers.
    pub strength: f64,
    /// `[height, width]`: what is ½ or more is repainted, the rest is kept. `None` repaints all.
    pub mask: Option<Vec<f32>>,
}

impl InitImage {
    /// The strength where none is asked for.
    pub const STRENGTH: f64 = 0.75;

    /// From 8-bit pictures of the same size; a mask repaints where it is bright.
    ///
    /// # Errors
    /// When the mask's size is not the picture's.
    pub fn new(image: &Rgb8Image, mask: Option<&Rgb8Image>, strength: f64) -> Result<Self> {
        if let Some(mask) = mask
            && (mask.width, mask.height) != (image.width, image.height)
        {
            return Err(Error::request(
                "mask",
                format!(
                    "expected the picture's size {}x{}, got {}x{}",
                    image.width, image.height, mask.width, mask.height
                ),
            ));
        }
        // Luma weights of ITU-R BT.601, as PIL's conversion to grey has them.
        let grey = |p: &[u8]| (0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2])) / 255.0;
        Ok(InitImage {
            width: image.width,
            height: image.height,
            rgb: image.data.iter().map(|v| f32::from(*v) / 255.0).collect(),
            strength,
            mask: mask.map(|mask| mask.data.chunks_exact(3).map(grey).collect()),
        })
    }

    /// SHA-256 of the picture and its mask in 8 bits, in hexadecimal: whether another file is the same picture.
    pub fn sha256(&self) -> String {
        let bytes = |values: &[f32]| values.iter().map(|v| (v * 255.0).round() as u8).collect::<Vec<u8>>();
        let mut hash = Sha256::new();
        hash.update(bytes(&self.rgb));
        hash.update(bytes(self.mask.as_deref().unwrap_or_default()));
        hex(&hash.finalize())
    }

    /// Checks the numbers of values and their range.
    ///
    /// # Errors
    /// [`Error::Request`] saying what was expected.
    pub(crate) fn validate(&self) -> Result<()> {
        if !STRENGTH.has(self.strength) {
            return Err(Error::request("image.strength", format!("expected {STRENGTH}, got {}", self.strength)));
        }
        let pixels = self.width * self.height;
        if self.rgb.len() != 3 * pixels {
            return Err(Error::request(
                "image",
                format!("expected {}x{}x3 values, got {}", self.width, self.height, self.rgb.len()),
            ));
        }
        if let Some(mask) = &self.mask
            && mask.len() != pixels
        {
            return Err(Error::request(
                "mask",
                format!("expected the picture's {}x{} values, got {}", self.width, self.height, mask.len()),
            ));
        }
        if self.rgb.iter().chain(self.mask.iter().flatten()).any(|v| !(0.0..=1.0).contains(v)) {
            return Err(Error::request("image", "expected values from 0 to 1 in the picture and its mask"));
        }
        Ok(())
    }

    /// Steps of the schedule that are left out.
    pub(crate) fn skip(&self, steps: usize) -> usize {
        skipped(self.strength, steps)
    }

    /// Puts the picture's own pixels back where the mask keeps them; between, as much of them as the mask is dark.
    pub(crate) fn paste_into(&self, drawn: &mut Rgb8Image) {
        let Some(mask) = &self.mask else { return };
        let pixels = drawn.data.chunks_exact_mut(3).zip(self.rgb.chunks_exact(3));
        for ((drawn, own), &share) in pixels.zip(mask) {
            for (drawn, own) in drawn.iter_mut().zip(own) {
                *drawn = (f32::from(*drawn) * share + own * 255.0 * (1.0 - share)).round() as u8;
            }
        }
    }

    /// The picture in -1…1.
    pub(crate) fn pixels(&self) -> Vec<f32> {
        self.rgb.iter().map(|v| v * 2.0 - 1.0).collect()
    }

    /// The picture in -1…1, mid-grey where it will be repainted: what an inpainting network is shown.
    pub(crate) fn masked_pixels(&self) -> Option<Vec<f32>> {
        let mask = self.mask.as_ref()?;
        let kept = mask.iter().map(|m| if *m < 0.5 { 1.0 } else { 0.0 });
        Some(
            self.rgb
                .chunks_exact(3)
                .zip(kept)
                .flat_map(|(p, k)| [p[0], p[1], p[2]].map(|v| (v * 2.0 - 1.0) * k))
                .collect(),
        )
    }

    /// The mask at the latents' size `[h, w]`, 1 where repainted: the upper left pixel of each cell decides, as in diffusers.
    pub(crate) fn latent_mask(&self, latents: Shape) -> Option<Vec<f32>> {
        let mask = self.mask.as_ref()?;
        let (down, across) = (self.height / latents.h, self.width / latents.w);
        let cell = |i: usize| mask[(i / latents.w) * down * self.width + (i % latents.w) * across];
        Some((0..latents.h * latents.w).map(|i| if cell(i) < 0.5 { 0.0 } else { 1.0 }).collect())
    }
}

/// Steps that a strength leaves out at the start.
pub(crate) fn skipped(strength: f64, steps: usize) -> usize {
    steps - ((steps as f64 * strength) as usize).min(steps)
}

/// The mean of an encoder's posterior, `[c, h, w]`, not scaled. `moments` is `[h, w, 2·c]`.
pub(crate) fn posterior_mean(moments: &[f32], latents: Shape) -> Vec<f32> {
    let mut planes = to_channels_first(moments, 1, 2 * latents.c, latents.h * latents.w);
    planes.truncate(planes.len() / 2);
    planes
}

/// A draw from an encoder's posterior, `[c, h, w]`, not scaled: mean plus deviation times noise. `moments` is `[h, w, 2·c]`.
pub(crate) fn sample_posterior(moments: &[f32], latents: Shape, noise: &[f32]) -> Vec<f32> {
    let planes = to_channels_first(moments, 1, 2 * latents.c, latents.h * latents.w);
    let (means, logs) = planes.split_at(planes.len() / 2);
    let values = means.iter().zip(logs).zip(noise);
    values.map(|((mean, log), z)| mean + (0.5 * log.clamp(-30.0, 20.0)).exp() * z).collect()
}
