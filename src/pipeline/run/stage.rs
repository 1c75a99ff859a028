//! One network at fixed shapes: planned, compiled, run, and redone in f32 when half precision overflows.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::pipeline::device::Device;
use crate::pipeline::device::programs::{Lease, Weights};
use crate::pipeline::device::vae_tiling::VaeTiling;
use crate::pipeline::device::weight_types::{Part, Streaming};
use crate::pipeline::run::tiling::{Bands, Chains, Form, choose};
use crate::record::{
    Cancel, Caps, Chain, ChainPlan, ChainProgram, DType, MemoryPlan, Outputs, Program, Recording, Run, StreamPlan,
    Traffic, plan,
};
use crate::{Error, ErrorCode, Remedy, Result};

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
    name: &'static str,
    part: Part,
    identity: Identity,
    runs: usize,
    /// Of them, those on kept features.
    reusing: usize,
    record: Record,
    /// The same network in bands, where it has such a form.
    chains: Option<Chains>,
    /// Bytes of what lies on the device beside it.
    beside: u64,
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
        let key =
            format!("plan of {} {:?} {}", self.name, [self.runs, self.reusing], self.key(device, device.storage()));
        let known = device.programs().known(key, &self.identity.networks, || self.make_plan(device))?;
        Ok(StagePlan::clone(&known))
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

    /// Compiles the stage and uploads its weights, or finds it compiled. Runs end early when `cancel` asks for it.
    pub(crate) fn open(self, device: &Device, cancel: &Cancel) -> Result<OpenStage> {
        self.open_as(device, device.storage(), cancel)
    }

    fn open_as(self, device: &Device, storage: DType, cancel: &Cancel) -> Result<OpenStage> {
        let (lease, _) = self.lease(device, storage);
        let (device, cancel) = (device.clone(), cancel.clone());
        let mut open = OpenStage { stage: self, device, storage, lease: None, note: None, cancel };
        open.load(&lease, 0)?;
        open.lease = Some(lease);
        Ok(open)
    }

    /// A lease of the program, and whether it is there. Of one that keeps features, a lease of its own.
    fn lease(&self, device: &Device, storage: DType) -> (Lease, bool) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut key = self.key(device, storage);
        if self.keeps_features {
            key += &format!(" of job {}", NEXT.fetch_add(1, Ordering::Relaxed));
        }
        device.programs().lease(key, &self.identity.networks, self.keeps_features)
    }

    fn form(&self, device: &Device, storage: DType) -> Result<Form> {
        let limit = device.memory_limit(self.part).map(|bytes| bytes.saturating_sub(self.beside));
        self.form_within(device, storage, limit)
    }

    /// The stage, with constants that pass through where it would take more than `limit`.
    fn form_within(&self, device: &Device, storage: DType, limit: Option<u64>) -> Result<Form> {
        let record = |caps: &Caps| {
            let mut recording = (self.record)(caps)?;
            recording.memory_limit = limit;
            Ok(recording)
        };
        choose(&record, self.chains.as_ref(), device, &device.caps_with(storage))
    }

    /// Compiles a form of the stage, for which others make room. A whole that the device has no memory for all the same (nobody set a limit, and none
    /// can be asked of it) is cut into bands where it may be; the user is told why.
    fn compile(&self, device: &Device, storage: DType, form: Form) -> Result<(Box<dyn Program>, Option<String>)> {
        let caps = device.caps_with(storage);
        let recording = match form {
            Form::Whole(recording, _) => *recording,
            Form::Banded(chain, plan, _) => return Ok((banded(device, caps, chain, plan), None)),
        };
        let missing = device.backend().missing_constant_bytes(&recording);
        let plan = plan(&recording)?;
        let needed = plan.peak_bytes() - (plan.constant_bytes as u64).min(plan.peak_bytes()) + missing;
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
                Ok((banded(device, caps, chain, plan), Some(note)))
            }
            _ => Err(refused),
        }
    }

    /// Lets others make room for so many bytes, where there is a limit.
    fn make_room(&self, device: &Device, needed: u64) -> Weights {
        match device.resident_limit() {
            Some(limit) => device.programs().make_room(device.backend(), needed, limit, &self.identity.networks),
            None => Weights::new(),
        }
    }
}

fn banded(device: &Device, caps: Caps, chain: Chain<'static>, plan: ChainPlan) -> Box<dyn Program> {
    Box::new(ChainProgram::new(device.backend_arc(), caps, chain, plan))
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

/// A compiled stage. Dropping it releases its memory, or leaves it to those who come later ([`Residency`](crate::pipeline::Residency)).
pub(crate) struct OpenStage {
    stage: Stage,
    device: Device,
    storage: DType,
    /// `None` once it could not be compiled in f32.
    lease: Option<Lease>,
    /// What opening it has to tell the user.
    note: Option<String>,
    cancel: Cancel,
}

impl OpenStage {
    /// What runs.
    pub(crate) fn identity(&self) -> &Identity {
        self.stage.identity()
    }

    /// Opens another stage in place of this one. Weights that both use stay on the device; where programs do not stay, nothing else of the old one
    /// does.
    pub(crate) fn exchange(self, stage: Stage) -> Result<OpenStage> {
        let OpenStage { device, storage, lease, cancel, .. } = self;
        let weights = lease.and_then(Lease::exchange);
        // One that was widened stays so, if the limit of memory allows it.
        let wide = storage != device.storage();
        let fits = || {
            let form = stage.form(&device, storage)?;
            Result::Ok(form.peak_bytes() + stage.beside <= device.budget().unwrap_or(u64::MAX))
        };
        let storage = if wide && fits()? { storage } else { device.storage() };
        let open = stage.open_as(&device, storage, &cancel);
        drop(weights);
        open
    }

    /// Compiles the program unless it is there; `count` values overflowed before, where it is one that was widened.
    fn load(&mut self, lease: &Lease, count: usize) -> Result<()> {
        if !lease.is_vacant() {
            return Ok(());
        }
        let wide = self.storage != self.device.storage();
        let form = if wide { self.within_budget(count)? } else { self.stage.form(&self.device, self.storage)? };
        let (program, note) = self.stage.compile(&self.device, self.storage, form)?;
        lease.give(program);
        self.note = note;
        Ok(())
    }

    /// Runs the stage once. A result that is not finite is computed again in f32 where the device's precision is automatic; `notes`
    /// then says so.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when f32 overflows too or widening is not allowed; whatever the device reports.
    pub(crate) fn run(&mut self, inputs: &[(&str, &[f32])], notes: &mut Vec<String>) -> Result<Outputs> {
        self.run_as(inputs, false, notes)
    }

    /// As [`run`](Self::run); with `reuse`, on the features of the last whole run. Redone in f32, it is whole.
    pub(crate) fn run_as(
        &mut self,
        inputs: &[(&str, &[f32])],
        reuse: bool,
        notes: &mut Vec<String>,
    ) -> Result<Outputs> {
        notes.extend(self.note.take());
        let count = match self.run_once(inputs, reuse)? {
            Ok(outputs) => return Ok(outputs),
            Err(count) => count,
        };
        if self.storage == DType::F16 && self.device.may_widen() {
            notes.push(format!("{}: {count} values overflowed in f16, redone in f32", self.stage.name));
            // The old lease first: what it held is not needed beside what comes.
            self.lease = None;
            self.storage = DType::F32;
            let (lease, _) = self.stage.lease(&self.device, DType::F32);
            self.load(&lease, count)?;
            self.lease = Some(lease);
            notes.extend(self.note.take());
            return self.run_once(inputs, false)?.map_err(|count| self.overflow(count));
        }
        Err(self.overflow(count))
    }

    /// The results, or how many values are not finite.
    fn run_once(&mut self, inputs: &[(&str, &[f32])], reuse: bool) -> Result<std::result::Result<Outputs, usize>> {
        let Some(lease) = self.lease.take() else {
            return Err(Error::Device(format!("{}: could not be compiled in f32 before", self.stage.name)));
        };
        let outputs = self.load(&lease, 0).and_then(|()| {
            let mut program = lease.take().expect("it was just loaded, and it is this job's turn");
            let outputs = program.execute(inputs, Run { reuse, cancel: Some(&self.cancel) });
            match &outputs {
                Err(error) if error.code() == ErrorCode::DeviceLost => self.device.programs().abandon(),
                _ => lease.give(program),
            }
            outputs
        });
        self.lease = Some(lease);
        match outputs {
            Ok(outputs) => Ok(match non_finite(&outputs) {
                0 => Ok(outputs),
                count => Err(count),
            }),
            // Bands find out before the end.
            Err(Error::NonFinite { count, .. }) => Ok(Err(count)),
            Err(error) => Err(error),
        }
    }

    /// The stage in f32 within the limit of memory that the user set, with weights that pass through where it must be so; refused where that is
    /// not enough.
    fn within_budget(&self, count: usize) -> Result<Form> {
        let form = self.stage.form(&self.device, DType::F32)?;
        let Some(allowed) = self.device.budget().map(|bytes| bytes.saturating_sub(self.stage.beside)) else {
            return Ok(form);
        };
        let may_stream = self.device.streaming() != Streaming::Off && self.stage.part != Part::Vae;
        let form = match form.peak_bytes() > allowed && may_stream {
            true => self.stage.form_within(&self.device, DType::F32, Some(allowed))?,
            false => form,
        };
        let needed = form.peak_bytes();
        if needed <= allowed {
            return Ok(form);
        }
        let detail = format!(
            " in f16, and in f32 it needs {} MiB, more than the limit of memory allows",
            needed.div_ceil(1 << 20)
        );
        let remedies = vec![Remedy::LargerLimit];
        Err(Error::NonFinite { stage: self.stage.name.into(), count, detail, remedies })
    }

    fn overflow(&self, count: usize) -> Error {
        let (detail, remedies) = match self.storage {
            DType::F16 => (" in f16", vec![Remedy::AutomaticPrecision, Remedy::SinglePrecision]),
            _ => (" in f32: the weights or the input are damaged", Vec::new()),
        };
        Error::NonFinite { stage: self.stage.name.into(), count, detail: detail.into(), remedies }
    }
}

fn non_finite(outputs: &Outputs) -> usize {
    outputs.values().flatten().filter(|v| !v.is_finite()).count()
}
