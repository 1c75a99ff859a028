//! What the pictures of a pass begin with: draws, pictures through the encoder, noise.

use super::{Origin, Pass, Start, latent_rows};
use crate::Result;
use crate::models::{EncoderOutput, names};
use crate::pipeline::model::kind::Shown;
use crate::pipeline::request::init::{InitImage, posterior_mean, sample_posterior};
use crate::pipeline::run::stage::OpenStage;
use crate::sampling::{PictureNoise, RngKind, TorchRng};

impl Pass<'_> {
    /// The draws of each picture before its first step, in diffusers' order: posterior of the picture, noise, posterior of the picture without
    /// what is repainted.
    pub(super) fn draw_starts(&mut self) -> Result<()> {
        let shape = self.latent_shape();
        let init = self.request.image.clone();
        let from_noise = self.mask.is_some() && self.skip == 0;
        let kind = self.pipeline.kind.shown;
        let needs_origin = match kind {
            Shown::Nothing => true,
            Shown::Masked => !from_noise,
            Shown::Instructed { .. } => false,
        };
        let sources: Vec<Vec<f32>> = match &self.start {
            Start::Request => init.iter().filter(|_| needs_origin).map(|init| init.pixels()).collect(),
            Start::Pixels(pictures) => pictures.clone(),
            Start::Latents(_) | Start::Taken(_) => Vec::new(),
        };
        let shown = match kind {
            Shown::Instructed { .. } => init.as_ref().map(InitImage::pixels),
            Shown::Masked | Shown::Nothing => init.as_ref().and_then(InitImage::masked_pixels),
        };
        let count = sources.len();
        let mut moments = match self.kept.moments.take() {
            Some(moments) => moments,
            None => self.encode_pictures(sources.into_iter().chain(shown))?,
        };
        if matches!(self.start, Start::Request) {
            self.kept.moments = Some(moments.clone());
        }
        let of_shown = if moments.len() > count { moments.pop() } else { None };
        let torch = self.request.rng == RngKind::Torch && self.request.variation.is_none();
        for (i, image) in self.images.iter_mut().enumerate() {
            let own = moments.get(if moments.len() > 1 { i } else { 0 });
            // Other programs than diffusers draw the first noise first, and posteriors from a generator of their own.
            let mut aside = TorchRng::new(image.noise.seed());
            let first = if torch { None } else { Some(image.noise.initial([shape.c, shape.h, shape.w])?) };
            let mut posterior = |noise: &mut PictureNoise, moments: &[f32]| {
                let mut latents = match self.pipeline.vae.encodes() {
                    // Nothing is drawn, as in diffusers.
                    EncoderOutput::Latents => latent_rows(moments, shape).concat(),
                    EncoderOutput::Moments if torch => sample_posterior(moments, shape, &noise.randn(shape.len())),
                    EncoderOutput::Moments => sample_posterior(moments, shape, &aside.randn(shape.len())),
                };
                self.pipeline.vae.scale_latents(&mut latents);
                latents
            };
            let x0 = match (&self.start, own) {
                (Start::Latents(latents), _) => Some(latents[i].clone()),
                (_, own) => own.map(|own| posterior(&mut image.noise, own)),
            };
            // Drawn whether or not it is used: later draws then match diffusers'.
            let mut noise = first.unwrap_or_else(|| image.noise.randn(shape.len()));
            if let Some(given) = &self.request.latents {
                noise.clone_from(given);
            }
            if self.request.offset_noise > 0.0 {
                offset(&mut noise, &image.noise.randn(shape.c), self.request.offset_noise);
            }
            image.shown = of_shown.as_ref().map(|moments| match kind {
                Shown::Instructed { scaled } => {
                    let mut latents = match self.pipeline.vae.encodes() {
                        EncoderOutput::Latents => latent_rows(moments, shape).concat(),
                        EncoderOutput::Moments => posterior_mean(moments, shape),
                    };
                    if scaled {
                        self.pipeline.vae.scale_latents(&mut latents);
                    }
                    latents
                }
                Shown::Masked | Shown::Nothing => posterior(&mut image.noise, moments),
            });
            image.latents.clone_from(&noise);
            image.origin = x0.map(|x0| Origin { x0, noise });
        }
        Ok(())
    }

    /// Moments of each picture, all with one network.
    pub(super) fn encode_pictures(&mut self, pictures: impl Iterator<Item = Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let mut encoder: Option<OpenStage<'_>> = None;
        let mut moments = Vec::new();
        for pixels in pictures {
            let open = match encoder.take() {
                Some(open) => open,
                None => self.pipeline.encoder_stage(&self.request, self.size).open(self.pipeline.device())?,
            };
            let open = encoder.insert(open);
            let input = self.pipeline.vae.image_input(&pixels);
            let mut outputs = open.run(&[(names::IMAGE, &input)], &mut self.notes)?;
            moments.push(outputs.remove(names::OUT).unwrap_or_default());
        }
        Ok(moments)
    }
}

/// Offset noise, eq. 10 of the OMS paper: one more normal per channel, the same for all its pixels.
fn offset(noise: &mut [f32], per_channel: &[f32], weight: f64) {
    let plane = noise.len() / per_channel.len();
    for (plane, delta) in noise.chunks_mut(plane).zip(per_channel) {
        plane.iter_mut().for_each(|v| *v += weight as f32 * delta);
    }
}
