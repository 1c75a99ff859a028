//! The midpoint method in ln σ (Karras et al., arXiv 2206.00364, appendix; k-diffusion, `sample_dpm_2` and `sample_dpm_2_ancestral`).
//!
//! Steps 0, 2, 4, … go from σ_i to the middle; steps 1, 3, 5, … take the derivative there for the whole interval. The last interval, to σ = 0,
//! is Euler's alone: 2N-1 steps.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `down`, `up` | the level stepped down to, and the noise added: down² + up² = σ_{i+1}²; (σ_{i+1}, 0) without noise |
//! | `middle` | √(σ_i·down) |

use super::sigma_scaled::Halves;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct Dpm2 {
    halves: Halves,
    start: Vec<f32>,
}

impl Dpm2 {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Ok(Dpm2 { halves: Halves::ancestral(plan, eta)?, start: Vec::new() })
    }
}

impl Rule for Dpm2 {
    fn frame(&self) -> &dyn Frame {
        &self.halves
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let x0 = self.halves.x0(i, model_output, x);
        let sigma = self.halves.levels[i];
        let derivative = |i: usize| (f64::from(x[i]) - x0[i]) / sigma;
        if i.is_multiple_of(2) {
            let to = self.halves.half(i);
            self.start = x.to_vec();
            return latents(x.len(), |i| f64::from(x[i]) + derivative(i) * (to - sigma));
        }
        let (down, up) = self.halves.targets[i / 2];
        let z = if up > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let whole = down - self.halves.levels[i - 1];
        latents(x.len(), |i| f64::from(self.start[i]) + derivative(i) * whole + up * f64::from(z[i]))
    }
}
