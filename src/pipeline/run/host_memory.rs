//! Memory of the host that a request takes there: what cannot be had is refused before anything is computed. Asking the system for it would
//! end the process instead, or another one.

use crate::pipeline::device::residency::free_bytes;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::run::stage::StagePlan;
use crate::{Error, Remedy, Result};

const MIB: f64 = (1 << 20) as f64;

impl Pipeline {
    /// Refuses stages that need more of the host's memory than there is.
    pub(crate) fn check_host_memory(&self, stages: &[StagePlan]) -> Result<()> {
        let is_host = self.device.backend().caps().is_host();
        let bands = |stage: &StagePlan| stage.bands.as_ref().map_or(0, |bands| bands.host_bytes);
        let needs = |stage: &StagePlan| bands(stage) + if is_host { stage.peak_bytes() } else { 0 };
        let Some(largest) = stages.iter().max_by_key(|stage| needs(stage)) else { return Ok(()) };
        check(largest.name, needs(largest), free_bytes())
    }
}

fn check(stage: &str, needs: u64, free: Option<u64>) -> Result<()> {
    match free {
        Some(free) if needs > free => Err(Error::Device(format!(
            "{stage}: it takes {:.0} MiB of memory, {:.0} MiB are free",
            needs as f64 / MIB,
            free as f64 / MIB
        ))
        .advise([Remedy::SmallerSize])),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_not_is_refused() {
        let free = free_bytes().expect("this system tells");
        assert!(free > 64 << 20, "{free}");
        assert!(check("unet", free / 2, Some(free)).is_ok() && check("unet", u64::MAX, None).is_ok());
        let told = check("unet", 3 << 30, Some(1 << 30)).expect_err("three of one").to_string();
        assert!(told.contains("unet") && told.contains("3072 MiB") && told.contains("1024 MiB are free"), "{told}");
    }
}
