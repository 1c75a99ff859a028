//! Multistep sampling of latent consistency models (Luo et al., arXiv 2310.04378, algorithm 3).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `c_skip`, `c_out` | the boundary condition's weights, with σ_data = 0.5 and t scaled by `timestep_scaling` |
//! | `denoised` | f_θ(x, t) = c_skip·x + c_out·x̃_0 |
//! | `alpha_bar_next` | ᾱ at the next timestep visited |

use super::super::{NoiseSchedule, SchedulerConfig};
use super::{Noise, Rule};

pub(super) struct Lcm {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
}

const SIGMA_DATA: f64 = 0.5;

impl Lcm {
    pub(super) fn new(config: &SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Self {
        // The teacher's steps k, 2k, … (less 1), from which `steps` are taken at equal distances from the noisiest on.
        let teacher = config.original_inference_steps;
        let k = config.num_train_timesteps / teacher;
        let timesteps = (0..steps)
            .map(|i| {
                let index = (i as f64 * (teacher as f64 / steps as f64)).floor() as usize;
                ((teacher - index) * k - 1) as f64
            })
            .collect();
        Lcm { config: config.clone(), schedule, timesteps }
    }
}

impl Rule for Lcm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, model_output: &[f32], latents: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let t = self.timesteps[i];
        let alpha_bar = self.schedule.alpha_bar(t as usize);
        let scaled = t * self.config.timestep_scaling;
        let norm = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (c_skip, c_out) = (SIGMA_DATA * SIGMA_DATA / norm, scaled / norm.sqrt());
        let clip = self.config.clip_sample.unwrap_or(false).then_some(self.config.clip_sample_range);
        let next = self.timesteps.get(i + 1).map(|&t| self.schedule.alpha_bar(t as usize));
        let z = if next.is_some() { noise(latents.len()) } else { vec![0.0; latents.len()] };
        let alpha_bar_next = next.unwrap_or(1.0);
        latents
            .iter()
            .zip(model_output)
            .zip(&z)
            .map(|((&x, &output), &z)| {
                let (mut x0, _) = self.config.prediction_type.split(output.into(), x.into(), alpha_bar);
                if let Some(range) = clip {
                    x0 = x0.clamp(-range, range);
                }
                let denoised = c_skip * f64::from(x) + c_out * x0;
                (alpha_bar_next.sqrt() * denoised + (1.0 - alpha_bar_next).sqrt() * f64::from(z)) as f32
            })
            .collect()
    }
}
