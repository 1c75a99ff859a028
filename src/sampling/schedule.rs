//! Noise schedules: β, ᾱ and σ over the training timesteps.

use serde::{Deserialize, Serialize};

use super::SchedulerConfig;
use crate::{Error, Result};

/// How β runs from `beta_start` to `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// β linear in t (Ho et al., arXiv 2006.11239).
    Linear,
    /// √β linear in t: Stable Diffusion's, eq. 11 of the OMS paper.
    #[default]
    ScaledLinear,
    /// ᾱ a squared cosine (Nichol and Dhariwal, arXiv 2102.09672), β at most 0.999.
    SquaredcosCapV2,
}

/// What σ-based solvers take for ᾱ = 0: the smallest positive half-precision number.
const SMALLEST_ALPHA_BAR: f32 = 1.0 / 16_777_216.0;

/// ᾱ over the training timesteps.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    /// β, rounded to f32 as in the reference.
    pub betas: Vec<f32>,
    /// ᾱ_t for t = 0 … T-1, rounded to f32 as in the reference.
    pub alphas_cumprod: Vec<f32>,
}

impl NoiseSchedule {
    /// The schedule of a configuration, computed in f32 as diffusers does, so that timesteps and sigmas agree to the last digit that
    /// a checkpoint ever saw.
    ///
    /// # Errors
    /// [`Error::Model`] when a β is outside (0, 1].
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        config.check()?;
        let t = config.num_train_timesteps;
        let mut betas = match (&config.trained_betas, config.beta_schedule) {
            (Some(trained), _) => trained.clone(),
            (None, BetaSchedule::Linear) => linspace(config.beta_start as f32, config.beta_end as f32, t),
            (None, BetaSchedule::ScaledLinear) => {
                let roots = linspace(config.beta_start.sqrt() as f32, config.beta_end.sqrt() as f32, t);
                roots.into_iter().map(|r| r * r).collect()
            }
            (None, BetaSchedule::SquaredcosCapV2) => squared_cosine(t),
        };
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        if betas.len() != t {
            return Err(Error::model(format!(
                "scheduler_config.json: trained_betas: expected {t} values, got {}",
                betas.len()
            )));
        }
        if let Some(bad) = betas.iter().position(|b| !(*b > 0.0 && *b <= 1.0)) {
            return Err(Error::model(format!(
                "scheduler_config.json: expected every beta in (0, 1], got {} at timestep {bad}",
                betas[bad]
            )));
        }
        let alphas_cumprod = cumulative_product(betas.iter().map(|b| 1.0 - b));
        Ok(NoiseSchedule { betas, alphas_cumprod })
    }

    /// ᾱ_t.
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        f64::from(self.alphas_cumprod[timestep])
    }

    /// SNR(t) = ᾱ / (1 - ᾱ).
    pub fn snr(&self, timestep: usize) -> f64 {
        self.alpha_bar(timestep) / (1.0 - self.alpha_bar(timestep))
    }

    /// σ_t = √((1-ᾱ)/ᾱ): the noise level of a sigma-scaled latent, in f32 as in the reference. Where ᾱ_T is 0, 2⁻²⁴ stands for it, as in
    /// diffusers: σ would be infinite, 4096 is as good.
    pub fn sigmas(&self) -> Vec<f32> {
        let finite = |a: &f32| if *a == 0.0 { SMALLEST_ALPHA_BAR } else { *a };
        self.alphas_cumprod.iter().map(finite).map(|a| ((1.0 - a) / a).sqrt()).collect()
    }
}

/// `torch.linspace` in f32: from both ends towards the middle.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count as f32 - 1.0);
    (0..count)
        .map(
            |i| {
                if i < count / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((count - 1 - i) as f32, end) }
            },
        )
        .collect()
}

fn squared_cosine(t: usize) -> Vec<f32> {
    let alpha_bar = |x: f64| ((x + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (0..t)
        .map(|i| (1.0 - alpha_bar((i + 1) as f64 / t as f64) / alpha_bar(i as f64 / t as f64)).min(0.999) as f32)
        .collect()
}

/// `torch.cumprod` of f32 values on the CPU accumulates in f64 and rounds each entry.
fn cumulative_product(alphas: impl Iterator<Item = f32>) -> Vec<f32> {
    alphas
        .scan(1.0f64, |product, alpha| {
            *product *= f64::from(alpha);
            Some(*product as f32)
        })
        .collect()
}

/// Algorithm 1 of Lin et al. (arXiv 2305.08891): shift and scale √ᾱ so that it ends at 0 and begins as before.
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_product(betas.iter().map(|b| 1.0 - b)).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let bars: Vec<f32> = roots.into_iter().map(|r| (r - last) * (first / (first - last))).map(|r| r * r).collect();
    let alphas = std::iter::once(bars[0]).chain(bars.windows(2).map(|pair| pair[1] / pair[0]));
    alphas.map(|a| 1.0 - a).collect()
}
