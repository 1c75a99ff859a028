//! The residual block of UNets and autoencoders.

use super::{Conv2d, GroupNorm, Linear};
use crate::Result;
use crate::ops::Epilogue;
use crate::record::{FeatureMap, Recording, Tensor};
use crate::weights::Weights;

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time_emb_proj(silu(emb)))))`; the projection of the time embedding comes
/// from [`TimeProjections`](super::TimeProjections).
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
}

/// What the residual blocks of one network share.
#[derive(Debug, Clone, Copy)]
pub struct ResnetConfig {
    /// Groups of both norms.
    pub groups: usize,
    /// Added to the variance in both norms.
    pub eps: f32,
}

impl ResnetBlock2D {
    /// The block's tensors; `conv_shortcut` exists where the channel counts differ.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(w: &Weights, inner: usize, out: usize, config: ResnetConfig) -> Result<Self> {
        let ResnetConfig { groups, eps } = config;
        Ok(ResnetBlock2D {
            norm1: GroupNorm::load(&w.at("norm1"), inner, groups, eps)?,
            conv1: Conv2d::load(&w.at("conv1"), inner, out)?,
            norm2: GroupNorm::load(&w.at("norm2"), out, groups, eps)?,
            conv2: Conv2d::load(&w.at("conv2"), out, out)?,
            conv_shortcut: (inner != out).then(|| Linear::load_conv(&w.at("conv_shortcut"), inner, out)).transpose()?,
        })
    }

    /// `x` is `[n, h, w, in]`; `time`, the block's projection of the time embedding, `[n, 1, 1, out]`, in networks that have one.
    ///
    /// # Errors
    /// As [`crate::ops::conv2d`] and [`crate::ops::group_norm`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, time: Option<Tensor>) -> Result<Tensor> {
        let hidden = self.first_half(rec, x, time, None)?;
        self.second_half(rec, hidden, x, None)
    }

    /// A block without time embedding up to `conv1`, of a part `x` of an image whose [`moments1`](Self::moments1) are given.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_first(&self, rec: &mut Recording, x: Tensor, moments: Tensor) -> Result<Tensor> {
        self.first_half(rec, x, None, Some(moments))
    }

    /// The rest: `hidden` is a part of what [`forward_first`](Self::forward_first) made, with its
    /// [`moments2`](Self::moments2), and `x` the same part of the block's input.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_second(&self, rec: &mut Recording, hidden: Tensor, x: Tensor, moments: Tensor) -> Result<Tensor> {
        self.second_half(rec, hidden, x, Some(moments))
    }

    /// What `norm1` takes of the block's whole input.
    ///
    /// # Errors
    /// As [`GroupNorm::moments`].
    pub fn moments1(&self, x: &FeatureMap) -> Result<Vec<f32>> {
        self.norm1.moments(x)
    }

    /// What `norm2` takes of the whole result of `conv1`.
    ///
    /// # Errors
    /// As [`GroupNorm::moments`].
    pub fn moments2(&self, hidden: &FeatureMap) -> Result<Vec<f32>> {
        self.norm2.moments(hidden)
    }

    fn first_half(
        &self,
        rec: &mut Recording,
        x: Tensor,
        image_add: Option<Tensor>,
        moments: Option<Tensor>,
    ) -> Result<Tensor> {
        let hidden = rec.scoped("norm1", |rec| self.norm1.forward_silu_by(rec, x, moments))?;
        let epilogue = Epilogue { image_add, ..Epilogue::default() };
        rec.scoped("conv1", |rec| self.conv1.forward(rec, hidden, epilogue))
    }

    fn second_half(&self, rec: &mut Recording, hidden: Tensor, x: Tensor, moments: Option<Tensor>) -> Result<Tensor> {
        let hidden = rec.scoped("norm2", |rec| self.norm2.forward_silu_by(rec, hidden, moments))?;
        let shortcut = match &self.conv_shortcut {
            Some(conv) => {
                rec.scoped("conv_shortcut", |rec| rec.in_type_of(x, |rec| conv.forward(rec, x, Epilogue::default())))?
            }
            None => x,
        };
        let epilogue = Epilogue { residual: Some(shortcut), ..Epilogue::default() };
        let out = rec.scoped("conv2", |rec| self.conv2.forward(rec, hidden, epilogue))?;
        Ok(rec.tap(out))
    }
}
