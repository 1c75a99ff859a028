//! How a picture stands: x̃_0 of the last step, decoded.
//!
//! The preview's decoder lies on the device beside the UNet, so that plans count both ([`Request::previews`](super::Request::previews)).

use super::load::{DIFFUSION_STEM, open};
use super::stage::{OpenStage, Stage};
use super::{Generation, Overrides, Part, Pipeline, Request};
use crate::image::Rgb8Image;
use crate::models::layout::to_channels_last;
use crate::models::{Autoencoder, names};
use crate::{Error, Result};

/// The decoder of previews at one size.
pub(super) struct Preview<'p> {
    size: (usize, usize),
    decoder: OpenStage<'p>,
}

impl Pipeline {
    /// The autoencoder of previews: a tiny one if one was named, else the model's own.
    fn preview_vae(&self) -> &Autoencoder {
        self.preview.as_ref().unwrap_or(&self.vae)
    }

    fn preview_stage(&self, request: &Request, size: (usize, usize)) -> Stage<'_> {
        self.decoder_of(self.preview_vae(), "preview", request.count * request.num_inference_steps, size)
    }

    /// The decoder of a request's previews, of its largest pictures.
    pub(super) fn previews(&self, request: &Request) -> Result<Option<Stage<'_>>> {
        if !request.previews {
            return Ok(None);
        }
        let largest = match &request.hires {
            Some(hires) => self.size(&self.second_pass(request, hires)?)?,
            None => self.size(request)?,
        };
        Ok(Some(self.preview_stage(request, largest)))
    }

    /// Bytes that previews of this size take beside the UNet.
    pub(super) fn preview_bytes(&self, request: &Request, size: (usize, usize)) -> Result<u64> {
        if !request.previews {
            return Ok(0);
        }
        Ok(self.preview_stage(request, size).plan(&self.device)?.peak_bytes())
    }
}

impl Overrides {
    /// The autoencoder of previews for a pipeline.
    pub(super) fn load_preview(&self, pipeline: &Pipeline) -> Result<Option<Autoencoder>> {
        let Some((files, config)) = self.preview_vae()? else { return Ok(None) };
        let weights = open(&files, DIFFUSION_STEM, "preview vae", pipeline.device.weight_type(Part::Vae))?;
        let vae = Autoencoder::load(&config, &files.label("config.json"), &weights)?;
        let shape = |vae: &Autoencoder| (vae.latent_channels(), vae.pixels_per_latent());
        let ((channels, pixels), wanted) = (shape(&vae), shape(&pipeline.vae));
        if (channels, pixels) == wanted {
            return Ok(Some(vae));
        }
        Err(Error::Model(format!(
            "{}: expected an autoencoder of {} channels and {} pixels per latent, got {channels} and {pixels}",
            files.label("config.json"),
            wanted.0,
            wanted.1
        )))
    }
}

impl Generation<'_> {
    /// Picture `image` as the UNet saw it in its last step, at its full size, if it has done one; for
    /// [`Event::Step`](super::Event::Step). The first call opens the decoder of previews.
    ///
    /// # Errors
    /// When the decoder does not fit the device, or its result is not finite.
    pub fn preview(&mut self, image: usize) -> Result<Option<Rgb8Image>> {
        let Some((size, x0)) = self.pass.as_ref().and_then(|pass| Some((pass.size(), pass.denoised(image)?))) else {
            return Ok(None);
        };
        let pipeline = self.pipeline;
        let mut preview = match self.preview.take().filter(|preview| preview.size == size) {
            Some(preview) => preview,
            None => {
                let decoder = pipeline.preview_stage(&self.asked, size).open(&pipeline.device)?;
                Preview { size, decoder }
            }
        };
        let drawn = preview.draw(pipeline, x0);
        self.preview = Some(preview);
        drawn.map(Some)
    }
}

impl Preview<'_> {
    fn draw(&mut self, pipeline: &Pipeline, mut latents: Vec<f32>) -> Result<Rgb8Image> {
        let (vae, shape) = (pipeline.preview_vae(), pipeline.latent_shape(self.size));
        vae.unscale_latents(&mut latents);
        let input = to_channels_last(&latents, 1, shape.c, shape.h * shape.w);
        let mut outputs = self.decoder.run(&[(names::LATENTS, &input)], &mut Vec::new())?;
        let mut pixels = outputs.remove(names::OUT).unwrap_or_default();
        vae.image_output(&mut pixels);
        Rgb8Image::from_unit_range(&pixels, self.size.0, self.size.1)
    }
}
