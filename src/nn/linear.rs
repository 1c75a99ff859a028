//! Linear layers.

use std::sync::Arc;

use crate::Result;
use crate::ops::{Epilogue, matmul};
use crate::record::{Constant, Recording, Tensor};
use crate::weights::Weights;

/// `x · weightᵀ + bias`, and whatever the caller's [`Epilogue`] adds.
pub struct Linear {
    pub(super) weight: Arc<Constant>,
    pub(super) bias: Option<Arc<Constant>>,
}

impl Linear {
    /// `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.matrix("weight", [out, inner])?, bias: Some(w.vector("bias", out)?) })
    }

    /// `weight [out, in]` alone.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load_without_bias(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.matrix("weight", [out, inner])?, bias: None })
    }

    /// `weight [out, in, 1, 1]` and `bias [out]`: a 1×1 convolution, which is the same thing.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load_conv(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.conv("weight", [out, inner], 1)?, bias: Some(w.vector("bias", out)?) })
    }

    /// Several layers of the same `[out, in]` as one product; their results lie side by side on channels.
    ///
    /// # Errors
    /// As [`Weights::fused_matrix`].
    pub fn load_fused(w: &Weights, names: &[&str], inner: usize, out: usize, bias: bool) -> Result<Self> {
        let leaves = |leaf: &str| -> Vec<String> { names.iter().map(|name| format!("{name}.{leaf}")).collect() };
        let weights = leaves("weight");
        let weight = w.fused_matrix(&borrow(&weights), [out, inner])?;
        let bias = if bias { Some(w.fused_vector(&borrow(&leaves("bias")), out)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// Layers `[rows, in]`, each by its path from `w` and its rows, as one product; their results lie side by side on channels.
    ///
    /// # Errors
    /// As [`Weights::stacked_matrix`].
    pub fn load_stacked(w: &Weights, layers: &[(String, usize)], inner: usize) -> Result<Self> {
        let leaves = |leaf: &str| -> Vec<(String, usize)> {
            layers.iter().map(|(name, rows)| (format!("{name}.{leaf}"), *rows)).collect()
        };
        let weight = w.stacked_matrix(&leaves("weight"), inner)?;
        Ok(Linear { weight, bias: Some(w.stacked_vector(&leaves("bias"))?) })
    }

    /// `x` is `[n, h, w, in]`, any channel view; the result `[n, h, w, out]`.
    ///
    /// # Errors
    /// As [`matmul`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, epilogue: Epilogue) -> Result<Tensor> {
        let weight = rec.constant(&self.weight);
        let bias = self.bias.as_ref().map(|bias| rec.constant(bias));
        rec.layer(|rec| matmul(rec, x, weight, Epilogue { bias, ..epilogue }))
    }
}

fn borrow(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
