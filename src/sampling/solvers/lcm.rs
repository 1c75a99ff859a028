//! Multistep sampling of latent consistency models (Luo et al., arXiv 2310.04378, algorithm 3).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `c_skip`, `c_out` | the boundary condition's weights, with σ_data = 0.5 and t scaled by `timestep_scaling` |
//! | denoised | f_θ(x, t) = c_skip·x + c_out·x̃_0 |
//! | `alpha_bar_next` | ᾱ at the next timestep visited |

use super::super::NoiseSchedule;
use super::super::prediction::{Level, Prediction};
use super::{Noise, Plan, Rule, latents};

pub(super) struct Lcm {
    schedule: NoiseSchedule,
    prediction: Prediction,
    timesteps: Vec<f64>,
    timestep_scaling: f64,
}

const SIGMA_DATA: f64 = 0.5;

impl Lcm {
    pub(super) fn new(plan: Plan<'_>) -> Self {
        Lcm {
            prediction: Prediction::new(plan.config, false),
            timesteps: distilled_timesteps(&plan),
            timestep_scaling: plan.config.timestep_scaling,
            schedule: plan.schedule,
        }
    }
}

/// The teacher's timesteps k-1, 2k-1, …, of which N are taken at equal distances from the noisiest on.
pub(super) fn distilled_timesteps(plan: &Plan<'_>) -> Vec<f64> {
    let teacher = plan.config.original_inference_steps;
    let k = plan.config.num_train_timesteps / teacher;
    let at = |i: usize| (i as f64 * (teacher as f64 / plan.steps as f64)).floor() as usize;
    (plan.skip..plan.steps).map(|i| ((teacher - at(i)) * k - 1) as f64).collect()
}

impl Rule for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.timesteps.get(i).map_or(Level::CLEAN, |&t| Level::vp(self.schedule.alpha_bar(t as usize)))
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.timesteps[i];
        let scaled = t * self.timestep_scaling;
        let norm = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / norm, scaled / norm.sqrt());
        let next = self.timesteps.get(i + 1).map(|&t| self.schedule.alpha_bar(t as usize));
        let z = if next.is_some() { noise(x.len()) } else { vec![0.0; x.len()] };
        let alpha_bar_next = next.unwrap_or(1.0);
        let x0 = self.prediction.x0(model_output, x, self.level(i));
        latents(x.len(), |i| {
            let denoised = c_skip * f64::from(x[i]) + c_out * x0[i];
            alpha_bar_next.sqrt() * denoised + (1.0 - alpha_bar_next).sqrt() * f64::from(z[i])
        })
    }
}
