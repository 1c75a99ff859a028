//! Ties device, pipelines and memory together behind `record::Backend`.

use std::sync::Arc;

use super::adapter::AdapterInfo;
use super::device::{Gpu, GpuOptions};
use super::memory::Constants;
use super::pace::Pace;
use super::pipeline::Pipelines;
use super::program::GpuProgram;
use crate::Result;
use crate::record::{Backend, Caps, Counters, DType, Program, Recording, Workers, apart, plan};

/// Executes recordings on one GPU.
pub struct GpuBackend {
    pub(super) shared: Arc<Shared>,
}

/// What the programs of a device have in common.
pub(super) struct Shared {
    pub(super) gpu: Gpu,
    pub(super) pipelines: Pipelines,
    pub(super) constants: Constants,
    pub(super) pace: Pace,
}

impl GpuBackend {
    /// Opens a device that keeps activations as `storage`.
    ///
    /// # Errors
    /// When the device does not open, or has no 16-bit types and `storage` needs them.
    pub fn open(adapter: &AdapterInfo, storage: DType, options: GpuOptions) -> Result<Self> {
        let gpu = Gpu::open(adapter, storage, options)?;
        let pace = Pace::new(gpu.is_software(), options.time_budget);
        let (pipelines, constants) = Default::default();
        Ok(GpuBackend { shared: Arc::new(Shared { gpu, pipelines, constants, pace }) })
    }

    /// Like [`Backend::compile`], for callers that want what only a GPU's program has.
    ///
    /// # Errors
    /// As [`Backend::compile`].
    pub fn compile_program(&self, recording: Recording) -> Result<GpuProgram> {
        apart(|| GpuProgram::new(Arc::clone(&self.shared), recording))
    }

    /// Bytes of the constants that stay on the device while some program holds them, each counted once.
    pub fn constant_bytes(&self) -> u64 {
        self.shared.constants.bytes()
    }

    /// Gives the device and all its memory up. Whatever is asked of it later fails with [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn destroy(&self) {
        self.shared.gpu.destroy();
    }
}

impl Backend for GpuBackend {
    fn caps(&self) -> &Caps {
        &self.shared.gpu.caps
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Program>> {
        Ok(Box::new(self.compile_program(recording)?))
    }

    fn prepare(&self, recording: &Recording) -> Result<()> {
        apart(|| self.shared.pipelines.of(&self.shared.gpu, &recording.dispatches)).map(drop)
    }

    fn counters(&self) -> Counters {
        self.shared.gpu.counts.now()
    }

    fn allocated_bytes(&self) -> u64 {
        self.shared.gpu.memory.bytes()
    }

    fn missing_constant_bytes(&self, recording: &Recording) -> u64 {
        // What passes through is known by the plan alone; without a limit nothing does.
        let plan = recording.memory_limit.and_then(|_| plan(recording).ok()).unwrap_or_default();
        self.shared.constants.missing_bytes(recording, &plan)
    }

    fn workers(&self) -> Option<&Workers> {
        Some(&self.shared.gpu.workers)
    }
}
