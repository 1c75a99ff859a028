//! Norms.

use std::sync::Arc;

use crate::Result;
use crate::ops;
use crate::record::{Constant, Recording, Tensor};
use crate::weights::Weights;

/// Group norm over pixels and the channels of a group.
pub struct GroupNorm {
    weight: Arc<Constant>,
    bias: Arc<Constant>,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// `weight [channels]`, `bias [channels]`.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn load(w: &Weights, channels: usize, groups: usize, eps: f32) -> Result<Self> {
        Ok(GroupNorm { weight: w.vector("weight", channels)?, bias: w.vector("bias", channels)?, groups, eps })
    }

    /// `x` is `[n, h, w, channels]`.
    ///
    /// # Errors
    /// As [`ops::group_norm`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        self.record(rec, x, false)
    }

    /// The norm, then SiLU.
    ///
    /// # Errors
    /// As [`ops::group_norm`].
    pub fn forward_silu(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        self.record(rec, x, true)
    }

    fn record(&self, rec: &mut Recording, x: Tensor, silu: bool) -> Result<Tensor> {
        let (gamma, beta) = (rec.constant(&self.weight), rec.constant(&self.bias));
        ops::group_norm(rec, x, gamma, beta, ops::GroupNorm { groups: self.groups, eps: self.eps, silu })
    }
}

/// Layer norm over channels.
pub struct LayerNorm {
    weight: Arc<Constant>,
    bias: Arc<Constant>,
    eps: f32,
}

impl LayerNorm {
    /// `weight [channels]`, `bias [channels]`.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn load(w: &Weights, channels: usize, eps: f32) -> Result<Self> {
        Ok(LayerNorm { weight: w.vector("weight", channels)?, bias: w.vector("bias", channels)?, eps })
    }

    /// `x` is `[n, .., tokens, channels]`.
    ///
    /// # Errors
    /// As [`ops::layer_norm`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        let (gamma, beta) = (rec.constant(&self.weight), rec.constant(&self.bias));
        ops::layer_norm(rec, x, gamma, beta, self.eps)
    }
}
