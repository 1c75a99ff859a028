//! DEIS (Zhang and Chen, arXiv 2204.13902), ρAB of order 2 with polynomials in ln ρ, as diffusers' `DEISMultistepScheduler` with "logrho".
//! ρ is σ of the sigma-scaled latents y = x/α, where the equation is dy/dρ = ε; the last step, to ρ = 0, is of first order.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `rho`, `next`, `before` | ρ_i, ρ_{i+1}, ρ_{i-1} |
//! | `integral(to, b, c)` | antiderivative of (ln ρ - ln c)/(ln b - ln c) at `to` |

use super::super::prediction::{Level, Prediction};
use super::super::sigmas::Grid;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct Deis {
    prediction: Prediction,
    grid: Grid,
    first_order: bool,
    last_eps: Option<Vec<f64>>,
}

impl Deis {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        let grid = Grid::intervals(plan.config, &plan.schedule, plan.steps)?.starting_at(plan.skip);
        let first_order = plan.config.solver_order == 1;
        Ok(Deis { prediction: Prediction::free(plan.config), grid, first_order, last_eps: None })
    }
}

impl Frame for Deis {
    fn timesteps(&self) -> &[f64] {
        &self.grid.timesteps
    }

    fn level(&self, i: usize) -> Level {
        Level::ve(self.grid.sigmas[i])
    }

    fn init_noise_sigma(&self) -> f64 {
        self.level(0).scale()
    }
}

impl Rule for Deis {
    fn frame(&self) -> &dyn Frame {
        self
    }

    fn step(&mut self, i: usize, model_output: &[f32], y: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let (rho, next) = (self.grid.sigmas[i], self.grid.sigmas[i + 1]);
        let (_, eps) = self.prediction.split(model_output, y, Level::ve(rho));
        let stepped = match &self.last_eps {
            Some(last) if next > 0.0 && !self.first_order => {
                let before = self.grid.sigmas[i - 1];
                let integral = |to: f64, b: f64, c: f64| to * (to.ln() - c.ln() - 1.0) / (b.ln() - c.ln());
                let of_now = integral(next, rho, before) - integral(rho, rho, before);
                let of_last = integral(next, before, rho) - integral(rho, before, rho);
                latents(y.len(), |i| f64::from(y[i]) + of_now * eps[i] + of_last * last[i])
            }
            _ => latents(y.len(), |i| f64::from(y[i]) + (next - rho) * eps[i]),
        };
        self.last_eps = Some(eps);
        stepped
    }
}
