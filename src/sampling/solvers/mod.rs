//! Solvers: from x_T to x_0, one file each.
//!
//! A *step* here is one evaluation of the network. Second-order solvers take two for one interval of the schedule, so they have more
//! steps than `num_inference_steps`, as in diffusers.

mod ddim;
mod ddpm;
mod deis;
mod dpm2;
mod dpmpp_2m;
mod dpmpp_2s_ancestral;
mod dpmpp_3m_sde;
mod dpmpp_sde;
mod euler;
mod heun;
mod ipndm;
mod kind;
mod lcm;
mod lms;
mod pndm;
mod sigma_scaled;
mod tcd;
mod unipc;
mod variance_preserving;

pub use kind::{Sampler, SolverKind};

use super::prediction::Level;
use super::{NoiseSchedule, PredictionType, SchedulerConfig};
use crate::{Error, Result};

/// The steps of a solver, and what its latents hold at each.
trait Frame: Send {
    /// The time that the network is told, one a step; fractions where the schedule is interpolated.
    fn timesteps(&self) -> &[f64];
    /// How much of x_0 and of noise the latents hold that step `i` sees; [`Level::CLEAN`] after the last.
    fn level(&self, i: usize) -> Level;
    /// What pure noise is multiplied with at the start.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }
}

/// The rule of one solver.
trait Rule: Send {
    /// Where it steps.
    fn frame(&self) -> &dyn Frame;
    /// Scaled latents after step `i`, from those before it; `noise` draws fresh noise.
    fn step(&mut self, i: usize, model_output: &[f32], scaled_latents: &[f32], noise: Noise<'_>) -> Vec<f32>;
}

/// Draws so many normals from the picture's generator.
type Noise<'a> = &'a mut dyn FnMut(usize) -> Vec<f32>;

/// What a solver is made from.
struct Plan<'a> {
    config: &'a SchedulerConfig,
    schedule: NoiseSchedule,
    /// `num_inference_steps`.
    steps: usize,
    /// Steps of the schedule that an image-to-image run leaves out at its start.
    skip: usize,
    eta: Option<f64>,
}

/// What a caller chooses beside the solver and the number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SolverOptions {
    /// η: how much noise a step adds, 0 to 1; the solver's own default when `None` ([`SolverKind::eta`]).
    pub eta: Option<f64>,
    /// Steps of the schedule to leave out at its start: image-to-image begins in the middle.
    pub skip: usize,
}

/// A solver on its way: timesteps, rule and current latents.
pub struct Solver {
    rule: Box<dyn Rule>,
    alpha_bar_first: f64,
    prediction: PredictionType,
    scaled_latents: Vec<f32>,
    denoised: Vec<f32>,
}

impl Solver {
    /// A solver for `num_inference_steps` steps of the schedule.
    ///
    /// # Errors
    /// When the configuration is not supported, there are more steps than the schedule has, η is out of range or has no meaning, or the
    /// schedule ends at zero SNR under ε-prediction.
    pub fn new(
        kind: SolverKind,
        config: &SchedulerConfig,
        num_inference_steps: usize,
        options: &SolverOptions,
    ) -> Result<Self> {
        let own = kind.reads(config);
        let config = &own;
        let schedule = NoiseSchedule::new(config)?;
        let most = match kind {
            SolverKind::Lcm | SolverKind::Tcd => config.original_inference_steps.min(config.num_train_timesteps),
            _ => config.num_train_timesteps,
        };
        if num_inference_steps == 0 || num_inference_steps > most {
            return Err(Error::request("steps", format!("expected 1 to {most} for {kind}, got {num_inference_steps}")));
        }
        if options.skip >= num_inference_steps {
            return Err(Error::request(
                "steps",
                format!("{num_inference_steps} steps are too few for this strength: none is left to do"),
            ));
        }
        if config.sigmas.is_some_and(|wanted| wanted != super::SigmaSchedule::Normal) && !kind.takes_sigmas() {
            return Err(Error::refused(format!(
                "sampler {kind}: it has its own timesteps, sigma schedules do not apply"
            )));
        }
        kind.check_eta(options.eta)?;
        let plan = Plan {
            config,
            schedule: schedule.clone(),
            steps: num_inference_steps,
            skip: options.skip,
            eta: options.eta,
        };
        let rule = kind.rule(&plan)?;
        // A fraction is cut, not rounded, as the authors' code of One More Step does.
        let alpha_bar_first = schedule.alpha_bar(rule.frame().timesteps()[0] as usize);
        if alpha_bar_first == 0.0 && config.prediction_type == PredictionType::Epsilon {
            return Err(Error::request(
                "schedule",
                "it ends at zero SNR, where epsilon-prediction says nothing of the picture; only a v- or sample-predicting \
                 model can start there",
            ));
        }
        let prediction = config.prediction_type;
        Ok(Solver { rule, alpha_bar_first, prediction, scaled_latents: Vec::new(), denoised: Vec::new() })
    }

    /// The time that the network is told, one a step.
    pub fn timesteps(&self) -> &[f64] {
        self.rule.frame().timesteps()
    }

    /// σ = √((1-ᾱ)/ᾱ) of the latents that step `i` sees.
    pub fn sigma(&self, i: usize) -> f64 {
        let level = self.rule.frame().level(i);
        level.noise / level.signal
    }

    /// What VP latents x_T are multiplied with at the start: 1 for VP solvers. Euler's is diffusers': √(σ²+1) with leading spacing, σ_max
    /// (0.23 % less) otherwise.
    pub fn init_noise_sigma(&self) -> f64 {
        self.rule.frame().init_noise_sigma()
    }

    /// ᾱ at the first timestep: what One More Step restores.
    pub fn alpha_bar_first(&self) -> f64 {
        self.alpha_bar_first
    }

    /// Takes VP latents x_T (pure noise, or One More Step's x̃_T).
    pub fn start(&mut self, latents: &[f32]) {
        let scale = self.rule.frame().init_noise_sigma();
        self.scaled_latents = latents.iter().map(|&x| (f64::from(x) * scale) as f32).collect();
    }

    /// Takes a picture's latents x_0 and noise: image-to-image starts from `√ᾱ·x_0 + √(1-ᾱ)·noise` at the first timestep.
    pub fn start_from(&mut self, x0: &[f32], noise: &[f32]) {
        self.scaled_latents = self.at_level(0, x0, noise);
    }

    /// Takes over from a solver of the same schedule: [`scaled_latents`](Self::scaled_latents) as that left them where this one begins.
    pub fn resume(&mut self, scaled_latents: &[f32]) {
        self.scaled_latents = scaled_latents.to_vec();
    }

    /// The network's input at step `i`: variance-preserving latents.
    pub fn model_input(&self, i: usize) -> Vec<f32> {
        let scale = 1.0 / self.rule.frame().level(i).scale();
        self.scaled_latents.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
    }

    /// Does step `i` with the guided output of the network; `noise` draws from the picture's generator.
    ///
    /// # Errors
    /// When the output's length is not the latents'.
    pub fn step(&mut self, i: usize, model_output: &[f32], noise: &mut dyn FnMut(usize) -> Vec<f32>) -> Result<()> {
        if model_output.len() != self.scaled_latents.len() {
            return Err(Error::shape(
                "solver",
                format!("expected {} values, the network gave {}", self.scaled_latents.len(), model_output.len()),
            ));
        }
        let level = self.rule.frame().level(i);
        let values = model_output.iter().zip(&self.scaled_latents);
        let x0 = |(&output, &x): (&f32, &f32)| level.split(self.prediction, f64::from(output), f64::from(x)).0 as f32;
        self.denoised = values.map(x0).collect();
        self.scaled_latents = self.rule.step(i, model_output, &self.scaled_latents, noise);
        Ok(())
    }

    /// Inpainting with an ordinary network: after step `i`, puts x_0 at the noise level then reached where `mask` is 0 (1: repaint).
    pub fn keep(&mut self, i: usize, mask: &[f32], x0: &[f32], noise: &[f32]) {
        let kept = self.at_level(i + 1, x0, noise);
        let pairs = self.scaled_latents.iter_mut().zip(kept).zip(mask);
        pairs.for_each(|((x, kept), &mask)| *x = (1.0 - mask) * kept + mask * *x);
    }

    fn at_level(&self, i: usize, x0: &[f32], noise: &[f32]) -> Vec<f32> {
        let Level { signal, noise: sigma } = self.rule.frame().level(i);
        x0.iter().zip(noise).map(|(&x, &z)| (signal * f64::from(x) + sigma * f64::from(z)) as f32).collect()
    }

    /// The latents as the solver keeps them: sigma-scaled for Euler. For tests and for comparison with other programs.
    pub fn scaled_latents(&self) -> &[f32] {
        &self.scaled_latents
    }

    /// x̃_0 as the network saw it in the last step, before any bound on it: what a preview shows. Empty before the first step.
    pub fn denoised(&self) -> &[f32] {
        &self.denoised
    }

    /// VP latents x̃_0 after the last step: every solver ends at σ = 0 or next to it, where scaled and VP latents are the same.
    pub fn latents(&self) -> Vec<f32> {
        self.scaled_latents.clone()
    }
}

/// `len` values of a formula over the index.
fn latents(len: usize, formula: impl Fn(usize) -> f64) -> Vec<f32> {
    (0..len).map(|i| formula(i) as f32).collect()
}

/// An ancestral step from σ to `next` (k-diffusion, `get_ancestral_step`): the level to step down to, and the noise to add after it.
fn ancestral(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    let up = next.min(eta * (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt());
    ((next * next - up * up).max(0.0).sqrt(), up)
}
