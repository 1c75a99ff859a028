//! What the variance-preserving solvers share: whole timesteps, or σ, and x_VP = √ᾱ·x_0 + √(1-ᾱ)·ε at each.

use super::super::prediction::Level;
use super::super::sigmas::{Grid, Placing};
use super::super::{NoiseSchedule, SchedulerConfig, TimestepSpacing};
use super::{Frame, Plan};
use crate::Result;

/// Whole timesteps of the training schedule.
pub(super) struct Visited {
    pub(super) timesteps: Vec<f64>,
    pub(super) schedule: NoiseSchedule,
    /// ⌊T/N⌋: how far a step goes; `None` where timesteps are uneven and a step goes to the next of them. diffusers goes ⌊T/N⌋ there, too,
    /// which misses the timesteps that it visits.
    stride: Option<i64>,
}

impl Visited {
    /// Those of the spacing, as DDIM and DDPM visit them.
    pub(super) fn spaced(plan: &Plan<'_>) -> Self {
        let config = plan.config;
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Leading);
        let last = config.num_train_timesteps as f64 - 1.0;
        let points = spacing.points(config.num_train_timesteps, plan.steps, config.steps_offset).into_iter();
        let timesteps = points.map(|t| t.round_ties_even().min(last)).skip(plan.skip).collect();
        let even = spacing != TimestepSpacing::Linspace;
        let stride = even.then_some((config.num_train_timesteps / plan.steps) as i64);
        Visited { timesteps, schedule: plan.schedule.clone(), stride }
    }

    /// The same schedule at other timesteps.
    pub(super) fn with(self, timesteps: Vec<f64>) -> Self {
        Visited { timesteps, ..self }
    }

    /// The timestep at which step `i` ends; below 0 after the last.
    pub(super) fn end(&self, i: usize) -> i64 {
        match self.stride {
            Some(stride) => self.timesteps[i] as i64 - stride,
            None => self.timesteps.get(i + 1).map_or(-1, |&t| t as i64),
        }
    }

    /// The timestep from which a step leads to that of step `i`.
    pub(super) fn begin(&self, i: usize) -> i64 {
        match self.stride {
            Some(stride) => self.timesteps[i] as i64 + stride,
            None => self.timesteps[i - 1] as i64,
        }
    }

    /// Half of the way from one timestep to the next one visited.
    pub(super) fn half(&self, from: f64, to: f64) -> f64 {
        self.stride.map_or(((from - to) / 2.0).floor(), |stride| (stride / 2) as f64)
    }

    /// Whether steps end at the next timestep visited, wherever that is.
    pub(super) fn is_uneven(&self) -> bool {
        self.stride.is_none()
    }

    /// Those of distilled models: of the teacher's k-1, 2k-1, … N at equal distances from the noisiest on.
    pub(super) fn distilled(plan: &Plan<'_>) -> Self {
        let teacher = plan.config.original_inference_steps;
        let k = plan.config.num_train_timesteps / teacher;
        let at = |i: usize| (i as f64 * (teacher as f64 / plan.steps as f64)).floor() as usize;
        let timesteps = (plan.skip..plan.steps).map(|i| ((teacher - at(i)) * k - 1) as f64).collect();
        Visited { timesteps, schedule: plan.schedule.clone(), stride: None }
    }

    /// ᾱ at the timestep of step `i`; `None` after the last.
    pub(super) fn alpha_bar(&self, i: usize) -> Option<f64> {
        self.timesteps.get(i).map(|&t| self.schedule.alpha_bar(t as usize))
    }

    /// ᾱ at an integer timestep, or after the last step where it is below 0; `to_one` is the solver's default.
    pub(super) fn alpha_bar_or_final(&self, config: &SchedulerConfig, timestep: i64, to_one: bool) -> f64 {
        match usize::try_from(timestep) {
            Ok(t) => self.schedule.alpha_bar(t.min(self.schedule.alphas_cumprod.len() - 1)),
            Err(_) if config.set_alpha_to_one.unwrap_or(to_one) => 1.0,
            Err(_) => self.schedule.alpha_bar(0),
        }
    }
}

impl Frame for Visited {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.alpha_bar(i).map_or(Level::CLEAN, Level::vp)
    }
}

/// A grid of σ under variance-preserving latents: DPM-Solver++ and UniPC.
pub(super) struct Intervals(pub(super) Grid);

impl Intervals {
    pub(super) fn new(plan: &Plan<'_>, placing: Placing) -> Result<Self> {
        Ok(Intervals(Grid::intervals(plan.config, &plan.schedule, plan.steps, placing)?.starting_at(plan.skip)))
    }

    /// Whether step `i` ends where it begins.
    pub(super) fn is_still(&self, i: usize) -> bool {
        self.0.sigmas[i] == self.0.sigmas[i + 1]
    }

    /// λ = ln(α/σ) of step `i`.
    pub(super) fn lambda(&self, i: usize) -> f64 {
        -self.0.sigmas[i].ln()
    }
}

impl Frame for Intervals {
    fn timesteps(&self) -> &[f64] {
        &self.0.timesteps
    }

    fn level(&self, i: usize) -> Level {
        Level::vp_of_sigma(self.0.sigmas[i])
    }
}
