//! The two-layer perceptron behind time and size embeddings.

use super::Linear;
use crate::Result;
use crate::ops::{Activation, Epilogue};
use crate::record::{Recording, Tensor};
use crate::weights::Weights;

/// `linear_2(silu(linear_1(x + cond_proj(cond))))`.
pub struct TimestepEmbedding {
    cond_proj: Option<Linear>,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// `linear_1 [out, in]`, `linear_2 [out, out]`, and `cond_proj [in, cond]` without bias where `cond` is given (the
    /// guidance embedding of distilled consistency models).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(w: &Weights, inner: usize, out: usize, cond: Option<usize>) -> Result<Self> {
        Ok(TimestepEmbedding {
            cond_proj: cond.map(|cond| Linear::load_without_bias(&w.at("cond_proj"), cond, inner)).transpose()?,
            linear_1: Linear::load(&w.at("linear_1"), inner, out)?,
            linear_2: Linear::load(&w.at("linear_2"), out, out)?,
        })
    }

    /// `x` is `[n, 1, 1, in]`, `cond` `[n, 1, 1, cond]`; `residual` `[n, 1, 1, out]` is added to the
    /// result.
    ///
    /// # Errors
    /// As [`crate::ops::matmul`].
    pub fn forward(
        &self,
        rec: &mut Recording,
        x: Tensor,
        cond: Option<Tensor>,
        residual: Option<Tensor>,
    ) -> Result<Tensor> {
        let x = match (&self.cond_proj, cond) {
            (Some(proj), Some(cond)) => {
                let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
                rec.scoped("cond_proj", |rec| proj.forward(rec, cond, epilogue))?
            }
            _ => x,
        };
        let silu = Epilogue { activation: Activation::Silu, ..Epilogue::default() };
        let hidden = rec.scoped("linear_1", |rec| self.linear_1.forward(rec, x, silu))?;
        let epilogue = Epilogue { residual, ..Epilogue::default() };
        rec.scoped("linear_2", |rec| self.linear_2.forward(rec, hidden, epilogue))
    }
}
