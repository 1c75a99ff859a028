//! What a request will take, before it runs: planned, compiled, measured.

use crate::Result;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::itinerary::Itinerary;
use crate::pipeline::run::stage::{Stage, StagePlan};

impl Pipeline {
    /// Work and memory of each stage of a request, without running anything.
    ///
    /// # Errors
    /// When the request is out of range or a stage exceeds the device's limits.
    pub fn plan(&self, request: &Request) -> Result<Vec<StagePlan>> {
        self.plan_of(&Itinerary::new(self, request)?, request)
    }

    pub(crate) fn plan_of(&self, itinerary: &Itinerary, request: &Request) -> Result<Vec<StagePlan>> {
        let plan = |stage: &Stage| stage.plan(&self.device);
        itinerary.stages()?.iter().chain(&self.previews(request)?).map(plan).collect()
    }

    /// Compiles the kernels of every stage of a request, so that one which the device does not take shows before anything is drawn. A run finds them
    /// compiled.
    ///
    /// # Errors
    /// When the request is out of range; [`Error::Kernel`](crate::Error::Kernel) when a kernel does not compile.
    pub fn prepare(&self, request: &Request) -> Result<()> {
        if self.device.backend().caps().is_host() {
            return Ok(());
        }
        let previews = self.previews(request)?;
        self.stages(request)?.iter().chain(&previews).try_for_each(|stage| stage.prepare(&self.device))
    }

    /// Opens each stage of a request in turn, without running it: its plan, and the bytes that the executor really allocated.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and when the device is out of memory.
    pub fn measure(&self, request: &Request) -> Result<Vec<(StagePlan, u64)>> {
        let open = |stage: Stage| Ok((stage.plan(&self.device)?, stage.allocate(&self.device)?));
        self.stages(request)?.into_iter().map(open).collect()
    }

    /// The networks of a request in the order of their first runs.
    pub(crate) fn stages(&self, request: &Request) -> Result<Vec<Stage>> {
        Itinerary::new(self, request)?.stages()
    }

    /// Events that a request will give, for a progress bar's length.
    pub fn units(&self, request: &Request) -> u64 {
        Itinerary::new(self, request).map_or(0, |itinerary| itinerary.events() as u64)
    }
}
