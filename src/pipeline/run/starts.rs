//! What the pictures of a pass begin with: draws, pictures through the encoder, noise.

use std::ops::Range;

use crate::Result;
use crate::models::{EncoderOutput, names};
use crate::pipeline::model::kind::Shown;
use crate::pipeline::request::Request;
use crate::pipeline::request::init::{InitImage, posterior_mean, sample_posterior};
use crate::pipeline::run::denoise::latent_rows;
use crate::pipeline::run::generate::Generation;
use crate::pipeline::run::itinerary::{Begins, Leg, Pass};
use crate::pipeline::run::open_stage::OpenStage;
use crate::sampling::{PictureNoise, RngKind, TorchRng};

/// What is known of one picture so far.
pub(crate) struct Image {
    pub(crate) noise: PictureNoise,
    /// Variance-preserving latents `[c, h, w]`: x_T^S, then x̃_T, then x̃_0; where another network goes on, as the solver keeps them.
    pub(crate) latents: Vec<f32>,
    /// The picture's own latents x_0 that the run starts from or keeps parts of.
    pub(crate) origin: Option<Origin>,
    /// Latents that the UNet is shown beside these: of the picture without what is repainted, or of the picture to change.
    pub(crate) shown: Option<Vec<f32>>,
}

pub(crate) struct Origin {
    pub(crate) x0: Vec<f32>,
    pub(crate) noise: Vec<f32>,
}

/// Pictures of which nothing is drawn yet.
///
/// # Errors
/// When the request's numbers give no noise.
pub(crate) fn blank(request: &Request, pictures: Range<usize>) -> Result<Vec<Image>> {
    let image = |i: usize| {
        let (index, of) = request.place.unwrap_or((i, request.count));
        let noise = PictureNoise::new(request.rng, request.seed, index, of, request.variation)?
            .with_seed_delta(request.noise_seed_delta);
        Ok(Image { noise, latents: Vec::new(), origin: None, shown: None })
    };
    pictures.map(image).collect()
}

impl Generation {
    /// The draws of each picture before its first step, in diffusers' order: posterior of the picture, noise, posterior of the picture without
    /// what is repainted. What another network hands over stays as it is.
    pub(crate) fn start(&mut self, leg: &Leg) -> Result<()> {
        let pass = &self.itinerary.passes[leg.pass];
        if pass.begins == Begins::HandedOver {
            return Ok(());
        }
        self.images = blank(&pass.request, leg.pictures.clone())?;
        let init = pass.request.image.as_ref();
        let from_noise = init.is_some_and(|init| init.mask.is_some()) && pass.skip == 0;
        let kind = pass.pipeline.kind.shown;
        let needs_origin = match kind {
            Shown::Nothing => true,
            Shown::Masked => !from_noise,
            Shown::Instructed { .. } => false,
        };
        let sources: Vec<Vec<f32>> = match pass.begins {
            Begins::Request => init.iter().filter(|_| needs_origin).map(|init| init.pixels()).collect(),
            Begins::Pixels => std::mem::take(&mut self.enlarged),
            Begins::Latents | Begins::HandedOver => Vec::new(),
        };
        let shown = match kind {
            Shown::Instructed { .. } => init.map(InitImage::pixels),
            Shown::Masked | Shown::Nothing => init.and_then(InitImage::masked_pixels),
        };
        let count = sources.len();
        let mut moments = match self.made[leg.pass].moments.take() {
            Some(moments) => moments,
            None => self.encode_pictures(leg, sources.into_iter().chain(shown))?,
        };
        let pass = &self.itinerary.passes[leg.pass];
        if pass.begins == Begins::Request {
            self.made[leg.pass].moments = Some(moments.clone());
        }
        let of_shown = if moments.len() > count { moments.pop() } else { None };
        let enlarged = if pass.begins == Begins::Latents { std::mem::take(&mut self.enlarged) } else { Vec::new() };
        for (i, image) in self.images.iter_mut().enumerate() {
            let own = moments.get(if moments.len() > 1 { i } else { 0 }).map(Vec::as_slice);
            pass.draw(image, own, enlarged.get(i), of_shown.as_deref())?;
        }
        Ok(())
    }

    /// Moments of each picture, all with one network.
    fn encode_pictures(&mut self, leg: &Leg, pictures: impl Iterator<Item = Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let pass = &self.itinerary.passes[leg.pass];
        let mut encoder: Option<OpenStage> = None;
        let mut moments = Vec::new();
        for pixels in pictures {
            let open = match encoder.take() {
                Some(open) => open,
                None => pass.pipeline.encoder_stage(1, pass.size).open(pass.pipeline.device(), &self.watch)?,
            };
            let open = encoder.insert(open);
            let input = pass.pipeline.vae.image_input(&pixels);
            let mut outputs = open.run(&[(names::IMAGE, &input)], &mut self.notes)?;
            moments.push(outputs.remove(names::OUT).unwrap_or_default());
        }
        Ok(moments)
    }
}

impl Pass {
    /// The draws of one picture: `own` are the moments of what it starts from, or `enlarged` its latents; `shown` those of what the UNet is shown.
    fn draw(
        &self,
        image: &mut Image,
        own: Option<&[f32]>,
        enlarged: Option<&Vec<f32>>,
        shown: Option<&[f32]>,
    ) -> Result<()> {
        let (request, vae) = (&self.request, &self.pipeline.vae);
        let shape = self.pipeline.latent_shape(self.size);
        let torch = request.rng == RngKind::Torch && request.variation.is_none();
        // Other programs than diffusers draw the first noise first, and posteriors from a generator of their own.
        let mut aside = TorchRng::new(image.noise.seed());
        let first = if torch { None } else { Some(image.noise.initial([shape.c, shape.h, shape.w])?) };
        let mut posterior = |noise: &mut PictureNoise, moments: &[f32]| {
            let mut latents = match vae.encodes() {
                // Nothing is drawn, as in diffusers.
                EncoderOutput::Latents => latent_rows(moments, shape).concat(),
                EncoderOutput::Moments if torch => sample_posterior(moments, shape, &noise.randn(shape.len())),
                EncoderOutput::Moments => sample_posterior(moments, shape, &aside.randn(shape.len())),
            };
            vae.scale_latents(&mut latents);
            latents
        };
        let x0 = match (enlarged, own) {
            (Some(latents), _) => Some(latents.clone()),
            (None, own) => own.map(|own| posterior(&mut image.noise, own)),
        };
        // Drawn whether or not it is used: later draws then match diffusers'.
        let mut noise = first.unwrap_or_else(|| image.noise.randn(shape.len()));
        if let Some(given) = &request.latents {
            noise.clone_from(given);
        }
        if request.offset_noise > 0.0 {
            offset(&mut noise, &image.noise.randn(shape.c), request.offset_noise);
        }
        image.shown = shown.map(|moments| match self.pipeline.kind.shown {
            Shown::Instructed { scaled } => {
                let mut latents = match vae.encodes() {
                    EncoderOutput::Latents => latent_rows(moments, shape).concat(),
                    EncoderOutput::Moments => posterior_mean(moments, shape),
                };
                if scaled {
                    vae.scale_latents(&mut latents);
                }
                latents
            }
            Shown::Masked | Shown::Nothing => posterior(&mut image.noise, moments),
        });
        image.latents.clone_from(&noise);
        image.origin = x0.map(|x0| Origin { x0, noise });
        Ok(())
    }
}

/// Offset noise, eq. 10 of the OMS paper: one more normal per channel, the same for all its pixels.
fn offset(noise: &mut [f32], per_channel: &[f32], weight: f64) {
    let plane = noise.len() / per_channel.len();
    for (plane, delta) in noise.chunks_mut(plane).zip(per_channel) {
        plane.iter_mut().for_each(|v| *v += weight as f32 * delta);
    }
}
