//! Where the noise levels σ of a sigma-scaled solver lie.
//!
//! Two families of solvers take them differently in diffusers, and so here. Euler's ([`Grid::points`]) visits N timesteps and spans σ
//! between the first and the last of them; DPM-Solver's ([`Grid::intervals`]) cuts the training range into N intervals, spans σ over the
//! whole table, and gives the network whole timesteps.

use super::prediction::Level;
use super::sigma_tables::{ALIGN_YOUR_STEPS_SD15, ALIGN_YOUR_STEPS_SDXL, symmetric_beta_quantile};
use super::{BetaSchedule, FinalSigma, NoiseSchedule, SchedulerConfig, TimestepSpacing};
use crate::{Error, Result};

/// A rule for σ_1 > … > σ_N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum SigmaSchedule {
    /// At the timesteps of the spacing.
    #[default]
    Normal,
    /// Equal steps of σ^(1/7) (Karras et al., arXiv 2206.00364, eq. 5).
    Karras,
    /// Equal steps of ln σ.
    Exponential,
    /// At N of N + 1 equal steps over the training timesteps, the last left out (Stability's generative-models).
    SgmUniform,
    /// At every ⌊T/N⌋-th entry of the table from its end (ComfyUI's `simple`).
    Simple,
    /// Quantiles of Beta(0.6, 0.6) between σ_min and σ_max (Lee et al., arXiv 2407.12173, as diffusers and AUTOMATIC1111 have it).
    Beta,
    /// Equal steps of arctan σ (Sabour et al., arXiv 2404.14507, theorem 3.1).
    KlOptimal,
    /// Align Your Steps, the table for Stable Diffusion 1.5 (Sabour et al., arXiv 2404.14507).
    AlignYourSteps,
    /// Align Your Steps, the table for SDXL.
    AlignYourStepsXl,
}

impl SigmaSchedule {
    /// Every schedule: the name that users type, and one line.
    pub const ALL: &'static [(&'static str, SigmaSchedule, &'static str)] = &[
        ("normal", SigmaSchedule::Normal, "at the timesteps of the spacing; the checkpoint's own way"),
        ("karras", SigmaSchedule::Karras, "equal steps of the 7th root of sigma: many small steps at low noise"),
        ("exponential", SigmaSchedule::Exponential, "equal steps of log sigma"),
        ("sgm_uniform", SigmaSchedule::SgmUniform, "equal steps of time that stop before 0; for Turbo and Lightning"),
        ("simple", SigmaSchedule::Simple, "every (T/N)-th entry of the training table"),
        ("beta", SigmaSchedule::Beta, "quantiles of Beta(0.6, 0.6): many steps at both ends"),
        ("kl_optimal", SigmaSchedule::KlOptimal, "equal steps of arctan sigma"),
        ("align_your_steps", SigmaSchedule::AlignYourSteps, "optimised for 10 steps of Stable Diffusion 1.5"),
        ("align_your_steps_xl", SigmaSchedule::AlignYourStepsXl, "optimised for 10 steps of SDXL"),
    ];
}

impl SigmaSchedule {
    /// The name that AUTOMATIC1111 users know.
    pub fn label(self) -> &'static str {
        match self {
            SigmaSchedule::Normal => "Normal",
            SigmaSchedule::Karras => "Karras",
            SigmaSchedule::Exponential => "Exponential",
            SigmaSchedule::SgmUniform => "SGM Uniform",
            SigmaSchedule::Simple => "Simple",
            SigmaSchedule::Beta => "Beta",
            SigmaSchedule::KlOptimal => "KL Optimal",
            SigmaSchedule::AlignYourSteps | SigmaSchedule::AlignYourStepsXl => "Align Your Steps",
        }
    }
}

impl std::fmt::Display for SigmaSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(SigmaSchedule::ALL.iter().find(|(_, s, _)| s == self).map_or("", |(name, ..)| name))
    }
}

impl SchedulerConfig {
    /// The range that a schedule spans: the configuration's, where diffusers lets it replace that of the training.
    fn sigma_range(&self, wanted: SigmaSchedule, (low, high): (f64, f64)) -> (f64, f64) {
        match wanted {
            SigmaSchedule::Karras | SigmaSchedule::Exponential | SigmaSchedule::Beta => {
                (self.sigma_min.unwrap_or(low), self.sigma_max.unwrap_or(high))
            }
            _ => (low, high),
        }
    }

    /// Timesteps from 0 on whose λ = -ln σ is at least `lambda_min_clipped`.
    fn unclipped(&self, table: &[f64]) -> usize {
        let least = self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        table.partition_point(|sigma| -sigma.ln() >= least)
    }
}

/// Noise levels of a run, with the time that the network is told at each.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    /// One a step; fractions where the schedule is interpolated.
    pub(super) timesteps: Vec<f64>,
    /// One a step, and the last one: strictly falling, but that the last step may go nowhere.
    pub(super) sigmas: Vec<f64>,
    /// Steps of the whole run, of which an image-to-image run leaves the first out.
    pub(super) steps: usize,
    log_table: Vec<f64>,
}

/// Whose way of placing σ: the classes of diffusers differ in where σ ends and how the time is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placing {
    /// Euler: ends as the configuration says.
    Euler,
    /// The other solvers of k-diffusion: ends at 0, whatever the configuration says.
    KDiffusion,
    /// DPM-Solver++: ends as the configuration says; `lambda_min_clipped` bounds the noisiest timestep.
    Dpm,
    /// UniPC: ends as the configuration says; under a named schedule its smallest σ is the last one again.
    UniPc,
    /// DEIS: as UniPC with the smallest σ.
    Deis,
}

impl Placing {
    /// Whether the network is told whole timesteps.
    fn is_whole(self) -> bool {
        matches!(self, Placing::Dpm | Placing::UniPc | Placing::Deis)
    }

    /// The last σ, behind `before`, where the smallest of training is `smallest`.
    fn last(self, config: &SchedulerConfig, before: f64, smallest: f64) -> f64 {
        let repeats = config.sigma_schedule() != SigmaSchedule::Normal;
        match (self, config.final_sigmas_type) {
            (Placing::KDiffusion, _) => 0.0,
            (Placing::Euler | Placing::Dpm | Placing::UniPc, FinalSigma::Zero) => 0.0,
            (Placing::UniPc, FinalSigma::SigmaMin) | (Placing::Deis, _) if repeats => before,
            _ => smallest,
        }
    }
}

/// σ that differ by less are one: a schedule that ends at the smallest σ and then goes on to it.
const SAME: f64 = 1e-6;

impl Grid {
    /// N visited timesteps: Euler and the solvers of k-diffusion.
    pub(super) fn points(
        config: &SchedulerConfig,
        schedule: &NoiseSchedule,
        steps: usize,
        placing: Placing,
    ) -> Result<Self> {
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
        let table = table(schedule);
        let last = table.len() as f64 - 1.0;
        let points = spacing.points(config.num_train_timesteps, steps, config.steps_offset).into_iter();
        let timesteps: Vec<f64> = points.map(|t| f64::from(t.min(last) as f32)).collect();
        let at = |t: Option<&f64>| t.map_or(0.0, |&t| interpolate(&table, t));
        let range = (at(timesteps.last()), at(timesteps.first()));
        Self::build(config, &table, steps, timesteps, range, placing)
    }

    /// N intervals of the training range: DPM-Solver++, UniPC and DEIS.
    pub(super) fn intervals(
        config: &SchedulerConfig,
        schedule: &NoiseSchedule,
        steps: usize,
        placing: Placing,
    ) -> Result<Self> {
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
        let table = table(schedule);
        let last = table.len() as f64 - 1.0;
        let total = config.num_train_timesteps;
        let used = if placing == Placing::Dpm { config.unclipped(&table) } else { total };
        let starts = spacing.intervals([used, total], steps, config.steps_offset).into_iter();
        let timesteps = starts.map(|t| t.min(last)).collect();
        let range = (table[0], table[table.len() - 1]);
        Self::build(config, &table, steps, timesteps, range, placing)
    }

    fn build(
        config: &SchedulerConfig,
        table: &[f64],
        steps: usize,
        timesteps: Vec<f64>,
        (low, high): (f64, f64),
        placing: Placing,
    ) -> Result<Self> {
        // Of f32 as diffusers has them: where the time is cut to whole steps, the last bit decides.
        let log_table: Vec<f64> = table.iter().map(|s| f64::from(s.ln() as f32)).collect();
        let wanted = config.sigma_schedule();
        let (low, high) = config.sigma_range(wanted, (low, high));
        let (timesteps, mut sigmas): (Vec<f64>, Vec<f64>) = match place(wanted, table, steps, (low, high)) {
            None => timesteps.into_iter().map(|t| (t, interpolate(table, t))).unzip(),
            Some(sigmas) => {
                let curved = config.beta_schedule == BetaSchedule::SquaredcosCapV2;
                let rounds = wanted == SigmaSchedule::Karras && (placing != Placing::Dpm || !curved);
                let told = |sigma: f64| match timestep_of(&log_table, sigma) {
                    t if !placing.is_whole() => f64::from(t as f32),
                    t if rounds => t.round_ties_even(),
                    t => t.trunc(),
                };
                sigmas.into_iter().map(|sigma| (told(sigma), sigma)).unzip()
            }
        };
        let before = sigmas[sigmas.len() - 1];
        sigmas.push(placing.last(config, before, table[0]));
        sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
        // A last step that goes nowhere is left to the solver; diffusers has it, too.
        if let [.., before, last] = &mut sigmas[..]
            && (*last / *before - 1.0).abs() < SAME
        {
            *last = *before;
        }
        if let Some(i) = sigmas[..sigmas.len() - 1]
            .windows(2)
            .position(|pair| pair[1] >= pair[0])
            .or_else(|| (sigmas[sigmas.len() - 1] > sigmas[sigmas.len() - 2]).then_some(sigmas.len() - 2))
        {
            return Err(Error::request(
                "steps",
                format!(
                    "{steps} steps of this schedule would visit sigma {} twice; ask for fewer, or for another schedule",
                    sigmas[i]
                ),
            ));
        }
        Ok(Grid { steps: timesteps.len(), timesteps, sigmas, log_table })
    }

    /// Without the first `skip` steps.
    pub(super) fn starting_at(mut self, skip: usize) -> Self {
        self.timesteps.drain(..skip);
        self.sigmas.drain(..skip);
        self
    }

    /// The time of a noise level between two steps.
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        timestep_of(&self.log_table, sigma)
    }

    /// What diffusers' Euler multiplies x_T with: σ_max, which is 0.23 % too little, but for leading timesteps.
    pub(super) fn init_noise_sigma(&self, config: &SchedulerConfig) -> f64 {
        match config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace) {
            TimestepSpacing::Leading => Level::ve(self.sigmas[0]).scale(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => self.sigmas[0],
        }
    }
}

fn table(schedule: &NoiseSchedule) -> Vec<f64> {
    schedule.sigmas().into_iter().map(f64::from).collect()
}

/// σ_1 … σ_N of a named schedule; `None` where they lie at the timesteps.
fn place(wanted: SigmaSchedule, table: &[f64], steps: usize, (low, high): (f64, f64)) -> Option<Vec<f64>> {
    let last = table.len() as f64 - 1.0;
    // 0 at the first step, 1 at the last.
    let ramp = move || (0..steps).map(move |i| if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 });
    let between = |forward: fn(f64) -> f64, back: fn(f64) -> f64| -> Vec<f64> {
        let (low, high) = (forward(low), forward(high));
        ramp().map(|u| back(high + u * (low - high))).collect()
    };
    Some(match wanted {
        SigmaSchedule::Normal => return None,
        SigmaSchedule::Karras => between(|s| s.powf(1.0 / 7.0), |r| r.powf(7.0)),
        SigmaSchedule::Exponential => between(f64::ln, f64::exp),
        SigmaSchedule::KlOptimal => between(f64::atan, f64::tan),
        SigmaSchedule::Beta => ramp().map(|u| low + symmetric_beta_quantile(0.6, 1.0 - u) * (high - low)).collect(),
        SigmaSchedule::SgmUniform => {
            (0..steps).map(|i| interpolate(table, last - i as f64 * (last / steps as f64))).collect()
        }
        SigmaSchedule::Simple => {
            let stride = table.len() as f64 / steps as f64;
            (0..steps).map(|i| table[table.len() - 1 - (i as f64 * stride) as usize]).collect()
        }
        SigmaSchedule::AlignYourSteps => stretch(&ALIGN_YOUR_STEPS_SD15, steps),
        SigmaSchedule::AlignYourStepsXl => stretch(&ALIGN_YOUR_STEPS_SDXL, steps),
    })
}

/// A table of 10 steps for another number: linear in ln σ over the index. Its last entry is where σ would end; 0 takes its place.
fn stretch(levels: &[f64], steps: usize) -> Vec<f64> {
    let logs: Vec<f64> = levels.iter().map(|s| s.ln()).collect();
    let last = (logs.len() - 1) as f64;
    (0..steps).map(|i| interpolate(&logs, i as f64 * last / steps as f64).exp()).collect()
}

/// A table's value at a fractional index.
fn interpolate(table: &[f64], at: f64) -> f64 {
    let low = (at.floor() as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (table[high] - table[low]) * (at - low as f64)
}

/// The fractional index of σ in the table, linear in ln σ, within the table.
fn timestep_of(log_table: &[f64], sigma: f64) -> f64 {
    let wanted = sigma.max(1e-10).ln();
    let low = log_table.partition_point(|s| *s <= wanted).saturating_sub(1).min(log_table.len() - 2);
    let (a, b) = (log_table[low], log_table[low + 1]);
    low as f64 + ((wanted - a) / (b - a)).clamp(0.0, 1.0)
}
