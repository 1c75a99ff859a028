//! Heun's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, algorithm 1).
//!
//! Steps 0, 2, 4, … go to the next σ by Euler's method; steps 1, 3, 5, … see that result and replace it by the mean of both derivatives. The
//! last interval, to σ = 0, is Euler's alone: 2N-1 steps.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `first` | d_i and x_i: the derivative at σ_i and the latents there |
//! | `derivative` | d_i' at σ_{i+1} |

use super::super::prediction::{Level, Prediction};
use super::sigma_scaled::SigmaScaled;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct Heun {
    scaled: SigmaScaled,
    timesteps: Vec<f64>,
    first: Option<(Vec<f64>, Vec<f32>)>,
}

impl Heun {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        let scaled = SigmaScaled { prediction: Prediction::new(plan.config, false), ..SigmaScaled::new(plan)? };
        let twice = scaled.grid.timesteps.iter().flat_map(|&t| [t, t]).skip(1).collect();
        Ok(Heun { scaled, timesteps: twice, first: None })
    }
}

impl Frame for Heun {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.scaled.level(i.div_ceil(2))
    }

    fn init_noise_sigma(&self) -> f64 {
        self.scaled.init_noise_sigma
    }
}

impl Rule for Heun {
    fn frame(&self) -> &dyn Frame {
        self
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let at = i.div_ceil(2);
        let sigmas = &self.scaled.grid.sigmas;
        let (_, derivative) = self.scaled.derivative(at, model_output, x);
        match self.first.take() {
            Some((first, start)) => {
                let step = sigmas[at] - sigmas[at - 1];
                latents(x.len(), |i| f64::from(start[i]) + (first[i] + derivative[i]) / 2.0 * step)
            }
            None => {
                let step = sigmas[at + 1] - sigmas[at];
                let next = latents(x.len(), |i| f64::from(x[i]) + derivative[i] * step);
                self.first = Some((derivative, x.to_vec()));
                next
            }
        }
    }
}
