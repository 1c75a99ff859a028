//! Attention with its four projections.

use super::Linear;
use super::heads::Heads;
use crate::ops::{self, Epilogue};
use crate::record::{Recording, Tensor};
use crate::weights::Weights;
use crate::{Error, Result};

/// What a family of checkpoints calls the projections.
#[derive(Debug, Clone, Copy)]
pub struct ProjectionNames {
    /// Query.
    pub q: &'static str,
    /// Key.
    pub k: &'static str,
    /// Value.
    pub v: &'static str,
    /// Output.
    pub out: &'static str,
}

impl ProjectionNames {
    /// diffusers.
    pub const DIFFUSERS: Self = ProjectionNames { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0" };
    /// Autoencoders saved by diffusers before 0.14, among them those published with Stable Diffusion 1.x.
    pub const DIFFUSERS_OLD: Self = ProjectionNames { q: "query", k: "key", v: "value", out: "proj_attn" };
    /// transformers' CLIP.
    pub const CLIP: Self = ProjectionNames { q: "q_proj", k: "k_proj", v: "v_proj", out: "out_proj" };
}

/// Attention of a sequence to itself; queries, keys and values are one product.
pub struct SelfAttention {
    qkv: Linear,
    out: Linear,
    width: usize,
    attention: ops::Attention,
}

impl SelfAttention {
    /// The four projections, each `[channels, channels]`; the output projection always has a bias, the others if `bias`.
    ///
    /// # Errors
    /// When the heads do not divide the channels; as [`Weights::matrix`].
    pub fn load(
        w: &Weights,
        names: ProjectionNames,
        channels: usize,
        attention: ops::Attention,
        bias: bool,
    ) -> Result<Self> {
        let heads = heads_of(channels, attention.heads)?;
        let qkv = Linear::load_fused(w, &[names.q, names.k, names.v], channels, channels, bias)?;
        Ok(SelfAttention {
            qkv: heads.widen_rows(w, qkv, true),
            out: heads.widen_columns(w, Linear::load(&w.at(names.out), channels, channels)?),
            width: heads.width(),
            attention,
        })
    }

    /// `x` is `[n, .., tokens, channels]`; `residual`, of the same shape, is added to the result.
    ///
    /// # Errors
    /// As [`ops::attention`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, residual: Tensor) -> Result<Tensor> {
        self.mix(rec, x, Some(residual))
    }

    /// [`forward`](Self::forward) over merged tokens: each pixel of `residual`, `[n, h, w, channels]`, gets what its slot has.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), [`ops::merge_tokens`] and [`ops::unmerge_tokens`].
    pub fn forward_merged(
        &self,
        rec: &mut Recording,
        x: Tensor,
        residual: Tensor,
        by: &ops::MergedTokens,
    ) -> Result<Tensor> {
        let merged = rec.layer(|rec| ops::merge_tokens(rec, x, by))?;
        let mixed = self.mix(rec, merged, None)?;
        rec.layer(|rec| ops::unmerge_tokens(rec, residual, mixed, by))
    }

    fn mix(&self, rec: &mut Recording, x: Tensor, residual: Option<Tensor>) -> Result<Tensor> {
        let qkv = self.qkv.forward(rec, x, Epilogue::default())?;
        let part = |i: usize| qkv.channels(i * self.width, self.width);
        let mixed = rec.layer(|rec| ops::attention(rec, part(0), part(1), part(2), self.attention))?;
        self.out.forward(rec, mixed, Epilogue { residual, ..Epilogue::default() })
    }
}

/// Attention of a sequence to the text; keys and values are one product.
pub struct CrossAttention {
    to_q: Linear,
    to_kv: Linear,
    out: Linear,
    heads: Heads,
}

impl CrossAttention {
    /// `to_q [channels, channels]`, `to_k` and `to_v [channels, context]` without bias, `to_out.0` with bias.
    ///
    /// # Errors
    /// When the heads do not divide the channels; as [`Weights::matrix`].
    pub fn load(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        let heads = heads_of(channels, heads)?;
        let names = ProjectionNames::DIFFUSERS;
        let to_q = Linear::load_without_bias(&w.at(names.q), channels, channels)?;
        let to_kv = Linear::load_fused(w, &[names.k, names.v], context, channels, false)?;
        Ok(CrossAttention {
            to_q: heads.widen_rows(w, to_q, true),
            to_kv: heads.widen_rows(w, to_kv, false),
            out: heads.widen_columns(w, Linear::load(&w.at(names.out), channels, channels)?),
            heads,
        })
    }

    /// `x` is `[n, .., tokens, channels]`, `context` `[n, 1, text tokens, context]`; `residual`, of the shape of `x`, is
    /// added to the result.
    ///
    /// # Errors
    /// As [`ops::attention`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, context: Tensor, residual: Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(rec, x, Epilogue::default())?;
        // The text is the same in every step.
        let kv = rec.once(&[context], |rec| self.to_kv.forward(rec, context, Epilogue::default()))?;
        let width = self.heads.width();
        let attention = ops::Attention { heads: self.heads.count, causal: false };
        let (k, v) = (kv.channels(0, width), kv.channels(width, width));
        let mixed = rec.layer(|rec| ops::attention(rec, q, k, v, attention))?;
        self.out.forward(rec, mixed, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

/// Refuses numbers of heads that the attention kernel cannot take, before anything is recorded.
fn heads_of(channels: usize, count: usize) -> Result<Heads> {
    let fits = count > 0 && channels > 0 && channels.is_multiple_of(count) && channels / count <= 512;
    if fits {
        return Ok(Heads { count, channels: channels / count });
    }
    Err(Error::model(format!(
        "attention: expected heads of 1 to 512 channels, got {channels} channels for {count} heads; check the number of \
         heads in config.json"
    )))
}
