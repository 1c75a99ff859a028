//! DPM-Solver++ of order 2, single step, ancestral (Lu et al., arXiv 2211.01095, algorithm 1; k-diffusion, `sample_dpmpp_2s_ancestral`).
//!
//! Steps 0, 2, 4, … go to the middle in ln σ; steps 1, 3, 5, … take the prediction there for the whole interval. The last interval, to σ = 0, is
//! Euler's alone: 2N-1 steps.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `down`, `up` | the level stepped down to, and the noise added: down² + up² = σ_{i+1}² |
//! | `middle` | exp(-s), s halfway between t = -ln σ_i and -ln down |

use super::super::prediction::{Level, Prediction};
use super::super::sigmas::Grid;
use super::{Noise, Plan, Rule, ancestral, latents};
use crate::Result;

pub(super) struct DpmPp2sAncestral {
    prediction: Prediction,
    timesteps: Vec<f64>,
    levels: Vec<f64>,
    targets: Vec<(f64, f64)>,
    init_noise_sigma: f64,
    start: Vec<f32>,
}

impl DpmPp2sAncestral {
    pub(super) fn new(plan: Plan<'_>, eta: f64) -> Result<Self> {
        let grid = Grid::points(plan.config, &plan.schedule, plan.steps)?;
        let init_noise_sigma = grid.init_noise_sigma(plan.config);
        let grid = grid.starting_at(plan.skip);
        let targets: Vec<(f64, f64)> = grid.sigmas.windows(2).map(|pair| ancestral(pair[0], pair[1], eta)).collect();
        let (mut timesteps, mut levels) = (Vec::new(), Vec::new());
        for ((&t, &sigma), &(down, _)) in grid.timesteps.iter().zip(&grid.sigmas).zip(&targets) {
            timesteps.push(t);
            levels.push(sigma);
            if down > 0.0 {
                let middle = (sigma * down).sqrt();
                timesteps.push(grid.timestep_of(middle));
                levels.push(middle);
            }
        }
        levels.push(grid.sigmas[grid.sigmas.len() - 1]);
        let prediction = Prediction::free(plan.config);
        Ok(DpmPp2sAncestral { prediction, timesteps, levels, targets, init_noise_sigma, start: Vec::new() })
    }
}

impl Rule for DpmPp2sAncestral {
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
        let sigma = self.levels[i];
        let (down, up) = self.targets[i / 2];
        let x0 = self.prediction.x0(model_output, x, Level::ve(sigma));
        if i.is_multiple_of(2) {
            let to = if down > 0.0 { self.levels[i + 1] } else { down };
            self.start = x.to_vec();
            return latents(x.len(), |i| towards(f64::from(x[i]), x0[i], to / sigma));
        }
        let z = if up > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let ratio = down / self.levels[i - 1];
        latents(x.len(), |i| towards(f64::from(self.start[i]), x0[i], ratio) + up * f64::from(z[i]))
    }
}

/// x at `ratio` of its σ on the line to x_0: the exact step where x̃_0 stays the same.
pub(super) fn towards(x: f64, x0: f64, ratio: f64) -> f64 {
    ratio * x + (1.0 - ratio) * x0
}
