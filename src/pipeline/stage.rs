//! One network at fixed shapes: planned, compiled, run, and redone in f32 when half precision overflows.

use super::Device;
use super::weight_types::{Part, Streaming};
use crate::record::{Caps, DType, MemoryPlan, Outputs, Program, Recording, Role, StreamPlan, plan, stored_bytes};
use crate::{Error, Result};

/// Makes a stage's recording for given capabilities.
type Record<'m> = Box<dyn Fn(&Caps) -> Result<Recording> + Send + 'm>;

/// A network at fixed shapes.
pub(super) struct Stage<'m> {
    name: &'static str,
    runs: usize,
    record: Record<'m>,
}

/// Work and memory of one stage, known before it runs.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Which network.
    pub name: &'static str,
    /// How often it runs for the whole request.
    pub runs: usize,
    /// Floating-point operations of one run (a fused multiply-add is two).
    pub flops: u64,
    /// Kernel launches of one run.
    pub dispatches: usize,
    /// Its memory.
    pub memory: MemoryPlan,
    /// Bytes of its weights by element type, most first.
    pub weights: Vec<(DType, u64)>,
}

impl StagePlan {
    /// Bytes that the executor allocates for the stage.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.peak_bytes()
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
        Stage { name, runs, record: Box::new(record) }
    }

    fn recording(&self, device: &Device, storage: DType) -> Result<Recording> {
        let mut recording = (self.record)(&device.caps_with(storage))?;
        recording.memory_limit = device.memory_limit(Part::of(self.name));
        Ok(recording)
    }

    /// What the stage will take.
    pub(super) fn plan(&self, device: &Device) -> Result<StagePlan> {
        let recording = self.recording(device, device.storage())?;
        Ok(StagePlan {
            name: self.name,
            runs: self.runs,
            flops: recording.flops(),
            dispatches: recording.dispatches.len(),
            memory: plan(&recording)?,
            weights: weights(&recording),
        })
    }

    /// Compiles the stage and uploads its weights.
    pub(super) fn open(self, device: &Device) -> Result<OpenStage<'m>> {
        let program = device.backend().compile(self.recording(device, device.storage())?)?;
        Ok(OpenStage { stage: self, device: device.clone(), storage: device.storage(), program: Some(program) })
    }
}

fn weights(recording: &Recording) -> Vec<(DType, u64)> {
    let mut found: Vec<(DType, u64)> = Vec::new();
    for tensor in recording.tensors.iter().filter(|tensor| matches!(tensor.role, Role::Constant(_))) {
        let bytes = stored_bytes(&recording.caps, tensor.len, tensor.dtype) as u64;
        match found.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
            Some((_, sum)) => *sum += bytes,
            None => found.push((tensor.dtype, bytes)),
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
    program: Option<Box<dyn Program>>,
}

impl OpenStage<'_> {
    /// Runs the stage once. A result that is not finite is computed again in f32 where the device's precision is automatic; `notes`
    /// then says so.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when f32 overflows too or widening is not allowed; whatever the device reports.
    pub(super) fn run(&mut self, inputs: &[(&str, &[f32])], notes: &mut Vec<String>) -> Result<Outputs> {
        let outputs = self.run_once(inputs)?;
        let count = non_finite(&outputs);
        if count == 0 {
            return Ok(outputs);
        }
        if self.storage == DType::F16 && self.device.may_widen() {
            notes.push(format!("{}: {count} values overflowed in f16, redone in f32", self.stage.name));
            self.program = None;
            self.storage = DType::F32;
            let recording = self.within_budget(self.stage.recording(&self.device, DType::F32)?, count)?;
            self.program = Some(self.device.backend().compile(recording)?);
            let outputs = self.run_once(inputs)?;
            return match non_finite(&outputs) {
                0 => Ok(outputs),
                count => Err(self.overflow(count)),
            };
        }
        Err(self.overflow(count))
    }

    /// Bytes that the stage holds on the device.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.program.as_ref().map_or(0, |program| program.allocated_bytes())
    }

    fn run_once(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        match &mut self.program {
            Some(program) => program.run(inputs),
            None => Err(Error::Device(format!("{}: could not be compiled in f32 before", self.stage.name))),
        }
    }

    /// Refuses what is larger than the limit of memory that the user set, and cannot be made to pass through less.
    fn within_budget(&self, mut recording: Recording, count: usize) -> Result<Recording> {
        let Some(allowed) = self.device.budget() else { return Ok(recording) };
        if plan(&recording)?.peak_bytes() > allowed
            && self.device.streaming() != Streaming::Off
            && Part::of(self.stage.name) != Part::Vae
        {
            recording.memory_limit = Some(allowed);
        }
        let needed = plan(&recording)?.peak_bytes();
        if needed <= allowed {
            return Ok(recording);
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
