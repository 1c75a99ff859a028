//! The size that a model was made for.

use crate::Result;
use crate::models::{Autoencoder, OneOrMany, UnetConfig};
use crate::pipeline::files::source::Source;
use crate::pipeline::model::overrides::Overrides;

impl Overrides {
    /// (width, height) in pixels that a model with these parts was made for, from its configurations alone.
    ///
    /// # Errors
    /// When a configuration is missing or damaged.
    pub fn own_size(&self, model: &Source) -> Result<(usize, usize)> {
        let unet = self.unet_of(model)?;
        let config = UnetConfig::from_json(&unet.text("config.json")?, &unet.label("config.json"))?;
        let (vae, text) = self.vae_of(model)?;
        Ok(of(&config, Autoencoder::pixels_per_latent_of(&text, &vae.label("config.json"))?))
    }
}

/// (width, height) in pixels, `step` of them for each latent.
pub(crate) fn of(unet: &UnetConfig, step: usize) -> (usize, usize) {
    let (height, width) = match unet.sample_size.as_ref() {
        Some(OneOrMany::One(side)) => (*side, *side),
        Some(OneOrMany::Many(sides)) if sides.len() == 2 => (sides[0], sides[1]),
        _ => (64, 64),
    };
    (width * step, height * step)
}
