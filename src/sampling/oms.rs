//! One More Step (Hu et al., CVPR 2024, arXiv 2311.15744): from pure noise to the first latents of an unmodified model.
//!
//! The module ψ sees x_T^S at SNR 0, where v = -x_0. Variables: v = ψ's guided output (eq. 21), x_s = x_T^S, a = ᾱ_T at the *first
//! sampling timestep*, z = fresh noise.

use serde::{Deserialize, Serialize};

use crate::{Error, Remedy, Result};

/// Which form of the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OmsForm {
    /// Eq. 20: `x̃_T = √a·x̃_0 + √(1-a-σ²)·x_T^S + σ·z` with `σ = η·√(1-a)`. η = 0 re-uses the initial noise whole and draws nothing, η = 1 is
    /// eq. 17/18.
    Paper {
        /// η, from 0 to 1: σ_T as DDIM has it (arXiv 2010.02502, eq. 16) for ᾱ_t → 0.
        eta: f64,
    },
    /// Eq. 17/18: `x̃_T = √a·x̃_0 + √(1-a)·z`, all noise drawn afresh.
    PaperSde,
    /// The authors' code: as eq. 17 with the *variance* 1-a multiplying z; the module sees x_T^S times the solver's init_noise_sigma.
    Official,
}

impl Default for OmsForm {
    fn default() -> Self {
        OmsForm::Paper { eta: 0.0 }
    }
}

impl OmsForm {
    /// η, where the form has one.
    pub fn eta(self) -> Option<f64> {
        match self {
            OmsForm::Paper { eta } => Some(eta),
            OmsForm::PaperSde | OmsForm::Official => None,
        }
    }

    /// Whether the step draws fresh noise z.
    pub fn draws_noise(self) -> bool {
        !matches!(self, OmsForm::Paper { eta } if eta == 0.0)
    }
}

/// Whether there is a trace to restore: ᾱ at the first timestep is neither 0 nor 1.
///
/// # Errors
/// [`Error::Request`] where it is. At zero terminal SNR the step is 0/0 in the authors' code.
pub fn check_alpha_bar(alpha_bar: f64) -> Result<()> {
    if alpha_bar > 0.0 && alpha_bar < 1.0 {
        return Ok(());
    }
    let message = format!(
        "expected ᾱ at the first timestep in (0, 1), got {alpha_bar}; a schedule with zero terminal SNR needs no One More Step"
    );
    Err(Error::request("oms", message).advise([Remedy::WithoutOms]))
}

/// x̃_T, variance-preserving, of the length of `v` and `x_s`. `z` is needed where [`OmsForm::draws_noise`] says so.
///
/// # Errors
/// When ᾱ at the first timestep is 0 (zero terminal SNR: there is no trace to restore, and the step is 0/0 in the authors' code), when η is
/// outside 0 to 1, or lengths differ.
pub fn x_t(form: OmsForm, v: &[f32], x_s: &[f32], z: Option<&[f32]>, alpha_bar: f64) -> Result<Vec<f32>> {
    check_alpha_bar(alpha_bar)?;
    let noise = 1.0 - alpha_bar;
    let (kept, fresh) = match form {
        OmsForm::Paper { eta } => {
            if !(0.0..=1.0).contains(&eta) {
                return Err(Error::request("oms-eta", format!("expected a number from 0 to 1, got {eta}")));
            }
            ((noise * (1.0 - eta * eta)).sqrt(), eta * noise.sqrt())
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
