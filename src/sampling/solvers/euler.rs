//! Euler's method on the probability-flow ODE (Karras et al., arXiv 2206.00364, algorithm 1 without the second-order correction), and with
//! fresh noise after each step (k-diffusion, `sample_euler_ancestral`).
//!
//! | variable | symbol |
//! | --- | --- |
//! | scaled latent | x_VE = x_VP·√(σ²+1) |
//! | `x0` | D(x; σ) |
//! | `derivative` | dx/dσ = (x - D)/σ |
//! | `down`, `up` | the level stepped down to, and the noise added: down² + up² = σ_{i+1}² |

use super::super::sigmas::Placing;
use super::sigma_scaled::SigmaScaled;
use super::{Frame, Noise, Plan, Rule, ancestral, latents};
use crate::Result;

pub(super) struct Euler {
    scaled: SigmaScaled,
    /// η of the ancestral form.
    eta: Option<f64>,
}

impl Euler {
    pub(super) fn new(plan: &Plan<'_>, eta: Option<f64>) -> Result<Self> {
        let placing = if eta.is_some() { Placing::KDiffusion } else { Placing::Euler };
        Ok(Euler { scaled: SigmaScaled::placed(plan, placing)?, eta })
    }
}

impl Rule for Euler {
    fn frame(&self) -> &dyn Frame {
        &self.scaled
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], noise: Noise<'_>) -> Vec<f32> {
        let (sigma, next) = (self.scaled.grid.sigmas[i], self.scaled.grid.sigmas[i + 1]);
        let (down, up) = self.eta.map_or((next, 0.0), |eta| ancestral(sigma, next, eta));
        // Drawn in the last step too, where nothing is added: diffusers does.
        let z = if self.eta.is_some() { noise(x.len()) } else { vec![0.0; x.len()] };
        let (_, derivative) = self.scaled.derivative(i, model_output, x);
        latents(x.len(), |i| f64::from(x[i]) + derivative[i] * (down - sigma) + up * f64::from(z[i]))
    }
}
