//! How a picture stands: x̃_0 of the last step, decoded.
//!
//! The preview's decoder lies on the device beside the UNet, so that plans count both ([`Request::previews`](super::Request::previews)).

use super::stage::{OpenStage, Stage};
use super::{Generation, Pipeline, Request, StagePlan};
use crate::Result;
use crate::image::Rgb8Image;
use crate::models::layout::to_channels_last;
use crate::models::{Autoencoder, names};

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

    /// Adds the previews to the plans of a request's stages.
    pub(super) fn plan_previews(&self, request: &Request, plans: &mut Vec<StagePlan>) -> Result<()> {
        if !request.previews {
            return Ok(());
        }
        let largest = match &request.hires {
            Some(hires) => self.size(&self.second_pass(request, hires)?)?,
            None => self.size(request)?,
        };
        let preview = self.preview_stage(request, largest).plan(&self.device)?;
        for plan in plans.iter_mut().filter(|plan| plan.name.starts_with("UNet")) {
            plan.beside_bytes = preview.peak_bytes();
        }
        plans.push(preview);
        Ok(())
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
