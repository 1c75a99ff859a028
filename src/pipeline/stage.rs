//! One network at fixed shapes: planned, compiled, run, and redone in f32 when half precision overflows.

use super::Device;
use super::tiling::{Bands, Chains, Form, VaeTiling, choose};
use super::weight_types::{Part, Streaming};
use crate::record::{
    Caps, Chain, ChainPlan, ChainProgram, DType, MemoryPlan, Outputs, Program, Recording, StreamPlan, Traffic,
};
use crate::{Error, Result};

/// Makes a stage's recording for given capabilities.
type Record<'m> = Box<dyn Fn(&Caps) -> Result<Recording> + Send + 'm>;

/// A network at fixed shapes.
pub(super) struct Stage<'m> {
    name: &'static str,
    runs: usize,
    /// Of them, those on kept features.
    reusing: usize,
    record: Record<'m>,
    /// The same network in bands, where it has such a form.
    chains: Option<Chains<'m>>,
    /// Bytes of what lies on the device beside it.
    beside: u64,
}

/// Work and memory of one stage, known before it runs.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Which network.
    pub name: &'static str,
    /// How often it runs for the whole request.
    pub runs: usize,
    /// How many of them are on kept features ([`Request::deep_cache`](super::Request::deep_cache)).
    pub reusing_runs: usize,
    /// Floating-point operations of one whole run (a fused multiply-add is two), without [`once`](Self::once).
    pub flops: u64,
    /// Kernel launches of one whole run, without [`once`](Self::once).
    pub dispatches: usize,
    /// Bytes that the kernels of one whole run move, and the least that its layers could ([`Traffic`] says what is counted).
    pub traffic: Traffic,
    /// What a run on kept features moves; zero where there is none.
    pub reusing: Traffic,
    /// What is computed in the first run and in each whose text or control pictures differ from those of the run before.
    pub once: Traffic,
    /// Its memory; in bands, that of its largest part, as one part is in memory at a time.
    pub memory: MemoryPlan,
    /// Bytes of its weights by element type, most first; of all parts.
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

impl<'m> Stage<'m> {
    pub(super) fn new(
        name: &'static str,
        runs: usize,
        record: impl Fn(&Caps) -> Result<Recording> + Send + 'm,
    ) -> Self {
        Stage { name, runs, reusing: 0, record: Box::new(record), chains: None, beside: 0 }
    }

    /// A network that can also run with its `levels` finest levels in bands.
    pub(super) fn or_in_bands(self, levels: usize, chain: impl Fn(usize) -> Chain<'m> + Send + 'm) -> Self {
        Stage { chains: Some(Box::new(move |n| (n <= levels).then(|| chain(n)))), ..self }
    }

    /// The same stage, beside which so many bytes are taken.
    pub(super) fn beside(self, beside: u64) -> Self {
        Stage { beside, ..self }
    }

    /// The same stage, that runs so often whole and on kept features.
    pub(super) fn runs_of(self, whole: usize, reusing: usize) -> Self {
        Stage { runs: whole + reusing, reusing, ..self }
    }

    /// How often the stage runs.
    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// What users know it by.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The stage in one piece.
    pub(super) fn recording(&self, device: &Device) -> Result<Recording> {
        let mut recording = (self.record)(&device.caps())?;
        let limit = device.memory_limit(Part::of(self.name));
        recording.memory_limit = limit.map(|bytes| bytes.saturating_sub(self.beside));
        Ok(recording)
    }

    /// What the stage will take.
    pub(super) fn plan(&self, device: &Device) -> Result<StagePlan> {
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
    pub(super) fn prepare(&self, device: &Device) -> Result<()> {
        device.backend().prepare(&self.recording(device)?)
    }

    /// Compiles the stage and uploads its weights; in bands, each part in its turn. Gives the most bytes that were allocated at
    /// one time.
    pub(super) fn allocate(self, device: &Device) -> Result<u64> {
        match self.form(device, device.storage())? {
            Form::Whole(recording, _) => Ok(device.backend().compile(*recording)?.allocated_bytes()),
            Form::Banded(chain, plan, _) => {
                ChainProgram::new(device.backend_arc(), device.caps(), chain, plan).allocate()
            }
        }
    }

    /// Compiles the stage and uploads its weights.
    pub(super) fn open(self, device: &Device) -> Result<OpenStage<'m>> {
        self.open_as(device, device.storage())
    }

    fn open_as(self, device: &Device, storage: DType) -> Result<OpenStage<'m>> {
        let form = self.form(device, storage)?;
        let (program, note) = self.compile(device, storage, form)?;
        Ok(OpenStage { stage: self, device: device.clone(), storage, program: Some(program), note })
    }

    fn form(&self, device: &Device, storage: DType) -> Result<Form<'m>> {
        let limit = device.memory_limit(Part::of(self.name)).map(|bytes| bytes.saturating_sub(self.beside));
        self.form_within(device, storage, limit)
    }

    /// The stage, with constants that pass through where it would take more than `limit`.
    fn form_within(&self, device: &Device, storage: DType, limit: Option<u64>) -> Result<Form<'m>> {
        let record = |caps: &Caps| {
            let mut recording = (self.record)(caps)?;
            recording.memory_limit = limit;
            Ok(recording)
        };
        choose(&record, self.chains.as_ref(), device, &device.caps_with(storage))
    }

    /// A whole that the device has no memory for (nobody set a limit, and none can be asked of it) is cut into bands after all where
    /// it may be; the user is told why.
    fn compile(
        &self,
        device: &Device,
        storage: DType,
        form: Form<'m>,
    ) -> Result<(Box<dyn Program + 'm>, Option<String>)> {
        let caps = device.caps_with(storage);
        let recording = match form {
            Form::Whole(recording, _) => *recording,
            Form::Banded(chain, plan, _) => return Ok((banded(device, caps, chain, plan), None)),
        };
        let refused = match device.backend().compile(recording) {
            Ok(program) => return Ok((program, None)),
            Err(refused) if refused.is_too_large() && device.vae_tiling() == VaeTiling::Auto => refused,
            Err(error) => return Err(error),
        };
        match self.form(&device.clone().with_vae_tiling(VaeTiling::On), storage) {
            Ok(Form::Banded(chain, plan, bands)) => {
                let note = format!("{} in bands, {bands}: {refused}", self.name);
                Ok((banded(device, caps, chain, plan), Some(note)))
            }
            _ => Err(refused),
        }
    }
}

fn banded<'m>(device: &Device, caps: Caps, chain: Chain<'m>, plan: ChainPlan) -> Box<dyn Program + 'm> {
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

/// A compiled stage; dropping it releases its memory.
pub(super) struct OpenStage<'m> {
    stage: Stage<'m>,
    device: Device,
    storage: DType,
    /// `None` only while one program is exchanged for another, so that both are never in memory at once.
    program: Option<Box<dyn Program + 'm>>,
    /// What opening it has to tell the user.
    note: Option<String>,
}

impl<'m> OpenStage<'m> {
    /// Opens another stage in place of this one. Weights that both use stay on the device; nothing else of the old one does.
    pub(super) fn exchange(mut self, stage: Stage<'m>) -> Result<OpenStage<'m>> {
        let weights = self.program.take().map(|program| program.weights());
        // One that was widened stays so, if the limit of memory allows it.
        let wide = self.storage != self.device.storage();
        let fits = || {
            let form = stage.form(&self.device, self.storage)?;
            Result::Ok(form.peak_bytes() + stage.beside <= self.device.budget().unwrap_or(u64::MAX))
        };
        let storage = if wide && fits()? { self.storage } else { self.device.storage() };
        let open = stage.open_as(&self.device, storage);
        drop(weights);
        open
    }

    /// Runs the stage once. A result that is not finite is computed again in f32 where the device's precision is automatic; `notes`
    /// then says so.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when f32 overflows too or widening is not allowed; whatever the device reports.
    pub(super) fn run(&mut self, inputs: &[(&str, &[f32])], notes: &mut Vec<String>) -> Result<Outputs> {
        self.run_as(inputs, false, notes)
    }

    /// As [`run`](Self::run); with `reuse`, on the features of the last whole run. Redone in f32, it is whole.
    pub(super) fn run_as(
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
            self.program = None;
            self.storage = DType::F32;
            let form = self.within_budget(count)?;
            let (program, note) = self.stage.compile(&self.device, DType::F32, form)?;
            self.program = Some(program);
            notes.extend(note);
            return self.run_once(inputs, false)?.map_err(|count| self.overflow(count));
        }
        Err(self.overflow(count))
    }

    /// The results, or how many values are not finite.
    fn run_once(&mut self, inputs: &[(&str, &[f32])], reuse: bool) -> Result<std::result::Result<Outputs, usize>> {
        let Some(program) = &mut self.program else {
            return Err(Error::Device(format!("{}: could not be compiled in f32 before", self.stage.name)));
        };
        let outputs = if reuse { program.run_reusing(inputs) } else { program.run(inputs) };
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
    fn within_budget(&self, count: usize) -> Result<Form<'m>> {
        let form = self.stage.form(&self.device, DType::F32)?;
        let Some(allowed) = self.device.budget().map(|bytes| bytes.saturating_sub(self.stage.beside)) else {
            return Ok(form);
        };
        let may_stream = self.device.streaming() != Streaming::Off && Part::of(self.stage.name) != Part::Vae;
        let form = match form.peak_bytes() > allowed && may_stream {
            true => self.stage.form_within(&self.device, DType::F32, Some(allowed))?,
            false => form,
        };
        let needed = form.peak_bytes();
        if needed <= allowed {
            return Ok(form);
        }
        let hint = format!(" in f16, and in f32 it needs {} MiB, more than --vram allows", needed.div_ceil(1 << 20));
        Err(Error::NonFinite { stage: self.stage.name.into(), count, hint })
    }

    fn overflow(&self, count: usize) -> Error {
        let hint = match self.storage {
            DType::F16 => "; use --precision auto or f32",
            _ => " in f32: the weights or the input are damaged",
        };
        Error::NonFinite { stage: self.stage.name.into(), count, hint: hint.into() }
    }
}

fn non_finite(outputs: &Outputs) -> usize {
    outputs.values().flatten().filter(|v| !v.is_finite()).count()
}
