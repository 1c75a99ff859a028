//! The order of a request's work, as data: passes (a network from noise or a picture to latents), and for each group of pictures the legs that they go.
//!
//! Made once of (model, request). What is planned, counted, compiled, run, cancelled and kept on the device is read from here, so that the order of
//! the networks is written once:
//!
//! text encoders → picture encoder and noise → One More Step → denoising, the refiner's last steps → with hires enlarged, and so again → decoder.
//!
//! Pictures go in groups, each to its end before the next begins: the first is there early, and memory does not grow with their number.

use std::ops::Range;

use crate::Result;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::{Hires, Request, Upscale};
use crate::pipeline::run::refiner::without_base;
use crate::pipeline::run::stage::Stage;
use crate::pipeline::run::text::TextPlan;
use crate::pipeline::run::unet::{Call, Calls, UnetRun};

/// Pictures of a group on a device that networks are moved to: moving them once for so many costs little of their time. The processor
/// computes with weights where they are, so a group there is what one forward draws.
const GROUP: usize = 4;

/// The way of all pictures of a request.
pub(crate) struct Itinerary {
    pub(crate) passes: Vec<Pass>,
    /// Which pictures go together.
    pub(crate) groups: Vec<Range<usize>>,
    batch: usize,
    /// How pictures of the first size become larger ones.
    pub(crate) upscale: Option<Upscale>,
}

/// One network's share of the way from noise to pictures.
pub(crate) struct Pass {
    /// Whose networks run.
    pub(crate) pipeline: Pipeline,
    /// Of the request, what this pass does.
    pub(crate) request: Request,
    /// (width, height) in pixels.
    pub(crate) size: (usize, usize),
    pub(crate) text: TextPlan,
    pub(crate) begins: Begins,
    /// Steps that its solver leaves out.
    pub(crate) skip: usize,
    /// Calls of the UNet that it makes, of `of` that the base's solver makes with it.
    pub(crate) calls: Range<usize>,
    pub(crate) of: usize,
    pub(crate) ends: Ends,
}

/// What the pictures of a pass begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// The seed's noise, or the request's picture.
    Request,
    /// Pixels of the pictures that were drawn first, enlarged.
    Pixels,
    /// Their latents, enlarged.
    Latents,
    /// Where another network on the same schedule stopped.
    HandedOver,
}

/// What becomes of the latents of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// They are decoded.
    Pictures,
    /// They are decoded, to be enlarged.
    Enlarged,
    /// They are enlarged, or another network goes on.
    Latents,
}

/// What is done to some pictures with one network at fixed shapes, or between two networks.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    /// Which pass.
    pub(crate) pass: usize,
    pub(crate) pictures: Range<usize>,
    pub(crate) work: Work,
}

/// The kinds of work. Each unit of one is done between two looks at whether the job was cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// The text encoders, for all pictures.
    Encode,
    /// The picture encoder, where there is something to encode, and draws.
    Start {
        /// Whether the caller hears of it.
        told: bool,
    },
    /// One More Step, a picture each.
    OneMoreStep,
    /// The UNet as it is at these calls, a call each.
    Denoise { calls: Range<usize>, call: Call },
    /// The decoder, a picture each.
    Decode,
    /// From the first size to the second.
    Enlarge,
}

impl Leg {
    /// How many units of work it is.
    pub(crate) fn units(&self) -> usize {
        match &self.work {
            Work::Encode | Work::Start { .. } | Work::Enlarge => 1,
            Work::OneMoreStep | Work::Decode => self.pictures.len(),
            Work::Denoise { calls, .. } => calls.len(),
        }
    }

    /// How many of them the caller hears of.
    fn events(&self) -> usize {
        match self.work {
            Work::Encode | Work::Start { told: false } => 0,
            _ => self.units(),
        }
    }
}

impl Itinerary {
    /// # Errors
    /// When the request is out of range, asks for what the model does not have, or does not fit it.
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self> {
        let size = pipeline.size(request)?;
        pipeline.check(request, size)?;
        let ends = match request.hires.as_ref().map(|hires| hires.upscale) {
            None => Ends::Pictures,
            Some(Upscale::Image) => Ends::Enlarged,
            Some(Upscale::Latent) => Ends::Latents,
        };
        let first = Request { hires: None, ..request.clone() };
        let skip = pipeline.skip(request);
        let mut passes = pipeline.passes(first, skip, Begins::Request, ends)?;
        if let Some(hires) = &request.hires {
            let begins = if hires.upscale == Upscale::Image { Begins::Pixels } else { Begins::Latents };
            let second = pipeline.second_pass(request, hires)?;
            let skip = hires.skip(second.num_inference_steps);
            passes.extend(pipeline.passes(second, skip, begins, Ends::Pictures)?);
        }
        let upscale = request.hires.as_ref().map(|hires| hires.upscale);
        Ok(Itinerary { passes, groups: pipeline.groups(request), batch: request.batch.max(1), upscale })
    }

    /// The networks in the order of their first runs, each once.
    pub(crate) fn stages(&self) -> Result<Vec<Stage>> {
        let mut stages: Vec<Stage> = Vec::new();
        for pass in &self.passes {
            // What two passes encode alike is encoded once.
            let is_new = |stage: &Stage| stages.iter().all(|known: &Stage| known.identity() != stage.identity());
            let texts: Vec<Stage> = pass.text.stages().into_iter().filter(is_new).collect();
            stages.extend(texts);
            stages.extend(pass.stages(self.batch)?);
        }
        Ok(stages)
    }

    /// The way of a group: `group` is its number.
    pub(crate) fn legs(&self, group: usize) -> Vec<Leg> {
        let pictures = &self.groups[group];
        let mut legs = Vec::new();
        for (at, pass) in self.passes.iter().enumerate() {
            let leg = |work, pictures: &Range<usize>| Leg { pass: at, pictures: pictures.clone(), work };
            if matches!(pass.begins, Begins::Pixels | Begins::Latents) {
                legs.push(leg(Work::Enlarge, pictures));
            }
            if group == 0 {
                legs.push(leg(Work::Encode, pictures));
            }
            // Told once: later groups take over what the first one encoded.
            legs.push(leg(Work::Start { told: group == 0 }, pictures));
            if pass.takes_one_more_step() {
                legs.push(leg(Work::OneMoreStep, pictures));
            }
            let forms = pass.forms();
            for first in pictures.clone().step_by(self.batch) {
                let batch = first..pictures.end.min(first + self.batch);
                let denoise =
                    |(calls, call): &(Range<usize>, Call)| Work::Denoise { calls: calls.clone(), call: call.clone() };
                legs.extend(forms.iter().map(|form| leg(denoise(form), &batch)));
            }
            if pass.ends != Ends::Latents {
                legs.push(leg(Work::Decode, pictures));
            }
        }
        legs
    }

    /// Units of work that the caller hears of.
    pub(crate) fn events(&self) -> usize {
        (0..self.groups.len()).flat_map(|group| self.legs(group)).map(|leg| leg.events()).sum()
    }
}

impl Pass {
    /// Its networks but for the text encoders, each in every form that it has.
    fn stages(&self, batch: usize) -> Result<Vec<Stage>> {
        let Pass { pipeline, request, size, .. } = self;
        let mut stages = Vec::new();
        stages.extend(self.pictures_to_encode().map(|runs| pipeline.encoder_stage(runs, *size)));
        stages.extend(self.oms_stage());
        let run = UnetRun { size: *size, batch: batch.min(request.count), tokens: self.text.unet_tokens() };
        stages.extend(pipeline.unet_stages(request, run, Calls { made: self.calls.clone(), of: self.of })?);
        if self.ends != Ends::Latents {
            stages.push(pipeline.decoder_stage(request.count, *size));
        }
        Ok(stages)
    }

    /// The module that stands before it.
    pub(crate) fn oms_stage(&self) -> Option<Stage> {
        if !self.takes_one_more_step() {
            return None;
        }
        self.pipeline.oms_stage(&self.request, self.size, self.text.oms_tokens())
    }

    fn takes_one_more_step(&self) -> bool {
        self.skip == 0 && self.begins == Begins::Request && self.request.oms.is_some() && self.pipeline.oms.is_some()
    }

    fn pictures_to_encode(&self) -> Option<usize> {
        match (self.begins, &self.request.image) {
            (Begins::Request, Some(image)) => Some(1 + usize::from(image.mask.is_some())),
            (Begins::Pixels, _) => Some(self.request.count),
            _ => None,
        }
    }

    /// Its calls, those together at which the UNet is the same.
    fn forms(&self) -> Vec<(Range<usize>, Call)> {
        let mut forms: Vec<(Range<usize>, Call)> = Vec::new();
        for at in self.calls.clone() {
            let call = self.pipeline.call(&self.request, at, self.of);
            match forms.last_mut().filter(|(_, last)| *last == call) {
                Some((calls, _)) => calls.end = at + 1,
                None => forms.push((at..at + 1, call)),
            }
        }
        forms
    }
}

impl Pipeline {
    /// The passes from `begins` to `ends`: this model's, and the refiner's for the last steps.
    fn passes(&self, request: Request, skip: usize, begins: Begins, ends: Ends) -> Result<Vec<Pass>> {
        let pass = |pipeline: &Pipeline, request: Request, begins, skip, calls, of, ends| {
            let size = self.size(&request)?;
            let text = TextPlan::new(pipeline, &request, size)?;
            Ok(Pass { pipeline: pipeline.clone(), request, size, text, begins, skip, calls, of, ends })
        };
        let of = self.solver(&request, skip)?.timesteps().len();
        let Some(refiner) = &self.refiner else {
            return Ok(vec![pass(self, request, begins, skip, 0..of, of, ends)?]);
        };
        let own = without_base(&request);
        let Some(split) = self.split(refiner, &request, skip)? else {
            return Ok(vec![pass(refiner, own, begins, skip, 0..of, of, ends)?]);
        };
        let base = pass(self, request, begins, skip, 0..split.calls, of, Ends::Latents)?;
        let last = pass(refiner, own, Begins::HandedOver, split.skip, split.calls..of, of, ends)?;
        Ok(vec![base, last])
    }

    /// A request's pictures in groups of whole batches. The very first group is one batch: whether the pictures are what was wanted shows soon.
    fn groups(&self, request: &Request) -> Vec<Range<usize>> {
        let batch = request.batch.max(1);
        let is_host = self.device.backend().caps().is_host();
        let from = |first: usize| {
            let batches = if first == 0 || is_host { 1 } else { (GROUP / batch).max(1) };
            first..request.count.min(first + batches * batch)
        };
        let after = |group: &Range<usize>| (group.end < request.count).then(|| from(group.end));
        std::iter::successors(Some(from(0)), after).collect()
    }

    /// The second pass of hires as a request: the same prompts and seeds at the final size.
    pub(crate) fn second_pass(&self, request: &Request, hires: &Hires) -> Result<Request> {
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
