//! Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, algorithm 1 without the second-order correction).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `sigmas` | σ = √((1-ᾱ)/ᾱ) at each timestep, then 0 |
//! | scaled latent | x_VE = x_VP·√(σ²+1) |
//! | `x0` | D(x; σ) |
//! | `derivative` | dx/dσ = (x - D)/σ |

use super::super::{NoiseSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
use super::{Noise, Rule};
use crate::{Error, Result};

pub(super) struct Euler {
    prediction_type: PredictionType,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, schedule: &NoiseSchedule, steps: usize) -> Result<Self> {
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
        let table = schedule.sigmas();
        let last = table.len() as f64 - 1.0;
        let timesteps: Vec<f64> = spacing
            .fractional(table.len(), steps, config.steps_offset)
            .into_iter()
            .map(|t| f64::from(t.min(last) as f32))
            .collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| f64::from(interpolate(&table, t) as f32)).collect();
        if sigmas.iter().any(|s| !s.is_finite()) {
            return Err(Error::Request(
                "sampler euler: σ is infinite at the first timestep, because the schedule ends at zero SNR; use ddim"
                    .into(),
            ));
        }
        let largest = sigmas.iter().copied().fold(0.0, f64::max);
        let init_noise_sigma = match spacing {
            TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
        };
        sigmas.push(0.0);
        Ok(Euler { prediction_type: config.prediction_type, timesteps, sigmas, init_noise_sigma })
    }
}

/// The table's value at a fractional index.
fn interpolate(table: &[f32], at: f64) -> f64 {
    let low = (at.floor() as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    let (a, b) = (f64::from(table[low]), f64::from(table[high]));
    a + (b - a) * (at - low as f64)
}

impl Rule for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn input_scale(&self, i: usize) -> f64 {
        1.0 / (self.sigmas[i] * self.sigmas[i] + 1.0).sqrt()
    }

    fn step(&mut self, i: usize, model_output: &[f32], scaled_latents: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let (sigma, next) = (self.sigmas[i], self.sigmas[i + 1]);
        let alpha_bar = 1.0 / (sigma * sigma + 1.0);
        scaled_latents
            .iter()
            .zip(model_output)
            .map(|(&x, &output)| {
                let x = f64::from(x);
                let (x0, _) = self.prediction_type.split(output.into(), x * alpha_bar.sqrt(), alpha_bar);
                let derivative = (x - x0) / sigma;
                (x + derivative * (next - sigma)) as f32
            })
            .collect()
    }
}
