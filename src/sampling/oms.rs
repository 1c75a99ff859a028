//! One More Step (Hu et al., CVPR 2024, arXiv 2311.15744): from pure noise to the first latents of an unmodified model.
//!
//! The module ψ sees x_T^S at SNR 0, where v = -x_0. Variables: v = ψ's guided output (eq. 21), x_s = x_T^S, a = ᾱ_T at the *first
//! sampling timestep*, z = fresh noise.

use crate::{Error, Result};

/// Which form of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OmsForm {
    /// Eq. 20: `x̃_T = √a·x̃_0 + √(1-a-σ²)·x_T^S + σ·z`. σ = 0 re-uses the initial noise whole and draws nothing.
    Paper {
        /// σ_T, from 0 to √(1-a).
        sigma: f64,
    },
    /// Eq. 17/18: `x̃_T = √a·x̃_0 + √(1-a)·z`, all noise drawn afresh.
    PaperSde,
    /// The authors' code: as eq. 17 with the *variance* 1-a multiplying z; the module sees x_T^S times the solver's init_noise_sigma.
    Official,
}

impl Default for OmsForm {
    fn default() -> Self {
        OmsForm::Paper { sigma: 0.0 }
    }
}

impl OmsForm {
    /// Whether the step draws fresh noise z.
    pub fn draws_noise(self) -> bool {
        !matches!(self, OmsForm::Paper { sigma } if sigma == 0.0)
    }
}

/// x̃_T, variance-preserving, of the length of `v` and `x_s`. `z` is needed where [`OmsForm::draws_noise`] says so.
///
/// # Errors
/// When ᾱ at the first timestep is 0 (zero terminal SNR: there is no trace to restore, and the step is 0/0 in the authors' code), when σ
/// exceeds √(1-ᾱ), or lengths differ.
pub fn x_t(form: OmsForm, v: &[f32], x_s: &[f32], z: Option<&[f32]>, alpha_bar: f64) -> Result<Vec<f32>> {
    if !(alpha_bar > 0.0 && alpha_bar < 1.0) {
        return Err(Error::Request(format!(
            "oms: expected ᾱ at the first timestep in (0, 1), got {alpha_bar}; a schedule with zero terminal SNR needs no One More Step, \
             use --oms off"
        )));
    }
    let noise = 1.0 - alpha_bar;
    let (kept, fresh) = match form {
        OmsForm::Paper { sigma } => {
            let rest = noise - sigma * sigma;
            if sigma.is_nan() || sigma < 0.0 || rest < 0.0 {
                return Err(Error::Request(format!("oms: expected sigma from 0 to {:.6}, got {sigma}", noise.sqrt())));
            }
            (rest.sqrt(), sigma)
        }
        OmsForm::PaperSde => (0.0, noise.sqrt()),
        OmsForm::Official => (0.0, noise),
    };
    let zeros;
    let z = match z {
        Some(z) => z,
        None if fresh == 0.0 => {
            zeros = vec![0.0; v.len()];
            &zeros
        }
        None => return Err(Error::shape("oms", "this form needs fresh noise z")),
    };
    if v.len() != x_s.len() || v.len() != z.len() {
        return Err(Error::shape("oms", format!("v has {} values, x_T^S {}, z {}", v.len(), x_s.len(), z.len())));
    }
    let signal = alpha_bar.sqrt();
    Ok(v.iter()
        .zip(x_s)
        .zip(z)
        .map(|((&v, &x), &z)| (-signal * f64::from(v) + kept * f64::from(x) + fresh * f64::from(z)) as f32)
        .collect())
}
