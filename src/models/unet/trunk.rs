//! What a UNet and its ControlNets have in common: the way down and the middle, and what tells them the time.

use super::UnetConfig;
use super::blocks::{Conditioning, DownBlock, Loader, MidBlock, Skips};
use crate::Result;
use crate::models::{input, names};
use crate::nn::{Conv2d, TimeBlocks, TimeProjections, TimestepEmbedding};
use crate::ops::{Activation, Epilogue, elementwise};
use crate::record::{Recording, Shape, Tensor};
use crate::weights::Weights;

/// Everything before the way up.
pub(super) struct Trunk {
    conv_in: Conv2d,
    time_embedding: Option<TimestepEmbedding>,
    add_embedding: Option<TimestepEmbedding>,
    pub(super) down_blocks: Vec<DownBlock>,
    pub(super) mid_block: MidBlock,
    /// Of the residual blocks here, and of those that the network has besides.
    time_projections: Option<TimeProjections>,
}

/// The inputs of a recording that every network in it reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    /// Latents `[n, h, w, in_channels]`.
    pub(super) sample: Tensor,
    /// Text states `[n, 1, tokens, cross_attention_dim]`.
    pub(super) context: Tensor,
    time_proj: Option<Tensor>,
    timestep_cond: Option<Tensor>,
    add_embeds: Option<Tensor>,
}

impl Inputs {
    /// Those that a network of this config reads: `n` images of `[h, w]`, `tokens` text states each.
    pub(super) fn record(
        rec: &mut Recording,
        config: &UnetConfig,
        [n, h, w]: [usize; 3],
        tokens: usize,
    ) -> Result<Self> {
        let vector = |c: usize| Shape::image(n, 1, 1, c.next_multiple_of(4));
        let sample = input(rec, names::SAMPLE, Shape::image(n, h, w, config.in_channels.next_multiple_of(4)));
        let context = Shape::tokens(n, tokens, config.cross_attention_dim.next_multiple_of(4));
        let context = input(rec, names::ENCODER_HIDDEN_STATES, context);
        let mut inputs = Inputs { sample, context, time_proj: None, timestep_cond: None, add_embeds: None };
        if config.has_time() {
            inputs.time_proj = Some(input(rec, names::TIME_PROJ, vector(config.block_out_channels[0])));
            inputs.timestep_cond = config.time_cond_proj_dim.map(|dim| input(rec, names::TIMESTEP_COND, vector(dim)));
            inputs.add_embeds = config.add_embeds_dim()?.map(|dim| input(rec, names::ADD_EMBEDS, vector(dim)));
        }
        Ok(inputs)
    }

    /// What ControlNets see of them: latents without what an inpainting UNet is shown besides.
    pub(super) fn of_controls(self, rec: &mut Recording, config: &UnetConfig) -> Self {
        if config.in_channels == config.out_channels {
            return self;
        }
        let shape = Shape { c: config.out_channels.next_multiple_of(4), ..self.sample.shape };
        Inputs { sample: input(rec, names::CONTROL_SAMPLE, shape), ..self }
    }
}

impl Trunk {
    /// The trunk, and what `rest` loads of the network behind it.
    pub(super) fn load<T>(
        config: &UnetConfig,
        w: &Weights,
        rest: impl FnOnce(&mut Loader<'_>) -> Result<T>,
    ) -> Result<(Self, T)> {
        let mut loader = Loader { config, times: TimeBlocks::default() };
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
                DownBlock::load(&w.at("down_blocks").at(i), &mut loader, i, inner, levels[i], i < last)
            })
            .collect::<Result<_>>()?;
        let mid_block = MidBlock::load(&w.at("mid_block"), &mut loader, coarsest)?;
        let rest = rest(&mut loader)?;
        let projections = |dim| TimeProjections::load(w, &loader.times, dim);
        let trunk = Trunk {
            time_projections: time_embed_dim.map(projections).transpose()?,
            conv_in: Conv2d::load(&w.at("conv_in"), config.in_channels, finest.channels)?,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
        };
        Ok((trunk, rest))
    }

    /// The first convolution.
    pub(super) fn enter(&self, rec: &mut Recording, sample: Tensor) -> Result<Tensor> {
        rec.scoped("conv_in", |rec| {
            let hidden = self.conv_in.forward(rec, sample, Epilogue::default())?;
            Ok(rec.tap(hidden))
        })
    }

    /// What every block sees: the text, and what each residual block makes of the time.
    pub(super) fn condition(&self, rec: &mut Recording, inputs: &Inputs) -> Result<Conditioning> {
        let times = rec.in_f32(|rec| {
            let (Some(projections), Some(emb)) = (&self.time_projections, self.time(rec, inputs)?) else {
                return Ok(None);
            };
            rec.scoped("time_emb_proj", |rec| projections.forward(rec, emb)).map(Some)
        })?;
        Ok(Conditioning { context: inputs.context, times, merging: None })
    }

    /// SiLU of the time embedding, `[n, 1, 1, time_embed_dim]`.
    fn time(&self, rec: &mut Recording, inputs: &Inputs) -> Result<Option<Tensor>> {
        let (Some(time_embedding), Some(time_proj)) = (&self.time_embedding, inputs.time_proj) else {
            return Ok(None);
        };
        let mut emb = rec.scoped("time_embedding", |rec| {
            let emb = time_embedding.forward(rec, time_proj, inputs.timestep_cond, None)?;
            Result::Ok(rec.tap(emb))
        })?;
        if let (Some(add_embedding), Some(add_embeds)) = (&self.add_embedding, inputs.add_embeds) {
            emb = rec.scoped("add_embedding", |rec| add_embedding.forward(rec, add_embeds, None, Some(emb)))?;
            rec.tap_as("add_embedding + time_embedding", emb);
        }
        elementwise(rec, emb, Activation::Silu).map(Some)
    }

    /// Level `i` of the way down; leaves every state on the way in `skips`.
    pub(super) fn down(
        &self,
        rec: &mut Recording,
        i: usize,
        hidden: Tensor,
        condition: &Conditioning,
        skips: &mut Skips,
    ) -> Result<Tensor> {
        rec.scoped(format!("down_blocks.{i}"), |rec| self.down_blocks[i].forward(rec, hidden, condition, skips))
    }

    pub(super) fn mid(&self, rec: &mut Recording, hidden: Tensor, condition: &Conditioning) -> Result<Tensor> {
        rec.scoped("mid_block", |rec| self.mid_block.forward(rec, hidden, condition))
    }
}
