//! Strategic stochastic sampling of trajectory-consistency models (Zheng et al., arXiv 2402.19159, algorithm 4).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `eta` | γ: 0 is deterministic, 1 adds as much noise as LCM's sampling |
//! | `s` | s = ⌊(1-γ)·t_{n+1}⌋: where the network's step ends |
//! | `alpha_bar_s`, `alpha_bar_next` | ᾱ at s, and at the next timestep visited (0 after the last) |

use super::super::NoiseSchedule;
use super::super::prediction::{Level, Prediction};
use super::lcm::distilled_timesteps;
use super::{Noise, Plan, Rule, latents};

pub(super) struct Tcd {
    schedule: NoiseSchedule,
    prediction: Prediction,
    timesteps: Vec<f64>,
    eta: f64,
}

impl Tcd {
    pub(super) fn new(plan: Plan<'_>, eta: f64) -> Self {
        Tcd {
            prediction: Prediction::free(plan.config),
            timesteps: distilled_timesteps(&plan),
            schedule: plan.schedule,
            eta,
        }
    }
}

impl Rule for Tcd {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.timesteps.get(i).map_or(Level::CLEAN, |&t| Level::vp(self.schedule.alpha_bar(t as usize)))
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let next = self.timesteps.get(i + 1).copied();
        let s = ((1.0 - self.eta) * next.unwrap_or(0.0)).floor();
        let alpha_bar_s = self.schedule.alpha_bar(s as usize);
        let (x0, eps) = self.prediction.split(model_output, x, self.level(i));
        let stepped = |i: usize| alpha_bar_s.sqrt() * x0[i] + (1.0 - alpha_bar_s).sqrt() * eps[i];
        match next {
            Some(next) if self.eta > 0.0 => {
                let kept = self.schedule.alpha_bar(next as usize) / alpha_bar_s;
                let z = noise(x.len());
                latents(x.len(), |i| kept.sqrt() * stepped(i) + (1.0 - kept).sqrt() * f64::from(z[i]))
            }
            _ => latents(x.len(), stepped),
        }
    }
}
