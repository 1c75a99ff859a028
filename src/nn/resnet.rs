//! The residual block of UNets and autoencoders.

use super::{Conv2d, GroupNorm, Linear};
use crate::Result;
use crate::ops::Epilogue;
use crate::record::{Recording, Tensor};
use crate::weights::Weights;

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time_emb_proj(silu(emb)))))`.
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
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
    /// Width of the time embedding, if the network has one.
    pub time_embed_dim: Option<usize>,
}

impl ResnetBlock2D {
    /// The block's tensors; `conv_shortcut` exists where the channel counts differ.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(w: &Weights, inner: usize, out: usize, config: ResnetConfig) -> Result<Self> {
        let ResnetConfig { groups, eps, time_embed_dim } = config;
        Ok(ResnetBlock2D {
            norm1: GroupNorm::load(&w.at("norm1"), inner, groups, eps)?,
            conv1: Conv2d::load(&w.at("conv1"), inner, out)?,
            time_emb_proj: time_embed_dim.map(|dim| Linear::load(&w.at("time_emb_proj"), dim, out)).transpose()?,
            norm2: GroupNorm::load(&w.at("norm2"), out, groups, eps)?,
            conv2: Conv2d::load(&w.at("conv2"), out, out)?,
            conv_shortcut: (inner != out).then(|| Linear::load_conv(&w.at("conv_shortcut"), inner, out)).transpose()?,
        })
    }

    /// `x` is `[n, h, w, in]`; `silu_emb` is SiLU of the time embedding, `[n, 1, 1, time_embed_dim]`, and is used only by
    /// a block that was loaded with one.
    ///
    /// # Errors
    /// As [`crate::ops::conv2d`] and [`crate::ops::group_norm`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, silu_emb: Option<Tensor>) -> Result<Tensor> {
        let image_add = match (&self.time_emb_proj, silu_emb) {
            (Some(proj), Some(emb)) => {
                Some(rec.scoped("time_emb_proj", |rec| rec.in_f32(|rec| proj.forward(rec, emb, Epilogue::default())))?)
            }
            _ => None,
        };
        let hidden = rec.scoped("norm1", |rec| self.norm1.forward_silu(rec, x))?;
        let epilogue = Epilogue { image_add, ..Epilogue::default() };
        let hidden = rec.scoped("conv1", |rec| self.conv1.forward(rec, hidden, epilogue))?;
        let hidden = rec.scoped("norm2", |rec| self.norm2.forward_silu(rec, hidden))?;
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
