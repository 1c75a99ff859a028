//! `AutoencoderKL`: images to latent distributions and back.

mod chain;

use serde::Deserialize;

use super::config::{Bound, CHANNELS, LAYERS, MAX_LEVELS, PLANES, SHARES, Supported, expect, parse};
use super::{input, layout, names, new_recording};
use crate::Result;
use crate::nn::{
    Conv2d, Downsample2D, GroupNorm, Linear, ProjectionNames, ResnetBlock2D, ResnetConfig, SelfAttention, Upsample2D,
};
use crate::ops::{self, Epilogue};
use crate::record::{Caps, Recording, Shape, Tensor};
use crate::weights::Weights;

/// Added to the variance in every norm (diffusers fixes it).
const EPS: f32 = 1e-6;

const SUPPORTED: &[Supported] = &[
    ("_class_name", r#"["AutoencoderKL"]"#),
    ("act_fn", r#"["silu", "swish"]"#),
    ("down_block_types", r#"["DownEncoderBlock2D"]"#),
    ("latents_mean", "[null]"),
    ("latents_std", "[null]"),
    ("up_block_types", r#"["UpDecoderBlock2D"]"#),
];

const BOUNDS: &[Bound] = &[
    ("block_out_channels", 1.0, CHANNELS),
    ("in_channels", 1.0, PLANES),
    ("latent_channels", 1.0, PLANES),
    ("layers_per_block", 1.0, LAYERS),
    ("norm_num_groups", 1.0, SHARES),
    ("out_channels", 1.0, PLANES),
    ("scaling_factor", -1e6, 1e6),
    ("shift_factor", -1e6, 1e6),
];

/// What `config.json` says of an autoencoder. Defaults are those of diffusers' `AutoencoderKL`, levels those of
/// Stable Diffusion.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of the image given.
    pub in_channels: usize,
    /// Channels of the image made.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, the finest first. Each level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of all norms.
    pub norm_num_groups: usize,
    /// Whether the middle has an attention.
    pub mid_block_add_attention: bool,
    /// Latents for the UNet are `(latents - shift_factor) · scaling_factor`.
    pub scaling_factor: f32,
    /// See [`scaling_factor`](Self::scaling_factor); none is 0.
    pub shift_factor: Option<f32>,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether half precision overflows: the model must then run with f32 storage.
    pub force_upcast: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        AutoencoderKlConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 1,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            force_upcast: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Reads `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let config: AutoencoderKlConfig = parse(text, origin, SUPPORTED, BOUNDS)?;
        config.check()?;
        Ok(config)
    }

    /// Image pixels per latent pixel, in each direction.
    pub fn pixels_per_latent(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Encoder latents to what the UNet works on: `(x - shift_factor) · scaling_factor`, in place.
    pub fn scale_latents(&self, latents: &mut [f32]) {
        let shift = self.shift_factor.unwrap_or(0.0);
        latents.iter_mut().for_each(|x| *x = (*x - shift) * self.scaling_factor);
    }

    /// The UNet's latents to what the decoder takes: `x / scaling_factor + shift_factor`, in place.
    pub fn unscale_latents(&self, latents: &mut [f32]) {
        let shift = self.shift_factor.unwrap_or(0.0);
        latents.iter_mut().for_each(|x| *x = *x / self.scaling_factor + shift);
    }

    fn check(&self) -> Result<()> {
        let groups = self.norm_num_groups;
        let fits = |&c: &usize| c > 0 && groups > 0 && c.is_multiple_of(groups) && c.is_multiple_of(4);
        let all = !self.block_out_channels.is_empty() && self.block_out_channels.iter().all(fits);
        let levels = self.block_out_channels.len();
        expect("block_out_channels", levels <= MAX_LEVELS, || format!("at most {MAX_LEVELS} levels"))?;
        expect("block_out_channels", all, || format!("multiples of 4 and of norm_num_groups = {groups}"))?;
        let finite = self.scaling_factor.is_finite() && self.scaling_factor != 0.0;
        expect("scaling_factor", finite, || "a number that is not 0".into())
    }

    fn resnet(&self) -> ResnetConfig {
        ResnetConfig { groups: self.norm_num_groups, eps: EPS }
    }

    fn coarsest(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }
}

/// The autoencoder.
pub struct AutoencoderKl {
    config: AutoencoderKlConfig,
    encoder: Encoder,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Loads the network from the root of its file. Attentions may have their names of before diffusers 0.14.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for.
    pub fn load(config: AutoencoderKlConfig, w: &Weights) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let quant = |name: &str, c: usize, used: bool| used.then(|| Linear::load_conv(&w.at(name), c, c)).transpose();
        let vae = AutoencoderKl {
            encoder: Encoder::load(&w.at("encoder"), &config)?,
            quant_conv: quant("quant_conv", 2 * latent, config.use_quant_conv)?,
            post_quant_conv: quant("post_quant_conv", latent, config.use_post_quant_conv)?,
            decoder: Decoder::load(&w.at("decoder"), &config)?,
            config,
        };
        w.finish(&[])?;
        Ok(vae)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }

    /// An image `[n, h, w, in_channels]` in -1…1 as the input [`names::IMAGE`].
    pub fn image_input(&self, image: &[f32]) -> Vec<f32> {
        layout::pad_rows(image, self.config.in_channels)
    }

    /// Records the encoder for images of `h` × `w` pixels. Input: [`names::IMAGE`]; output: [`names::OUT`], the moments
    /// `[n, h / 8, w / 8, 2 · latent_channels]`: means, then logarithms of variances, not clamped.
    ///
    /// # Errors
    /// When an extent is too small, or an operation refuses a shape.
    pub fn record_encode(&self, caps: &Caps, n: usize, h: usize, w: usize, taps: bool) -> Result<Recording> {
        let mut rec = new_recording(caps, taps);
        let shape = Shape::image(n, h, w, self.config.in_channels.next_multiple_of(4));
        let image = input(&mut rec, names::IMAGE, shape);
        // All of it is way down.
        let out = rec.in_f32(|rec| {
            let hidden = rec.scoped("encoder", |rec| self.encoder.enter(rec, image))?;
            self.encode_from(rec, hidden, 0)
        })?;
        rec.output(names::OUT, out);
        Ok(rec)
    }

    /// The encoder from the entry of a level on, to the moments.
    fn encode_from(&self, rec: &mut Recording, hidden: Tensor, level: usize) -> Result<Tensor> {
        let out = rec.scoped("encoder", |rec| self.encoder.forward(rec, hidden, level))?;
        let out = match &self.quant_conv {
            Some(conv) => linear(rec, "quant_conv", conv, out)?,
            None => out,
        };
        Ok(out.channels(0, 2 * self.config.latent_channels))
    }

    /// Records the decoder for latents of `h` × `w` pixels. Input: [`names::LATENTS`], as
    /// [`unscale_latents`](AutoencoderKlConfig::unscale_latents) gives them; output: [`names::OUT`], the image
    /// `[n, 8 h, 8 w, out_channels]` in -1…1, not clamped.
    ///
    /// # Errors
    /// When an extent is zero, or an operation refuses a shape.
    pub fn record_decode(&self, caps: &Caps, n: usize, h: usize, w: usize, taps: bool) -> Result<Recording> {
        let mut rec = new_recording(caps, taps);
        let shape = Shape::image(n, h, w, self.config.latent_channels.next_multiple_of(4));
        let latents = input(&mut rec, names::LATENTS, shape);
        let hidden = self.decode_to(&mut rec, latents, self.decoder.up_blocks.len())?;
        let out = rec.scoped("decoder", |rec| self.decoder.leave(rec, hidden, None))?;
        rec.output(names::OUT, out);
        Ok(rec)
    }

    /// The decoder's middle and first `blocks` blocks on the way up, of these the last without what enlarges its result.
    fn decode_to(&self, rec: &mut Recording, mut hidden: Tensor, blocks: usize) -> Result<Tensor> {
        if let Some(conv) = &self.post_quant_conv {
            hidden = rec.in_f32(|rec| linear(rec, "post_quant_conv", conv, hidden))?;
        }
        rec.scoped("decoder", |rec| self.decoder.forward(rec, hidden, blocks))
    }
}

fn linear(rec: &mut Recording, name: &str, layer: &Linear, x: Tensor) -> Result<Tensor> {
    rec.scoped(name, |rec| {
        let out = layer.forward(rec, x, Epilogue::default())?;
        Ok(rec.tap(out))
    })
}

fn conv(rec: &mut Recording, name: &str, layer: &Conv2d, x: Tensor) -> Result<Tensor> {
    rec.scoped(name, |rec| {
        let out = layer.forward(rec, x, Epilogue::default())?;
        rec.tap(layer.unpadded(out));
        Ok(out)
    })
}

/// The last norm (of a part of a map, by given moments), SiLU and convolution of either half.
fn finish(rec: &mut Recording, norm: &GroupNorm, out: &Conv2d, x: Tensor, moments: Option<Tensor>) -> Result<Tensor> {
    let hidden = rec.scoped("conv_norm_out", |rec| norm.forward_silu_by(rec, x, moments))?;
    rec.tap_as("silu(conv_norm_out)", hidden);
    rec.in_f32(|rec| conv(rec, "conv_out", out, hidden))
}

struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<(Vec<ResnetBlock2D>, Option<Downsample2D>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(w: &Weights, config: &AutoencoderKlConfig) -> Result<Self> {
        let channels = &config.block_out_channels;
        let block = |i: usize| {
            let w = w.at("down_blocks").at(i);
            let inner = channels[i.saturating_sub(1)];
            let downsampler = (i + 1 < channels.len())
                .then(|| Downsample2D::load_asymmetric(&w.at("downsamplers.0"), channels[i]))
                .transpose()?;
            Ok((load_resnets(&w, config, config.layers_per_block, inner, channels[i])?, downsampler))
        };
        Ok(Encoder {
            conv_in: Conv2d::load(&w.at("conv_in"), config.in_channels, channels[0])?,
            down_blocks: (0..channels.len()).map(block).collect::<Result<_>>()?,
            mid_block: MidBlock::load(&w.at("mid_block"), config)?,
            conv_norm_out: GroupNorm::load(&w.at("conv_norm_out"), config.coarsest(), config.norm_num_groups, EPS)?,
            conv_out: Conv2d::load(&w.at("conv_out"), config.coarsest(), 2 * config.latent_channels)?,
        })
    }

    fn enter(&self, rec: &mut Recording, image: Tensor) -> Result<Tensor> {
        conv(rec, "conv_in", &self.conv_in, image)
    }

    /// All that follows the entry of a level.
    fn forward(&self, rec: &mut Recording, mut hidden: Tensor, level: usize) -> Result<Tensor> {
        for (i, (resnets, downsampler)) in self.down_blocks.iter().enumerate().skip(level) {
            hidden = rec.scoped(format!("down_blocks.{i}"), |rec| {
                let mut hidden = forward_resnets(rec, resnets, hidden)?;
                if let Some(downsampler) = downsampler {
                    hidden = rec.scoped("downsamplers.0", |rec| downsampler.forward(rec, hidden))?;
                }
                Result::Ok(rec.tap(hidden))
            })?;
        }
        hidden = rec.scoped("mid_block", |rec| self.mid_block.forward(rec, hidden))?;
        finish(rec, &self.conv_norm_out, &self.conv_out, hidden, None)
    }
}

struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<(Vec<ResnetBlock2D>, Option<Upsample2D>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(w: &Weights, config: &AutoencoderKlConfig) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let finest = config.block_out_channels[0];
        let block = |i: usize| {
            let w = w.at("up_blocks").at(i);
            let inner = channels[i.saturating_sub(1)];
            let upsampler =
                (i + 1 < channels.len()).then(|| Upsample2D::load(&w.at("upsamplers.0"), channels[i])).transpose()?;
            Ok((load_resnets(&w, config, config.layers_per_block + 1, inner, channels[i])?, upsampler))
        };
        Ok(Decoder {
            conv_in: Conv2d::load(&w.at("conv_in"), config.latent_channels, config.coarsest())?,
            mid_block: MidBlock::load(&w.at("mid_block"), config)?,
            up_blocks: (0..channels.len()).map(block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::load(&w.at("conv_norm_out"), finest, config.norm_num_groups, EPS)?,
            conv_out: Conv2d::load(&w.at("conv_out"), finest, config.out_channels)?,
        })
    }

    /// The middle and the first `blocks` blocks on the way up, of these the last without what enlarges its result.
    fn forward(&self, rec: &mut Recording, latents: Tensor, blocks: usize) -> Result<Tensor> {
        let mut hidden = rec.in_f32(|rec| {
            let hidden = conv(rec, "conv_in", &self.conv_in, latents)?;
            rec.scoped("mid_block", |rec| self.mid_block.forward(rec, hidden))
        })?;
        for (i, (resnets, _)) in self.up_blocks.iter().enumerate().take(blocks) {
            hidden = rec.scoped(format!("up_blocks.{i}"), |rec| {
                let mut hidden = forward_resnets(rec, resnets, hidden)?;
                if i + 1 < blocks {
                    hidden = self.enlarge(rec, i, hidden)?;
                }
                Result::Ok(rec.tap(hidden))
            })?;
        }
        Ok(hidden)
    }

    /// The end of block `block`, in its scope.
    fn enlarge(&self, rec: &mut Recording, block: usize, hidden: Tensor) -> Result<Tensor> {
        let Some(upsampler) = &self.up_blocks[block].1 else { return Ok(hidden) };
        let size = (2 * hidden.shape.h, 2 * hidden.shape.w);
        let enlarge = |rec: &mut Recording| upsampler.forward(rec, hidden, size);
        // Of the finest level, the stream is f16 too: no larger tensors, and little behind them.
        let is_next_finest = block + 2 == self.up_blocks.len();
        rec.scoped("upsamplers.0", |rec| if is_next_finest { enlarge(rec) } else { rec.in_f32(enlarge) })
    }

    /// From the finest level's map to the picture.
    fn leave(&self, rec: &mut Recording, hidden: Tensor, moments: Option<Tensor>) -> Result<Tensor> {
        let out = finish(rec, &self.conv_norm_out, &self.conv_out, hidden, moments)?;
        Ok(self.conv_out.unpadded(out))
    }
}

fn load_resnets(
    w: &Weights,
    config: &AutoencoderKlConfig,
    count: usize,
    inner: usize,
    out: usize,
) -> Result<Vec<ResnetBlock2D>> {
    (0..count)
        .map(|i| ResnetBlock2D::load(&w.at("resnets").at(i), if i == 0 { inner } else { out }, out, config.resnet()))
        .collect()
}

fn forward_resnets(rec: &mut Recording, resnets: &[ResnetBlock2D], mut hidden: Tensor) -> Result<Tensor> {
    for (i, resnet) in resnets.iter().enumerate() {
        hidden = rec.scoped(format!("resnets.{i}"), |rec| resnet.forward(rec, hidden, None))?;
    }
    Ok(hidden)
}

struct MidBlock {
    resnets: Vec<ResnetBlock2D>,
    attention: Option<ImageAttention>,
}

impl MidBlock {
    fn load(w: &Weights, config: &AutoencoderKlConfig) -> Result<Self> {
        let channels = config.coarsest();
        Ok(MidBlock {
            resnets: load_resnets(w, config, 2, channels, channels)?,
            attention: config
                .mid_block_add_attention
                .then(|| ImageAttention::load(&w.at("attentions.0"), channels, config.norm_num_groups))
                .transpose()?,
        })
    }

    fn forward(&self, rec: &mut Recording, mut hidden: Tensor) -> Result<Tensor> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = rec.scoped(format!("resnets.{i}"), |rec| resnet.forward(rec, hidden, None))?;
            if let (0, Some(attention)) = (i, &self.attention) {
                hidden = rec.scoped("attentions.0", |rec| attention.forward(rec, hidden))?;
            }
        }
        Ok(rec.tap(hidden))
    }
}

/// One head over all pixels, around a residual.
struct ImageAttention {
    group_norm: GroupNorm,
    attention: SelfAttention,
}

impl ImageAttention {
    fn load(w: &Weights, channels: usize, groups: usize) -> Result<Self> {
        let old = w.contains("query.weight");
        let names = if old { ProjectionNames::DIFFUSERS_OLD } else { ProjectionNames::DIFFUSERS };
        let attention = ops::Attention { heads: 1, causal: false };
        Ok(ImageAttention {
            group_norm: GroupNorm::load(&w.at("group_norm"), channels, groups, EPS)?,
            attention: SelfAttention::load(w, names, channels, attention, true)?,
        })
    }

    fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        let normed = rec.scoped("group_norm", |rec| self.group_norm.forward(rec, x))?;
        let out = self.attention.forward(rec, normed, x)?;
        Ok(rec.tap(out))
    }
}
