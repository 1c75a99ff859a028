//! Ties device, pipelines and memory together behind `record::Backend`.

use std::sync::Arc;
use std::time::Duration;

use super::adapter::AdapterInfo;
use super::device::{Gpu, GpuOptions, Owner};
use super::fault::DriverFault;
use super::memory::Constants;
use super::pace::Pace;
use super::pipeline::Pipelines;
use super::program::GpuProgram;
use crate::Result;
use crate::record::{Backend, Caps, Counters, DType, Program, Recording, Workers, plan};

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
    /// What it was opened from, where it is not a host's.
    opened: Option<(AdapterInfo, DType)>,
}

/// A submission on a host's device: half a frame at most.
const HOST_BUDGET: Duration = Duration::from_millis(6);

impl GpuBackend {
    /// Opens a device that keeps activations as `storage`.
    ///
    /// # Errors
    /// When the device does not open, or has no 16-bit types and `storage` needs them.
    pub fn open(adapter: &AdapterInfo, storage: DType, options: GpuOptions) -> Result<Self> {
        let gpu = Gpu::open(adapter, storage, options)?;
        Ok(Self::with(gpu, Some((adapter.clone(), storage))))
    }

    /// Computes on a device that a host opened from `adapter`, beside what the host does with it, and keeps activations as `storage`.
    /// [`device_descriptor`](super::device_descriptor) tells what to open it with.
    ///
    /// The host's callbacks, error scopes and polls stay its own, the device is never destroyed, and submissions are short
    /// ([`GpuOptions::time_budget`]) so that frames come between. Calls block the thread that makes them, without waiting inside of wgpu: make them on
    /// one that draws nothing. Nothing but `queue` is submitted to.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) with the names of all features and limits that the device lacks.
    pub fn on(
        adapter: wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        storage: DType,
        options: GpuOptions,
    ) -> Result<Self> {
        Ok(Self::with(Gpu::on(&adapter, device, queue, storage, options)?, None))
    }

    /// Opens the device anew, as it was opened, after it was lost. What was on the old one is lost with it: programs are compiled again.
    ///
    /// # Errors
    /// As [`open`](Self::open); on a host's device always, as the host alone can open another.
    pub fn reopen(&self) -> Result<Self> {
        let Some((adapter, storage)) = &self.shared.opened else {
            return Err(self.shared.gpu.unsupported("the device is its host's: expected another one from there"));
        };
        let mut options = self.shared.gpu.options;
        // What was lost is lost once.
        options.fault = options.fault.filter(|fault| !matches!(fault, DriverFault::Loss(_)));
        Self::open(adapter, *storage, options)
    }

    fn with(gpu: Gpu, opened: Option<(AdapterInfo, DType)>) -> Self {
        let host = (gpu.owner == Owner::Host).then_some(HOST_BUDGET);
        let pace = Pace::new(gpu.is_software(), gpu.options.time_budget.or(host));
        let (pipelines, constants) = Default::default();
        GpuBackend { shared: Arc::new(Shared { gpu, pipelines, constants, pace, opened }) }
    }

    /// Like [`Backend::compile`], for callers that want what only a GPU's program has.
    ///
    /// # Errors
    /// As [`Backend::compile`].
    pub fn compile_program(&self, recording: Recording) -> Result<GpuProgram> {
        self.shared.gpu.workers.apart(|| GpuProgram::new(Arc::clone(&self.shared), recording))
    }

    /// Bytes of the constants that stay on the device while some program holds them, each counted once.
    pub fn constant_bytes(&self) -> u64 {
        self.shared.constants.bytes()
    }

    /// Gives the device and all its memory up; a host's stays as it is. Whatever is asked of it later fails with [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn destroy(&self) {
        self.shared.gpu.destroy();
    }
}

impl Backend for GpuBackend {
    fn caps(&self) -> &Caps {
        &self.shared.gpu.caps
    }

    fn reopen(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(GpuBackend::reopen(self)?))
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Program>> {
        Ok(Box::new(self.compile_program(recording)?))
    }

    fn prepare(&self, recording: &Recording) -> Result<()> {
        self.shared.gpu.workers.apart(|| self.shared.pipelines.of(&self.shared.gpu, &recording.dispatches)).map(drop)
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
