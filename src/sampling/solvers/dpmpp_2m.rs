//! DPM-Solver++ (Lu et al., arXiv 2211.01095), multistep: algorithm 2 for order 2, appendix for order 3; section 5 for the SDE. Orders 1 and 3
//! through the checkpoint's `solver_order`. In variance-preserving latents, as diffusers' `DPMSolverMultistepScheduler`.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `alpha`, `sigma` | α_t = √ᾱ, σ_t = √(1-ᾱ) |
//! | `lambda` | λ_t = ln(α_t/σ_t) |
//! | `h`, `r0`, `r1` | λ_t - λ_s, and earlier steps' h over it |
//! | `d0`, `d1`, `d2` | D_0 = x̃_0, and its first and second divided differences |

use std::collections::VecDeque;

use super::super::prediction::Prediction;
use super::super::sigmas::Placing;
use super::super::{FinalSigma, SchedulerConfig};
use super::variance_preserving::Intervals;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::{Error, Result};

/// What is solved, and how the second-order term is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// The probability-flow ODE; "midpoint" or "heun" as the checkpoint says.
    Ode,
    /// The SDE.
    Sde,
    /// The SDE in Heun's form.
    SdeHeun,
}

pub(super) struct DpmPp2m {
    config: SchedulerConfig,
    prediction: Prediction,
    intervals: Intervals,
    skip: usize,
    stochastic: bool,
    heun: bool,
    /// x̃_0 of this step and of earlier ones, the newest first.
    x0s: VecDeque<Vec<f64>>,
}

impl DpmPp2m {
    pub(super) fn new(plan: &Plan<'_>, form: Form) -> Result<Self> {
        let config = plan.config;
        if let Some(name @ ("dpmsolver" | "sde-dpmsolver")) = config.algorithm_type.as_deref() {
            return Err(Error::model(format!(
                "scheduler_config.json: algorithm_type: expected dpmsolver++ or sde-dpmsolver++, got {name}"
            )));
        }
        if let Some(name @ ("learned" | "learned_range")) = config.variance_type.as_deref() {
            return Err(Error::model(format!(
                "scheduler_config.json: variance_type: expected none, a network that predicts its variance is not supported, got {name}"
            )));
        }
        let intervals = Intervals::new(plan, Placing::Dpm)?;
        let heun = form == Form::SdeHeun || config.solver_type.as_deref() == Some("heun");
        Ok(DpmPp2m {
            prediction: Prediction::thresholded(config),
            config: config.clone(),
            intervals,
            skip: plan.skip,
            stochastic: form != Form::Ode,
            heun,
            x0s: VecDeque::new(),
        })
    }

    /// The order of step `i`: lower at the start, where little is known, and at the end, where steps are large.
    fn order(&self, i: usize) -> usize {
        let (at, steps) = (self.skip + i, self.intervals.0.steps);
        let few = self.config.lower_order_final && steps < 15;
        let to_clean = self.config.final_sigmas_type == FinalSigma::Zero;
        let final_order = if at + 1 == steps && (self.config.euler_at_final || few || to_clean) {
            1
        } else if at + 2 == steps && few {
            2
        } else {
            3
        };
        self.config.solver_order.min(final_order).min(i + 1)
    }
}

impl Rule for DpmPp2m {
    fn frame(&self) -> &dyn Frame {
        &self.intervals
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let (now, next) = (self.intervals.level(i), self.intervals.level(i + 1));
        let x0 = self.prediction.x0(model_output, x, now);
        self.x0s.push_front(x0);
        self.x0s.truncate(3);
        let z = if self.stochastic { noise(x.len()) } else { vec![0.0; x.len()] };
        if self.intervals.is_still(i) {
            return x.to_vec();
        }
        let h = self.intervals.lambda(i + 1) - self.intervals.lambda(i);
        // The SDE decays twice as fast, and noise makes up for it.
        let decay = if self.stochastic { 2.0 * h } else { h };
        let of_x = next.noise / now.noise * if self.stochastic { (-h).exp() } else { 1.0 };
        let of_d0 = -next.signal * (-decay).exp_m1();
        let of_noise = if self.stochastic { next.noise * (-(-2.0 * h).exp_m1()).sqrt() } else { 0.0 };
        let order = self.order(i);
        let r = |k: usize| (self.intervals.lambda(i - k) - self.intervals.lambda(i - k - 1)) / h;
        let phi_1 = (-decay).exp_m1() / decay + 1.0;
        let m = &self.x0s;
        let (r0, r1) = (if order > 1 { r(0) } else { 1.0 }, if order > 2 { r(1) } else { 1.0 });
        let correction = |i: usize| match order {
            1 => 0.0,
            2 => {
                let d1 = (m[0][i] - m[1][i]) / r0;
                if self.heun { next.signal * phi_1 * d1 } else { 0.5 * of_d0 * d1 }
            }
            _ => {
                let (near, far) = ((m[0][i] - m[1][i]) / r0, (m[1][i] - m[2][i]) / r1);
                let d1 = near + r0 / (r0 + r1) * (near - far);
                let d2 = (near - far) / (r0 + r1);
                let phi_2 = ((-decay).exp_m1() + decay) / (decay * decay) - 0.5;
                // In diffusers the SDE's last term has the other sign; the expansion of the integral asks for this one.
                next.signal * (phi_1 * d1 - phi_2 * d2)
            }
        };
        latents(x.len(), |i| of_x * f64::from(x[i]) + of_d0 * m[0][i] + correction(i) + of_noise * f64::from(z[i]))
    }
}
