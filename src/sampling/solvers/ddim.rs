//! DDIM (Song et al., arXiv 2010.02502), eq. 12 and 16.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `alpha_bar`, `alpha_bar_next` | ᾱ_t, ᾱ_{t-1} (α_t, α_{t-1} in the paper) |
//! | `std` | σ_t = η √((1-ᾱ_{t-1})/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_{t-1}) |
//! | `x0`, `eps` | predicted x_0, ε_θ |

use super::super::{NoiseSchedule, SchedulerConfig, TimestepSpacing};
use super::{Noise, Rule, alpha_bar_or_final};

pub(super) struct Ddim {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    stride: i64,
    eta: f64,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, schedule: NoiseSchedule, steps: usize, eta: f64) -> Self {
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Leading);
        let last = config.num_train_timesteps as f64 - 1.0;
        let timesteps = spacing
            .fractional(config.num_train_timesteps, steps, config.steps_offset)
            .into_iter()
            .map(|t| t.round_ties_even().min(last))
            .collect();
        let stride = (config.num_train_timesteps / steps) as i64;
        Ddim { config: config.clone(), schedule, timesteps, stride, eta }
    }
}

impl Rule for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, model_output: &[f32], latents: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.timesteps[i] as i64;
        let alpha_bar = self.schedule.alpha_bar(t as usize);
        let alpha_bar_next = alpha_bar_or_final(&self.schedule, &self.config, t - self.stride);
        let variance = (1.0 - alpha_bar_next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_next);
        let std = self.eta * variance.max(0.0).sqrt();
        let towards_x = (1.0 - alpha_bar_next - std * std).max(0.0).sqrt();
        // Drawn only when used: the generator's later draws stay where diffusers has them.
        let z = if self.eta > 0.0 { noise(latents.len()) } else { vec![0.0; latents.len()] };
        let clip = self.config.clip_sample.unwrap_or(true).then_some(self.config.clip_sample_range);
        latents
            .iter()
            .zip(model_output)
            .zip(&z)
            .map(|((&x, &output), &z)| {
                let (mut x0, eps) = self.config.prediction_type.split(output.into(), x.into(), alpha_bar);
                if let Some(range) = clip {
                    x0 = x0.clamp(-range, range);
                }
                (alpha_bar_next.sqrt() * x0 + towards_x * eps + std * f64::from(z)) as f32
            })
            .collect()
    }
}
