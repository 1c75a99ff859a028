//! DDIM (Song et al., arXiv 2010.02502), eq. 12 and 16.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `alpha_bar`, `alpha_bar_next` | ᾱ_t, ᾱ_{t-1} (α_t, α_{t-1} in the paper) |
//! | `std` | σ_t = η √((1-ᾱ_{t-1})/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_{t-1}) |
//! | `x0`, `eps` | predicted x_0, ε_θ |

use super::super::SchedulerConfig;
use super::super::prediction::Prediction;
use super::variance_preserving::Visited;
use super::{Frame, Noise, Plan, Rule, latents};

pub(super) struct Ddim {
    config: SchedulerConfig,
    prediction: Prediction,
    visited: Visited,
    eta: f64,
}

impl Ddim {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Self {
        Ddim {
            config: plan.config.clone(),
            prediction: Prediction::new(plan.config, true),
            visited: Visited::spaced(plan),
            eta,
        }
    }
}

impl Rule for Ddim {
    fn frame(&self) -> &dyn Frame {
        &self.visited
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.visited.timesteps[i] as i64;
        let alpha_bar = self.visited.schedule.alpha_bar(t as usize);
        let alpha_bar_next = self.visited.alpha_bar_or_final(&self.config, self.visited.end(i), true);
        let variance = (1.0 - alpha_bar_next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_next);
        let std = self.eta * variance.max(0.0).sqrt();
        let towards_x = (1.0 - alpha_bar_next - std * std).max(0.0).sqrt();
        // Drawn only when used: the generator's later draws stay where diffusers has them.
        let z = if self.eta > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let (x0, eps) = self.prediction.split(model_output, x, self.visited.level(i));
        latents(x.len(), |i| alpha_bar_next.sqrt() * x0[i] + towards_x * eps[i] + std * f64::from(z[i]))
    }
}
