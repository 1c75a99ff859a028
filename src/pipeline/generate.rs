//! Request → pictures: one pass, or with hires two: the second starts from the first's pictures, enlarged.
//!
//! [`Generation`] is an iterator: each `next` does one unit of work and says what it was, so that a caller draws a progress bar,
//! streams, or stops between two steps by dropping it.

use super::parameters::Picture;
use super::pass::{End, Pass, Start};
use super::preview::Preview;
use super::refiner::Refine;
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
    pub(super) pipeline: &'p Pipeline,
    /// `None` only while one pass is exchanged for the next.
    pub(super) pass: Option<Pass<'p>>,
    /// The decoder of previews, once one was drawn.
    pub(super) preview: Option<Preview<'p>>,
    /// What the refiner draws of the pass.
    refine: Option<Refine>,
    pub(super) asked: Request,
    /// The second pass, before it has begun.
    second: Option<Second>,
    warnings: Vec<String>,
}

struct Second {
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
        let skip = self.skip(&request);
        let (first, end, second) = match request.hires.clone() {
            None => (request.clone(), End::Pictures, None),
            Some(hires) => {
                let (first, second) = (first_pass(&request), self.second_pass(&request, &hires)?);
                let end = if hires.upscale == Upscale::Latent { End::Latents } else { End::Pictures };
                let first_size = self.size(&first)?;
                (first, end, Some(Second { request: second, hires, first_size, drawn: Vec::new() }))
            }
        };
        let (pass, refine) = self.share_out(&request, first, (Start::Request, skip, end))?;
        warnings.extend(pass.warnings().iter().cloned());
        Ok(Generation { pipeline: self, pass: Some(pass), preview: None, refine, asked: request, second, warnings })
    }

    /// Events that a request will give, for a progress bar's length.
    pub fn units(&self, request: &Request) -> u64 {
        let pass = |request: &Request, skip: usize| {
            let steps = self.solver(request, skip).map_or(request.num_inference_steps, |s| s.timesteps().len());
            let oms = if request.oms.is_some() && skip == 0 { request.count } else { 0 };
            let refined = self.refiner.as_deref().and_then(|r| self.split(r, request, skip).ok()?);
            1 + usize::from(refined.is_some()) + oms + request.count.div_ceil(request.batch.max(1)) * steps
        };
        let first = pass(request, self.skip(request));
        let second = request.hires.as_ref().and_then(|hires| Some((self.second_pass(request, hires).ok()?, hires)));
        // What is enlarged is told when it is drawn, if it is pictures, and when the second pass begins.
        let enlarged = |hires: &Hires| 1 + if hires.upscale == Upscale::Image { request.count } else { 0 };
        let second = second
            .map_or(0, |(request, hires)| enlarged(hires) + pass(&request, hires.skip(request.num_inference_steps)));
        (first + second + request.count) as u64
    }

    /// The second pass of hires as a request: the same prompts and seeds at the final size.
    pub(super) fn second_pass(&self, request: &Request, hires: &Hires) -> Result<Request> {
        let (width, height) = self.size(request)?;
        let latent = self.vae.pixels_per_latent();
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

    /// Lets the refiner go on where the base's network stopped.
    fn refine(&mut self) -> Option<Result<Event>> {
        let (refine, pass) = (self.refine.take()?, self.pass.take()?);
        match self.pipeline.refine(refine, &self.asked, pass.into_images()) {
            Ok(pass) => self.pass.insert(pass).next(),
            Err(error) => Some(Err(error)),
        }
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
        let (pass, refine) = self.pipeline.share_out(&self.asked, second.request, (start, skip, End::Pictures))?;
        (self.pass, self.refine) = (Some(pass), refine);
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
            (None, _) if self.refine.is_some() => self.refine(),
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
