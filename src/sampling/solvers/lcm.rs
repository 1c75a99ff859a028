//! Multistep sampling of latent consistency models (Luo et al., arXiv 2310.04378, algorithm 3).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `c_skip`, `c_out` | the boundary condition's weights, with σ_data = 0.5 and t scaled by `timestep_scaling` |
//! | denoised | f_θ(x, t) = c_skip·x + c_out·x̃_0 |
//! | `alpha_bar_next` | ᾱ at the next timestep visited |

use super::super::prediction::Prediction;
use super::variance_preserving::Visited;
use super::{Frame, Noise, Plan, Rule, latents};

pub(super) struct Lcm {
    prediction: Prediction,
    visited: Visited,
    timestep_scaling: f64,
}

const SIGMA_DATA: f64 = 0.5;

impl Lcm {
    pub(super) fn new(plan: &Plan<'_>) -> Self {
        Lcm {
            prediction: Prediction::new(plan.config, false),
            visited: Visited::distilled(plan),
            timestep_scaling: plan.config.timestep_scaling,
        }
    }
}

impl Rule for Lcm {
    fn frame(&self) -> &dyn Frame {
        &self.visited
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.visited.timesteps[i];
        let scaled = t * self.timestep_scaling;
        let norm = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / norm, scaled / norm.sqrt());
        let next = self.visited.alpha_bar(i + 1);
        let z = if next.is_some() { noise(x.len()) } else { vec![0.0; x.len()] };
        let alpha_bar_next = next.unwrap_or(1.0);
        let x0 = self.prediction.x0(model_output, x, self.visited.level(i));
        latents(x.len(), |i| {
            let denoised = c_skip * f64::from(x[i]) + c_out * x0[i];
            alpha_bar_next.sqrt() * denoised + (1.0 - alpha_bar_next).sqrt() * f64::from(z[i])
        })
    }
}
