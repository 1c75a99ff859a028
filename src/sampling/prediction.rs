//! What a network predicts, and the clean sample and the noise that follow from it.

use serde::{Deserialize, Serialize};

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

impl PredictionType {
    /// `(x̃_0, ε̃)` of one value, from VP `x` at ᾱ. Where ᾱ is 0, ε-prediction says nothing about x_0 and gives infinity.
    pub fn split(self, output: f64, x: f64, alpha_bar: f64) -> (f64, f64) {
        let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        match self {
            PredictionType::Epsilon => ((x - noise * output) / signal, output),
            PredictionType::VPrediction => (signal * x - noise * output, signal * output + noise * x),
            PredictionType::Sample => (output, (x - signal * output) / noise),
        }
    }
}
