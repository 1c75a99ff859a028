//! DPM-Solver++ of order 2, single step, ancestral (Lu et al., arXiv 2211.01095, algorithm 1; k-diffusion, `sample_dpmpp_2s_ancestral`).
//!
//! Steps 0, 2, 4, … go to the middle in ln σ; steps 1, 3, 5, … take the prediction there for the whole interval. The last interval, to σ = 0, is
//! Euler's alone: 2N-1 steps.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `down`, `up` | the level stepped down to, and the noise added: down² + up² = σ_{i+1}² |
//! | `middle` | exp(-s), s halfway between t = -ln σ_i and -ln down |

use super::sigma_scaled::Halves;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct DpmPp2sAncestral {
    halves: Halves,
    start: Vec<f32>,
}

impl DpmPp2sAncestral {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Ok(DpmPp2sAncestral { halves: Halves::ancestral(plan, eta)?, start: Vec::new() })
    }
}

impl Rule for DpmPp2sAncestral {
    fn frame(&self) -> &dyn Frame {
        &self.halves
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let x0 = self.halves.x0(i, model_output, x);
        if i.is_multiple_of(2) {
            let ratio = self.halves.half(i) / self.halves.levels[i];
            self.start = x.to_vec();
            return latents(x.len(), |i| towards(f64::from(x[i]), x0[i], ratio));
        }
        let (down, up) = self.halves.targets[i / 2];
        let z = if up > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let ratio = down / self.halves.levels[i - 1];
        latents(x.len(), |i| towards(f64::from(self.start[i]), x0[i], ratio) + up * f64::from(z[i]))
    }
}

/// x at `ratio` of its σ on the line to x_0: the exact step where x̃_0 stays the same.
pub(super) fn towards(x: f64, x0: f64, ratio: f64) -> f64 {
    ratio * x + (1.0 - ratio) * x0
}
