//! Whether an autoencoder is one recording or a chain of bands, and how high its bands are.

use std::fmt;

use serde::Serialize;

use crate::pipeline::device::Device;
use crate::pipeline::device::vae_tiling::VaeTiling;
use crate::record::{Caps, Chain, ChainPlan, MemoryPlan, Recording, plan};
use crate::{Remedy, Result};

/// A stage that runs in bands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Bands {
    /// How many of the network's levels, the finest first, are cut.
    pub levels: usize,
    /// Runs of bands, all levels together.
    pub runs: usize,
    /// Rows of the lowest and of the highest bands.
    pub rows: (usize, usize),
    /// The part that takes most device memory.
    pub largest: String,
    /// Bytes that the stage would take uncut.
    pub whole_bytes: u64,
    /// The most bytes that feature maps take in host memory; one band's input and result come on top.
    pub host_bytes: u64,
}

impl fmt::Display for Bands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels =
            if self.levels == 1 { "its finest level".into() } else { format!("its {} finest levels", self.levels) };
        let (low, high) = self.rows;
        let rows = if low == high { low.to_string() } else { format!("{low} to {high}") };
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        write!(
            f,
            "{levels} in {} bands of {rows} rows; whole it would take {}; {} of main memory",
            self.runs,
            mebibytes(self.whole_bytes),
            mebibytes(self.host_bytes)
        )
    }
}

/// Without a limit, bands aim at this share of what the whole takes, …
const SHARE: u64 = 4;

/// … and at no more than this: at 2048×2048 what neighbouring bands both compute is then less than 1 % of the work.
const ENOUGH: u64 = 1 << 30;

/// A network's chain with so many of its levels in bands; `None` past the last.
pub(crate) type Chains = Box<dyn Fn(usize) -> Option<Chain<'static>> + Send>;

/// How a stage runs.
pub(crate) enum Form {
    Whole(Box<Recording>, MemoryPlan),
    Banded(Chain<'static>, ChainPlan, Bands),
}

impl Form {
    /// Bytes that the executor allocates at one time.
    pub(crate) fn peak_bytes(&self) -> u64 {
        match self {
            Form::Whole(_, plan) => plan.peak_bytes(),
            Form::Banded(_, plan, _) => plan.peak_bytes(),
        }
    }
}

/// The whole where it fits and bands are not asked for; else the fewest levels in bands with which every part fits, and of those
/// the highest bands. Where nothing fits the limit, the smallest: whoever set the limit decides what that means.
///
/// # Errors
/// When the whole, or the last of its bands too, exceeds what the device can bind.
pub(crate) fn choose(
    record: &dyn Fn(&Caps) -> Result<Recording>,
    chains: Option<&Chains>,
    device: &Device,
    caps: &Caps,
) -> Result<Form> {
    let whole = record(caps).and_then(|recording| Ok((plan(&recording)?, recording)));
    let within = whole.as_ref().is_ok_and(|(plan, _)| device.budget().is_none_or(|most| plan.peak_bytes() <= most));
    let fits = within && !whole.as_ref().is_ok_and(|(_, recording)| chains.is_some() && narrowed(recording, record));
    let tiling = device.vae_tiling();
    let Some(cut) = chains.filter(|_| tiling == VaeTiling::On || (tiling == VaeTiling::Auto && !fits)) else {
        return match whole {
            Err(refused) if chains.is_some() && refused.is_too_large() => Err(refused.advise([Remedy::Bands])),
            whole => whole.map(|(plan, recording)| Form::Whole(Box::new(recording), plan)),
        };
    };
    let whole_bytes = match &whole {
        Ok((plan, _)) => plan.peak_bytes(),
        Err(_) => plan(&record(&unbound(caps))?)?.peak_bytes(),
    };
    let aim = device.budget().unwrap_or((whole_bytes / SHARE).min(ENOUGH));
    let mut best: Option<(usize, Chain<'static>, ChainPlan)> = None;
    let mut refused = None;
    for levels in 1.. {
        let Some(chain) = cut(levels) else { break };
        match ChainPlan::new(&chain, caps, aim) {
            Ok(plan) if best.as_ref().is_none_or(|(.., least)| plan.peak_bytes() < least.peak_bytes()) => {
                let enough = plan.peak_bytes() <= aim;
                best = Some((levels, chain, plan));
                if enough {
                    break;
                }
            }
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    match (best, whole, refused) {
        (Some((levels, chain, plan)), ..) => {
            let bands = bands(levels, &plan, whole_bytes);
            Ok(Form::Banded(chain, plan, bands))
        }
        (None, Err(error), _) | (None, _, Some(error)) => Err(error),
        (None, Ok((plan, recording)), None) => Ok(Form::Whole(Box::new(recording), plan)),
    }
}

/// Whether f32 tensors had to be f16 to fit the device's bindings, as `Recording::in_f32` has it: bands keep them f32.
fn narrowed(recording: &Recording, record: &dyn Fn(&Caps) -> Result<Recording>) -> bool {
    let types = |recording: &Recording| recording.tensors.iter().map(|tensor| tensor.dtype).collect::<Vec<_>>();
    record(&unbound(&recording.caps)).is_ok_and(|wanted| types(&wanted) != types(recording))
}

/// The same device with bindings and buffers as large as one likes.
fn unbound(caps: &Caps) -> Caps {
    Caps { max_binding_bytes: u64::MAX, max_buffer_bytes: u64::MAX, ..caps.clone() }
}

fn bands(levels: usize, plan: &ChainPlan, whole_bytes: u64) -> Bands {
    let cut = || plan.parts.iter().filter(|part| part.in_bands);
    Bands {
        levels,
        runs: cut().map(|part| part.windows.len()).sum(),
        rows: (cut().map(|part| part.rows).min().unwrap_or(0), cut().map(|part| part.rows).max().unwrap_or(0)),
        largest: plan.largest().map(|part| part.label.clone()).unwrap_or_default(),
        whole_bytes,
        host_bytes: plan.host_bytes,
    }
}
