//! A second model for the last steps: an ensemble of experts (SDXL, Podell et al., arXiv 2307.01952, section 2.5).
//!
//! The base's solver stops at the first step whose time lies below the switch; the refiner's goes on from there, on the base's schedule,
//! with a history of its own, as diffusers' `denoising_end` and `denoising_start` do.

use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::{Error, Result};

/// What a refiner does of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    /// Calls of the base's network.
    pub(crate) calls: usize,
    /// Steps that the refiner's solver leaves out.
    pub(crate) skip: usize,
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
}

/// A request without what was made for the base alone.
pub(crate) fn without_base(request: &Request) -> Request {
    Request { oms: None, controls: Vec::new(), ..request.clone() }
}

fn none_left(whom: &str, request: &Request) -> Error {
    Error::request(
        "refiner-start",
        format!("at {} of {} steps none is left for the {whom}", request.refiner_start, request.num_inference_steps),
    )
}
