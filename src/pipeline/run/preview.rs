//! How a picture stands: x̃_0 of the last step, decoded.
//!
//! The preview's decoder lies on the device beside the UNet, so that plans count both ([`Request::previews`](crate::pipeline::Request::previews)).

use std::sync::Arc;

use crate::Result;
use crate::image::Rgb8Image;
use crate::models::Autoencoder;
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
        self.in_turn(|job| {
            let pipeline = job.pipeline.clone();
            let mut preview = match job.preview.take().filter(|preview| preview.size == size) {
                Some(preview) => preview,
                None => {
                    let decoder = pipeline.preview_stage(&job.asked, size).open(&pipeline.device, &job.watch)?;
                    Preview { size, decoder }
                }
            };
            let (vae, shape) = (pipeline.preview_vae(), pipeline.latent_shape(size));
            let drawn = preview.decoder.decode(vae, x0, shape, size, &mut Vec::new());
            job.preview = Some(preview);
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
