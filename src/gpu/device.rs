//! An open device, and the one place where what wgpu reports becomes an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::adapter::{AdapterInfo, caps_of, with_storage};
use super::fault::DriverFault;
use super::one_line;
use crate::record::{AdapterKind, Caps, Counts, DType, Ledger, Workers};
use crate::{Error, Result, Tier, Tiers};

/// How a device is opened. The default suits a release build, and adds checks to a debug build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// Only what WebGPU guarantees: no optional feature, default limits. Shows that kernels need nothing more.
    pub restrict_to_webgpu: bool,
    /// What may be used where the device has it; all by default. wgpu counts cooperative matrices as experimental: a driver's fault may show as
    /// anything. Without them products are computed by ordinary arithmetic.
    pub tiers: Tiers,
    /// Bytes that a binding has at most, where that is less than the device says.
    pub max_binding_bytes: Option<u64>,
    /// Compile kernels with bounds checks. Costs up to a third of the speed, more on some GPUs.
    pub checks: bool,
    /// Fill memory with NaN before the first run, so that a kernel that reads what nobody wrote shows.
    pub poison: bool,
    /// About how long one submission may take; by default 100 ms, on a software adapter 1 s, on a host's device 6 ms: its frames come between.
    pub time_budget: Option<Duration>,
    /// A fault that the driver is made to have, for tests of what finds and avoids it.
    pub fault: Option<DriverFault>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        let debug = cfg!(debug_assertions);
        GpuOptions {
            restrict_to_webgpu: false,
            tiers: Tiers::default(),
            max_binding_bytes: None,
            checks: debug,
            poison: debug,
            time_budget: None,
            fault: None,
        }
    }
}

/// wgpu's word that experimental features may be asked for.
pub(super) fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: the one feature that is asked for is cooperative matrices. What wgpu does not check there are the bounds of loads
    // and stores of whole matrices; ours go to workgroup memory, at places that constants and the subgroup's number give.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Whose a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Ours,
    /// Another program part's, that draws on it.
    Host,
}

/// A device and its queue.
pub(super) struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) caps: Caps,
    pub(super) options: GpuOptions,
    /// Whether DX12 compiles with FXC: subgroups come with shader model 6, which every `dxcompiler.dll` has.
    pub(super) has_fxc: bool,
    /// Nanoseconds of one tick, where dispatches can be timed.
    pub(super) timestamp_period: Option<f32>,
    /// Held while a thread waits: two threads that wait for one device trip an assertion inside wgpu-core 30.0.1
    /// (mended upstream after it, gfx-rs/wgpu#9958).
    pub(super) waiting: Mutex<()>,
    pub(super) owner: Owner,
    /// Why the device is of no more use.
    fault: Arc<Mutex<Option<String>>>,
    /// Calls that a [`DriverFault`] counts.
    calls: AtomicU64,
    /// What is allocated on it.
    pub(super) memory: Ledger,
    pub(super) counts: Counts,
    /// The threads that convert constants and compile kernels.
    pub(super) workers: Workers,
}

impl Gpu {
    pub(super) fn open(adapter: &AdapterInfo, storage: DType, options: GpuOptions) -> Result<Self> {
        let tiers = options.tiers;
        let mut wanted = wgpu::Features::TIMESTAMP_QUERY;
        wanted.set(wgpu::Features::SHADER_F16, tiers.has(Tier::Half));
        wanted.set(wgpu::Features::SUBGROUP, tiers.has(Tier::Subgroups));
        let matrices = tiers.has(Tier::Matrices) && !options.restrict_to_webgpu && adapter.caps.matrix_size().is_some();
        wanted.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, matrices);
        let (features, limits) = if options.restrict_to_webgpu {
            (wgpu::Features::empty(), wgpu::Limits::defaults())
        } else {
            (adapter.raw.features() & wanted, adapter.raw.limits())
        };
        let caps = Caps { vendor: adapter.caps.vendor, ..caps_of(&adapter.raw, adapter.kind, features, &limits) };
        let caps = with_storage(&caps, storage)?;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("chiaro"),
            required_features: features,
            required_limits: limits,
            experimental_features: if matrices { experimental() } else { wgpu::ExperimentalFeatures::disabled() },
            // Our buffers are few and large; pools for small ones would only add to the footprint.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        if options.fault == Some(DriverFault::Open) {
            return Err(Error::Device(format!("{}: the device did not open, as the fault asks", caps.name)));
        }
        let (device, queue) = pollster::block_on(adapter.raw.request_device(&descriptor)).map_err(|e| {
            Error::Device(format!("{}: the device did not open: {}", caps.name, one_line(&e.to_string())))
        })?;
        let gpu = Gpu::new(&adapter.raw, (device, queue), caps, features, options, Owner::Ours);
        let lost = Arc::clone(&gpu.fault);
        gpu.device.set_device_lost_callback(move |reason, message| {
            note(&lost, format!("the device was lost ({reason:?}): {}", one_line(&message)));
        });
        let uncaptured = Arc::clone(&gpu.fault);
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&uncaptured, one_line(&error.to_string()));
        }));
        Ok(gpu)
    }

    /// `features`: those of the device that may be used.
    pub(super) fn new(
        adapter: &wgpu::Adapter,
        (device, queue): (wgpu::Device, wgpu::Queue),
        mut caps: Caps,
        features: wgpu::Features,
        options: GpuOptions,
        owner: Owner,
    ) -> Self {
        caps.packed_f16 = options.tiers.has(Tier::Packed);
        caps.max_binding_bytes = caps.max_binding_bytes.min(options.max_binding_bytes.unwrap_or(u64::MAX));
        if let Some(fault) = options.fault {
            fault.change_caps(&mut caps);
        }
        let timestamp_period = features.contains(wgpu::Features::TIMESTAMP_QUERY).then(|| queue.get_timestamp_period());
        // What the adapter has, not what was asked of it.
        let has_fxc =
            adapter.get_info().backend == wgpu::Backend::Dx12 && !adapter.features().contains(wgpu::Features::SUBGROUP);
        Gpu {
            device,
            queue,
            caps,
            options,
            has_fxc,
            timestamp_period,
            waiting: Mutex::new(()),
            owner,
            fault: Arc::default(),
            calls: AtomicU64::new(0),
            memory: Ledger::default(),
            counts: Counts::default(),
            workers: Workers::default(),
        }
    }

    /// Frees all memory, of a host's device nothing; every later call fails.
    pub(super) fn destroy(&self) {
        self.note("the device was given up".into());
        if self.owner == Owner::Ours {
            self.device.destroy();
        }
    }

    /// Why the device is of no more use, if nothing is known yet.
    pub(super) fn note(&self, message: String) {
        note(&self.fault, message);
    }

    /// Whether the adapter computes on the host's cores, where no watchdog waits.
    pub(super) fn is_software(&self) -> bool {
        self.caps.kind == AdapterKind::Software
    }

    /// An error that names the device.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::Device(format!("{}: {}", self.caps.name, one_line(&message.to_string())))
    }

    /// The error of a call that failed without a report. On a device that is lost all calls do: then that is the error.
    pub(super) fn unreported(&self, message: impl std::fmt::Display) -> Error {
        // That the device is lost is told when it is asked for news.
        self.news();
        self.probe();
        self.check().err().unwrap_or_else(|| self.error(message))
    }

    /// # Errors
    /// [`Error::DeviceLost`] when the device was lost, or failed outside of any [`scoped`](Self::scoped) call.
    pub(super) fn check(&self) -> Result<()> {
        match self.fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(fault) => Err(Error::device_lost(&self.caps.name, one_line(fault))),
            None => Ok(()),
        }
    }

    /// Runs `body`, and returns what wgpu reports meanwhile on this thread as an error that says `what` was done.
    pub(super) fn scoped<T>(&self, what: impl FnOnce() -> String, body: impl FnOnce() -> T) -> Result<T> {
        self.check()?;
        match self.fault_of_this_call() {
            Some(DriverFault::Memory(_)) => return Err(self.out_of_memory(&what())),
            Some(DriverFault::Refusal(_)) => return Err(self.error(format!("{}: refused, as the fault asks", what()))),
            _ => {}
        }
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = body();
        let errors = [internal.pop(), memory.pop(), validation.pop()].map(pollster::block_on);
        match errors.into_iter().flatten().next() {
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.out_of_memory(&what())),
            // What is asked of a device that is gone is refused for many reasons.
            Some(error) => Err(self.unreported(format!("{}: {}", what(), one_line(&error.to_string())))),
            None => self.check().map(|()| value),
        }
    }

    fn out_of_memory(&self, what: &str) -> Error {
        Error::out_of_memory(&self.caps.name, one_line(what), None, None)
    }

    /// An error that names the device and what it has not.
    pub(super) fn unsupported(&self, what: impl std::fmt::Display) -> Error {
        Error::unsupported(&self.caps.name, one_line(&what.to_string()))
    }

    /// Counts a call, and says whether the fault that the device pretends to have is one of this call.
    pub(super) fn fault_of_this_call(&self) -> Option<DriverFault> {
        let fault = self.options.fault?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match fault {
            DriverFault::Memory(at) | DriverFault::Refusal(at) if at == call => Some(fault),
            // As a driver's reset shows: wgpu finds it out at what it does next.
            DriverFault::Loss(at) if at == call => {
                self.device.destroy();
                Some(fault)
            }
            _ => None,
        }
    }
}

/// Keeps the first fault: those that follow are its consequences.
fn note(fault: &Mutex<Option<String>>, message: String) {
    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}
