//! Linear multistep: Adams-Bashforth of order 4 with the coefficients of the uneven grid (k-diffusion, `sample_lms`).
//!
//! | variable | symbol |
//! | --- | --- |
//! | `derivatives` | d_i, d_{i-1}, … = (x - D)/σ |
//! | coefficient j | ∫ from σ_i to σ_{i+1} of Π_{k≠j} (τ - σ_{i-k})/(σ_{i-j} - σ_{i-k}) dτ |

use std::collections::VecDeque;

use super::sigma_scaled::SigmaScaled;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

const ORDER: usize = 4;

pub(super) struct Lms {
    scaled: SigmaScaled,
    derivatives: VecDeque<Vec<f64>>,
}

impl Lms {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        Ok(Lms { scaled: SigmaScaled::new(plan)?, derivatives: VecDeque::new() })
    }
}

impl Rule for Lms {
    fn frame(&self) -> &dyn Frame {
        &self.scaled
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let (_, derivative) = self.scaled.derivative(i, model_output, x);
        self.derivatives.push_front(derivative);
        self.derivatives.truncate(ORDER);
        let past: Vec<f64> = (0..self.derivatives.len()).map(|k| self.scaled.grid.sigmas[i - k]).collect();
        let weights: Vec<f64> =
            (0..past.len()).map(|j| coefficient(&past, j, self.scaled.grid.sigmas[i + 1])).collect();
        latents(x.len(), |i| {
            f64::from(x[i]) + weights.iter().zip(&self.derivatives).map(|(w, d)| w * d[i]).sum::<f64>()
        })
    }
}

/// The integral of Lagrange's polynomial `j` over `past` from its first point to `to`; two Gauss points are exact for cubics.
fn coefficient(past: &[f64], j: usize, to: f64) -> f64 {
    let lagrange = |tau: f64| -> f64 {
        let others = past.iter().enumerate().filter(|(k, _)| *k != j);
        others.map(|(_, &s)| (tau - s) / (past[j] - s)).product()
    };
    let (middle, half) = ((past[0] + to) / 2.0, (to - past[0]) / 2.0);
    let offset = half / 3f64.sqrt();
    half * (lagrange(middle - offset) + lagrange(middle + offset))
}
