//! The transformer of a UNet level: self-attention, attention to the text, and a gated feed-forward network.

use super::{CrossAttention, GroupNorm, LayerNorm, Linear, ProjectionNames, SelfAttention};
use crate::Result;
use crate::ops::{self, Epilogue};
use crate::record::{Recording, Tensor};
use crate::weights::Weights;

/// Added to the variance in the group norm at the entry (diffusers fixes it, whatever `norm_eps` says).
const ENTRY_EPS: f32 = 1e-6;
/// Added to the variance in the layer norms.
const LAYER_EPS: f32 = 1e-5;

/// Extents of a [`Transformer2D`].
#[derive(Debug, Clone, Copy)]
pub struct Transformer2DConfig {
    /// Channels of the image and of the tokens.
    pub channels: usize,
    /// Channels of the text states.
    pub cross_attention_dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Groups of the norm at the entry.
    pub groups: usize,
    /// Whether `proj_in` and `proj_out` are stored as matrices instead of 1×1 convolutions.
    pub use_linear_projection: bool,
}

/// Attention over the pixels of an image and to the text, around a residual.
pub struct Transformer2D {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Linear,
}

impl Transformer2D {
    /// The module's tensors.
    ///
    /// # Errors
    /// When the heads do not divide the channels; as [`Weights::matrix`].
    pub fn load(w: &Weights, config: Transformer2DConfig) -> Result<Self> {
        let Transformer2DConfig { channels, groups, layers, use_linear_projection, .. } = config;
        let projection = |name: &str| match use_linear_projection {
            true => Linear::load(
                &w.at(name).with_remedy("the checkpoint uses convolutions: set use_linear_projection = false"),
                channels,
                channels,
            ),
            false => Linear::load_conv(
                &w.at(name).with_remedy("the checkpoint uses matrices: set use_linear_projection = true"),
                channels,
                channels,
            ),
        };
        Ok(Transformer2D {
            norm: GroupNorm::load(&w.at("norm"), channels, groups, ENTRY_EPS)?,
            proj_in: projection("proj_in")?,
            transformer_blocks: (0..layers)
                .map(|i| BasicTransformerBlock::load(&w.at("transformer_blocks").at(i), config))
                .collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x` is `[n, h, w, channels]`, `context` `[n, 1, tokens, cross_attention_dim]`; `merged` is the share of pixels that are merged into
    /// others where they attend to each other (token merging; 0 to 0.75).
    ///
    /// # Errors
    /// As the operations.
    pub fn forward(&self, rec: &mut Recording, x: Tensor, context: Tensor, merged: Option<f32>) -> Result<Tensor> {
        let normed = self.norm_tap(rec, x)?;
        let mut hidden = rec.scoped("proj_in", |rec| {
            let hidden = rec.in_type_of(x, |rec| self.proj_in.forward(rec, normed, Epilogue::default()))?;
            Result::Ok(rec.tap(hidden))
        })?;
        for (i, block) in self.transformer_blocks.iter().enumerate() {
            let merging = merged.map(|ratio| Merging { ratio, seed: i as u32 });
            hidden =
                rec.scoped(format!("transformer_blocks.{i}"), |rec| block.forward(rec, hidden, context, merging))?;
        }
        let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
        let out = rec.scoped("proj_out", |rec| self.proj_out.forward(rec, hidden, epilogue))?;
        Ok(rec.tap(out))
    }

    fn norm_tap(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        rec.scoped("norm", |rec| {
            let normed = self.norm.forward(rec, x)?;
            Ok(rec.tap(normed))
        })
    }
}

/// Tokens that attend to each other as means of several.
#[derive(Clone, Copy)]
struct Merging {
    /// The share that is merged into others.
    ratio: f32,
    /// Of what chooses the others: another in each block.
    seed: u32,
}

struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(w: &Weights, config: Transformer2DConfig) -> Result<Self> {
        let Transformer2DConfig { channels, cross_attention_dim, heads, .. } = config;
        let norm = |name: &str| LayerNorm::load(&w.at(name), channels, LAYER_EPS);
        let attention = ops::Attention { heads, causal: false };
        Ok(BasicTransformerBlock {
            norm1: norm("norm1")?,
            attn1: SelfAttention::load(&w.at("attn1"), ProjectionNames::DIFFUSERS, channels, attention, false)?,
            norm2: norm("norm2")?,
            attn2: CrossAttention::load(&w.at("attn2"), channels, cross_attention_dim, heads)?,
            norm3: norm("norm3")?,
            ff: FeedForward::load(&w.at("ff"), channels)?,
        })
    }

    /// The residuals are added where each part's last product is stored, so what a tap sees of `attn1` and `attn2`
    /// contains them.
    fn forward(&self, rec: &mut Recording, x: Tensor, context: Tensor, merging: Option<Merging>) -> Result<Tensor> {
        let normed = layer_norm(rec, "norm1", &self.norm1, x)?;
        let x = rec.scoped("attn1", |rec| {
            let by = match merging {
                Some(Merging { ratio, seed }) => {
                    let merged = (f64::from(ratio) * (x.shape.h * x.shape.w) as f64).round() as usize;
                    rec.layer(|rec| ops::match_tokens(rec, x, merged, seed))?
                }
                None => None,
            };
            match by {
                Some(by) => self.attn1.forward_merged(rec, normed, x, &by),
                None => self.attn1.forward(rec, normed, x),
            }
        })?;
        rec.tap_as("attn1 + residual", x);
        let normed = layer_norm(rec, "norm2", &self.norm2, x)?;
        let x = rec.scoped("attn2", |rec| self.attn2.forward(rec, normed, context, x))?;
        rec.tap_as("attn2 + residual", x);
        let normed = layer_norm(rec, "norm3", &self.norm3, x)?;
        let out = rec.scoped("ff", |rec| self.ff.forward(rec, normed, x))?;
        Ok(rec.tap(out))
    }
}

fn layer_norm(rec: &mut Recording, name: &str, norm: &LayerNorm, x: Tensor) -> Result<Tensor> {
    rec.scoped(name, |rec| {
        let normed = norm.forward(rec, x)?;
        Ok(rec.tap(normed))
    })
}

/// `net.2(geglu(net.0.proj(x)))`: the first half of the wide product is the value, the second the gate.
struct FeedForward {
    net_0_proj: Linear,
    net_2: Linear,
}

impl FeedForward {
    fn load(w: &Weights, channels: usize) -> Result<Self> {
        Ok(FeedForward {
            net_0_proj: Linear::load_gated(&w.at("net.0.proj"), channels, 4 * channels)?,
            net_2: Linear::load(&w.at("net.2"), 4 * channels, channels)?,
        })
    }

    fn forward(&self, rec: &mut Recording, x: Tensor, residual: Tensor) -> Result<Tensor> {
        let gated = rec.scoped("net.0", |rec| {
            let gated = rec.scoped("proj", |rec| self.net_0_proj.forward(rec, x, Epilogue::default()))?;
            Result::Ok(rec.tap(gated))
        })?;
        let epilogue = Epilogue { residual: Some(residual), ..Epilogue::default() };
        rec.scoped("net.2", |rec| self.net_2.forward(rec, gated, epilogue))
    }
}
