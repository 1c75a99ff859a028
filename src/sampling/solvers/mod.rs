//! Solvers: from x_T to x_0, one file each.

mod ddim;
mod euler;
mod lcm;

use std::fmt;
use std::str::FromStr;

use super::{NoiseSchedule, SchedulerConfig};
use crate::{Error, Result};

/// Which solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SolverKind {
    /// Denoising diffusion implicit models, any η.
    Ddim,
    /// Euler's method on the probability-flow ODE in σ.
    Euler,
    /// Multistep latent-consistency sampling.
    Lcm,
}

impl SolverKind {
    /// Every solver with the name that users type.
    pub const ALL: &'static [(&'static str, SolverKind)] =
        &[("ddim", SolverKind::Ddim), ("euler", SolverKind::Euler), ("lcm", SolverKind::Lcm)];
}

impl FromStr for SolverKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let plain = name.trim().to_lowercase();
        SolverKind::ALL.iter().find(|(known, _)| *known == plain).map(|(_, kind)| *kind).ok_or_else(|| {
            let known: Vec<&str> = SolverKind::ALL.iter().map(|(known, _)| *known).collect();
            Error::Request(format!("unknown sampler {name:?}; there are {}", known.join(", ")))
        })
    }
}

impl fmt::Display for SolverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SolverKind::ALL.iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// The rule of one solver.
trait Rule: Send {
    /// Timesteps in the order of visits; fractions where the schedule is interpolated.
    fn timesteps(&self) -> &[f64];
    /// What `start` multiplies x_T with: 1 for VP solvers.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }
    /// What turns a scaled latent into the network's (VP) input at step `i`: 1 for VP solvers.
    fn input_scale(&self, _i: usize) -> f64 {
        1.0
    }
    /// Scaled latents after step `i`, from those before it; `noise` draws fresh noise.
    fn step(&mut self, i: usize, model_output: &[f32], scaled_latents: &[f32], noise: Noise<'_>) -> Vec<f32>;
}

/// Draws so many normals from the picture's generator.
type Noise<'a> = &'a mut dyn FnMut(usize) -> Vec<f32>;

/// A solver on its way: timesteps, rule and current latents.
pub struct Solver {
    rule: Box<dyn Rule>,
    alpha_bar_first: f64,
    scaled_latents: Vec<f32>,
}

impl Solver {
    /// A solver for `num_inference_steps` steps; `eta` is η of DDIM and has no effect elsewhere.
    ///
    /// # Errors
    /// When the schedule is not supported, or there are more steps than it has timesteps.
    pub fn new(kind: SolverKind, config: &SchedulerConfig, num_inference_steps: usize, eta: f64) -> Result<Self> {
        let schedule = NoiseSchedule::new(config)?;
        let most = match kind {
            SolverKind::Lcm => config.original_inference_steps.min(config.num_train_timesteps),
            _ => config.num_train_timesteps,
        };
        if num_inference_steps == 0 || num_inference_steps > most {
            return Err(Error::Request(format!("steps: expected 1 to {most} for {kind}, got {num_inference_steps}")));
        }
        let rule: Box<dyn Rule> = match kind {
            SolverKind::Ddim => Box::new(ddim::Ddim::new(config, schedule.clone(), num_inference_steps, eta)),
            SolverKind::Euler => Box::new(euler::Euler::new(config, &schedule, num_inference_steps)?),
            SolverKind::Lcm => Box::new(lcm::Lcm::new(config, schedule.clone(), num_inference_steps)),
        };
        if let Some(i) = rule.timesteps().windows(2).position(|pair| pair[1] >= pair[0]) {
            return Err(Error::Request(format!(
                "steps: {num_inference_steps} steps of {kind} would visit timestep {} twice; ask for fewer",
                rule.timesteps()[i]
            )));
        }
        // A fraction is cut, not rounded, as the authors' code of One More Step does.
        let first = rule.timesteps()[0] as usize;
        Ok(Solver { rule, alpha_bar_first: schedule.alpha_bar(first), scaled_latents: Vec::new() })
    }

    /// Timesteps in the order of visits.
    pub fn timesteps(&self) -> &[f64] {
        self.rule.timesteps()
    }

    /// What VP latents are multiplied with at the start: 1 for DDIM and LCM. Euler's is diffusers': √(σ²+1) with leading spacing, σ_max (0.23 %
    /// less) otherwise.
    pub fn init_noise_sigma(&self) -> f64 {
        self.rule.init_noise_sigma()
    }

    /// ᾱ at the first timestep: what One More Step restores.
    pub fn alpha_bar_first(&self) -> f64 {
        self.alpha_bar_first
    }

    /// Takes VP latents x_T (pure noise, or One More Step's x̃_T).
    pub fn start(&mut self, latents: &[f32]) {
        let scale = self.rule.init_noise_sigma();
        self.scaled_latents = latents.iter().map(|&x| (f64::from(x) * scale) as f32).collect();
    }

    /// The network's input at step `i`.
    pub fn model_input(&self, i: usize) -> Vec<f32> {
        let scale = self.rule.input_scale(i);
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
        self.scaled_latents = self.rule.step(i, model_output, &self.scaled_latents, noise);
        Ok(())
    }

    /// The latents as the solver keeps them: sigma-scaled for Euler. For tests and for comparison with other programs.
    pub fn scaled_latents(&self) -> &[f32] {
        &self.scaled_latents
    }

    /// VP latents x̃_0 after the last step: every solver ends at σ = 0, where scaled and VP latents are the same.
    pub fn latents(&self) -> Vec<f32> {
        self.scaled_latents.clone()
    }
}

/// ᾱ after the step to `timestep`, which is below 0 at the end.
fn alpha_bar_or_final(schedule: &NoiseSchedule, config: &SchedulerConfig, timestep: i64) -> f64 {
    match usize::try_from(timestep) {
        Ok(t) => schedule.alpha_bar(t.min(schedule.alphas_cumprod.len() - 1)),
        Err(_) if config.set_alpha_to_one => 1.0,
        Err(_) => schedule.alpha_bar(0),
    }
}
