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

use super::super::prediction::{Level, Prediction};
use super::super::sigmas::Grid;
use super::dpmpp_2s_ancestral::towards;
use super::{Noise, Plan, Rule, ancestral, latents};
use crate::Result;

pub(super) struct DpmPpSde {
    prediction: Prediction,
    timesteps: Vec<f64>,
    levels: Vec<f64>,
    eta: f64,
    init_noise_sigma: f64,
    start: Vec<f32>,
    path: Vec<f32>,
}

impl DpmPpSde {
    pub(super) fn new(plan: Plan<'_>, eta: f64) -> Result<Self> {
        let grid = Grid::points(plan.config, &plan.schedule, plan.steps)?;
        let init_noise_sigma = grid.init_noise_sigma(plan.config);
        let grid = grid.starting_at(plan.skip);
        let (mut timesteps, mut levels) = (Vec::new(), Vec::new());
        for (&t, pair) in grid.timesteps.iter().zip(grid.sigmas.windows(2)) {
            timesteps.push(t);
            levels.push(pair[0]);
            if pair[1] > 0.0 {
                let middle = (pair[0] * pair[1]).sqrt();
                timesteps.push(grid.timestep_of(middle));
                levels.push(middle);
            }
        }
        levels.push(grid.sigmas[grid.sigmas.len() - 1]);
        let prediction = Prediction::free(plan.config);
        Ok(DpmPpSde { prediction, timesteps, levels, eta, init_noise_sigma, start: Vec::new(), path: Vec::new() })
    }
}

impl Rule for DpmPpSde {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        Level::ve(self.levels[i])
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let x0 = self.prediction.x0(model_output, x, Level::ve(self.levels[i]));
        let next = self.levels[i + 1];
        if i.is_multiple_of(2) {
            if next == 0.0 {
                return latents(x.len(), |i| x0[i]);
            }
            let (down, up) = ancestral(self.levels[i], next, self.eta);
            let ratio = down / self.levels[i];
            self.path = if self.eta > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
            self.start = x.to_vec();
            return latents(x.len(), |i| towards(f64::from(x[i]), x0[i], ratio) + up * f64::from(self.path[i]));
        }
        let (sigma, middle) = (self.levels[i - 1], self.levels[i]);
        let (down, up) = ancestral(sigma, next, self.eta);
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
