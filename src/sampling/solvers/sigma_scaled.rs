//! What the solvers of k-diffusion share: latents x_VE = x_0 + σ·ε on a grid of falling σ.

use super::super::prediction::{Level, Prediction};
use super::super::sigmas::{Grid, Placing};
use super::{Frame, Plan, ancestral};
use crate::Result;

/// A grid with one evaluation a step.
pub(super) struct SigmaScaled {
    pub(super) prediction: Prediction,
    pub(super) grid: Grid,
    pub(super) init_noise_sigma: f64,
}

impl SigmaScaled {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        Self::placed(plan, Placing::KDiffusion)
    }

    pub(super) fn placed(plan: &Plan<'_>, placing: Placing) -> Result<Self> {
        let grid = Grid::points(plan.config, &plan.schedule, plan.steps, placing)?;
        let init_noise_sigma = grid.init_noise_sigma(plan.config);
        Ok(SigmaScaled {
            prediction: Prediction::free(plan.config),
            grid: grid.starting_at(plan.skip),
            init_noise_sigma,
        })
    }

    /// x̃_0 and dx/dσ = (x - x̃_0)/σ of step `i`.
    pub(super) fn derivative(&self, i: usize, model_output: &[f32], x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let x0 = self.prediction.x0(model_output, x, self.level(i));
        let sigma = self.grid.sigmas[i];
        let derivative = x.iter().zip(&x0).map(|(&x, x0)| (f64::from(x) - x0) / sigma).collect();
        (x0, derivative)
    }
}

impl Frame for SigmaScaled {
    fn timesteps(&self) -> &[f64] {
        &self.grid.timesteps
    }

    fn level(&self, i: usize) -> Level {
        Level::ve(self.grid.sigmas[i])
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }
}

/// A grid with two evaluations an interval: at its start, and in its middle in ln σ. The last interval, to σ = 0, has one: 2N-1 steps.
pub(super) struct Halves {
    pub(super) prediction: Prediction,
    pub(super) timesteps: Vec<f64>,
    /// σ of each step, and the last one.
    pub(super) levels: Vec<f64>,
    /// Of each interval: the level stepped down to, and the noise added after it.
    pub(super) targets: Vec<(f64, f64)>,
    pub(super) init_noise_sigma: f64,
}

impl Halves {
    /// Steps down as far as `eta` says; the middle lies between the start and there.
    pub(super) fn ancestral(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Self::new(plan, eta, |sigma, _, down| sigma * down)
    }

    /// The middle lies between the start and the interval's end, whatever `eta` is.
    pub(super) fn of_intervals(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Self::new(plan, eta, |sigma, next, _| sigma * next)
    }

    fn new(plan: &Plan<'_>, eta: f64, square: fn(f64, f64, f64) -> f64) -> Result<Self> {
        let SigmaScaled { prediction, grid, init_noise_sigma } = SigmaScaled::new(plan)?;
        let (mut timesteps, mut levels, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (&t, pair) in grid.timesteps.iter().zip(grid.sigmas.windows(2)) {
            let (down, up) = ancestral(pair[0], pair[1], eta);
            let middle = square(pair[0], pair[1], down).sqrt();
            timesteps.push(t);
            levels.push(pair[0]);
            targets.push((down, up));
            if middle > 0.0 {
                timesteps.push(grid.timestep_of(middle));
                levels.push(middle);
            }
        }
        levels.push(grid.sigmas[grid.sigmas.len() - 1]);
        Ok(Halves { prediction, timesteps, levels, targets, init_noise_sigma })
    }

    /// x̃_0 of step `i`.
    pub(super) fn x0(&self, i: usize, model_output: &[f32], x: &[f32]) -> Vec<f64> {
        self.prediction.x0(model_output, x, self.level(i))
    }

    /// Where step `i`, the first of its interval, goes: the middle, or the end where there is none.
    pub(super) fn half(&self, i: usize) -> f64 {
        let (down, _) = self.targets[i / 2];
        if down > 0.0 { self.levels[i + 1] } else { down }
    }
}

impl Frame for Halves {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        Level::ve(self.levels[i])
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }
}
