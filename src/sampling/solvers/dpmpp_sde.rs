//! DPM-Solver++ of order 2, single step, for the SDE (Lu et al., arXiv 2211.01095; k-diffusion, `sample_dpmpp_sde` with r = ½).
//!
//! Steps 0, 2, 4, … go to the middle in ln σ; steps 1, 3, 5, … take the prediction there for the whole interval. The last interval, to σ = 0, is
//! Euler's alone: 2N-1 steps. The noise of both is one Brownian path in σ: k-diffusion draws it from a tree, here it comes from two draws
//! of the picture's generator, so pictures have the same statistics and other details.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `middle` | exp(-s), s halfway between t = -ln σ_i and -ln σ_{i+1} |
//! | `down`, `up` | the level stepped down to, and the noise added, to the middle and to σ_{i+1} |
//! | `path` | W(σ_i) - W(middle) over √(σ_i - middle) |

use super::dpmpp_2s_ancestral::towards;
use super::sigma_scaled::Halves;
use super::{Frame, Noise, Plan, Rule, ancestral, latents};
use crate::Result;

pub(super) struct DpmPpSde {
    halves: Halves,
    eta: f64,
    start: Vec<f32>,
    path: Vec<f32>,
}

impl DpmPpSde {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Ok(DpmPpSde { halves: Halves::of_intervals(plan, eta)?, eta, start: Vec::new(), path: Vec::new() })
    }
}

impl Rule for DpmPpSde {
    fn frame(&self) -> &dyn Frame {
        &self.halves
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let x0 = self.halves.x0(i, model_output, x);
        let levels = &self.halves.levels;
        let next = levels[i + 1];
        if i.is_multiple_of(2) {
            if next == 0.0 {
                return latents(x.len(), |i| x0[i]);
            }
            let (down, up) = ancestral(levels[i], next, self.eta);
            let ratio = down / levels[i];
            self.path = if self.eta > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
            self.start = x.to_vec();
            return latents(x.len(), |i| towards(f64::from(x[i]), x0[i], ratio) + up * f64::from(self.path[i]));
        }
        let (sigma, middle) = (levels[i - 1], levels[i]);
        let (down, up) = self.halves.targets[i / 2];
        let ratio = down / sigma;
        let z = if self.eta > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let share = (sigma - middle) / (sigma - next);
        let (old, new) = (share.sqrt(), (1.0 - share).sqrt());
        latents(x.len(), |i| {
            let path = old * f64::from(self.path[i]) + new * f64::from(z[i]);
            towards(f64::from(self.start[i]), x0[i], ratio) + up * path
        })
    }
}
