//! ControlNets: a copy of a UNet's way down that sees a picture, too, and adds to the UNet's states (Zhang et al., arXiv 2302.05543; the
//! arithmetic is that of diffusers' `ControlNetModel`).

use serde::Deserialize;

use super::UnetConfig;
use super::blocks::Skips;
use super::config::{BOUNDS, SUPPORTED_BESIDE_CLASS, UpBlockType};
use super::trunk::{Inputs, Trunk};
use crate::models::config::{Bound, CHANNELS, MAX_LEVELS, Supported, expect, parse};
use crate::models::{input, names, new_recording};
use crate::nn::{Conv2d, Linear};
use crate::ops::{self, Activation, Epilogue, Scales, add_scaled};
use crate::record::{Caps, Recording, Shape, Tensor};
use crate::weights::Weights;
use crate::{Error, Result};

const SUPPORTED: &[Supported] = &[
    ("_class_name", r#"["ControlNetModel"]"#),
    ("conditioning_channels", "[3]"),
    ("mid_block_type", r#"["UNetMidBlock2DCrossAttn"]"#),
    ("controlnet_conditioning_channel_order", r#"["rgb", "bgr"]"#),
    ("global_pool_conditions", "[false]"),
];

const OWN_BOUNDS: &[Bound] = &[("conditioning_embedding_out_channels", 1.0, CHANNELS)];

/// What `config.json` says of a ControlNet.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetConfig {
    /// The way down: that of the UNet which it was made for. Its way up is not there.
    pub unet: UnetConfig,
    /// Channels of the convolutions over the picture, each after the first at half the size.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Whether the picture's channels are blue, green, red.
    pub is_bgr: bool,
}

#[derive(Deserialize)]
#[serde(default)]
struct Own {
    conditioning_embedding_out_channels: Vec<usize>,
    controlnet_conditioning_channel_order: String,
}

impl Default for Own {
    fn default() -> Self {
        Own {
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: "rgb".into(),
        }
    }
}

impl ControlNetConfig {
    /// Reads `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let own: Own = parse(text, origin, SUPPORTED, OWN_BOUNDS)?;
        let mut unet: UnetConfig = parse(text, origin, SUPPORTED_BESIDE_CLASS, BOUNDS)?;
        unet.up_block_types = vec![UpBlockType::UpBlock2D; unet.block_out_channels.len()];
        unet.levels()?;
        let channels = own.conditioning_embedding_out_channels;
        let sound = (1..=MAX_LEVELS).contains(&channels.len()) && !channels.contains(&0);
        expect("conditioning_embedding_out_channels", sound, || format!("1 to {MAX_LEVELS} numbers above 0"))?;
        let is_bgr = own.controlnet_conditioning_channel_order == "bgr";
        Ok(ControlNetConfig { unet, conditioning_embedding_out_channels: channels, is_bgr })
    }

    /// Pixels of the picture along a latent pixel.
    pub fn pixels_per_latent(&self) -> usize {
        1 << (self.conditioning_embedding_out_channels.len() - 1)
    }

    /// Why a net of this config does not go with a UNet; `None` if it does.
    pub fn misfit(&self, unet: &UnetConfig) -> Option<String> {
        let own = &self.unet;
        let levels = |config: &UnetConfig| {
            let levels = config.levels().unwrap_or_default();
            levels.iter().map(|level| (level.channels, level.layers)).collect::<Vec<_>>()
        };
        let differs = |what: &str, own: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| {
            Some(format!("the UNet has {what} {other:?}, the net {own:?}"))
        };
        if own.cross_attention_dim != unet.cross_attention_dim {
            return differs("text states of width", &own.cross_attention_dim, &unet.cross_attention_dim);
        }
        if own.block_out_channels != unet.block_out_channels {
            return differs("levels of channels", &own.block_out_channels, &unet.block_out_channels);
        }
        if levels(own) != levels(unet) {
            return differs("levels of (channels, blocks)", &levels(own), &levels(unet));
        }
        if own.in_channels != unet.out_channels {
            return differs("latent channels", &own.in_channels, &unet.out_channels);
        }
        let added = |config: &UnetConfig| config.add_embeds_dim().ok().flatten();
        (added(own) != added(unet)).then(|| {
            let words = |dim: Option<usize>| dim.map_or("nothing".into(), |dim| format!("{dim} values"));
            format!("beside the time the UNet is told {}, the net {}", words(added(unet)), words(added(own)))
        })
    }
}

/// `ControlNetModel` of diffusers.
pub struct ControlNet {
    config: ControlNetConfig,
    trunk: Trunk,
    cond_embedding: Vec<Conv2d>,
    down: Vec<Linear>,
    mid: Linear,
}

impl ControlNet {
    /// Loads the network from the root of its file.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for; when heads do not divide channels.
    pub fn load(config: ControlNetConfig, w: &Weights) -> Result<Self> {
        let levels = config.unet.levels()?;
        let (last, coarsest) = (levels.len() - 1, levels[levels.len() - 1].channels);
        let embedding = w.at("controlnet_cond_embedding");
        let widths = &config.conditioning_embedding_out_channels;
        let mut cond_embedding = vec![Conv2d::load(&embedding.at("conv_in"), 3, widths[0])?];
        for (i, pair) in widths.windows(2).enumerate() {
            let block = |j: usize| embedding.at("blocks").at(2 * i + j);
            cond_embedding.push(Conv2d::load(&block(0), pair[0], pair[0])?);
            cond_embedding.push(Conv2d::load(&block(1), pair[0], pair[1])?);
        }
        cond_embedding.push(Conv2d::load(&embedding.at("conv_out"), widths[widths.len() - 1], levels[0].channels)?);
        // The first convolution, then of each level its blocks and what halves the size.
        let states = levels
            .iter()
            .enumerate()
            .flat_map(|(i, level)| std::iter::repeat_n(level.channels, level.layers + usize::from(i < last)));
        let zero = |(i, channels)| Linear::load_conv(&w.at("controlnet_down_blocks").at(i), channels, channels);
        let net = ControlNet {
            trunk: Trunk::load(&config.unet, w, |_| Ok(()))?.0,
            cond_embedding,
            down: std::iter::once(levels[0].channels).chain(states).enumerate().map(zero).collect::<Result<_>>()?,
            mid: Linear::load_conv(&w.at("controlnet_mid_block"), coarsest, coarsest)?,
            config,
        };
        w.finish(&[])?;
        Ok(net)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// States that the net adds to: those on the way down, and the middle's.
    pub fn sites(&self) -> usize {
        self.down.len() + 1
    }

    /// Checks that the net was made for a UNet of this shape.
    ///
    /// # Errors
    /// [`Error::Model`] naming the first number that differs.
    pub fn check(&self, unet: &UnetConfig) -> Result<()> {
        self.config.misfit(unet).map_or(Ok(()), |reason| {
            Err(Error::model(format!(
                "expected a ControlNet for this model's UNet, got one for another family: {reason}"
            )))
        })
    }

    /// Records the net alone: inputs as [`Unet::record`](super::Unet::record) and [`names::control_image`] of net 0; outputs
    /// `controlnet_down_blocks.N` and `controlnet_mid_block`, not scaled. With `taps`, every module's result too.
    ///
    /// # Errors
    /// When an extent is zero, or an operation refuses a shape.
    pub fn record(&self, caps: &Caps, [n, h, w]: [usize; 3], tokens: usize, taps: bool) -> Result<Recording> {
        let mut recording = new_recording(caps, taps);
        let rec = &mut recording;
        let inputs = Inputs::record(rec, &self.config.unet, [n, h, w], tokens)?;
        rec.in_f32(|rec| {
            self.forward(rec, 0, &inputs, |rec, site, added| {
                let of_mid = site == self.down.len();
                let name = || format!("controlnet_down_blocks.{site}");
                rec.output(if of_mid { "controlnet_mid_block".into() } else { name() }, added);
                Ok(())
            })
        })?;
        Ok(recording)
    }

    /// Adds what net number `index` of a recording makes to a UNet's states on the way down and to its middle's.
    pub(super) fn add(
        &self,
        rec: &mut Recording,
        index: usize,
        inputs: &Inputs,
        skips: &mut [Tensor],
        mid: &mut Tensor,
    ) -> Result<()> {
        let shape = Shape::image(inputs.sample.shape.n, 1, 1, self.sites().next_multiple_of(4));
        let vectors = input(rec, &names::control_scales(index), shape);
        self.forward(rec, index, inputs, |rec, site, added| {
            let state = skips.get_mut(site).unwrap_or(mid);
            *state = add_scaled(rec, *state, added, Some(Scales { vectors, at: site }))?;
            Ok(())
        })
    }

    /// Gives each result to `take` as soon as it is there, so that few are in memory at once.
    fn forward(
        &self,
        rec: &mut Recording,
        index: usize,
        inputs: &Inputs,
        mut take: impl FnMut(&mut Recording, usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let condition = self.trunk.condition(rec, inputs)?;
        let picture = self.embed(rec, index, inputs.sample.shape)?;
        let entered = self.trunk.enter(rec, inputs.sample)?;
        let mut hidden = add_scaled(rec, entered, picture, None)?;
        let (mut states, mut taken) = (Skips::new(None), 0);
        states.push(rec, hidden);
        let zero = |rec: &mut Recording, name: String, conv: &Linear, state: Tensor| {
            rec.scoped(name, |rec| conv.forward(rec, state, Epilogue::default()))
        };
        for level in 0..=self.trunk.down_blocks.len() {
            for &state in &states.states[taken..] {
                let added = zero(rec, format!("controlnet_down_blocks.{taken}"), &self.down[taken], state)?;
                take(rec, taken, added)?;
                taken += 1;
            }
            if level < self.trunk.down_blocks.len() {
                hidden = self.trunk.down(rec, level, hidden, &condition, &mut states)?;
            }
        }
        let hidden = self.trunk.mid(rec, hidden, &condition)?;
        let added = zero(rec, "controlnet_mid_block".into(), &self.mid, hidden)?;
        take(rec, taken, added)
    }

    /// The picture `[1, h · 8, w · 8, 3]` at the latents' size, `[1, h, w, channels of the finest level]`.
    fn embed(&self, rec: &mut Recording, index: usize, latents: Shape) -> Result<Tensor> {
        let factor = self.config.pixels_per_latent();
        let shape = Shape::image(1, latents.h * factor, latents.w * factor, 4);
        let image = input(rec, &names::control_image(index), shape);
        let last = self.cond_embedding.len() - 1;
        let mut hidden = image;
        // The picture is the same in every step.
        let embed = |rec: &mut Recording| {
            for (i, conv) in self.cond_embedding.iter().enumerate() {
                // conv_in, then pairs of which the second halves the size, then conv_out.
                let stride = if i > 0 && i < last && i % 2 == 0 { 2 } else { 1 };
                let geometry = ops::Conv2d { stride, ..ops::Conv2d::SAME };
                let activation = if i < last { Activation::Silu } else { Activation::None };
                let epilogue = Epilogue { activation, ..Epilogue::default() };
                hidden = conv.forward_as(rec, hidden, geometry, epilogue)?;
            }
            Ok(rec.tap(hidden))
        };
        rec.scoped("controlnet_cond_embedding", |rec| rec.once(&[image], embed))
    }
}
