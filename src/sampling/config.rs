//! `scheduler_config.json`: how a checkpoint was trained to be sampled.

use serde::Deserialize;

use super::{BetaSchedule, PredictionType, SigmaSchedule, SolverKind, TimestepSpacing};
use crate::{Error, Result};

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
    /// Whether ᾱ after the last step is 1 rather than ᾱ_1; the solver's own default when absent.
    pub set_alpha_to_one: Option<bool>,
    /// Whether x̃_0 is clipped; the solver's own default when absent.
    pub clip_sample: Option<bool>,
    /// To what: ± this.
    pub clip_sample_range: f64,
    /// Rescale β so that ᾱ_T = 0 (Lin et al., algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Dynamic thresholding of x̃_0 (Saharia et al., arXiv 2205.11487, section 2.3).
    pub thresholding: bool,
    /// Its percentile, as a fraction.
    pub dynamic_thresholding_ratio: f64,
    /// Its largest threshold.
    pub sample_max_value: f64,
    /// σ from [`SigmaSchedule::Karras`].
    pub use_karras_sigmas: Option<bool>,
    /// σ from [`SigmaSchedule::Exponential`].
    pub use_exponential_sigmas: Option<bool>,
    /// σ from [`SigmaSchedule::Beta`].
    pub use_beta_sigmas: Option<bool>,
    /// σ asked for by name; replaces the three flags.
    #[serde(skip)]
    pub sigmas: Option<SigmaSchedule>,
    /// The last σ.
    pub final_sigmas_type: FinalSigma,
    /// Order of DPM-Solver++ and UniPC: 1, 2 or 3.
    pub solver_order: usize,
    /// Which DPM-Solver: "dpmsolver++" or "sde-dpmsolver++"; other classes write other words.
    pub algorithm_type: Option<String>,
    /// Which second-order rule: "midpoint" or "heun" for DPM-Solver++, "bh1" or "bh2" for UniPC; other classes write other words.
    pub solver_type: Option<String>,
    /// Lower orders in the last steps of DPM-Solver++ and UniPC.
    pub lower_order_final: bool,
    /// First order in the last step of DPM-Solver++.
    pub euler_at_final: bool,
    /// DDPM's variance; "fixed_small" when absent.
    pub variance_type: Option<String>,
    /// PNDM without its Runge-Kutta steps, which is PLMS; true when absent, as every Stable Diffusion checkpoint has it.
    pub skip_prk_steps: Option<bool>,
    /// LCM, TCD: steps of the teacher's schedule.
    pub original_inference_steps: usize,
    /// LCM: scale of t in the boundary condition.
    pub timestep_scaling: f64,
    /// How σ lies between timesteps; only "linear" is done here.
    pub interpolation_type: Option<String>,
    /// What the network takes as time; only "discrete" is done here.
    pub timestep_type: Option<String>,
    /// σ from Lu's λ; not done here.
    pub use_lu_lambdas: Option<bool>,
    /// σ of flow matching; not done here.
    pub use_flow_sigmas: Option<bool>,
    /// UniPC on x̃_0; only true is done here.
    pub predict_x0: Option<bool>,
    /// UniPC: steps that are not corrected, counted from 0.
    pub disable_corrector: Vec<usize>,
    /// UniPC: another scheduler as predictor; not done here.
    pub solver_p: Option<serde_json::Value>,
    /// The smallest σ of [`SigmaSchedule::Karras`], [`SigmaSchedule::Exponential`] and [`SigmaSchedule::Beta`], in place of the
    /// training's.
    pub sigma_min: Option<f64>,
    /// The largest.
    pub sigma_max: Option<f64>,
    /// DPM-Solver++: λ below which no timestep is visited; none when absent.
    pub lambda_min_clipped: Option<f64>,
}

/// σ after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// 0: the last step ends on x̃_0.
    #[default]
    Zero,
    /// The smallest σ of training.
    SigmaMin,
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
            set_alpha_to_one: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            use_beta_sigmas: None,
            sigmas: None,
            final_sigmas_type: FinalSigma::Zero,
            solver_order: 2,
            algorithm_type: None,
            solver_type: None,
            lower_order_final: true,
            euler_at_final: false,
            variance_type: None,
            skip_prk_steps: None,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            interpolation_type: None,
            timestep_type: None,
            use_lu_lambdas: None,
            use_flow_sigmas: None,
            predict_x0: None,
            disable_corrector: Vec::new(),
            solver_p: None,
            sigma_min: None,
            sigma_max: None,
            lambda_min_clipped: None,
        }
    }
}

/// Families of schedulers that are no other way through the same noise: networks trained for them predict something else. Each by the
/// beginning of its classes' names.
const OTHER_FAMILIES: &[(&str, &str)] = &[
    ("EDM", "the preconditioned networks of EDM"),
    ("CosineDPM", "the preconditioned networks of EDM"),
    ("FlowMatch", "flow matching"),
    ("KarrasVe", "variance-exploding noise"),
    ("ScoreSde", "score networks"),
    ("CMStochasticIterative", "consistency models without latents' schedule"),
    ("VQDiffusion", "discrete latents"),
    ("Amused", "discrete latents"),
    ("DDPMWuerstchen", "Würstchen's schedule"),
    ("UnCLIP", "a learned variance"),
    ("SCM", "the trigonometric flow of Sana Sprint"),
    ("CogVideoX", "CogVideoX's schedule"),
];

impl SchedulerConfig {
    /// Reads `scheduler_config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a file, or as [`check`](Self::check).
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let read = serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_infinities(text)));
        let config: Self =
            read.map_err(|e| Error::model(format!("{origin}: not the JSON expected there: {e}")).in_file(origin))?;
        config.check_in(origin)?;
        Ok(config)
    }

    /// The solver that the checkpoint names, where there is one of that kind here.
    pub fn solver(&self) -> Option<SolverKind> {
        let stochastic = self.algorithm_type.as_deref() == Some("sde-dpmsolver++");
        let class = self.class_name.strip_prefix("Flax").unwrap_or(&self.class_name);
        Some(match class {
            "DDIMScheduler" | "DDIMParallelScheduler" => SolverKind::Ddim,
            "DDPMScheduler" | "DDPMParallelScheduler" => SolverKind::Ddpm,
            "PNDMScheduler" => SolverKind::Pndm,
            "EulerDiscreteScheduler" => SolverKind::Euler,
            "EulerAncestralDiscreteScheduler" => SolverKind::EulerAncestral,
            "HeunDiscreteScheduler" => SolverKind::Heun,
            "KDPM2DiscreteScheduler" => SolverKind::Dpm2,
            "KDPM2AncestralDiscreteScheduler" => SolverKind::Dpm2Ancestral,
            "LMSDiscreteScheduler" => SolverKind::Lms,
            "DPMSolverMultistepScheduler" if stochastic => SolverKind::DpmPp2mSde,
            "DPMSolverMultistepScheduler" => SolverKind::DpmPp2m,
            "DPMSolverSDEScheduler" => SolverKind::DpmPpSde,
            "UniPCMultistepScheduler" => SolverKind::UniPc,
            "DEISMultistepScheduler" => SolverKind::Deis,
            "LCMScheduler" => SolverKind::Lcm,
            "TCDScheduler" => SolverKind::Tcd,
            _ => return None,
        })
    }

    /// Where σ lie: by name, by the checkpoint's flags, or at the timesteps.
    pub fn sigma_schedule(&self) -> SigmaSchedule {
        let flags = [
            (self.use_karras_sigmas, SigmaSchedule::Karras),
            (self.use_exponential_sigmas, SigmaSchedule::Exponential),
            (self.use_beta_sigmas, SigmaSchedule::Beta),
        ];
        let flagged = flags.into_iter().find(|(on, _)| *on == Some(true)).map(|(_, schedule)| schedule);
        self.sigmas.or(flagged).unwrap_or_default()
    }

    /// Refuses what would change the result and is not done here.
    ///
    /// # Errors
    /// [`Error::Model`] naming the field.
    pub fn check(&self) -> Result<()> {
        self.check_in("scheduler_config.json")
    }

    fn check_in(&self, origin: &str) -> Result<()> {
        let refuse = |field: &str, expected: &str, got: &dyn std::fmt::Display| {
            Err(Error::model(format!("{origin}: {field}: expected {expected}, got {got}")).in_file(origin))
        };
        let class = self.class_name.strip_prefix("Flax").unwrap_or(&self.class_name);
        if let Some((_, trained)) = OTHER_FAMILIES.iter().find(|(head, _)| class.starts_with(head)) {
            let found = format!("{class}: it is for {trained}, which are not supported");
            return refuse("_class_name", "a scheduler of Stable Diffusion", &found);
        }
        let flags = [
            ("use_karras_sigmas", self.use_karras_sigmas),
            ("use_exponential_sigmas", self.use_exponential_sigmas),
            ("use_beta_sigmas", self.use_beta_sigmas),
        ];
        let on: Vec<&str> = flags.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| *name).collect();
        if let [first, second, ..] = on[..] {
            return refuse(first, "one of the schedules of sigma", &format!("{second} beside it"));
        }
        if self.solver_p.as_ref().is_some_and(|solver| !solver.is_null()) {
            return refuse("solver_p", "null, another predictor is not supported", &"a scheduler");
        }
        self.check_numbers(&refuse)?;
        for (field, got) in [("use_lu_lambdas", self.use_lu_lambdas), ("use_flow_sigmas", self.use_flow_sigmas)] {
            if got == Some(true) {
                return refuse(field, "false, nothing else is supported", &true);
            }
        }
        if self.predict_x0 == Some(false) {
            return refuse("predict_x0", "true, nothing else is supported", &false);
        }
        for (field, wanted, got) in [
            ("interpolation_type", "linear", &self.interpolation_type),
            ("timestep_type", "discrete", &self.timestep_type),
        ] {
            if let Some(got) = got
                && got != wanted
            {
                return refuse(field, &format!("{wanted}, nothing else is supported"), got);
            }
        }
        Ok(())
    }

    /// Numbers inside their bounds.
    fn check_numbers(&self, refuse: &impl Fn(&str, &str, &dyn std::fmt::Display) -> Result<()>) -> Result<()> {
        if !(2..=100_000).contains(&self.num_train_timesteps) {
            return refuse("num_train_timesteps", "2 to 100000", &self.num_train_timesteps);
        }
        if !(1..=3).contains(&self.solver_order) {
            return refuse("solver_order", "1, 2 or 3", &self.solver_order);
        }
        if !(self.dynamic_thresholding_ratio > 0.0 && self.dynamic_thresholding_ratio <= 1.0) {
            return refuse("dynamic_thresholding_ratio", "more than 0, at most 1", &self.dynamic_thresholding_ratio);
        }
        for (field, got) in [
            ("clip_sample_range", self.clip_sample_range),
            ("sample_max_value", self.sample_max_value),
            ("timestep_scaling", self.timestep_scaling),
        ] {
            if !(got > 0.0 && got.is_finite()) {
                return refuse(field, "a number above 0", &got);
            }
        }
        if self.steps_offset >= self.num_train_timesteps {
            return refuse("steps_offset", "less than num_train_timesteps", &self.steps_offset);
        }
        for (field, got) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            // Cosine schedules have none, and some files say 0.
            if !(0.0..=1.0).contains(&got) {
                return refuse(field, "a number from 0 to 1", &got);
            }
        }
        for (field, got) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(got) = got.filter(|got| !(*got > 0.0 && *got <= 1e6)) {
                return refuse(field, "more than 0, at most 1e6", &got);
            }
        }
        if let (Some(low), Some(high)) = (self.sigma_min, self.sigma_max)
            && low >= high
        {
            return refuse("sigma_max", &format!("more than sigma_min = {low}"), &high);
        }
        if let Some(got) = self.lambda_min_clipped.filter(|got| *got > 0.0) {
            return refuse("lambda_min_clipped", "a number below 0, where there is noise to begin with", &got);
        }
        if !(1..=self.num_train_timesteps).contains(&self.original_inference_steps) {
            return refuse("original_inference_steps", "1 to num_train_timesteps", &self.original_inference_steps);
        }
        Ok(())
    }
}

/// Python writes `-Infinity` and `NaN` where a number is none; JSON has no such words, and a field without a number has its default.
fn without_infinities(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let (mut in_string, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].iter().find(|word| !in_string && rest.starts_with(**word));
        if let Some(word) = word {
            clean.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
        clean.push(c);
        rest = &rest[c.len_utf8()..];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As diffusers writes a DPM-Solver of its own defaults.
    #[test]
    fn words_that_are_no_json() {
        let config = SchedulerConfig::from_json(
            r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "sample_max_value": 2.5,
                "note": "a \"NaN\", -Infinity"}"#,
            "s.json",
        )
        .expect("read");
        assert_eq!((config.lambda_min_clipped, config.sample_max_value), (None, 2.5));
        let error = SchedulerConfig::from_json("{\"beta_end\": NaN", "s.json").expect_err("cut").to_string();
        assert!(error.starts_with("s.json: not the JSON"), "{error}");
    }
}
