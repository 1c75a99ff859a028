//! What a network predicts, and the clean sample and the noise that follow from it.

use serde::{Deserialize, Serialize};

use super::SchedulerConfig;

/// The meaning of a network's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    #[default]
    Epsilon,
    /// v = √ᾱ·ε - √(1-ᾱ)·x_0 (Salimans and Ho, arXiv 2202.00512).
    VPrediction,
    /// x_0.
    Sample,
}

/// How much of x_0 and of ε a latent holds: `x = signal·x_0 + noise·ε`. (√ᾱ, √(1-ᾱ)) in variance-preserving latents, (1, σ) in
/// sigma-scaled ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub(super) signal: f64,
    pub(super) noise: f64,
}

impl Level {
    /// Nothing but x_0.
    pub(super) const CLEAN: Level = Level { signal: 1.0, noise: 0.0 };

    pub(super) fn vp(alpha_bar: f64) -> Self {
        Level { signal: alpha_bar.sqrt(), noise: (1.0 - alpha_bar).sqrt() }
    }

    /// Variance-preserving, at σ = noise / signal.
    pub(super) fn vp_of_sigma(sigma: f64) -> Self {
        let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
        Level { signal, noise: sigma * signal }
    }

    /// Sigma-scaled.
    pub(super) fn ve(sigma: f64) -> Self {
        Level { signal: 1.0, noise: sigma }
    }

    /// What latents are divided by to be variance-preserving.
    pub(super) fn scale(self) -> f64 {
        self.signal.hypot(self.noise)
    }

    /// `(x̃_0, ε̃)` of one value. Without signal, ε-prediction says nothing about x_0 and gives infinity.
    pub(super) fn split(self, kind: PredictionType, output: f64, x: f64) -> (f64, f64) {
        let Level { signal, noise } = self;
        match kind {
            PredictionType::Epsilon => ((x - noise * output) / signal, output),
            PredictionType::VPrediction => {
                let scale = self.scale();
                let (s, n, x) = (signal / scale, noise / scale, x / scale);
                (s * x - n * output, s * output + n * x)
            }
            PredictionType::Sample => (output, (x - signal * output) / noise),
        }
    }
}

/// How x̃_0 is kept in range.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    Free,
    Clip {
        range: f64,
    },
    /// Dynamic thresholding (Saharia et al., arXiv 2205.11487, section 2.3).
    Threshold {
        ratio: f64,
        largest: f64,
    },
}

/// Reads a network's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prediction {
    kind: PredictionType,
    bound: Bound,
}

impl Prediction {
    /// As the configuration says; `clip` is the solver's default where it says nothing.
    pub(super) fn new(config: &SchedulerConfig, clip: bool) -> Self {
        let bound = if config.thresholding {
            Bound::Threshold { ratio: config.dynamic_thresholding_ratio, largest: config.sample_max_value }
        } else if config.clip_sample.unwrap_or(clip) {
            Bound::Clip { range: config.clip_sample_range }
        } else {
            Bound::Free
        };
        Prediction { kind: config.prediction_type, bound }
    }

    /// With x̃_0 as it is, whatever the configuration says: for solvers that do not clip in diffusers.
    pub(super) fn free(config: &SchedulerConfig) -> Self {
        Prediction { kind: config.prediction_type, bound: Bound::Free }
    }

    /// With dynamic thresholding where the configuration asks for it, and no clipping.
    pub(super) fn thresholded(config: &SchedulerConfig) -> Self {
        match Prediction::new(config, false) {
            Prediction { kind, bound: Bound::Clip { .. } } => Prediction { kind, bound: Bound::Free },
            other => other,
        }
    }

    /// x̃_0 in its range, and ε̃ as the network gave it.
    pub(super) fn split(&self, output: &[f32], x: &[f32], level: Level) -> (Vec<f64>, Vec<f64>) {
        let both = output.iter().zip(x).map(|(&o, &x)| level.split(self.kind, o.into(), x.into()));
        let (mut x0, eps): (Vec<f64>, Vec<f64>) = both.unzip();
        self.bound.apply(&mut x0);
        (x0, eps)
    }

    /// x̃_0 in its range.
    pub(super) fn x0(&self, output: &[f32], x: &[f32], level: Level) -> Vec<f64> {
        self.split(output, x, level).0
    }
}

impl Bound {
    fn apply(self, x0: &mut [f64]) {
        match self {
            Bound::Free => {}
            Bound::Clip { range } => x0.iter_mut().for_each(|x| *x = x.clamp(-range, range)),
            Bound::Threshold { ratio, largest } => {
                let s = quantile(x0.iter().map(|x| x.abs()), ratio).clamp(1.0, largest.max(1.0));
                x0.iter_mut().for_each(|x| *x = x.clamp(-s, s) / s);
            }
        }
    }
}

/// The quantile with linear interpolation between ranks, as `torch.quantile` takes it.
fn quantile(values: impl Iterator<Item = f64>, ratio: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = ratio * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}
