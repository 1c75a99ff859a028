//! Strategic stochastic sampling of trajectory-consistency models (Zheng et al., arXiv 2402.19159, algorithm 4).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `eta` | γ: 0 is deterministic, 1 adds as much noise as LCM's sampling |
//! | `s` | s = ⌊(1-γ)·t_{n+1}⌋: where the network's step ends |
//! | `alpha_bar_s`, `alpha_bar_next` | ᾱ at s, and at the next timestep visited (0 after the last) |

use super::super::prediction::Prediction;
use super::variance_preserving::Visited;
use super::{Frame, Noise, Plan, Rule, latents};

pub(super) struct Tcd {
    prediction: Prediction,
    visited: Visited,
    eta: f64,
}

impl Tcd {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Self {
        Tcd { prediction: Prediction::free(plan.config), visited: Visited::distilled(plan), eta }
    }
}

impl Rule for Tcd {
    fn frame(&self) -> &dyn Frame {
        &self.visited
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let next = self.visited.timesteps.get(i + 1).copied();
        let s = ((1.0 - self.eta) * next.unwrap_or(0.0)).floor();
        let alpha_bar_s = self.visited.schedule.alpha_bar(s as usize);
        let (x0, eps) = self.prediction.split(model_output, x, self.visited.level(i));
        let stepped = |i: usize| alpha_bar_s.sqrt() * x0[i] + (1.0 - alpha_bar_s).sqrt() * eps[i];
        match next {
            Some(next) if self.eta > 0.0 => {
                let kept = self.visited.schedule.alpha_bar(next as usize) / alpha_bar_s;
                let z = noise(x.len());
                latents(x.len(), |i| kept.sqrt() * stepped(i) + (1.0 - kept).sqrt() * f64::from(z[i]))
            }
            _ => latents(x.len(), stepped),
        }
    }
}
