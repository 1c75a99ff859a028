//! DDPM (Ho et al., arXiv 2006.11239), algorithm 2 with eq. 7, over the timesteps visited.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `alpha_bar`, `alpha_bar_next` | ᾱ_t, ᾱ_{t-1} |
//! | `beta` | β_t = 1 - ᾱ_t/ᾱ_{t-1} |
//! | `variance` | β̃_t = (1-ᾱ_{t-1})/(1-ᾱ_t)·β_t ("fixed_small"), or β_t ("fixed_large") |

use super::super::prediction::Prediction;
use super::variance_preserving::Visited;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::{Error, Result};

pub(super) struct Ddpm {
    prediction: Prediction,
    visited: Visited,
    large: bool,
}

impl Ddpm {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        let large = match plan.config.variance_type.as_deref() {
            // The logarithm of the small variance is taken and undone: the same number.
            None | Some("fixed_small" | "fixed_small_log") => false,
            Some("fixed_large") => true,
            Some(other) => {
                return Err(Error::model(format!(
                    "scheduler_config.json: variance_type: expected fixed_small or fixed_large, got {other}"
                )));
            }
        };
        Ok(Ddpm { prediction: Prediction::new(plan.config, true), visited: Visited::spaced(plan), large })
    }
}

impl Rule for Ddpm {
    fn frame(&self) -> &dyn Frame {
        &self.visited
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.visited.timesteps[i] as usize;
        let alpha_bar = self.visited.schedule.alpha_bar(t);
        let alpha_bar_next = self.visited.alpha_bar(i + 1).unwrap_or(1.0);
        let alpha = alpha_bar / alpha_bar_next;
        let beta = 1.0 - alpha;
        let share = (1.0 - alpha_bar_next) / (1.0 - alpha_bar);
        let variance = if self.large { beta } else { (share * beta).max(1e-20) };
        let std = if t > 0 { variance.sqrt() } else { 0.0 };
        let z = if t > 0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let x0 = self.prediction.x0(model_output, x, self.visited.level(i));
        let of_x0 = alpha_bar_next.sqrt() * beta / (1.0 - alpha_bar);
        let of_x = alpha.sqrt() * share;
        latents(x.len(), |i| of_x0 * x0[i] + of_x * f64::from(x[i]) + std * f64::from(z[i]))
    }
}
