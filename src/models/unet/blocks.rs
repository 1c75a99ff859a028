//! The levels of the UNet.

use super::config::{DownBlockType, Level, MidBlockType, UnetConfig, UpBlockType};
use crate::Result;
use crate::nn::{
    BlockTimes, Downsample2D, ResnetBlock2D, ResnetConfig, TimeBlocks, Transformer2D, Transformer2DConfig, Upsample2D,
};
use crate::ops::concat;
use crate::record::{Recording, Tensor};
use crate::weights::Weights;

/// What the levels of a network are loaded from.
pub(super) struct Loader<'c> {
    pub(super) config: &'c UnetConfig,
    /// The residual blocks so far that take the time.
    pub(super) times: TimeBlocks,
}

/// A residual block and its number among those that take the time.
struct Resnet {
    block: ResnetBlock2D,
    time: Option<usize>,
}

fn load_resnet(w: &Weights, loader: &mut Loader<'_>, i: usize, inner: usize, out: usize) -> Result<Resnet> {
    let config = loader.config;
    let w = w.at("resnets").at(i);
    let shared = ResnetConfig { groups: config.norm_num_groups, eps: config.norm_eps };
    let block = ResnetBlock2D::load(&w, inner, out, shared)?;
    Ok(Resnet { block, time: config.has_time().then(|| loader.times.add(&w, out)) })
}

fn load_attention(w: &Weights, config: &UnetConfig, i: usize, level: Level) -> Result<Transformer2D> {
    let shape = Transformer2DConfig {
        channels: level.channels,
        cross_attention_dim: config.cross_attention_dim,
        heads: level.heads,
        layers: level.transformer_layers,
        groups: config.norm_num_groups,
        use_linear_projection: config.use_linear_projection,
    };
    Transformer2D::load(&w.at("attentions").at(i), shape)
}

/// The states that the way down leaves for the way up.
pub(super) struct Skips {
    pub(super) states: Vec<Tensor>,
    /// How many of the first are computed even where features are kept: between them and their way back up lies what is left out.
    depth: Option<usize>,
}

impl Skips {
    pub(super) fn new(depth: Option<usize>) -> Self {
        Skips { states: Vec::new(), depth }
    }

    pub(super) fn push(&mut self, rec: &mut Recording, state: Tensor) {
        self.states.push(state);
        if self.depth == Some(self.states.len()) {
            rec.begin_deep();
        }
    }

    fn pop(&mut self, rec: &mut Recording) -> Tensor {
        if self.depth == Some(self.states.len()) {
            rec.end_deep();
        }
        self.states.pop().expect("the way down leaves one state for each residual block of the way up")
    }
}

/// What every residual block and attention of a call sees.
#[derive(Clone)]
pub(super) struct Conditioning {
    /// Text states `[n, 1, tokens, cross_attention_dim]`.
    pub(super) context: Tensor,
    /// What the time adds in each residual block.
    pub(super) times: Option<BlockTimes>,
    /// The share of tokens that images with so many pixels and more merge before they attend to themselves.
    pub(super) merging: Option<(f32, usize)>,
}

/// Residual block number `i`, then attention number `i` if the level has attentions.
fn layer(
    rec: &mut Recording,
    i: usize,
    resnet: &Resnet,
    attention: Option<&Transformer2D>,
    hidden: Tensor,
    condition: &Conditioning,
) -> Result<Tensor> {
    let time = resnet.time.and_then(|block| Some(condition.times.as_ref()?.of(block)));
    let hidden = rec.scoped(format!("resnets.{i}"), |rec| resnet.block.forward(rec, hidden, time))?;
    match attention {
        Some(attention) => {
            let pixels = hidden.shape.h * hidden.shape.w;
            let ratio = condition.merging.and_then(|(ratio, least)| (pixels >= least).then_some(ratio));
            rec.scoped(format!("attentions.{i}"), |rec| attention.forward(rec, hidden, condition.context, ratio))
        }
        None => Ok(hidden),
    }
}

pub(super) struct DownBlock {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer2D>,
    downsampler: Option<Downsample2D>,
}

impl DownBlock {
    /// Level `index`, which receives `inner` channels.
    pub(super) fn load(
        w: &Weights,
        loader: &mut Loader<'_>,
        index: usize,
        inner: usize,
        level: Level,
        downsamples: bool,
    ) -> Result<Self> {
        let config = loader.config;
        let attends = config.down_block_types[index] == DownBlockType::CrossAttnDownBlock2D;
        Ok(DownBlock {
            resnets: (0..level.layers)
                .map(|i| load_resnet(w, loader, i, if i == 0 { inner } else { level.channels }, level.channels))
                .collect::<Result<_>>()?,
            attentions: (0..if attends { level.layers } else { 0 })
                .map(|i| load_attention(w, config, i, level))
                .collect::<Result<_>>()?,
            downsampler: downsamples
                .then(|| Downsample2D::load(&w.at("downsamplers.0"), level.channels))
                .transpose()?,
        })
    }

    /// Leaves every intermediate state in `skips`, for the way up.
    pub(super) fn forward(
        &self,
        rec: &mut Recording,
        mut hidden: Tensor,
        condition: &Conditioning,
        skips: &mut Skips,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = layer(rec, i, resnet, self.attentions.get(i), hidden, condition)?;
            skips.push(rec, hidden);
        }
        if let Some(downsampler) = &self.downsampler {
            hidden = rec.scoped("downsamplers.0", |rec| downsampler.forward(rec, hidden))?;
            skips.push(rec, hidden);
        }
        Ok(rec.tap(hidden))
    }
}

/// What lies between the ways down and up, if anything.
pub(super) struct MidBlock {
    resnets: Vec<Resnet>,
    attention: Option<Transformer2D>,
}

impl MidBlock {
    pub(super) fn load(w: &Weights, loader: &mut Loader<'_>, level: Level) -> Result<Self> {
        let (resnets, attends) = match loader.config.mid_block_type {
            MidBlockType::UNetMidBlock2DCrossAttn => (2, true),
            MidBlockType::UNetMidBlock2D => (1, false),
            MidBlockType::Nothing => (0, false),
        };
        Ok(MidBlock {
            resnets: (0..resnets)
                .map(|i| load_resnet(w, loader, i, level.channels, level.channels))
                .collect::<Result<_>>()?,
            attention: attends.then(|| load_attention(w, loader.config, 0, level)).transpose()?,
        })
    }

    pub(super) fn forward(&self, rec: &mut Recording, mut hidden: Tensor, condition: &Conditioning) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let attention = self.attention.as_ref().filter(|_| i == 0);
            hidden = layer(rec, i, resnet, attention, hidden, condition)?;
        }
        // Without a block the state is the way down's own, which has its name already.
        Ok(if self.resnets.is_empty() { hidden } else { rec.tap(hidden) })
    }
}

pub(super) struct UpBlock {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer2D>,
    upsampler: Option<Upsample2D>,
}

impl UpBlock {
    /// Block `index` on the way up; `levels` are the finest first. Its residual blocks receive, beside the running
    /// state, the states that the same level left on the way down, the last of them from the next finer level.
    pub(super) fn load(w: &Weights, loader: &mut Loader<'_>, index: usize, levels: &[Level]) -> Result<Self> {
        let config = loader.config;
        let attends = config.up_block_types[index] == UpBlockType::CrossAttnUpBlock2D;
        let at = levels.len() - 1 - index;
        let level = levels[at];
        let coarser = levels[(at + 1).min(levels.len() - 1)].channels;
        let finer = levels[at.saturating_sub(1)].channels;
        let count = level.layers + 1;
        let inner = |i: usize| {
            let running = if i == 0 { coarser } else { level.channels };
            let skip = if i == count - 1 { finer } else { level.channels };
            running + skip
        };
        Ok(UpBlock {
            resnets: (0..count).map(|i| load_resnet(w, loader, i, inner(i), level.channels)).collect::<Result<_>>()?,
            attentions: (0..if attends { count } else { 0 })
                .map(|i| load_attention(w, config, i, level))
                .collect::<Result<_>>()?,
            upsampler: (at > 0).then(|| Upsample2D::load(&w.at("upsamplers.0"), level.channels)).transpose()?,
        })
    }

    /// How many states it takes of those that the way down leaves.
    pub(super) fn takes(&self) -> usize {
        self.resnets.len()
    }

    /// Takes from `skips` what the level left there. Enlarges to the size of the next state in `skips`, which is twice
    /// the size unless a side on the way down was odd.
    pub(super) fn forward(
        &self,
        rec: &mut Recording,
        mut hidden: Tensor,
        condition: &Conditioning,
        skips: &mut Skips,
    ) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop(rec);
            let joined = concat(rec, hidden, skip)?;
            hidden = layer(rec, i, resnet, self.attentions.get(i), joined, condition)?;
        }
        if let (Some(upsampler), Some(next)) = (&self.upsampler, skips.states.last()) {
            let size = (next.shape.h, next.shape.w);
            hidden = rec.scoped("upsamplers.0", |rec| rec.in_f32(|rec| upsampler.forward(rec, hidden, size)))?;
        }
        Ok(rec.tap(hidden))
    }
}
