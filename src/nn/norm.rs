//! Norms.

use std::sync::Arc;

use crate::Result;
use crate::ops;
use crate::record::{Constant, FeatureMap, Recording, Tensor};
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

    /// [`forward_silu`](Self::forward_silu), or of a part `x` of an image whose moments are given, as
    /// [`moments`](Self::moments) has them.
    ///
    /// # Errors
    /// As [`ops::group_norm`] and [`ops::group_norm_by`].
    pub fn forward_silu_by(&self, rec: &mut Recording, x: Tensor, moments: Option<Tensor>) -> Result<Tensor> {
        let Some(moments) = moments else { return self.forward_silu(rec, x) };
        let beta = rec.constant(&self.bias);
        rec.layer(|rec| ops::group_norm_by(rec, x, moments, beta, true))
    }

    /// Means and scales `[2, channels]` of a whole map.
    ///
    /// # Errors
    /// When the weight cannot be read.
    pub fn moments(&self, map: &FeatureMap) -> Result<Vec<f32>> {
        let norm = ops::GroupNorm { groups: self.groups, eps: self.eps, silu: true };
        ops::group_moments(map, &self.weight.values()?, norm)
    }

    fn record(&self, rec: &mut Recording, x: Tensor, silu: bool) -> Result<Tensor> {
        let (gamma, beta) = (rec.constant(&self.weight), rec.constant(&self.bias));
        let norm = ops::GroupNorm { groups: self.groups, eps: self.eps, silu };
        rec.layer(|rec| ops::group_norm(rec, x, gamma, beta, norm))
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
        rec.layer(|rec| ops::layer_norm(rec, x, gamma, beta, self.eps))
    }
}
