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
    /// Whether columns are values and gates in turn.
    pub(super) gated: bool,
}

impl Linear {
    /// `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.matrix("weight", [out, inner])?, bias: Some(w.vector("bias", out)?), gated: false })
    }

    /// `weight [out, in]` alone.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load_without_bias(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.matrix("weight", [out, inner])?, bias: None, gated: false })
    }

    /// `weight [out, in, 1, 1]` and `bias [out]`: a 1×1 convolution, which is the same thing.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load_conv(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Linear { weight: w.conv("weight", [out, inner], 1)?, bias: Some(w.vector("bias", out)?), gated: false })
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
        Ok(Linear { weight, bias, gated: false })
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
        Ok(Linear { weight, bias: Some(w.stacked_vector(&leaves("bias"))?), gated: false })
    }

    /// `weight [2 · out, in]` and `bias [2 · out]`, of which the first halves make values and the second ones their gates: the
    /// result is `value · gelu(gate)`, `out` channels. An even number of them.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn load_gated(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        let Linear { weight, bias, .. } = Linear::load(w, inner, 2 * out)?;
        // Two values, then their gates, so that one invocation has both; rows that fill up stay behind.
        let half = out as u32;
        let mut rows: Vec<u32> = (0..half).step_by(2).flat_map(|i| [i, i + 1, half + i, half + i + 1]).collect();
        rows.extend(rows.len() as u32..weight.shape[0] as u32);
        let paired = |base: Arc<Constant>| w.made_of(base, "gated", |base| base.reordered(rows.clone()));
        Ok(Linear { weight: paired(weight), bias: bias.map(paired), gated: true })
    }

    /// `x` is `[n, h, w, in]`, any channel view; the result `[n, h, w, out]`.
    ///
    /// # Errors
    /// As [`matmul`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, epilogue: Epilogue) -> Result<Tensor> {
        let weight = rec.constant(&self.weight);
        let bias = self.bias.as_ref().map(|bias| rec.constant(bias));
        rec.layer(|rec| matmul(rec, x, weight, Epilogue { bias, gated: self.gated, ..epilogue }))
    }
}

fn borrow(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
