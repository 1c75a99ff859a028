//! Settings that distilled models were made for.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::order::asked::Asked;
use crate::sampling::{SolverKind, TimestepSpacing};

/// A kind of distilled model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// LCM-LoRA: 4 steps of lcm at guidance 1.5.
    Lcm,
    /// SD-Turbo and SDXL-Turbo: 1 step of euler_a, trailing, no guidance (up to 4 steps).
    Turbo,
    /// SDXL-Lightning of 4 steps: euler, trailing, no guidance (2 or 8 steps for the others).
    Lightning,
    /// Hyper-SD of 8 steps: ddim, trailing, no guidance (2 or 4 steps for the others).
    Hyper,
}

impl Preset {
    /// What the models' authors recommend: solver, spacing, steps, guidance.
    fn settings(self) -> (SolverKind, Option<TimestepSpacing>, usize, f64) {
        let trailing = Some(TimestepSpacing::Trailing);
        match self {
            Preset::Lcm => (SolverKind::Lcm, None, 4, 1.5),
            Preset::Turbo => (SolverKind::EulerAncestral, trailing, 1, 1.0),
            Preset::Lightning => (SolverKind::Euler, trailing, 4, 1.0),
            Preset::Hyper => (SolverKind::Ddim, trailing, 8, 1.0),
        }
    }

    /// Puts the preset where nothing else is asked for; another sampler keeps its own spacing.
    pub(super) fn fill(self, asked: &mut Asked) -> Result<()> {
        let (kind, spacing, steps, guidance) = self.settings();
        if let (Some(spacing), false) = (spacing, asked.has("timestep_spacing") || asked.has("sampler")) {
            asked.set("timestep_spacing", spacing)?;
        }
        if !asked.has("sampler") {
            asked.set("sampler", kind)?;
        }
        if !asked.has("num_inference_steps") {
            asked.set("num_inference_steps", steps)?;
        }
        if !asked.has("guidance_scale") {
            asked.set("guidance_scale", guidance)?;
        }
        Ok(())
    }
}
