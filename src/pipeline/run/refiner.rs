//! A second model for the last steps: an ensemble of experts (SDXL, Podell et al., arXiv 2307.01952, section 2.5).
//!
//! The base's solver stops at the first step whose time lies below the switch; the refiner's goes on from there, on the base's schedule,
//! with a history of its own, as diffusers' `denoising_end` and `denoising_start` do.

use std::ops::Range;

use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::pass::{End, Image, Kept, Part, Pass, Start};
use crate::pipeline::run::stage::Stage;
use crate::pipeline::run::text::TextPlan;
use crate::pipeline::run::unet::{Calls, UnetRun};
use crate::{Error, Result};

/// What a refiner does of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Calls of the base's network.
    calls: usize,
    /// Steps that the refiner's solver leaves out.
    skip: usize,
}

impl Split {
    /// Calls of the base's network.
    pub(crate) fn calls(self) -> usize {
        self.calls
    }
}

/// The end of a pass, which a refiner draws.
pub(crate) struct Refine {
    request: Request,
    pictures: Range<usize>,
    split: Split,
    end: End,
}

impl Pipeline {
    /// Where the refiner of this pipeline takes over a pass that leaves out `skip` steps; `None` where all of what such a pass does is the
    /// refiner's.
    pub(crate) fn split(&self, refiner: &Pipeline, request: &Request, skip: usize) -> Result<Option<Split>> {
        let train = self.scheduler.num_train_timesteps as f64;
        let cutoff = (train - request.refiner_start * train).round();
        let whole = self.solver(request, skip)?.timesteps().len();
        for later in skip..request.num_inference_steps {
            let solver = refiner.solver(request, later)?;
            if solver.timesteps()[0] < cutoff {
                let calls = whole - solver.timesteps().len();
                return match calls {
                    0 if skip > 0 => Ok(None),
                    0 => Err(none_left("base", request)),
                    _ => Ok(Some(Split { calls, skip: later })),
                };
            }
        }
        Err(none_left("refiner", request))
    }

    /// A pass of `asked`, and what of it is left to the refiner.
    pub(crate) fn share_out<'p>(&'p self, asked: &Request, whole: Part) -> Result<(Pass<'p>, Option<Refine>)> {
        let Some(refiner) = self.refiner.as_deref() else { return Ok((Pass::new(self, self, asked, whole)?, None)) };
        let Some(split) = self.split(refiner, &whole.request, whole.skip)? else {
            let request = own(&whole.request);
            return Ok((Pass::new(refiner, self, asked, Part { request, ..whole })?, None));
        };
        let (pictures, end) = (whole.pictures.clone(), whole.end);
        let refine = Refine { request: own(&whole.request), pictures, split, end };
        let part = Part { until: Some(split.calls), end: End::Latents, ..whole };
        Ok((Pass::new(self, self, asked, part)?, Some(refine)))
    }

    /// The refiner's pass, from the pictures as the base's pass left them; `kept` is of such a pass for the pictures before.
    pub(crate) fn refine<'p>(
        &'p self,
        refine: Refine,
        asked: &Request,
        images: Vec<Image>,
        kept: Kept,
    ) -> Result<Pass<'p>> {
        let Some(refiner) = &self.refiner else {
            return Err(Error::Request("refiner: none is loaded, give one with --refiner".into()));
        };
        let Refine { request, pictures, split, end } = refine;
        let start = Start::Taken(images);
        let part = Part { request, pictures, kept, start, skip: split.skip, end, done: split.calls, until: None };
        Pass::new(refiner, self, asked, part)
    }

    /// The networks of this refiner for its calls of a pass of the base's.
    pub(crate) fn refining_stages(&self, request: &Request, run: UnetRun, calls: Calls) -> Result<Vec<Stage<'_>>> {
        let request = &own(request);
        let text = TextPlan::new(self, request, run.size)?;
        let mut stages = text.stages();
        stages.extend(self.unet_stages(request, UnetRun { tokens: text.unet_tokens(), ..run }, calls)?);
        Ok(stages)
    }
}

/// A request without what was made for the base alone.
fn own(request: &Request) -> Request {
    Request { oms: None, controls: Vec::new(), ..request.clone() }
}

fn none_left(whom: &str, request: &Request) -> Error {
    Error::Request(format!(
        "refiner-start: at {} of {} steps none is left for the {whom}",
        request.refiner_start, request.num_inference_steps
    ))
}
