//! The host executor: the reference twin of every kernel, and what runs where there is no GPU.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::host_constants::{Form, HostConstant, Key, Stored, WEIGHT, weight_rows};
use super::workers::caught;
use super::{
    Backend, Cancel, Caps, Counters, Counts, Dispatch, DispatchTime, Held, HostCall, HostWeight, Kept, Ledger, Lines,
    MemoryPlan, Outputs, Products, Program, Recording, Resident, Role, Run, Tensor, Workers, plan,
};
use crate::{Error, Result};

/// Executes recordings on all cores, on threads of its own.
pub struct HostBackend {
    shared: Arc<Shared>,
}

/// What its programs have in common.
pub(super) struct Shared {
    caps: Caps,
    pub(super) constants: Resident<Key, HostConstant>,
    pub(super) workers: Workers,
    pub(super) counts: Counts,
    pub(super) memory: Ledger,
}

impl Default for HostBackend {
    fn default() -> Self {
        HostBackend::new(Products::F32)
    }
}

impl Backend for HostBackend {
    fn caps(&self) -> &Caps {
        &self.shared.caps
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Program>> {
        Ok(Box::new(self.compile_program(recording)?))
    }

    fn counters(&self) -> Counters {
        self.shared.counts.now()
    }

    fn allocated_bytes(&self) -> u64 {
        self.shared.memory.bytes()
    }

    fn missing_constant_bytes(&self, recording: &Recording) -> u64 {
        self.shared.missing_bytes(recording)
    }

    fn workers(&self) -> Option<&Workers> {
        Some(&self.shared.workers)
    }
}

impl HostBackend {
    /// An executor whose recordings multiply so. One whose processor has nothing for bf16 takes longer with it.
    pub fn new(products: Products) -> Self {
        let (constants, workers, counts, memory) = Default::default();
        let caps = Caps { products, ..Caps::host() };
        HostBackend { shared: Arc::new(Shared { caps, constants, workers, counts, memory }) }
    }

    /// [`compile`](Backend::compile), as the type that can profile itself.
    ///
    /// # Errors
    /// As [`compile`](Backend::compile).
    pub fn compile_program(&self, mut recording: Recording) -> Result<HostProgram> {
        // A recording made for another device runs here too: storage is f32 and sizes are unlimited.
        recording.caps = self.shared.caps.clone();
        let plan = plan(&recording)?;
        let constants = self.shared.workers.apart(|| self.shared.constants_of(&recording))?;
        // NaN, so that a kernel that reads what nobody wrote shows.
        let lanes: Vec<Lines<f32>> = plan.lanes.iter().map(|bytes| Lines::of(f32::NAN, bytes / 4)).collect();
        let held = self.shared.memory.hold(lanes.iter().map(|lane| size_of_val(&lane[..]) as u64).sum());
        self.shared.counts.compiled_programs.add(1);
        let (kept, shared) = (Kept::of(&recording), Arc::clone(&self.shared));
        Ok(HostProgram { recording, plan, lanes, constants, kept, _held: held, shared })
    }
}

/// A recording with its memory, ready to run.
pub struct HostProgram {
    recording: Recording,
    plan: MemoryPlan,
    lanes: Vec<Lines<f32>>,
    constants: HashMap<(u32, Form), Arc<HostConstant>>,
    kept: Kept,
    /// The lanes'.
    _held: Held,
    shared: Arc<Shared>,
}

impl HostProgram {
    /// Writes the inputs; gives the dispatches that they ask for.
    fn begin(&mut self, inputs: &[(u32, &[f32])], reuse: bool) -> Result<[Range<usize>; 2]> {
        for &(storage, slice) in inputs {
            if let Some((lane, range)) = self.range(storage) {
                self.lanes[lane][range].copy_from_slice(slice);
            }
        }
        self.kept.ranges(&self.recording, inputs, reuse)
    }

    fn run_as(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs> {
        let inputs = match_inputs(&self.recording, inputs)?;
        let ranges = self.begin(&inputs, how.reuse)?;
        let first = ranges[0].start;
        let nobody = Cancel::default();
        for index in ranges.into_iter().flatten() {
            self.dispatch(index, how.cancel.unwrap_or(&nobody))?;
        }
        self.kept.made(&self.recording, first, &inputs);
        Ok(self.outputs())
    }

    fn outputs(&self) -> Outputs {
        let outputs = self.recording.outputs.iter();
        outputs.map(|o| (o.name.clone(), gather(self.slice(o.tensor.storage), o.tensor))).collect()
    }

    fn range(&self, storage: u32) -> Option<(usize, Range<usize>)> {
        let len = self.recording.tensors[storage as usize].len;
        self.plan.placements[storage as usize].map(|p| (p.lane, p.offset / 4..p.offset / 4 + len))
    }

    fn slice(&self, storage: u32) -> &[f32] {
        match (self.constants.get(&(storage, Form::Values)).map(|constant| &constant.stored), self.range(storage)) {
            (Some(Stored::Values(values)), _) => values,
            (_, Some((lane, range))) => &self.lanes[lane][range],
            (_, None) => &[],
        }
    }

    /// The weight that a dispatch reads. One that is no constant is put into panels at every run, in `made`.
    fn weight<'a>(&'a self, dispatch: &Dispatch, made: &'a mut Option<HostWeight>) -> Option<&'a HostWeight> {
        let &(_, tensor) = dispatch.reads.iter().find(|(name, _)| *name == WEIGHT)?;
        if let Some(Stored::Weight(weight)) =
            self.constants.get(&(tensor.storage, Form::weight(dispatch))).map(|c| &c.stored)
        {
            return Some(weight);
        }
        let values = self.slice(tensor.storage);
        Some(made.insert(match Form::weight(dispatch) {
            Form::Pairs(rows) => HostWeight::pairs(values, rows),
            _ => HostWeight::from_f32(values, weight_rows(dispatch)),
        }))
    }

    /// # Errors
    /// When the run was asked to stop before or meanwhile, and when the kernel panics.
    fn dispatch(&mut self, index: usize, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        let written = self.recording.dispatches[index].write.storage;
        let (lane, range) = self.range(written).expect("a written tensor is placed");
        // The plan keeps a dispatch's inputs out of its output's lane, so the lane can be taken out meanwhile.
        let mut lane_values = std::mem::take(&mut self.lanes[lane]);
        let (own, out) = (&*self, &mut lane_values[range]);
        let dispatch = &own.recording.dispatches[index];
        let call = || {
            let mut made = None;
            let mut call = HostCall {
                weight: own.weight(dispatch, &mut made),
                variant: &dispatch.variant,
                params: &dispatch.params,
                reads: dispatch.reads.iter().map(|&(name, tensor)| (name, own.slice(tensor.storage))).collect(),
                out: Some(out),
                cancel,
            };
            (dispatch.kernel.host)(&mut call);
        };
        let ended = caught(&dispatch.label, || {
            own.shared.workers.install(call);
            // What a kernel left half made counts for nothing.
            cancel.check()
        });
        self.lanes[lane] = lane_values;
        ended
    }

    fn profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let inputs = match_inputs(&self.recording, inputs)?;
        let [range, _] = self.begin(&inputs, false)?;
        let first = range.start;
        let nobody = Cancel::default();
        let mut times = Vec::with_capacity(self.recording.dispatches.len() - first);
        for index in first..self.recording.dispatches.len() {
            let start = Instant::now();
            self.dispatch(index, &nobody)?;
            let seconds = start.elapsed().as_secs_f64();
            let dispatch = &self.recording.dispatches[index];
            let (label, kernel, flops) = (dispatch.label.clone(), dispatch.kernel.stem, dispatch.flops);
            times.push(DispatchTime { label, kernel, seconds, flops });
        }
        self.kept.made(&self.recording, first, &inputs);
        Ok((self.outputs(), times))
    }
}

impl Program for HostProgram {
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs> {
        let shared = Arc::clone(&self.shared);
        shared.workers.apart(|| self.run_as(inputs, how))
    }

    fn run_profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let shared = Arc::clone(&self.shared);
        shared.workers.apart(|| self.profiled(inputs))
    }

    fn allocated_bytes(&self) -> u64 {
        let lanes: usize = self.lanes.iter().map(|lane| lane.len() * 4).sum();
        let bytes = |constant: &Arc<HostConstant>| match &constant.stored {
            Stored::Values(values) => size_of_val(values.as_slice()),
            Stored::Weight(weight) => weight.bytes(),
        };
        let constants: usize = self.constants.values().map(bytes).sum();
        (lanes + constants) as u64
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        Box::new(self.constants)
    }
}

/// The elements of a (possibly channel-strided) tensor, contiguous.
pub(crate) fn gather(storage: &[f32], tensor: Tensor) -> Vec<f32> {
    if tensor.is_contiguous() {
        return storage[..tensor.shape.len()].to_vec();
    }
    storage
        .chunks(tensor.row_stride)
        .take(tensor.shape.rows())
        .flat_map(|row| &row[tensor.channel_offset..tensor.channel_offset + tensor.shape.c])
        .copied()
        .collect()
}

/// Pairs a recording's input tensors with the given values.
///
/// # Errors
/// When an input is missing, unknown, or of another length.
pub(crate) fn match_inputs<'v>(recording: &Recording, inputs: &[(&str, &'v [f32])]) -> Result<Vec<(u32, &'v [f32])>> {
    let mut matched = Vec::with_capacity(inputs.len());
    for (index, tensor) in recording.tensors.iter().enumerate() {
        let Role::Input(name) = &tensor.role else {
            continue;
        };
        let &(_, slice) = inputs
            .iter()
            .find(|(given, _)| given == name)
            .ok_or_else(|| Error::shape("run", format!("input {name} was not given")))?;
        if slice.len() != tensor.len {
            return Err(Error::shape(
                "run",
                format!("input {name}: expected {} values, got {}", tensor.len, slice.len()),
            ));
        }
        matched.push((index as u32, slice));
    }
    if let Some((name, _)) = inputs
        .iter()
        .find(|(given, _)| !recording.tensors.iter().any(|t| matches!(&t.role, Role::Input(name) if name == given)))
    {
        return Err(Error::shape("run", format!("the recording has no input {name}")));
    }
    Ok(matched)
}
