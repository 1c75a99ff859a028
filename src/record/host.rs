//! The host executor: the reference twin of every kernel, and what runs where there is no GPU.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::host_weight::HostWeight;
use super::{
    Backend, Caps, Constant, Dispatch, DispatchTime, Kept, MemoryPlan, Outputs, Program, Recording, Role, Tensor,
    Variant, plan,
};
use crate::{Error, Result};

/// One kernel call on the host: the same bindings and parameters as in WGSL, everything in f32 but a product's weight.
pub struct HostCall<'a> {
    /// Which form of the kernel.
    pub variant: &'a Variant,
    params: &'a [u8],
    reads: Vec<(&'static str, &'a [f32])>,
    weight: Option<&'a HostWeight>,
    out: Option<&'a mut [f32]>,
}

impl<'a> HostCall<'a> {
    /// The parameter block.
    pub fn params<P: bytemuck::AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }

    /// The whole storage bound as `name`.
    pub fn read(&self, name: &str) -> &'a [f32] {
        self.try_read(name).unwrap_or_else(|| panic!("binding {name} was recorded"))
    }

    /// The whole storage bound as `name`, if the variant binds it.
    pub fn try_read(&self, name: &str) -> Option<&'a [f32]> {
        self.reads.iter().find(|(n, _)| *n == name).map(|(_, slice)| *slice)
    }

    /// The constant bound as `weight`, in panels.
    pub fn weight(&self) -> &'a HostWeight {
        self.weight.expect("binding weight was recorded")
    }

    /// The whole storage bound as `out`; can be taken once.
    pub fn out(&mut self) -> &'a mut [f32] {
        self.out.take().expect("a host kernel takes its output once")
    }
}

/// Executes recordings on all cores with rayon.
pub struct HostBackend {
    caps: Caps,
    /// Constants, shared between programs by the identity of their `Arc` and the form.
    constants: Mutex<HashMap<(usize, Form), Weak<HostConstant>>>,
}

/// How a constant is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    /// In order, as f32.
    Values,
    /// In panels, as a matrix of so many rows.
    Weight(usize),
}

enum Stored {
    Values(Vec<f32>),
    Weight(HostWeight),
}

struct HostConstant {
    stored: Stored,
    /// Keeps the address that is the cache's key from being given to another constant.
    _source: Arc<Constant>,
}

impl Default for HostBackend {
    fn default() -> Self {
        HostBackend { caps: Caps::host(), constants: Mutex::default() }
    }
}

impl Backend for HostBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn compile(&self, recording: Recording) -> Result<Box<dyn Program>> {
        Ok(Box::new(self.compile_program(recording)?))
    }
}

impl HostBackend {
    /// [`compile`](Backend::compile), as the type that can profile itself.
    ///
    /// # Errors
    /// As [`compile`](Backend::compile).
    pub fn compile_program(&self, mut recording: Recording) -> Result<HostProgram> {
        // A recording made for another device runs here too: storage is f32 and sizes are unlimited.
        recording.caps = self.caps.clone();
        let plan = plan(&recording)?;
        let mut constants = HashMap::new();
        for (index, tensor) in recording.tensors.iter().enumerate() {
            if let Role::Constant(constant) = &tensor.role {
                for form in forms(&recording, index as u32) {
                    constants.insert((index as u32, form), self.constant(constant, form)?);
                }
            }
        }
        // NaN, so that a kernel that reads what nobody wrote shows.
        let lanes = plan.lanes.iter().map(|bytes| vec![f32::NAN; bytes / 4]).collect();
        let kept = Kept::of(&recording);
        Ok(HostProgram { recording, plan, lanes, constants, kept })
    }

    fn constant(&self, constant: &Arc<Constant>, form: Form) -> Result<Arc<HostConstant>> {
        let key = (Arc::as_ptr(constant) as usize, form);
        let mut cache = self.constants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = cache.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        cache.retain(|_, weak| weak.strong_count() > 0);
        let stored = match form {
            Form::Values => Stored::Values(constant.values()?),
            Form::Weight(rows) => Stored::Weight(HostWeight::new(constant, rows)?),
        };
        let made = Arc::new(HostConstant { stored, _source: Arc::clone(constant) });
        cache.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}

/// Rows of the weight that a dispatch reads: two for each result of a gated product.
fn weight_rows(dispatch: &Dispatch) -> usize {
    let results = dispatch.write.shape.c;
    if dispatch.variant.has("GATED") { 2 * results } else { results }
}

/// The binding of a product's weight.
const WEIGHT: &str = "weight";

/// The forms in which a constant is read: as a weight, in order, or (rarely) both.
fn forms(recording: &Recording, storage: u32) -> Vec<Form> {
    let mut forms = Vec::new();
    for dispatch in &recording.dispatches {
        for (name, _) in dispatch.reads.iter().filter(|(_, tensor)| tensor.storage == storage) {
            let form = if *name == WEIGHT { Form::Weight(weight_rows(dispatch)) } else { Form::Values };
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    let is_output = recording.outputs.iter().any(|output| output.tensor.storage == storage);
    if (is_output || forms.is_empty()) && !forms.contains(&Form::Values) {
        forms.push(Form::Values);
    }
    forms
}

/// A recording with its memory, ready to run.
pub struct HostProgram {
    recording: Recording,
    plan: MemoryPlan,
    lanes: Vec<Vec<f32>>,
    constants: HashMap<(u32, Form), Arc<HostConstant>>,
    kept: Kept,
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

    fn run_as(&mut self, inputs: &[(&str, &[f32])], reuse: bool) -> Result<Outputs> {
        let inputs = match_inputs(&self.recording, inputs)?;
        let ranges = self.begin(&inputs, reuse)?;
        let first = ranges[0].start;
        for index in ranges.into_iter().flatten() {
            self.execute(index);
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
        let rows = weight_rows(dispatch);
        if let Some(Stored::Weight(weight)) =
            self.constants.get(&(tensor.storage, Form::Weight(rows))).map(|c| &c.stored)
        {
            return Some(weight);
        }
        Some(made.insert(HostWeight::from_f32(self.slice(tensor.storage), rows)))
    }

    fn execute(&mut self, index: usize) {
        let written = self.recording.dispatches[index].write.storage;
        let (lane, range) = self.range(written).expect("a written tensor is placed");
        // The plan keeps a dispatch's inputs out of its output's lane, so the lane can be taken out meanwhile.
        let mut lane_values = std::mem::take(&mut self.lanes[lane]);
        let dispatch = &self.recording.dispatches[index];
        let mut made = None;
        let mut call = HostCall {
            weight: self.weight(dispatch, &mut made),
            variant: &dispatch.variant,
            params: &dispatch.params,
            reads: dispatch.reads.iter().map(|&(name, tensor)| (name, self.slice(tensor.storage))).collect(),
            out: Some(&mut lane_values[range]),
        };
        (dispatch.kernel.host)(&mut call);
        self.lanes[lane] = lane_values;
    }
}

impl Program for HostProgram {
    fn run(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        self.run_as(inputs, false)
    }

    fn run_reusing(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        self.run_as(inputs, true)
    }

    fn run_profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let inputs = match_inputs(&self.recording, inputs)?;
        let [range, _] = self.begin(&inputs, false)?;
        let first = range.start;
        let mut times = Vec::with_capacity(self.recording.dispatches.len() - first);
        for index in first..self.recording.dispatches.len() {
            let start = Instant::now();
            self.execute(index);
            let seconds = start.elapsed().as_secs_f64();
            let dispatch = &self.recording.dispatches[index];
            let (label, kernel, flops) = (dispatch.label.clone(), dispatch.kernel.stem, dispatch.flops);
            times.push(DispatchTime { label, kernel, seconds, flops });
        }
        self.kept.made(&self.recording, first, &inputs);
        Ok((self.outputs(), times))
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
