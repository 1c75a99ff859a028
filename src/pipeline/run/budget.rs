//! Loading within a limit of device memory.

use std::fmt;

use crate::pipeline::device::Device;
use crate::pipeline::device::vae_tiling::VaeTiling;
use crate::pipeline::device::weight_types::{Part, Streaming, WeightTypes, name};
use crate::pipeline::files::source::Source;
use crate::pipeline::model::oms_module::OmsSource;
use crate::pipeline::model::overrides::Overrides;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::stage::StagePlan;
use crate::record::DType;
use crate::weights::WeightType;
use crate::{Error, Remedy as Way, Result};

/// Weights that would have been better, and how much memory they take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooLarge {
    /// The stage that does not fit.
    pub stage: &'static str,
    /// "f16", "q8_0", or "as stored".
    pub weights: &'static str,
    /// Whether they passed through as far as they did not fit.
    pub streamed: bool,
    /// Bytes that the stage allocates with them.
    pub peak_bytes: u64,
    /// What was done about it.
    pub remedy: Remedy,
}

/// What is done about weights that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// A smaller type.
    Smaller,
    /// The same type, passing through the device in every run as far as it does not fit.
    Streamed,
    /// Nothing: the part has no smaller form, or its type is fixed.
    None,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stage, weights, needed) = (self.stage, self.weights, mebibytes(self.peak_bytes));
        let streamed = if self.streamed { ", streamed," } else { "" };
        write!(f, "with its weights {weights}{streamed} the {stage} would take {needed}")?;
        match self.remedy {
            Remedy::Smaller => f.write_str(", so they are smaller"),
            Remedy::Streamed => f.write_str(", so they are streamed"),
            Remedy::None => Ok(()),
        }
    }
}

impl Pipeline {
    /// [`load_with`](Self::load_with) the best weights with which every stage of `request` allocates at most `bytes`: as they are,
    /// then f16, q8_0, q8_0 streamed, q4_0 streamed, for each part on its own; the autoencoder as it is, then f16, then in bands unless the
    /// device's [`VaeTiling`] is off. What the device's [`WeightTypes`] fix stays and is streamed; [`Streaming`] leaves that step out, or takes
    /// it first. Gives also what was tried and did not fit.
    ///
    /// # Errors
    /// As [`load_with`](Self::load_with) and [`plan`](Self::plan); when the device is the host executor, which keeps f32 whatever
    /// weights are; when no choice fits, with the least that the request takes.
    pub fn load_within(
        model: &Source,
        overrides: &Overrides,
        oms: Option<&OmsSource>,
        device: Device,
        request: &Request,
        bytes: u64,
    ) -> Result<(Self, Vec<TooLarge>)> {
        if device.caps().is_host() {
            let refused =
                Error::request("device.vram", "limits the memory of a GPU, the processor keeps all weights in f32");
            return Err(refused.advise([Way::Gpu, Way::NoLimit]));
        }
        let fixed = device.weights();
        let mut device = device.with_budget(bytes);
        let mut tried = Vec::new();
        loop {
            let types = device.weights();
            let pipeline = Self::load_with(model, overrides, oms, device.clone())?;
            let plans = pipeline.plan(request)?;
            let over = |plan: &&StagePlan| plan.peak_bytes() > bytes;
            // Smaller weights come before bands, which take time.
            let cut = |plan: &&StagePlan| plan.bands.is_some() && device.vae_tiling() == VaeTiling::Auto;
            let mut better = device.clone();
            for plan in plans.iter().filter(|plan| over(plan) || cut(plan)) {
                let part = Part::of(plan.name);
                let stored = types.resolve(part, device.storage());
                let weights = name(stored);
                let step = next(part, stored, fixed.of(part).is_some(), &device);
                let (remedy, changed) = match step {
                    Some(Step::Smaller(next)) => (Remedy::Smaller, better.with_part(part, next)),
                    Some(Step::Streamed) => (Remedy::Streamed, better.with_streamed(part)),
                    None => (Remedy::None, better),
                };
                better = changed;
                let (stage, streamed) = (plan.name, plan.memory.stream.is_some());
                let known = |t: &TooLarge| (t.stage, t.weights, t.streamed) == (stage, weights, streamed);
                if !tried.iter().any(known) && (over(&plan) || remedy != Remedy::None) {
                    let peak_bytes = plan.bands.as_ref().map_or(plan.peak_bytes(), |bands| bands.whole_bytes);
                    tried.push(TooLarge { stage, weights, streamed, peak_bytes, remedy });
                }
            }
            let settled = better.same_weights(&device);
            if settled && !plans.iter().any(|plan| over(&plan)) {
                return Ok((pipeline, tried));
            }
            if settled {
                return Err(does_not_fit(&plans, &device, types, bytes));
            }
            device = better;
        }
    }
}

/// What a part tries next.
enum Step {
    Smaller(WeightType),
    Streamed,
}

fn next(part: Part, stored: WeightType, fixed: bool, device: &Device) -> Option<Step> {
    let may_stream = part != Part::Vae && device.streaming() != Streaming::Off && !device.streams(part);
    match stored {
        _ if fixed => may_stream.then_some(Step::Streamed),
        WeightType::Keep => Some(Step::Smaller(WeightType::F16)),
        _ if part == Part::Vae => None,
        WeightType::KeepBlocks | WeightType::F16 => Some(Step::Smaller(WeightType::Q8_0)),
        WeightType::Q8_0 if may_stream => Some(Step::Streamed),
        WeightType::Q8_0 => Some(Step::Smaller(WeightType::Q4_0)),
        WeightType::Q4_0 => None,
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn does_not_fit(plans: &[StagePlan], device: &Device, types: WeightTypes, bytes: u64) -> Error {
    let mut plans: Vec<&StagePlan> = plans.iter().filter(|plan| plan.peak_bytes() > bytes).collect();
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.peak_bytes()));
    let needs = |plan: &&StagePlan| {
        let weights = name(types.resolve(Part::of(plan.name), device.storage()));
        let streamed = if plan.memory.stream.is_some() { ", streamed" } else { "" };
        format!("the {} needs {} with its weights {weights}{streamed}", plan.name, mebibytes(plan.peak_bytes()))
    };
    let message = format!(
        "expected at least {} for this request, got {}: {}",
        mebibytes(plans.first().map_or(0, |plan| plan.peak_bytes())),
        mebibytes(bytes),
        plans.iter().map(needs).collect::<Vec<_>>().join(", ")
    );
    let has_smaller = device.storage() == DType::F32 && device.caps().shader_f16;
    let ways = [Some(Way::SmallerSize), has_smaller.then_some(Way::HalfPrecision), Some(Way::LargerLimit)];
    Error::request("device.vram", message).advise(ways.into_iter().flatten())
}
