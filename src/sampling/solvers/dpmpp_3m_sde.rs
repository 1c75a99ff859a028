//! DPM-Solver++ of order 3, multistep, for the SDE (Lu et al., arXiv 2211.01095; k-diffusion, `sample_dpmpp_3m_sde`). Independent draws stand
//! for k-diffusion's Brownian tree: no two steps share an interval.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `h` | ln σ_i - ln σ_{i+1} |
//! | `decay` | h·(1 + η) |
//! | `d1`, `d2` | first and second divided differences of x̃_0 |
//! | `phi_2`, `phi_3` | φ functions of the exponential integrator |

use std::collections::VecDeque;

use super::sigma_scaled::SigmaScaled;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct DpmPp3mSde {
    scaled: SigmaScaled,
    eta: f64,
    /// x̃_0 of this step and of earlier ones, the newest first.
    x0s: VecDeque<Vec<f64>>,
}

impl DpmPp3mSde {
    pub(super) fn new(plan: &Plan<'_>, eta: f64) -> Result<Self> {
        Ok(DpmPp3mSde { scaled: SigmaScaled::new(plan)?, eta, x0s: VecDeque::new() })
    }
}

impl Rule for DpmPp3mSde {
    fn frame(&self) -> &dyn Frame {
        &self.scaled
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let sigmas = &self.scaled.grid.sigmas;
        let next = sigmas[i + 1];
        let x0 = self.scaled.prediction.x0(model_output, x, self.scaled.level(i));
        if next == 0.0 {
            return latents(x.len(), |i| x0[i]);
        }
        self.x0s.push_front(x0);
        self.x0s.truncate(3);
        let interval = |k: usize| (sigmas[i - k] / sigmas[i - k + 1]).ln();
        let h = interval(0);
        let decay = h * (1.0 + self.eta);
        let phi_2 = (-decay).exp_m1() / decay + 1.0;
        let phi_3 = phi_2 / decay - 0.5;
        let m = &self.x0s;
        let (r0, r1) =
            (if m.len() > 1 { interval(1) / h } else { 1.0 }, if m.len() > 2 { interval(2) / h } else { 1.0 });
        let correction = |i: usize| match m.len() {
            1 => 0.0,
            2 => phi_2 * (m[0][i] - m[1][i]) / r0,
            _ => {
                let (near, far) = ((m[0][i] - m[1][i]) / r0, (m[1][i] - m[2][i]) / r1);
                let d1 = near + (near - far) * r0 / (r0 + r1);
                let d2 = (near - far) / (r0 + r1);
                phi_2 * d1 - phi_3 * d2
            }
        };
        let z = if self.eta > 0.0 { noise(x.len()) } else { vec![0.0; x.len()] };
        let of_noise = next * (-(-2.0 * h * self.eta).exp_m1()).sqrt();
        latents(x.len(), |i| {
            (-decay).exp() * f64::from(x[i]) - (-decay).exp_m1() * m[0][i] + correction(i) + of_noise * f64::from(z[i])
        })
    }
}
