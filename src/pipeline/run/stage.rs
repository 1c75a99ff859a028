//! One network at fixed shapes: planned, compiled, run, and redone in f32 when half precision overflows.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::pipeline::device::Device;
use crate::pipeline::device::programs::{Lease, Weights};
use crate::pipeline::device::residency::Residency;
use crate::pipeline::device::vae_tiling::VaeTiling;
use crate::pipeline::device::weight_types::Part;
use crate::pipeline::run::tiling::{Bands, Chains, Form, choose};
use crate::record::{Caps, Chain, ChainPlan, ChainProgram, DType, MemoryPlan, Program, Recording, StreamPlan, Traffic};

/// Makes a stage's recording for given capabilities.
type Record = Box<dyn Fn(&Caps) -> Result<Recording> + Send>;

/// What is compiled of a stage is known by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The networks that run together.
    pub(crate) networks: Vec<u64>,
    /// What of them, and at which shapes.
    pub(crate) form: String,
}

/// A network at fixed shapes.
pub(crate) struct Stage {
    pub(super) name: &'static str,
    pub(super) part: Part,
    identity: Identity,
    runs: usize,
    /// Of them, those on kept features.
    reusing: usize,
    record: Record,
    /// The same network in bands, where it has such a form.
    chains: Option<Chains>,
    /// Bytes of what lies on the device beside it.
    pub(super) beside: u64,
    /// Whether features of one run serve the next.
    keeps_features: bool,
}

/// Work and memory of one stage, known before it runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StagePlan {
    /// Which network.
    pub name: &'static str,
    /// How often it runs for the whole request.
    pub runs: usize,
    /// How many of them are on kept features ([`Request::deep_cache`](crate::pipeline::Request::deep_cache)).
    pub reusing_runs: usize,
    /// Floating-point operations of one whole run (a fused multiply-add is two), without [`once`](Self::once).
    pub flops: u64,
    /// Kernel launches of one whole run, without [`once`](Self::once).
    pub dispatches: usize,
    /// Bytes that the kernels of one whole run move, and the least that its layers could ([`Traffic`] says what is counted).
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub traffic: Traffic,
    /// What a run on kept features moves; zero where there is none.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub reusing: Traffic,
    /// What is computed in the first run and in each whose text or control pictures differ from those of the run before.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub once: Traffic,
    /// Its memory; in bands, that of its largest part, as one part is in memory at a time.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub memory: MemoryPlan,
    /// Bytes of its weights by element type, most first; of all parts.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub weights: Vec<(DType, u64)>,
    /// How it is cut, if it runs in bands.
    pub bands: Option<Bands>,
    /// Bytes of what lies on the device beside it while it runs: the decoder of previews.
    pub beside_bytes: u64,
}

impl StagePlan {
    /// Bytes that the executor allocates for the stage, with what lies beside it.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.peak_bytes() + self.beside_bytes
    }

    /// Floating-point operations of all its runs.
    pub fn total_flops(&self) -> u64 {
        let whole = self.flops * (self.runs - self.reusing_runs) as u64;
        whole + self.reusing.flops * self.reusing_runs as u64 + self.once.flops
    }

    /// Bytes of all its weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of weights that one run moves to the device; 0 where all stay on it.
    pub fn streamed_bytes_per_run(&self) -> u64 {
        self.memory.stream.as_ref().map_or(0, StreamPlan::bytes_per_run)
    }
}

impl Stage {
    pub(crate) fn new(
        (name, part): (&'static str, Part),
        identity: Identity,
        runs: usize,
        record: impl Fn(&Caps) -> Result<Recording> + Send + 'static,
    ) -> Self {
        let record = Box::new(record);
        Stage { name, part, identity, runs, reusing: 0, record, chains: None, beside: 0, keeps_features: false }
    }

    /// A network that can also run with its `levels` finest levels in bands.
    pub(crate) fn or_in_bands(self, levels: usize, chain: impl Fn(usize) -> Chain<'static> + Send + 'static) -> Self {
        Stage { chains: Some(Box::new(move |n| (n <= levels).then(|| chain(n)))), ..self }
    }

    /// The same stage, beside which so many bytes are taken.
    pub(crate) fn beside(self, beside: u64) -> Self {
        Stage { beside, ..self }
    }

    /// The same stage, of which a run may leave features to the next.
    pub(crate) fn keeping_features(self, keeps_features: bool) -> Self {
        Stage { keeps_features, ..self }
    }

    /// The same stage, that runs so often whole and on kept features.
    pub(crate) fn runs_of(self, whole: usize, reusing: usize) -> Self {
        Stage { runs: whole + reusing, reusing, ..self }
    }

    /// How often the stage runs.
    pub(crate) fn runs(&self) -> usize {
        self.runs
    }

    /// Whether it has a form in bands.
    pub(super) fn may_be_cut(&self) -> bool {
        self.chains.is_some()
    }

    /// What users know it by.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What is compiled of it.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What a program of it is known by: what it is, and all of the device that its form depends on.
    fn key(&self, device: &Device, storage: DType) -> String {
        let Identity { networks, form } = &self.identity;
        let limits = (device.budget(), device.vae_tiling(), device.memory_limit(self.part), self.beside);
        format!("{networks:?} {form} {} {limits:?} {}", storage.name(), device.tuning_key())
    }

    /// The stage in one piece.
    pub(crate) fn recording(&self, device: &Device) -> Result<Recording> {
        let mut recording = (self.record)(&device.caps())?;
        let limit = device.memory_limit(self.part);
        recording.memory_limit = limit.map(|bytes| bytes.saturating_sub(self.beside));
        Ok(recording)
    }

    /// What the stage will take.
    pub(crate) fn plan(&self, device: &Device) -> Result<StagePlan> {
        let key = format!("plan of {}", self.key(device, device.storage()));
        let known = device.programs().known(key, &self.identity.networks, || self.make_plan(device))?;
        // What is known is of one run, whoever asked first and however often that ran.
        let reusing_runs = if known.bands.is_some() { 0 } else { self.reusing };
        Ok(StagePlan { name: self.name, runs: self.runs, reusing_runs, ..StagePlan::clone(&known) })
    }

    fn make_plan(&self, device: &Device) -> Result<StagePlan> {
        let (name, runs) = (self.name, self.runs);
        Ok(match self.form(device, device.storage())? {
            Form::Whole(recording, memory) => StagePlan {
                name,
                runs,
                flops: recording.traffic().flops,
                dispatches: recording.traffic().dispatches,
                traffic: recording.traffic(),
                reusing_runs: self.reusing,
                reusing: recording.reusing_traffic().unwrap_or_default(),
                once: recording.prologue_traffic(),
                memory,
                weights: recording.constant_bytes(),
                bands: None,
                beside_bytes: self.beside,
            },
            Form::Banded(_, plan, bands) => {
                let traffic: Traffic = plan.parts.iter().map(|part| part.traffic * part.windows.len()).sum();
                StagePlan {
                    name,
                    runs,
                    flops: traffic.flops,
                    dispatches: traffic.dispatches,
                    traffic,
                    reusing_runs: 0,
                    reusing: Traffic::default(),
                    once: Traffic::default(),
                    memory: plan.largest().map(|part| part.memory.clone()).unwrap_or_default(),
                    weights: weights(&plan),
                    bands: Some(bands),
                    beside_bytes: self.beside,
                }
            }
        })
    }

    /// Compiles the kernels of the stage; of one in bands, those of the whole.
    pub(crate) fn prepare(&self, device: &Device) -> Result<()> {
        device.backend().prepare(&self.recording(device)?)
    }

    /// Compiles the stage and uploads its weights; in bands, each part in its turn. Gives the most bytes that were allocated at
    /// one time.
    pub(crate) fn allocate(self, device: &Device) -> Result<u64> {
        match self.form(device, device.storage())? {
            Form::Whole(recording, _) => Ok(device.backend().compile(*recording)?.allocated_bytes()),
            Form::Banded(chain, plan, _) => {
                ChainProgram::new(device.backend_arc(), device.caps(), chain, plan).allocate()
            }
        }
    }

    /// A lease of the program. Of one that keeps features, a lease of its own.
    pub(super) fn lease(&self, device: &Device, storage: DType) -> Lease {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut key = self.key(device, storage);
        if self.keeps_features {
            key += &format!(" of job {}", NEXT.fetch_add(1, Ordering::Relaxed));
        }
        device.programs().lease(key, &self.identity.networks, self.keeps_features)
    }

    pub(super) fn form(&self, device: &Device, storage: DType) -> Result<Form> {
        let limit = device.memory_limit(self.part).map(|bytes| bytes.saturating_sub(self.beside));
        self.form_within(device, storage, limit)
    }

    /// The stage, with constants that pass through where it would take more than `limit`.
    pub(super) fn form_within(&self, device: &Device, storage: DType, limit: Option<u64>) -> Result<Form> {
        let record = |caps: &Caps| {
            let mut recording = (self.record)(caps)?;
            recording.memory_limit = limit;
            Ok(recording)
        };
        choose(&record, self.chains.as_ref(), device, &device.caps_with(storage))
    }

    /// Compiles a form of the stage, for which others make room. A whole that the device has no memory for all the same (nobody set a limit, and none
    /// can be asked of it) is cut into bands where it may be; the user is told why.
    pub(super) fn compile(
        &self,
        device: &Device,
        storage: DType,
        form: Form,
    ) -> Result<(Box<dyn Program>, Option<String>)> {
        let caps = device.caps_with(storage);
        let (recording, plan) = match form {
            Form::Whole(recording, plan) => (*recording, plan),
            Form::Banded(chain, plan, _) => return Ok((self.banded(device, caps, chain, plan), None)),
        };
        let missing = device.backend().missing_constant_bytes(&recording);
        let needed = plan.peak_bytes() - plan.constant_bytes as u64 + missing;
        let _weights = self.make_room(device, needed);
        let refused = match device.backend().compile(recording) {
            Err(error) if error.is_too_large() => error,
            compiled => return compiled.map(|program| (program, None)),
        };
        if device.programs().evict(true).is_some() {
            device.programs().clear();
            return self.compile(device, storage, self.form(device, storage)?);
        }
        match self.form(&device.clone().with_vae_tiling(VaeTiling::On), storage) {
            Ok(Form::Banded(chain, plan, bands)) if device.vae_tiling() == VaeTiling::Auto => {
                let note = format!("{} in bands, {bands}: {refused}", self.name);
                Ok((self.banded(device, caps, chain, plan), Some(note)))
            }
            _ => Err(refused),
        }
    }

    /// A program in bands, whose weights stay if programs do and the limit has room for all of them.
    fn banded(&self, device: &Device, caps: Caps, chain: Chain<'static>, plan: ChainPlan) -> Box<dyn Program> {
        let all: u64 = weights(&plan).iter().map(|(_, bytes)| bytes).sum();
        let fits = device.resident_limit().is_none_or(|limit| plan.peak_bytes() + all <= limit);
        let program = ChainProgram::new(device.backend_arc(), caps, chain, plan);
        if device.residency() != Residency::Off && fits {
            Box::new(program.keeping_weights())
        } else {
            Box::new(program)
        }
    }

    /// Lets others make room for so many bytes, where there is a limit.
    pub(super) fn make_room(&self, device: &Device, needed: u64) -> Weights {
        match device.resident_limit() {
            Some(limit) => device.programs().make_room(device.backend(), needed, limit, &self.identity.networks),
            None => Weights::new(),
        }
    }
}

/// Bytes of all parts' weights by element type.
fn weights(plan: &ChainPlan) -> Vec<(DType, u64)> {
    let mut found: Vec<(DType, u64)> = Vec::new();
    for &(dtype, bytes) in plan.parts.iter().flat_map(|part| &part.weights) {
        match found.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => found.push((dtype, bytes)),
        }
    }
    found.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    found
}
