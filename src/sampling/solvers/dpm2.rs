//! The midpoint method in ln σ (Karras et al., arXiv 2206.00364, appendix; k-diffusion, `sample_dpm_2` and `sample_dpm_2_ancestral`).
//!
//! Steps 0, 2, 4, … go from σ_i to the middle; steps 1, 3, 5, … take the derivative there for the whole interval. The last interval, to σ = 0,
//! is Euler's alone: 2N-1 steps.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `down`, `up` | the level stepped down to, and the noise added: down² + up² = σ_{i+1}²; (σ_{i+1}, 0) without noise |
//! | `middle` | √(σ_i·down) |

use super::super::prediction::{Level, Prediction};
use super::super::sigmas::Grid;
use super::{Noise, Plan, Rule, ancestral, latents};
use crate::Result;

pub(super) struct Dpm2 {
    prediction: Prediction,
    timesteps: Vec<f64>,
    /// The level of each step, and the last.
    levels: Vec<f64>,
    /// (down, up) of each interval.
    targets: Vec<(f64, f64)>,
    init_noise_sigma: f64,
    start: Vec<f32>,
}

impl Dpm2 {
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
        Ok(Dpm2 { prediction, timesteps, levels, targets, init_noise_sigma, start: Vec::new() })
    }
}

impl Rule for Dpm2 {
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
        let derivative = |i: usize| (f64::from(x[i]) - x0[i]) / sigma;
        if i.is_multiple_of(2) {
            let to = if down > 0.0 { self.levels[i + 1] } else { down };
            let next = latents(x.len(), |i| f64::from(x[i]) + derivative(i) * (to - sigma));
            self.start = x.to_vec();
            return next;
        }
        let z = if up > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let whole = down - self.levels[i - 1];
        latents(x.len(), |i| f64::from(self.start[i]) + derivative(i) * whole + up * f64::from(z[i]))
    }
}
