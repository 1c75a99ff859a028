//! The conditional UNet of Stable Diffusion 1.x, 2.x and XL, of latent consistency models and of inpainting models; and
//! the same network without time, which is the OMS module.

mod blocks;
mod config;

pub use config::{DownBlockType, UnetConfig, UpBlockType};

use blocks::{Conditioning, DownBlock, MidBlock, UpBlock};

use super::{input, names, new_recording};
use crate::Result;
use crate::nn::{Conv2d, GroupNorm, TimestepEmbedding};
use crate::ops::{Activation, Epilogue, elementwise};
use crate::record::{Caps, Recording, Shape, Tensor};
use crate::weights::Weights;

/// `UNet2DConditionModel` of diffusers, and `UNet2DConditionWoCTModel` of the OMS authors.
pub struct Unet {
    config: UnetConfig,
    conv_in: Conv2d,
    time_embedding: Option<TimestepEmbedding>,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Loads the network from the root of its file.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for; when heads do not divide channels.
    pub fn load(config: UnetConfig, w: &Weights) -> Result<Self> {
        let levels = config.levels()?;
        let (finest, coarsest) = (levels[0], levels[levels.len() - 1]);
        let time_embed_dim = config.time_embed_dim();
        let time_embedding = time_embed_dim
            .map(|dim| {
                TimestepEmbedding::load(&w.at("time_embedding"), finest.channels, dim, config.time_cond_proj_dim)
            })
            .transpose()?;
        let add_embedding = match (config.add_embeds_dim()?, time_embed_dim) {
            (Some(inner), Some(dim)) => Some(TimestepEmbedding::load(&w.at("add_embedding"), inner, dim, None)?),
            _ => None,
        };
        let last = levels.len() - 1;
        let down_blocks = (0..levels.len())
            .map(|i| {
                let inner = if i == 0 { finest.channels } else { levels[i - 1].channels };
                DownBlock::load(&w.at("down_blocks").at(i), &config, i, inner, levels[i], i < last)
            })
            .collect::<Result<_>>()?;
        let mid_block = MidBlock::load(&w.at("mid_block"), &config, coarsest)?;
        let up_blocks = (0..levels.len())
            .map(|i| UpBlock::load(&w.at("up_blocks").at(i), &config, i, &levels))
            .collect::<Result<_>>()?;
        let unet = Unet {
            conv_in: Conv2d::load(&w.at("conv_in"), config.in_channels, finest.channels)?,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                &w.at("conv_norm_out"),
                finest.channels,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load(&w.at("conv_out"), finest.channels, config.out_channels)?,
            config,
        };
        w.finish(&[])?;
        Ok(unet)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Records one call: latents `[n, h, w]` and `tokens` text states per image.
    ///
    /// Inputs: [`names::SAMPLE`], [`names::ENCODER_HIDDEN_STATES`], and where the config has them [`names::TIME_PROJ`],
    /// [`names::TIMESTEP_COND`], [`names::ADD_EMBEDS`]. Output: [`names::OUT`], `[n, h, w, out_channels]`. With `taps`,
    /// every module's result too, under the checkpoint's name; `a + b` names a sum and `silu(a)` an activation where
    /// only those exist in memory.
    ///
    /// # Errors
    /// When an extent is zero, or an operation refuses a shape.
    pub fn record(&self, caps: &Caps, n: usize, h: usize, w: usize, tokens: usize, taps: bool) -> Result<Recording> {
        let mut recording = new_recording(caps, taps);
        let rec = &mut recording;
        let sample = input(rec, names::SAMPLE, Shape::image(n, h, w, self.config.in_channels.next_multiple_of(4)));
        let context = Shape::tokens(n, tokens, self.config.cross_attention_dim.next_multiple_of(4));
        let context = input(rec, names::ENCODER_HIDDEN_STATES, context);
        let silu_emb = rec.in_f32(|rec| self.record_time(rec, n))?;
        let out = self.forward(rec, sample, Conditioning { context, silu_emb })?;
        rec.output(names::OUT, out);
        Ok(recording)
    }

    /// SiLU of the time embedding `[n, 1, 1, time_embed_dim]`, once for all residual blocks.
    fn record_time(&self, rec: &mut Recording, n: usize) -> Result<Option<Tensor>> {
        let Some(time_embedding) = &self.time_embedding else {
            return Ok(None);
        };
        let vector = |c: usize| Shape::image(n, 1, 1, c.next_multiple_of(4));
        let time_proj = input(rec, names::TIME_PROJ, vector(self.config.block_out_channels[0]));
        let cond = self.config.time_cond_proj_dim.map(|dim| input(rec, names::TIMESTEP_COND, vector(dim)));
        let mut emb = rec.scoped("time_embedding", |rec| {
            let emb = time_embedding.forward(rec, time_proj, cond, None)?;
            Result::Ok(rec.tap(emb))
        })?;
        if let (Some(add_embedding), Some(dim)) = (&self.add_embedding, self.config.add_embeds_dim()?) {
            let add_embeds = input(rec, names::ADD_EMBEDS, vector(dim));
            emb = rec.scoped("add_embedding", |rec| add_embedding.forward(rec, add_embeds, None, Some(emb)))?;
            rec.tap_as("add_embedding + time_embedding", emb);
        }
        elementwise(rec, emb, Activation::Silu).map(Some)
    }

    fn forward(&self, rec: &mut Recording, sample: Tensor, condition: Conditioning) -> Result<Tensor> {
        let mut skips = Vec::new();
        let mut hidden = rec.in_f32(|rec| self.forward_down(rec, sample, condition, &mut skips))?;
        for (i, block) in self.up_blocks.iter().enumerate() {
            hidden = rec.scoped(format!("up_blocks.{i}"), |rec| block.forward(rec, hidden, condition, &mut skips))?;
        }
        hidden = rec.scoped("conv_norm_out", |rec| self.conv_norm_out.forward_silu(rec, hidden))?;
        rec.tap_as("silu(conv_norm_out)", hidden);
        rec.scoped("conv_out", |rec| {
            let out = rec.in_f32(|rec| self.conv_out.forward(rec, hidden, Epilogue::default()))?;
            Ok(rec.tap(self.conv_out.unpadded(out)))
        })
    }

    /// The way down and the middle; leaves every state on the way in `skips`.
    fn forward_down(
        &self,
        rec: &mut Recording,
        sample: Tensor,
        condition: Conditioning,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut hidden = rec.scoped("conv_in", |rec| {
            let hidden = self.conv_in.forward(rec, sample, Epilogue::default())?;
            Result::Ok(rec.tap(hidden))
        })?;
        skips.push(hidden);
        for (i, block) in self.down_blocks.iter().enumerate() {
            hidden = rec.scoped(format!("down_blocks.{i}"), |rec| block.forward(rec, hidden, condition, skips))?;
        }
        rec.scoped("mid_block", |rec| self.mid_block.forward(rec, hidden, condition))
    }
}
