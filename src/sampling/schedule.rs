//! Noise schedules: β and ᾱ, from a checkpoint's `scheduler_config.json`.

use serde::Deserialize;

use super::{PredictionType, SolverKind, TimestepSpacing};
use crate::{Error, Result};

/// How β runs from `beta_start` to `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// β linear in t (Ho et al., arXiv 2006.11239).
    Linear,
    /// √β linear in t: Stable Diffusion's, eq. 11 of the OMS paper.
    #[default]
    ScaledLinear,
    /// ᾱ a squared cosine (Nichol and Dhariwal, arXiv 2102.09672), β at most 0.999.
    SquaredcosCapV2,
}

/// `scheduler_config.json`. Fields that are absent take the default of the solver's class in diffusers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The class that the checkpoint was saved with.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// T.
    pub num_train_timesteps: usize,
    /// β_1.
    pub beta_start: f64,
    /// β_T.
    pub beta_end: f64,
    /// The curve between them.
    pub beta_schedule: BetaSchedule,
    /// β_1 … β_T given outright; replaces the curve.
    pub trained_betas: Option<Vec<f32>>,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Which timesteps are visited; the solver's own default when absent.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Whether ᾱ after the last step is 1 rather than ᾱ_1.
    pub set_alpha_to_one: bool,
    /// Whether x̃_0 is clipped; the solver's own default when absent.
    pub clip_sample: Option<bool>,
    /// To what: ± this.
    pub clip_sample_range: f64,
    /// Rescale β so that ᾱ_T = 0 (Lin et al., algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Dynamic thresholding; not supported.
    pub thresholding: bool,
    /// Karras sigmas; not supported.
    pub use_karras_sigmas: bool,
    /// Exponential sigmas; not supported.
    pub use_exponential_sigmas: bool,
    /// Beta sigmas; not supported.
    pub use_beta_sigmas: bool,
    /// LCM: steps of the teacher's schedule.
    pub original_inference_steps: usize,
    /// LCM: scale of t in the boundary condition.
    pub timestep_scaling: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            class_name: String::new(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            clip_sample: None,
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            thresholding: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
        }
    }
}

impl SchedulerConfig {
    /// The solver that the checkpoint names, where there is one of that kind here.
    pub fn solver(&self) -> Option<SolverKind> {
        match self.class_name.as_str() {
            "DDIMScheduler" => Some(SolverKind::Ddim),
            "EulerDiscreteScheduler" => Some(SolverKind::Euler),
            "LCMScheduler" => Some(SolverKind::Lcm),
            _ => None,
        }
    }

    /// Refuses what would change the result and is not done here.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field.
    pub fn check(&self) -> Result<()> {
        let unsupported = [
            ("thresholding", self.thresholding),
            ("use_karras_sigmas", self.use_karras_sigmas),
            ("use_exponential_sigmas", self.use_exponential_sigmas),
            ("use_beta_sigmas", self.use_beta_sigmas),
        ];
        if let Some((field, _)) = unsupported.iter().find(|(_, on)| *on) {
            return Err(Error::Model(format!(
                "scheduler_config.json: {field}: expected false, got true; it is not supported yet"
            )));
        }
        if !(2..=100_000).contains(&self.num_train_timesteps) {
            return Err(Error::Model(format!(
                "scheduler_config.json: num_train_timesteps: expected 2 to 100000, got {}",
                self.num_train_timesteps
            )));
        }
        Ok(())
    }
}

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
            return Err(Error::Model(format!(
                "scheduler_config.json: trained_betas: expected {t} values, got {}",
                betas.len()
            )));
        }
        if let Some(bad) = betas.iter().position(|b| !(*b > 0.0 && *b <= 1.0)) {
            return Err(Error::Model(format!(
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

    /// σ_t = √((1-ᾱ)/ᾱ): the noise level of a sigma-scaled latent, in f32 as in the reference.
    pub fn sigmas(&self) -> Vec<f32> {
        self.alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
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
