//! Whichever autoencoder a model has.

use std::sync::Arc;

use super::{AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig};
use crate::record::{Caps, PixelRange, Recording};
use crate::weights::Weights;
use crate::{Error, Result};

/// An autoencoder for the latents of Stable Diffusion.
pub enum Autoencoder {
    /// The one that a model was trained with.
    Kl(Arc<AutoencoderKl>),
    /// A small one for the same latents.
    Tiny(Box<AutoencoderTiny>),
}

/// What an encoder gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderOutput {
    /// Means and logarithms of variances.
    Moments,
    /// The latents themselves.
    Latents,
}

/// What a `config.json` says of either.
enum Config {
    Kl(AutoencoderKlConfig),
    Tiny(AutoencoderTinyConfig),
}

impl Config {
    fn read(config: &str, origin: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(config)
            .map_err(|e| Error::model(format!("{origin}: not JSON: {e}")).in_file(origin))?;
        match value["_class_name"].as_str() {
            Some("AutoencoderTiny") => AutoencoderTinyConfig::from_json(config, origin).map(Config::Tiny),
            _ => AutoencoderKlConfig::from_json(config, origin).map(Config::Kl),
        }
    }
}

impl Autoencoder {
    /// Loads the network that `config.json` names; `origin` names that file in messages.
    ///
    /// # Errors
    /// As [`AutoencoderKl::load`] and [`AutoencoderTiny::load`]; when the class is another.
    pub fn load(config: &str, origin: &str, weights: &Weights) -> Result<Self> {
        Ok(match Config::read(config, origin)? {
            Config::Tiny(config) => Autoencoder::Tiny(Box::new(AutoencoderTiny::load(config, weights)?)),
            Config::Kl(config) => Autoencoder::Kl(Arc::new(AutoencoderKl::load(config, weights)?)),
        })
    }

    /// [`pixels_per_latent`](Self::pixels_per_latent) of the network that `config.json` names.
    ///
    /// # Errors
    /// When the text is no such configuration.
    pub fn pixels_per_latent_of(config: &str, origin: &str) -> Result<usize> {
        Ok(match Config::read(config, origin)? {
            Config::Tiny(config) => config.pixels_per_latent(),
            Config::Kl(config) => config.pixels_per_latent(),
        })
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Autoencoder::Kl(vae) => vae.config().latent_channels,
            Autoencoder::Tiny(vae) => vae.config().latent_channels,
        }
    }

    /// Image pixels per latent pixel, in each direction.
    pub fn pixels_per_latent(&self) -> usize {
        match self {
            Autoencoder::Kl(vae) => vae.config().pixels_per_latent(),
            Autoencoder::Tiny(vae) => vae.config().pixels_per_latent(),
        }
    }

    /// What [`record_encode`](Self::record_encode) gives.
    pub fn encodes(&self) -> EncoderOutput {
        match self {
            Autoencoder::Kl(_) => EncoderOutput::Moments,
            Autoencoder::Tiny(_) => EncoderOutput::Latents,
        }
    }

    /// Encoder latents to what the UNet works on, in place.
    pub fn scale_latents(&self, latents: &mut [f32]) {
        match self {
            Autoencoder::Kl(vae) => vae.config().scale_latents(latents),
            Autoencoder::Tiny(vae) => {
                let factor = vae.config().scaling_factor;
                latents.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }

    /// The UNet's latents to what the decoder takes, in place.
    pub fn unscale_latents(&self, latents: &mut [f32]) {
        match self {
            Autoencoder::Kl(vae) => vae.config().unscale_latents(latents),
            Autoencoder::Tiny(vae) => {
                let factor = vae.config().scaling_factor;
                latents.iter_mut().for_each(|x| *x /= factor);
            }
        }
    }

    /// An image `[n, h, w, 3]` in -1…1 as the encoder's input.
    pub fn image_input(&self, image: &[f32]) -> Vec<f32> {
        match self {
            Autoencoder::Kl(vae) => vae.image_input(image),
            Autoencoder::Tiny(vae) => vae.image_input(image),
        }
    }

    /// The decoder's output as an image in -1…1, in place.
    pub fn image_output(&self, image: &mut [f32]) {
        match self {
            Autoencoder::Kl(_) => {}
            Autoencoder::Tiny(vae) => vae.image_output(image),
        }
    }

    /// Which values of the decoder's output are black and white.
    pub fn pixel_range(&self) -> PixelRange {
        match self {
            Autoencoder::Kl(_) => PixelRange::Signed,
            Autoencoder::Tiny(_) => PixelRange::FromZero,
        }
    }

    /// Records the encoder, as [`AutoencoderKl::record_encode`] and [`AutoencoderTiny::record_encode`].
    ///
    /// # Errors
    /// As those.
    pub fn record_encode(&self, caps: &Caps, n: usize, h: usize, w: usize) -> Result<Recording> {
        match self {
            Autoencoder::Kl(vae) => vae.record_encode(caps, n, h, w, false),
            Autoencoder::Tiny(vae) => vae.record_encode(caps, n, h, w, false),
        }
    }

    /// Records the decoder, as [`AutoencoderKl::record_decode`] and [`AutoencoderTiny::record_decode`].
    ///
    /// # Errors
    /// As those.
    pub fn record_decode(&self, caps: &Caps, n: usize, h: usize, w: usize) -> Result<Recording> {
        match self {
            Autoencoder::Kl(vae) => vae.record_decode(caps, n, h, w, false),
            Autoencoder::Tiny(vae) => vae.record_decode(caps, n, h, w, false),
        }
    }
}
