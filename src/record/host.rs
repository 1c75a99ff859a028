//! The host executor: the reference twin of every kernel, and what runs where there is no GPU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use super::{Backend, Caps, Constant, Kept, MemoryPlan, Outputs, Program, Recording, Role, Tensor, Variant, plan};
use crate::{Error, Result};

/// One kernel call on the host: the same bindings and parameters as in WGSL, everything in f32.
pub struct HostCall<'a> {
    /// Which form of the kernel.
    pub variant: &'a Variant,
    params: &'a [u8],
    reads: Vec<(&'static str, &'a [f32])>,
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

    /// The whole storage bound as `out`; can be taken once.
    pub fn out(&mut self) -> &'a mut [f32] {
        self.out.take().expect("a host kernel takes its output once")
    }
}

/// Executes recordings on all cores with rayon.
pub struct HostBackend {
    caps: Caps,
    /// Constants as f32, shared between programs by the identity of their `Arc`.
    constants: Mutex<HashMap<usize, Weak<HostConstant>>>,
}

struct HostConstant {
    values: Vec<f32>,
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

    fn compile(&self, mut recording: Recording) -> Result<Box<dyn Program>> {
        // A recording made for another device runs here too: storage is f32 and sizes are unlimited.
        recording.caps = self.caps.clone();
        let plan = plan(&recording)?;
        let mut constants = HashMap::new();
        for (index, tensor) in recording.tensors.iter().enumerate() {
            if let Role::Constant(constant) = &tensor.role {
                constants.insert(index as u32, self.constant(constant)?);
            }
        }
        // NaN, so that a kernel that reads what nobody wrote shows.
        let lanes = plan.lanes.iter().map(|bytes| vec![f32::NAN; bytes / 4]).collect();
        let kept = Kept::of(&recording);
        Ok(Box::new(HostProgram { recording, plan, lanes, constants, kept }))
    }
}

impl HostBackend {
    fn constant(&self, constant: &Arc<Constant>) -> Result<Arc<HostConstant>> {
        let key = Arc::as_ptr(constant) as usize;
        let mut cache = self.constants.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = cache.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        cache.retain(|_, weak| weak.strong_count() > 0);
        let made = Arc::new(HostConstant { values: constant.values()?, _source: Arc::clone(constant) });
        cache.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}

struct HostProgram {
    recording: Recording,
    plan: MemoryPlan,
    lanes: Vec<Vec<f32>>,
    constants: HashMap<u32, Arc<HostConstant>>,
    kept: Kept,
}

impl HostProgram {
    fn range(&self, storage: u32) -> Option<(usize, std::ops::Range<usize>)> {
        let len = self.recording.tensors[storage as usize].len;
        self.plan.placements[storage as usize].map(|p| (p.lane, p.offset / 4..p.offset / 4 + len))
    }

    fn slice(&self, storage: u32) -> &[f32] {
        match (self.constants.get(&storage), self.range(storage)) {
            (Some(constant), _) => &constant.values,
            (None, Some((lane, range))) => &self.lanes[lane][range],
            (None, None) => &[],
        }
    }

    fn execute(&mut self, index: usize) {
        let written = self.recording.dispatches[index].write.storage;
        let (lane, range) = self.range(written).expect("a written tensor is placed");
        // The plan keeps a dispatch's inputs out of its output's lane, so the lane can be taken out meanwhile.
        let mut lane_values = std::mem::take(&mut self.lanes[lane]);
        let dispatch = &self.recording.dispatches[index];
        let mut call = HostCall {
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
        let inputs = match_inputs(&self.recording, inputs)?;
        for &(storage, slice) in &inputs {
            if let Some((lane, range)) = self.range(storage) {
                self.lanes[lane][range].copy_from_slice(slice);
            }
        }
        let first = self.kept.first(&self.recording, &inputs);
        for index in first..self.recording.dispatches.len() {
            self.execute(index);
        }
        self.kept.made(first, &inputs);
        Ok(self
            .recording
            .outputs
            .iter()
            .map(|o| (o.name.clone(), gather(self.slice(o.tensor.storage), o.tensor)))
            .collect())
    }

    fn allocated_bytes(&self) -> u64 {
        let lanes: usize = self.lanes.iter().map(|lane| lane.len() * 4).sum();
        let constants: usize = self.constants.values().map(|c| c.values.len() * 4).sum();
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
