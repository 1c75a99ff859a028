//! Attention with its four projections.

use super::Linear;
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
    channels: usize,
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
        check_heads(channels, attention.heads)?;
        Ok(SelfAttention {
            qkv: Linear::load_fused(w, &[names.q, names.k, names.v], channels, channels, bias)?,
            out: Linear::load(&w.at(names.out), channels, channels)?,
            channels,
            attention,
        })
    }

    /// `x` is `[n, .., tokens, channels]`; `residual`, of the same shape, is added to the result.
    ///
    /// # Errors
    /// As [`ops::attention`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, residual: Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(rec, x, Epilogue::default())?;
        let part = |i: usize| qkv.channels(i * self.channels, self.channels);
        let mixed = ops::attention(rec, part(0), part(1), part(2), self.attention)?;
        self.out.forward(rec, mixed, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

/// Attention of a sequence to the text; keys and values are one product.
pub struct CrossAttention {
    to_q: Linear,
    to_kv: Linear,
    out: Linear,
    channels: usize,
    heads: usize,
}

impl CrossAttention {
    /// `to_q [channels, channels]`, `to_k` and `to_v [channels, context]` without bias, `to_out.0` with bias.
    ///
    /// # Errors
    /// When the heads do not divide the channels; as [`Weights::matrix`].
    pub fn load(w: &Weights, channels: usize, context: usize, heads: usize) -> Result<Self> {
        check_heads(channels, heads)?;
        let names = ProjectionNames::DIFFUSERS;
        Ok(CrossAttention {
            to_q: Linear::load_without_bias(&w.at(names.q), channels, channels)?,
            to_kv: Linear::load_fused(w, &[names.k, names.v], context, channels, false)?,
            out: Linear::load(&w.at(names.out), channels, channels)?,
            channels,
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
        let kv = self.to_kv.forward(rec, context, Epilogue::default())?;
        let (k, v) = (kv.channels(0, self.channels), kv.channels(self.channels, self.channels));
        let mixed = ops::attention(rec, q, k, v, ops::Attention { heads: self.heads, causal: false })?;
        self.out.forward(rec, mixed, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }
}

/// Refuses numbers of heads that the attention kernel cannot take, before anything is recorded.
fn check_heads(channels: usize, heads: usize) -> Result<()> {
    let fits = heads > 0 && channels.is_multiple_of(heads) && (channels / heads).is_multiple_of(4);
    if fits && channels / heads <= 512 {
        return Ok(());
    }
    Err(Error::Model(format!(
        "attention: expected heads of 4 to 512 channels, a multiple of 4, got {channels} channels for {heads} heads; \
         check the number of heads in config.json"
    )))
}
