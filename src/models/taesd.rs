//! `AutoencoderTiny` (TAESD): a small, fast autoencoder for the latents of Stable Diffusion.

use serde::Deserialize;

use super::config::{Bound, CHANNELS, LAYERS, MAX_LEVELS, OneOrMany, PLANES, Supported, expect, parse};
use super::{input, layout, names, new_recording};
use crate::nn::Conv2d;
use crate::ops::{self, Activation, Epilogue, elementwise};
use crate::record::{Caps, Recording, Shape, Tensor};
use crate::weights::Weights;
use crate::{Error, Place, Remedy, Result};

const SUPPORTED: &[Supported] = &[
    ("_class_name", r#"["AutoencoderTiny"]"#),
    ("act_fn", r#"["relu"]"#),
    ("upsample_fn", r#"["nearest"]"#),
    ("upsampling_scaling_factor", "[2]"),
];

const BOUNDS: &[Bound] = &[
    ("decoder_block_out_channels", 0.0, CHANNELS),
    ("encoder_block_out_channels", 0.0, CHANNELS),
    ("in_channels", 1.0, PLANES),
    ("latent_channels", 1.0, PLANES),
    ("latent_magnitude", 1e-6, 1e6),
    ("latent_shift", -1e6, 1e6),
    ("num_decoder_blocks", 0.0, LAYERS),
    ("num_encoder_blocks", 0.0, LAYERS),
    ("out_channels", 1.0, PLANES),
    ("scaling_factor", -1e6, 1e6),
];

/// What `config.json` says of a tiny autoencoder. Defaults are those of diffusers' `AutoencoderTiny`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderTinyConfig {
    /// Channels of the image given.
    pub in_channels: usize,
    /// Channels of the image made.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level of the encoder, the finest first; all equal.
    pub encoder_block_out_channels: OneOrMany,
    /// Channels of each level of the decoder, the coarsest first; all equal.
    pub decoder_block_out_channels: OneOrMany,
    /// Residual blocks of each level of the encoder; none where the file has no encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of each level of the decoder; none where the file has no decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// Latents for the UNet are latents times this.
    pub scaling_factor: f32,
    /// Half the range of latents that [`scale_latents`](Self::scale_latents) maps to 0…1.
    pub latent_magnitude: f32,
    /// What [`scale_latents`](Self::scale_latents) maps 0 to.
    pub latent_shift: f32,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        AutoencoderTinyConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            encoder_block_out_channels: OneOrMany::Many(vec![64; 4]),
            decoder_block_out_channels: OneOrMany::Many(vec![64; 4]),
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            scaling_factor: 1.0,
            latent_magnitude: 3.0,
            latent_shift: 0.5,
        }
    }
}

impl AutoencoderTinyConfig {
    /// Reads `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let config: AutoencoderTinyConfig = parse(text, origin, SUPPORTED, BOUNDS)?;
        config.widths()?;
        Ok(config)
    }

    /// Image pixels per latent pixel, in each direction.
    pub fn pixels_per_latent(&self) -> usize {
        1 << self.num_decoder_blocks.len().max(self.num_encoder_blocks.len()).saturating_sub(1)
    }

    /// Latents to 0…1, for storing them in 8 bits: `clamp(x / (2 · latent_magnitude) + latent_shift)`, in place.
    pub fn scale_latents(&self, latents: &mut [f32]) {
        let (magnitude, shift) = (self.latent_magnitude, self.latent_shift);
        latents.iter_mut().for_each(|x| *x = (*x / (2.0 * magnitude) + shift).clamp(0.0, 1.0));
    }

    /// The inverse of [`scale_latents`](Self::scale_latents) on 0…1, in place.
    pub fn unscale_latents(&self, latents: &mut [f32]) {
        let (magnitude, shift) = (self.latent_magnitude, self.latent_shift);
        latents.iter_mut().for_each(|x| *x = (*x - shift) * 2.0 * magnitude);
    }

    /// Channels of the encoder and of the decoder, as far as they are there.
    fn widths(&self) -> Result<(Option<usize>, Option<usize>)> {
        let width = |field: &str, channels: &OneOrMany, blocks: &[usize]| {
            let levels = channels.levels(field, blocks.len())?;
            let fits = |&c: &usize| c == levels[0] && c > 0 && c.is_multiple_of(4);
            expect(field, levels.iter().all(fits), || "equal multiples of 4".into())?;
            expect(field, levels.len() <= MAX_LEVELS, || format!("at most {MAX_LEVELS} levels"))?;
            Result::Ok(levels.first().copied())
        };
        let some = !(self.num_encoder_blocks.is_empty() && self.num_decoder_blocks.is_empty());
        expect("num_decoder_blocks", some, || "at least one level".into())?;
        Ok((
            width("encoder_block_out_channels", &self.encoder_block_out_channels, &self.num_encoder_blocks)?,
            width("decoder_block_out_channels", &self.decoder_block_out_channels, &self.num_decoder_blocks)?,
        ))
    }
}

/// The autoencoder. Encoder and decoder are lists of layers, as the checkpoint numbers them; one of them may not be there.
pub struct AutoencoderTiny {
    config: AutoencoderTinyConfig,
    encoder: Option<Vec<Layer>>,
    decoder: Option<Vec<Layer>>,
}

enum Layer {
    Conv(Conv2d, Activation),
    Down(Conv2d),
    Up(Conv2d),
    Block([Conv2d; 3]),
    /// A number without weights: the activation of the layer before, or the enlargement of the layer behind.
    Fused,
}

impl AutoencoderTiny {
    /// Loads the network from the root of its file.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for.
    pub fn load(config: AutoencoderTinyConfig, w: &Weights) -> Result<Self> {
        let (encoder_width, decoder_width) = config.widths()?;
        let vae = AutoencoderTiny {
            encoder: encoder_width.map(|c| load_encoder(&w.at("encoder.layers"), &config, c)).transpose()?,
            decoder: decoder_width.map(|c| load_decoder(&w.at("decoder.layers"), &config, c)).transpose()?,
            config,
        };
        w.finish(&[])?;
        Ok(vae)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.config
    }

    /// An image `[n, h, w, in_channels]` in -1…1 as the input [`names::IMAGE`]: the network itself works in 0…1.
    pub fn image_input(&self, image: &[f32]) -> Vec<f32> {
        let halves: Vec<f32> = image.iter().map(|x| (x + 1.0) / 2.0).collect();
        layout::pad_rows(&halves, self.config.in_channels)
    }

    /// The result of decoding, 0…1, as an image in -1…1, in place.
    pub fn image_output(&self, image: &mut [f32]) {
        image.iter_mut().for_each(|x| *x = *x * 2.0 - 1.0);
    }

    /// Records the encoder for images of `h` × `w` pixels. Input: [`names::IMAGE`]; output: [`names::OUT`], the latents
    /// `[n, h / 8, w / 8, latent_channels]`.
    ///
    /// # Errors
    /// When the file had no encoder, an extent is zero, or an operation refuses a shape.
    pub fn record_encode(&self, caps: &Caps, n: usize, h: usize, w: usize, taps: bool) -> Result<Recording> {
        let mut rec = new_recording(caps, taps);
        let shape = Shape::image(n, h, w, self.config.in_channels.next_multiple_of(4));
        let image = input(&mut rec, names::IMAGE, shape);
        let out = rec.scoped("encoder", |rec| forward(rec, half(&self.encoder, "encoder")?, image))?;
        rec.output(names::OUT, out.channels(0, self.config.latent_channels));
        Ok(rec)
    }

    /// Records the decoder for latents of `h` × `w` pixels. Input: [`names::LATENTS`]; output: [`names::OUT`], the image
    /// `[n, 8 h, 8 w, out_channels]`, for [`image_output`](Self::image_output).
    ///
    /// # Errors
    /// When the file had no decoder, an extent is zero, or an operation refuses a shape.
    pub fn record_decode(&self, caps: &Caps, n: usize, h: usize, w: usize, taps: bool) -> Result<Recording> {
        let mut rec = new_recording(caps, taps);
        let shape = Shape::image(n, h, w, self.config.latent_channels.next_multiple_of(4));
        let latents = input(&mut rec, names::LATENTS, shape);
        let clamped = elementwise(&mut rec, latents, Activation::ScaledTanh)?;
        let out = rec.scoped("decoder", |rec| forward(rec, half(&self.decoder, "decoder")?, clamped))?;
        rec.output(names::OUT, out.channels(0, self.config.out_channels));
        Ok(rec)
    }
}

fn half<'a>(layers: &'a Option<Vec<Layer>>, name: &str) -> Result<&'a [Layer]> {
    layers.as_deref().ok_or_else(|| {
        Error::model(format!("the autoencoder's file has no {name}, expected both halves"))
            .advise([Remedy::Name(Place::Vae)])
    })
}

fn load_block(w: &Weights, width: usize) -> Result<Layer> {
    let conv = |i: usize| Conv2d::load(&w.at("conv").at(i), width, width);
    Ok(Layer::Block([conv(0)?, conv(2)?, conv(4)?]))
}

fn load_encoder(w: &Weights, config: &AutoencoderTinyConfig, width: usize) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    for (level, &blocks) in config.num_encoder_blocks.iter().enumerate() {
        let at = w.at(layers.len());
        layers.push(match level {
            0 => Layer::Conv(Conv2d::load(&at, config.in_channels, width)?, Activation::None),
            _ => Layer::Down(Conv2d::load_without_bias(&at, width, width)?),
        });
        for _ in 0..blocks {
            layers.push(load_block(&w.at(layers.len()), width)?);
        }
    }
    layers.push(Layer::Conv(Conv2d::load(&w.at(layers.len()), width, config.latent_channels)?, Activation::None));
    Ok(layers)
}

fn load_decoder(w: &Weights, config: &AutoencoderTinyConfig, width: usize) -> Result<Vec<Layer>> {
    let first = Conv2d::load(&w.at(0), config.latent_channels, width)?;
    let mut layers = vec![Layer::Conv(first, Activation::Relu), Layer::Fused];
    for (level, &blocks) in config.num_decoder_blocks.iter().enumerate() {
        for _ in 0..blocks {
            layers.push(load_block(&w.at(layers.len()), width)?);
        }
        if level + 1 == config.num_decoder_blocks.len() {
            let last = Conv2d::load(&w.at(layers.len()), width, config.out_channels)?;
            layers.push(Layer::Conv(last, Activation::None));
        } else {
            layers.push(Layer::Fused);
            layers.push(Layer::Up(Conv2d::load_without_bias(&w.at(layers.len()), width, width)?));
        }
    }
    Ok(layers)
}

fn forward(rec: &mut Recording, layers: &[Layer], mut x: Tensor) -> Result<Tensor> {
    for (i, layer) in layers.iter().enumerate() {
        x = rec.scoped(format!("layers.{i}"), |rec| {
            let is_result = i + 1 == layers.len();
            let out = if is_result { rec.in_f32(|rec| layer.forward(rec, x))? } else { layer.forward(rec, x)? };
            // The checkpoint gives an activation and an enlargement a number of their own.
            match layer {
                Layer::Fused | Layer::Conv(_, Activation::Relu) => {}
                Layer::Conv(conv, _) => drop(rec.tap(conv.unpadded(out))),
                _ => drop(rec.tap(out)),
            }
            Result::Ok(out)
        })?;
    }
    Ok(x)
}

impl Layer {
    fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        let relu = Epilogue { activation: Activation::Relu, ..Epilogue::default() };
        match self {
            Layer::Conv(conv, activation) => {
                conv.forward(rec, x, Epilogue { activation: *activation, ..Epilogue::default() })
            }
            Layer::Down(conv) => {
                let geometry = ops::Conv2d { stride: 2, ..ops::Conv2d::SAME };
                conv.forward_as(rec, x, geometry, Epilogue::default())
            }
            Layer::Up(conv) => {
                let size = (2 * x.shape.h, 2 * x.shape.w);
                let geometry = ops::Conv2d { upsample_to: Some(size), ..ops::Conv2d::SAME };
                conv.forward_as(rec, x, geometry, Epilogue::default())
            }
            Layer::Block([first, second, third]) => {
                let hidden = rec.scoped("conv.0", |rec| first.forward(rec, x, relu))?;
                let hidden = rec.scoped("conv.2", |rec| second.forward(rec, hidden, relu))?;
                rec.scoped("conv.4", |rec| third.forward(rec, hidden, Epilogue { residual: Some(x), ..relu }))
            }
            Layer::Fused => Ok(x),
        }
    }
}
