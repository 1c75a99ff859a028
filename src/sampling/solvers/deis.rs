//! DEIS (Zhang and Chen, arXiv 2204.13902), ρAB with polynomials in ln ρ, as diffusers' `DEISMultistepScheduler` with "logrho": order 2, or
//! the checkpoint's `solver_order`. ρ is σ of the sigma-scaled latents y = x/α, where the equation is dy/dρ = ε. It ends at the smallest σ of
//! the training.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `rhos` | ρ_i, ρ_{i-1}, ρ_{i-2} |
//! | `integral(to, …)` | antiderivative of the Lagrange polynomial in ln ρ at `to` |

use std::collections::VecDeque;

use super::super::SchedulerConfig;
use super::super::prediction::Prediction;
use super::super::sigmas::Placing;
use super::variance_preserving::Intervals;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct Deis {
    config: SchedulerConfig,
    prediction: Prediction,
    intervals: Intervals,
    skip: usize,
    /// ε̃ of this step and of earlier ones, the newest first.
    eps: VecDeque<Vec<f64>>,
}

impl Deis {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        Ok(Deis {
            config: plan.config.clone(),
            prediction: Prediction::thresholded(plan.config),
            intervals: Intervals::new(plan, Placing::Deis)?,
            skip: plan.skip,
            eps: VecDeque::new(),
        })
    }

    /// The order of step `i`: lower at the start, where little is known, and at the end of a short run.
    fn order(&self, i: usize) -> usize {
        let (at, steps) = (self.skip + i, self.intervals.0.steps);
        let falls = self.config.lower_order_final && steps < 15;
        let most = if falls { steps - at } else { steps };
        self.config.solver_order.min(most).min(self.eps.len())
    }
}

impl Rule for Deis {
    fn frame(&self) -> &dyn Frame {
        &self.intervals
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let (now, next) = (self.intervals.level(i), self.intervals.level(i + 1));
        let x0 = self.prediction.x0(model_output, x, now);
        // The noise that leads from x̃_0, which may have been bounded, to x.
        self.eps.push_front(x.iter().zip(&x0).map(|(&x, x0)| (f64::from(x) - now.signal * x0) / now.noise).collect());
        self.eps.truncate(3);
        if self.intervals.is_still(i) {
            return x.to_vec();
        }
        let sigmas = &self.intervals.0.sigmas;
        let order = self.order(i);
        let rhos: Vec<f64> = (0..order).map(|k| sigmas[i - k]).collect();
        let to = sigmas[i + 1];
        let weight = |k: usize| match rhos[..] {
            [rho] => to - rho,
            [a, b] => {
                let (own, other) = if k == 0 { (a, b) } else { (b, a) };
                linear(to, own, other) - linear(a, own, other)
            }
            _ => {
                let (own, one, two) = (rhos[k], rhos[(k + 1) % 3], rhos[(k + 2) % 3]);
                quadratic(to, own, one, two) - quadratic(rhos[0], own, one, two)
            }
        };
        let weights: Vec<f64> = (0..order).map(weight).collect();
        latents(x.len(), |i| {
            let sum: f64 = weights.iter().zip(&self.eps).map(|(w, eps)| w * eps[i]).sum();
            next.signal * (f64::from(x[i]) / now.signal + sum)
        })
    }
}

/// ∫ (ln t - ln c)/(ln b - ln c) dt at `t`.
fn linear(t: f64, b: f64, c: f64) -> f64 {
    t * (t.ln() - c.ln() - 1.0) / (b.ln() - c.ln())
}

/// ∫ (ln t - ln c)(ln t - ln d)/((ln b - ln c)(ln b - ln d)) dt at `t`.
fn quadratic(t: f64, b: f64, c: f64, d: f64) -> f64 {
    let (log, c, d) = (t.ln(), c.ln(), d.ln());
    let integral = t * (log * log - (c + d + 2.0) * log + c * d + c + d + 2.0);
    integral / ((b.ln() - c) * (b.ln() - d))
}
