//! Improved PNDM: Adams-Bashforth of order 4 with the coefficients of an even grid, in σ (Zhang and Chen, arXiv 2204.13902, appendix; the form
//! of diff-solvers and ComfyUI, `sample_ipndm`). The last step ends on x̃_0.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `derivatives` | d_i, d_{i-1}, … = (x - D)/σ |

use std::collections::VecDeque;

use super::sigma_scaled::SigmaScaled;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

/// Adams-Bashforth weights of orders 1 to 4, the newest derivative first.
const WEIGHTS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

pub(super) struct Ipndm {
    scaled: SigmaScaled,
    derivatives: VecDeque<Vec<f64>>,
}

impl Ipndm {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        Ok(Ipndm { scaled: SigmaScaled::new(plan)?, derivatives: VecDeque::new() })
    }
}

impl Rule for Ipndm {
    fn frame(&self) -> &dyn Frame {
        &self.scaled
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let (sigma, next) = (self.scaled.grid.sigmas[i], self.scaled.grid.sigmas[i + 1]);
        let (x0, derivative) = self.scaled.derivative(i, model_output, x);
        if next == 0.0 {
            return latents(x.len(), |i| x0[i]);
        }
        self.derivatives.push_front(derivative);
        self.derivatives.truncate(WEIGHTS.len());
        let weights = WEIGHTS[self.derivatives.len() - 1];
        latents(x.len(), |i| {
            let slope: f64 = weights.iter().zip(&self.derivatives).map(|(w, d)| w * d[i]).sum();
            f64::from(x[i]) + slope * (next - sigma)
        })
    }
}
