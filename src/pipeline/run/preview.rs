//! How a picture stands: x̃_0 of the last step, decoded.
//!
//! The preview's decoder lies on the device beside the UNet, so that plans count both ([`Request::previews`](crate::pipeline::Request::previews)).

use std::sync::Arc;

use crate::Result;
use crate::image::Rgb8Image;
use crate::models::layout::to_channels_last;
use crate::models::{Autoencoder, names};
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::generate::Generation;
use crate::pipeline::run::open_stage::OpenStage;
use crate::pipeline::run::stage::Stage;

/// The decoder of previews at one size.
pub(crate) struct Preview {
    size: (usize, usize),
    decoder: OpenStage,
}

impl Pipeline {
    /// The autoencoder of previews: a tiny one if one was named, else the model's own.
    fn preview_vae(&self) -> &Arc<Numbered<Autoencoder>> {
        self.preview.as_ref().unwrap_or(&self.vae)
    }

    fn preview_stage(&self, request: &Request, size: (usize, usize)) -> Stage {
        self.decoder_of(self.preview_vae(), "preview", request.count * request.num_inference_steps, size)
    }

    /// The decoder of a request's previews, of its largest pictures.
    pub(crate) fn previews(&self, request: &Request) -> Result<Option<Stage>> {
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
    pub(crate) fn preview_bytes(&self, request: &Request, size: (usize, usize)) -> Result<u64> {
        if !request.previews {
            return Ok(0);
        }
        Ok(self.preview_stage(request, size).plan(&self.device)?.peak_bytes())
    }
}

impl Generation {
    /// Picture `image` as the UNet saw it in its last step, at its full size, if it has done one; for
    /// [`Event::Step`](crate::pipeline::Event::Step). The first call opens the decoder of previews.
    ///
    /// # Errors
    /// When the decoder does not fit the device, or its result is not finite.
    pub fn preview(&mut self, image: usize) -> Result<Option<Rgb8Image>> {
        let Some((size, x0)) = self.pass().map(|pass| pass.size).zip(self.denoised(image)) else {
            return Ok(None);
        };
        let pipeline = self.pipeline.clone();
        let _turn = pipeline.device.programs().turn(&self.cancel)?;
        pipeline.device.backend().install(|| {
            let mut preview = match self.preview.take().filter(|preview| preview.size == size) {
                Some(preview) => preview,
                None => {
                    let decoder = pipeline.preview_stage(&self.asked, size).open(&pipeline.device, &self.cancel)?;
                    Preview { size, decoder }
                }
            };
            let drawn = preview.draw(&pipeline, x0);
            self.preview = Some(preview);
            drawn.map(Some)
        })
    }

    /// x̃_0 of a picture as its network saw it last, `[c, h, w]`, between the first step and the last.
    fn denoised(&self, image: usize) -> Option<Vec<f32>> {
        let batch = self.batch.as_ref().filter(|batch| batch.pictures.contains(&image))?;
        let seen = batch.solver(image).denoised();
        (!seen.is_empty()).then(|| seen.to_vec())
    }
}

impl Preview {
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
