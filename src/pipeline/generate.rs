//! Request → pictures, some at a time: one pass, or with hires two: the second starts from the first's pictures, enlarged.
//!
//! [`Generation`] is an iterator: each `next` does one unit of work and says what it was, so that a caller draws a progress bar,
//! streams, or stops between two steps by dropping it. Pictures are drawn in groups, each to its end before the next begins: the first
//! is there early, and memory does not grow with their number.

use std::ops::Range;

use super::parameters::Picture;
use super::pass::{End, Kept, Part, Pass, Start};
use super::preview::Preview;
use super::refiner::Refine;
use super::request::{Hires, Upscale};
use super::{Pipeline, Request, init, resize};
use crate::Result;

/// Pictures of a group on a device that networks are moved to: moving them once for so many costs little of their time. The processor
/// computes with weights where they are, so a group there is what one forward draws.
const GROUP: usize = 4;

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
    /// `None` while one pass is exchanged for the next, and after an error.
    pub(super) pass: Option<Pass<'p>>,
    /// The decoder of previews, once one was drawn.
    pub(super) preview: Option<Preview<'p>>,
    /// What the refiner draws of the pass.
    refine: Option<Refine>,
    pub(super) asked: Request,
    /// The pictures that are being drawn.
    group: Range<usize>,
    first: First,
    second: Option<Second>,
    /// Which pass of the group it is.
    turn: Turn,
    /// What the passes of the groups before made for all pictures, by [`Turn`].
    kept: [Kept; 4],
    warnings: Vec<String>,
}

/// The first pass of each group.
struct First {
    request: Request,
    skip: usize,
    end: End,
}

/// The second pass of each group.
struct Second {
    request: Request,
    hires: Hires,
    first_size: (usize, usize),
    /// Pictures of the group's first pass.
    drawn: Vec<Picture>,
    has_begun: bool,
}

/// The passes of a group, in their order; some are left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    FirstRefined,
    Second,
    SecondRefined,
}

impl Pipeline {
    /// Starts a request. Nothing has run when this returns.
    ///
    /// # Errors
    /// When the request is out of range, asks for OMS without a module, or does not fit the model or the device.
    pub fn generate(&self, request: Request) -> Result<Generation<'_>> {
        // A decoder that exceeds the device should not be found out after the last step.
        self.check_host_memory(&self.plan(&request)?)?;
        let mut warnings = self.notices(&request);
        let skip = self.skip(&request);
        let (first, second) = match request.hires.clone() {
            None => (First { request: request.clone(), skip, end: End::Pictures }, None),
            Some(hires) => {
                let (first, second) = (first_pass(&request), self.second_pass(&request, &hires)?);
                let end = if hires.upscale == Upscale::Latent { End::Latents } else { End::Pictures };
                let first_size = self.size(&first)?;
                let second = Second { request: second, hires, first_size, drawn: Vec::new(), has_begun: false };
                (First { request: first, skip, end }, Some(second))
            }
        };
        let group = self.group_from(0, &request);
        let (pass, refine) = self.share_out(&request, first.part(group.clone(), Kept::default()))?;
        warnings.extend(pass.warnings().iter().cloned());
        Ok(Generation {
            pipeline: self,
            pass: Some(pass),
            preview: None,
            refine,
            asked: request,
            group,
            first,
            second,
            turn: Turn::First,
            kept: Default::default(),
            warnings,
        })
    }

    /// The group that begins with picture `first`. It has whole batches, so that a picture's bits do not depend on groups. The very first group
    /// is one batch: whether the pictures are what was wanted shows soon.
    fn group_from(&self, first: usize, request: &Request) -> Range<usize> {
        let batch = request.batch.max(1);
        let is_host = self.device.backend().caps().is_host();
        let batches = if first == 0 || is_host { 1 } else { (GROUP / batch).max(1) };
        first..request.count.min(first + batches * batch)
    }

    /// How many groups a request's pictures are drawn in.
    fn groups(&self, request: &Request) -> usize {
        let first = self.group_from(0, request);
        let after = |group: &Range<usize>| (group.end < request.count).then(|| self.group_from(group.end, request));
        std::iter::successors(Some(first), after).count()
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
        // What is enlarged is told when it is drawn, if it is pictures, and when each second pass begins.
        let enlarged =
            |hires: &Hires| self.groups(request) + if hires.upscale == Upscale::Image { request.count } else { 0 };
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

impl<'p> Generation<'p> {
    /// Where a picture's latents stand, `[4, height/8, width/8]`: variance-preserving before the first and after the last step, as its
    /// solver keeps them between. For previews and comparisons.
    pub fn latents(&self, image: usize) -> Option<&[f32]> {
        self.pass.as_ref().and_then(|pass| pass.latents(image))
    }

    /// What the caller should tell the user: words that did not fit, options that have no effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether none of its networks is open on the device: before the first unit of work, between passes, and after the last picture of a
    /// group. Another generation can then have the device's memory.
    pub fn is_idle(&self) -> bool {
        self.preview.is_none() && self.pass.as_ref().is_none_or(Pass::is_idle)
    }

    /// One unit of work on this group; `None` when it is done.
    fn work(&mut self) -> Option<Result<Event>> {
        let event = self.pass.as_mut()?.next();
        let has_second = self.second.as_ref().is_some_and(|second| !second.has_begun);
        match (event, &mut self.second) {
            (Some(Ok(Event::Picture(picture))), Some(second)) if has_second => {
                second.drawn.push(*picture);
                Some(Ok(Event::Enlarged { image: self.group.start + second.drawn.len() - 1 }))
            }
            (None, _) if self.refine.is_some() => self.refine(),
            (None, Some(_)) if has_second => self.enlarge(),
            (event, _) => event,
        }
    }

    /// The pass that has ended; what it made for all pictures is kept for the next group's.
    fn leave(&mut self, turn: Turn) -> Option<Pass<'p>> {
        let mut pass = self.pass.take()?;
        self.kept[self.turn as usize] = pass.take_kept();
        self.turn = turn;
        Some(pass)
    }

    /// What the pass whose turn it is kept of the group before.
    fn kept(&mut self) -> Kept {
        std::mem::take(&mut self.kept[self.turn as usize])
    }

    /// Lets the refiner go on where the base's network stopped.
    fn refine(&mut self) -> Option<Result<Event>> {
        let refine = self.refine.take()?;
        let turn = if self.turn == Turn::First { Turn::FirstRefined } else { Turn::SecondRefined };
        let images = self.leave(turn)?.into_images();
        let kept = self.kept();
        match self.pipeline.refine(refine, &self.asked, images, kept) {
            Ok(pass) => self.pass.insert(pass).next(),
            Err(error) => Some(Err(error)),
        }
    }

    /// Starts the second pass.
    fn enlarge(&mut self) -> Option<Result<Event>> {
        let first = self.leave(Turn::Second)?;
        let mut second = self.second.take()?;
        second.has_begun = true;
        let event = self.begin_second(&mut second, first);
        self.second = Some(second);
        Some(event)
    }

    fn begin_second(&mut self, second: &mut Second, first: Pass<'p>) -> Result<Event> {
        let size = self.pipeline.size(&second.request)?;
        let start = match second.hires.upscale {
            Upscale::Latent => {
                let (from, to) = (self.pipeline.latent_shape(second.first_size), self.pipeline.latent_shape(size));
                let enlarged = |x: &Vec<f32>| resize::bilinear(x, from.c, (from.h, from.w), (to.h, to.w));
                Start::Latents(first.into_latents().iter().map(enlarged).collect())
            }
            Upscale::Image => {
                let enlarged = second.drawn.drain(..).map(|picture| picture.image.resized(size.0, size.1));
                let values =
                    |image: crate::image::Rgb8Image| image.data.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
                Start::Pixels(enlarged.map(|image| image.map(values)).collect::<Result<_>>()?)
            }
        };
        let skip = second.hires.skip(second.request.num_inference_steps);
        let (request, pictures) = (second.request.clone(), self.group.clone());
        let kept = self.kept();
        let part = Part { request, pictures, kept, start, skip, end: End::Pictures, done: 0, until: None };
        let (pass, refine) = self.pipeline.share_out(&self.asked, part)?;
        (self.pass, self.refine) = (Some(pass), refine);
        Ok(Event::Enlarged { image: self.group.end - 1 })
    }

    /// Starts on the next group, if there is one.
    fn begin_group(&mut self) -> Result<bool> {
        if self.group.end >= self.asked.count || self.leave(Turn::First).is_none() {
            return Ok(false);
        }
        self.group = self.pipeline.group_from(self.group.end, &self.asked);
        if let Some(second) = &mut self.second {
            second.has_begun = false;
        }
        let kept = self.kept();
        let (pass, refine) = self.pipeline.share_out(&self.asked, self.first.part(self.group.clone(), kept))?;
        (self.pass, self.refine) = (Some(pass), refine);
        Ok(true)
    }
}

impl First {
    fn part(&self, pictures: Range<usize>, kept: Kept) -> Part {
        let &First { ref request, skip, end } = self;
        Part { request: request.clone(), pictures, kept, start: Start::Request, skip, end, done: 0, until: None }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = loop {
            match self.work() {
                // Told once: later groups take over what the first one encoded.
                Some(Ok(Event::Encoded)) if self.group.start > 0 => {}
                None => match self.begin_group() {
                    Ok(true) => {}
                    Ok(false) => break None,
                    Err(error) => break Some(Err(error)),
                },
                event => break event,
            }
        };
        if self.pass.as_ref().is_none_or(Pass::is_idle) {
            self.preview = None;
        }
        if matches!(event, Some(Err(_))) {
            self.pass = None;
        }
        event
    }
}

impl Hires {
    /// Steps of the second pass that are left out.
    pub(super) fn skip(&self, steps: usize) -> usize {
        init::skipped(self.strength, steps)
    }
}
