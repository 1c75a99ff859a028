//! What a ControlNet sees, how strongly it acts, and at which calls of the UNet.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::image::Rgb8Image;
use crate::pipeline::request::fields::{CONTROL_WEIGHT, SHARE};
use crate::weights::hex;
use crate::{Error, Result};

/// A picture that a ControlNet sees, and how strongly the net acts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlRequest {
    /// Which of the nets of [`Overrides::controls`](crate::pipeline::Overrides::controls), from 0.
    pub net: usize,
    /// What the net takes: edges, depths, poses, as it was trained. Nothing is made of it but its size: it is scaled to the request's
    /// (Lanczos), not cropped, as diffusers does. A plan needs none. Not written down.
    #[serde(skip)]
    pub image: Option<Arc<Rgb8Image>>,
    /// What the net's results are multiplied with (diffusers' `controlnet_conditioning_scale`); 1 is as trained.
    pub weight: f64,
    /// The share of the steps before which the net does not run, 0 to 1.
    pub start: f64,
    /// The share of the steps after which it does not run, 0 to 1.
    pub end: f64,
    /// For prompts that say little (diffusers' `guess_mode`): the net acts on the conditional row alone, and on the finest states with a
    /// tenth of its weight, rising to all of it in the middle.
    pub guess_mode: bool,
}

impl Default for ControlRequest {
    fn default() -> Self {
        ControlRequest { net: 0, image: None, weight: 1.0, start: 0.0, end: 1.0, guess_mode: false }
    }
}

impl ControlRequest {
    /// # Errors
    /// [`Error::Request`] naming the option, its range and what came.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |field: String, what: String| Err(Error::request(field, what));
        for (key, range, number) in
            [("weight", CONTROL_WEIGHT, self.weight), ("start", SHARE, self.start), ("end", SHARE, self.end)]
        {
            if !range.has(number) {
                return refuse(format!("controls[].{key}"), format!("expected {range}, got {number}"));
            }
        }
        if self.start >= self.end {
            return refuse(
                "controls[].start".into(),
                format!("expected less than its end {}, got {}", self.end, self.start),
            );
        }
        Ok(())
    }

    /// Whether the net runs at a call: the whole of it must lie between start and end.
    pub(crate) fn acts(&self, call: usize, of: usize) -> bool {
        self.weight != 0.0 && is_between((self.start, self.end), call, of)
    }

    /// SHA-256 of the picture's size and pixels, in hexadecimal: whether another file is the same picture.
    pub fn image_sha256(&self) -> Option<String> {
        let image = self.image.as_ref()?;
        let mut hash = Sha256::new();
        hash.update([image.width as u64, image.height as u64].map(u64::to_le_bytes).concat());
        hash.update(&image.data);
        Some(hex(&hash.finalize()))
    }
}

/// Which controls act at a call.
pub(crate) fn acting(controls: &[ControlRequest], call: usize, of: usize) -> Vec<usize> {
    (0..controls.len()).filter(|&i| controls[i].acts(call, of)).collect()
}

/// Whether call `call` of `of` lies between two shares of them, whole (`controlnet_keep` of diffusers' pipelines).
pub(crate) fn is_between((start, end): (f64, f64), call: usize, of: usize) -> bool {
    call as f64 / of as f64 >= start && (call + 1) as f64 / of as f64 <= end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(start: f64, end: f64) -> ControlRequest {
        ControlRequest { start, end, ..ControlRequest::default() }
    }

    /// diffusers keeps step i of n where `not (i / n < start or (i + 1) / n > end)`.
    #[test]
    fn steps_between_start_and_end() {
        let steps = |start, end, of| (0..of).filter(|&i| control(start, end).acts(i, of)).collect::<Vec<_>>();
        assert_eq!(steps(0.0, 1.0, 3), [0, 1, 2]);
        assert_eq!(steps(0.0, 0.5, 4), [0, 1]);
        assert_eq!(steps(0.0, 0.6, 4), [0, 1]);
        assert_eq!(steps(0.3, 1.0, 4), [2, 3]);
        assert!(steps(0.4, 0.45, 4).is_empty());
        assert!(!ControlRequest { weight: 0.0, ..control(0.0, 1.0) }.acts(0, 1));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let wrong = [control(-0.1, 1.0), control(0.5, 0.5), control(0.0, 1.1), control(f64::NAN, 1.0)];
        for control in wrong.into_iter().chain([ControlRequest { weight: f64::INFINITY, ..control(0.0, 1.0) }]) {
            assert!(control.validate().is_err(), "{control:?}");
        }
        assert!(control(0.2, 0.8).validate().is_ok());
    }
}
