//! Pictures and scales as ControlNets take them.

use crate::models::{ControlNetConfig, names};
use crate::pipeline::model::control::Control;
use crate::pipeline::request::control::ControlRequest;
use crate::record::Shape;
use crate::{Error, Result};

/// The pictures of a pass as its nets take them.
pub(crate) struct ControlInputs(Vec<Vec<f32>>);

impl ControlInputs {
    /// # Errors
    /// When a picture is missing or not whole.
    pub(crate) fn new(controls: &[ControlRequest], nets: &[Control], latents: Shape) -> Result<Self> {
        let one = |control: &ControlRequest| pixels(control, nets[control.net].net.config(), latents);
        controls.iter().map(one).collect::<Result<_>>().map(ControlInputs)
    }

    /// Pictures and scales of the controls that act, by the names of the recording's inputs.
    pub(crate) fn of(
        &self,
        acting: &[usize],
        controls: &[ControlRequest],
        nets: &[Control],
        (guided, rows): (bool, usize),
    ) -> Vec<(String, std::borrow::Cow<'_, [f32]>)> {
        let mut inputs = Vec::new();
        for (place, &i) in acting.iter().enumerate() {
            let sites = nets[controls[i].net].net.sites();
            inputs.push((names::control_image(place), self.0[i].as_slice().into()));
            inputs.push((names::control_scales(place), scales(&controls[i], sites, guided, rows).into()));
        }
        inputs
    }
}

/// The picture as the net takes it, `[1, h, w, 4]`.
fn pixels(control: &ControlRequest, config: &ControlNetConfig, latents: Shape) -> Result<Vec<f32>> {
    let Some(image) = &control.image else {
        return Err(Error::request("control", "expected a picture for the ControlNet, got none (`controls[].image`)"));
    };
    if image.width == 0 || image.height == 0 || image.data.len() != 3 * image.width * image.height {
        return Err(Error::request(
            "control-image",
            format!("expected {}x{}x3 values, got {}", image.width, image.height, image.data.len()),
        ));
    }
    let factor = config.pixels_per_latent();
    let scaled = image.resized(latents.w * factor, latents.h * factor)?;
    let [first, last] = if config.is_bgr { [2, 0] } else { [0, 2] };
    let pixel = |p: &[u8]| [p[first], p[1], p[last], 0].map(|v| f32::from(v) / 255.0);
    Ok(scaled.data.chunks_exact(3).flat_map(pixel).collect())
}

/// `[rows, sites]` with zeros up to a multiple of 4; rows are `[unconditional, conditional]` × pictures under guidance.
fn scales(control: &ControlRequest, sites: usize, guided: bool, rows: usize) -> Vec<f32> {
    let own = |site: usize| match control.guess_mode {
        true => control.weight * 10f64.powf(site as f64 / (sites - 1) as f64 - 1.0),
        false => control.weight,
    };
    let row = |row: usize| {
        let silent = control.guess_mode && guided && row < rows / 2;
        (0..sites.next_multiple_of(4)).map(move |site| if silent || site >= sites { 0.0 } else { own(site) as f32 })
    };
    (0..rows).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.logspace(-1, 0, 3)` is 0.1, 0.3162…, 1.
    #[test]
    fn guessing_rises_to_the_middle_and_leaves_the_unconditional_row() {
        let guess = ControlRequest { weight: 2.0, guess_mode: true, ..ControlRequest::default() };
        let found = scales(&guess, 3, true, 2);
        assert_eq!(found[..5], [0.0, 0.0, 0.0, 0.0, 0.2]);
        assert!((found[5] - 0.632_455_5).abs() < 1e-6 && found[6..] == [2.0, 0.0], "{found:?}");
        assert!(scales(&guess, 3, false, 2)[..3].iter().all(|s| *s > 0.0));
        assert_eq!(scales(&ControlRequest::default(), 3, true, 2), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
    }
}
