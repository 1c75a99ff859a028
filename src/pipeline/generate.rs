//! Request → pictures: one pass, or with hires two: the second starts from the first's pictures, enlarged.
//!
//! [`Generation`] is an iterator: each `next` does one unit of work and says what it was, so that a caller draws a progress bar,
//! streams, or stops between two steps by dropping it.

use super::parameters::Picture;
use super::pass::{End, Part, Pass, Start};
use super::request::{Hires, Upscale};
use super::{Pipeline, Request, init, resize};
use crate::Result;

/// One unit of finished work.
#[derive(Debug)]
pub enum Event {
    /// All prompts went through the text encoders, and the picture to start from through its own.
    Encoded,
    /// Picture `image` (from 0) has its starting latents x̃_T.
    OneMoreStep {
        /// Which picture.
        image: usize,
    },
    /// A step of the solver is done for a batch of pictures.
    Step {
        /// The last picture of the batch, from 0.
        image: usize,
        /// Which step, from 1.
        step: usize,
        /// Steps in all.
        of: usize,
    },
    /// Hires: picture `image` of the first pass is ready to be drawn again at its final size.
    Enlarged {
        /// Which picture, from 0.
        image: usize,
    },
    /// A picture is ready.
    Picture(Box<Picture>),
}

/// A request under way.
pub struct Generation<'p> {
    pipeline: &'p Pipeline,
    /// `None` only while one pass is exchanged for the next.
    pass: Option<Pass<'p>>,
    /// The second pass, before it has begun.
    second: Option<Second>,
    warnings: Vec<String>,
}

struct Second {
    asked: Request,
    request: Request,
    hires: Hires,
    first_size: (usize, usize),
    /// Pictures of the first pass.
    drawn: Vec<Picture>,
}

impl Pipeline {
    /// Starts a request. Nothing has run when this returns.
    ///
    /// # Errors
    /// When the request is out of range, asks for OMS without a module, or does not fit the model or the device.
    pub fn generate(&self, request: Request) -> Result<Generation<'_>> {
        // A decoder that exceeds the device should not be found out after the last step.
        self.plan(&request)?;
        let mut warnings = self.notices(&request);
        let skip = request.skip();
        let (first, second) = match request.hires.clone() {
            None => {
                let part = Part { request: request.clone(), start: Start::Request, skip, end: End::Pictures };
                (Pass::new(self, &request, part)?, None)
            }
            Some(hires) => {
                let (first, second) = (first_pass(&request), self.second_pass(&request, &hires)?);
                let end = if hires.upscale == Upscale::Latent { End::Latents } else { End::Pictures };
                let first_size = self.size(&first)?;
                let pass = Pass::new(self, &request, Part { request: first, start: Start::Request, skip, end })?;
                (pass, Some(Second { asked: request, request: second, hires, first_size, drawn: Vec::new() }))
            }
        };
        warnings.extend(first.warnings().iter().cloned());
        Ok(Generation { pipeline: self, pass: Some(first), second, warnings })
    }

    /// Events that a request will give, for a progress bar's length.
    pub fn units(&self, request: &Request) -> u64 {
        // Of a pass that ends in latents or in pictures to enlarge, no picture is counted.
        let pass = |request: &Request, skip: usize| {
            let steps = self.solver(request, skip).map_or(request.num_inference_steps, |s| s.timesteps().len());
            let oms = if request.oms.is_some() && skip == 0 { request.count } else { 0 };
            1 + oms + request.count.div_ceil(request.batch.max(1)) * steps
        };
        let first = pass(request, request.skip());
        let second = request.hires.as_ref().and_then(|hires| Some((self.second_pass(request, hires).ok()?, hires)));
        let second = second.map_or(0, |(request, hires)| pass(&request, hires.skip(request.num_inference_steps)));
        (first + second + request.count) as u64
    }

    /// The second pass of hires as a request: the same prompts and seeds at the final size.
    pub(super) fn second_pass(&self, request: &Request, hires: &Hires) -> Result<Request> {
        let (width, height) = self.size(request)?;
        let latent = self.vae.config().pixels_per_latent();
        let scaled = |side: usize| ((side as f64 * hires.scale / latent as f64).round() as usize).max(1) * latent;
        let second = Request {
            width: Some(scaled(width)),
            height: Some(scaled(height)),
            num_inference_steps: hires.steps.unwrap_or(request.num_inference_steps),
            oms: None,
            hires: None,
            image: None,
            latents: None,
            ..request.clone()
        };
        second.validate()?;
        Ok(second)
    }
}

fn first_pass(request: &Request) -> Request {
    Request { hires: None, ..request.clone() }
}

impl Generation<'_> {
    /// Where a picture's latents stand, `[4, height/8, width/8]`: variance-preserving before the first and after the last step, as its
    /// solver keeps them between. For previews and comparisons.
    pub fn latents(&self, image: usize) -> Option<&[f32]> {
        self.pass.as_ref().and_then(|pass| pass.latents(image))
    }

    /// What the caller should tell the user: words that did not fit, options that have no effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Starts the second pass where there is one.
    fn enlarge(&mut self) -> Option<Result<Event>> {
        let second = self.second.take()?;
        let pass = self.pass.take()?;
        Some(self.begin_second(second, pass))
    }

    fn begin_second(&mut self, second: Second, first: Pass<'_>) -> Result<Event> {
        let size = self.pipeline.size(&second.request)?;
        let image = second.request.count - 1;
        let start = match second.hires.upscale {
            Upscale::Latent => {
                let (from, to) = (self.pipeline.latent_shape(second.first_size), self.pipeline.latent_shape(size));
                let latents = first.into_latents();
                Start::Latents(
                    latents.iter().map(|x| resize::bilinear(x, from.c, (from.h, from.w), (to.h, to.w))).collect(),
                )
            }
            Upscale::Image => {
                let enlarged = second.drawn.iter().map(|picture| picture.image.resized(size.0, size.1));
                Start::Pixels(
                    enlarged.map(|image| image.data.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect()).collect(),
                )
            }
        };
        let skip = second.hires.skip(second.request.num_inference_steps);
        let part = Part { request: second.request, start, skip, end: End::Pictures };
        self.pass = Some(Pass::new(self.pipeline, &second.asked, part)?);
        Ok(Event::Enlarged { image })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.pass.as_mut()?.next(), &mut self.second) {
            (Some(Ok(Event::Picture(picture))), Some(second)) => {
                second.drawn.push(*picture);
                Some(Ok(Event::Enlarged { image: second.drawn.len() - 1 }))
            }
            (None, Some(_)) => self.enlarge(),
            (event, _) => event,
        }
    }
}

impl Hires {
    /// Steps of the second pass that are left out.
    pub(super) fn skip(&self, steps: usize) -> usize {
        init::skipped(self.strength, steps)
    }
}
