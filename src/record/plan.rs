//! Places the tensors of a recording in a few large buffers ("lanes") by lifetime.
//!
//! A lane holds many tensors at offsets that no two living tensors share. A dispatch's outputs never lie in the lane
//! of one of its inputs: WebGPU refuses a buffer that is bound for reading and writing at once, and drivers read
//! faster through read-only bindings. Lanes stay within the largest buffer, and tensors within the largest binding.

use super::host_constants::forms;
use super::stream::{StreamPlan, stream};
use super::{Caps, DType, Products, Recording, Role};
use crate::{Error, Result};

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Index of the lane.
    pub lane: usize,
    /// Byte offset in the lane.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The memory of a compiled recording.
#[derive(Debug, Clone, Default)]
pub struct MemoryPlan {
    /// Bytes of each lane.
    pub lanes: Vec<usize>,
    /// Place of each tensor, by storage index; `None` for constants and for tensors that nothing uses.
    pub placements: Vec<Option<Placement>>,
    /// Bytes of the constants that stay on the device.
    pub constant_bytes: usize,
    /// How the others pass through it in every run; `None` when all stay.
    pub stream: Option<StreamPlan>,
    /// Bytes of all parameter blocks.
    pub params_bytes: usize,
    /// Bytes of the buffers through which results are read back.
    pub readback_bytes: usize,
    /// Sum over tensors of their sizes, as if nothing were shared.
    pub unshared_bytes: usize,
}

impl MemoryPlan {
    /// Bytes that the executor allocates on the device. The stages of streamed constants count too, though a device with memory of its own may
    /// read them over the bus.
    pub fn peak_bytes(&self) -> u64 {
        let passing = self.stream.as_ref().map_or(0, StreamPlan::allocated_bytes);
        let lanes: usize = self.lanes.iter().sum();
        (lanes + self.constant_bytes + passing + self.params_bytes + self.readback_bytes) as u64
    }
}

/// Bytes of one parameter block in the parameter buffer: WebGPU's uniform offset alignment.
pub(crate) const PARAMS_STRIDE: usize = 256;

/// First and last dispatch that needs a tensor; inputs live from before the first, outputs until after the last.
#[derive(Clone, Copy)]
struct Lifetime {
    first: usize,
    last: usize,
}

/// Plans a recording's memory for its [`Caps`], within [`Recording::memory_limit`] if constants that pass through the device can do that.
///
/// # Errors
/// When a tensor or a constant is larger than one binding of the device can be.
pub fn plan(recording: &Recording) -> Result<MemoryPlan> {
    let caps = &recording.caps;
    let lifetimes = lifetimes(recording);
    let mut plan = MemoryPlan { placements: vec![None; recording.tensors.len()], ..MemoryPlan::default() };
    for (index, tensor) in recording.tensors.iter().enumerate() {
        let bytes = match tensor.role {
            Role::Constant(_) => kept_bytes(recording, index),
            _ => stored_bytes(caps, tensor.len, tensor.dtype),
        };
        if bytes as u64 > caps.max_binding_bytes.min(caps.max_buffer_bytes) {
            return Err(too_large(recording, index, bytes));
        }
        match tensor.role {
            Role::Constant(_) => plan.constant_bytes += bytes.next_multiple_of(4),
            _ => plan.unshared_bytes += bytes,
        }
    }
    // Large tensors first: each then finds the lowest gap among those already placed. This packs far better than
    // the order of birth, because the big ones of different stages come to share the same bytes.
    let mut order: Vec<usize> = (0..recording.tensors.len()).filter(|&i| lifetimes[i].is_some()).collect();
    order.sort_by_key(|&i| {
        (std::cmp::Reverse(stored_bytes(caps, recording.tensors[i].len, recording.tensors[i].dtype)), i)
    });
    let conflicts = conflicts(recording);
    let mut placed: Vec<Vec<usize>> = Vec::new();
    for index in order {
        let bytes = stored_bytes(caps, recording.tensors[index].len, recording.tensors[index].dtype);
        let placement = place(caps, index, bytes, &lifetimes, &conflicts, &placed, &plan);
        if placement.lane == placed.len() {
            placed.push(Vec::new());
            plan.lanes.push(0);
        }
        placed[placement.lane].push(index);
        let lane = &mut plan.lanes[placement.lane];
        *lane = (*lane).max((placement.offset + bytes).next_multiple_of(4));
        plan.placements[index] = Some(placement);
    }
    if !caps.is_host() {
        plan.params_bytes = recording.dispatches.iter().map(|d| d.params.len().next_multiple_of(PARAMS_STRIDE)).sum();
        plan.readback_bytes = recording
            .outputs
            .iter()
            .map(|o| recording.tensors[o.tensor.storage as usize].bytes().next_multiple_of(8))
            .sum();
    }
    if let Some(limit) = recording.memory_limit {
        let others = plan.peak_bytes() - plan.constant_bytes as u64;
        let room = usize::try_from(limit.saturating_sub(others)).unwrap_or(usize::MAX);
        if let Some((staying, streamed)) = stream(recording, room) {
            (plan.constant_bytes, plan.stream) = (staying, Some(streamed));
        }
    }
    Ok(plan)
}

/// The lowest fitting offset over all lanes that growth and conflicts allow; a new lane when none fits.
fn place(
    caps: &Caps,
    index: usize,
    bytes: usize,
    lifetimes: &[Option<Lifetime>],
    conflicts: &[Vec<usize>],
    placed: &[Vec<usize>],
    plan: &MemoryPlan,
) -> Placement {
    let life = lifetimes[index].expect("only tensors with a lifetime are placed");
    let align = caps.binding_alignment as usize;
    let mut best: Option<(usize, Placement)> = None;
    for (lane, members) in placed.iter().enumerate() {
        let forbidden = conflicts[index].iter().any(|&other| plan.placements[other].is_some_and(|p| p.lane == lane));
        if forbidden {
            continue;
        }
        let mut taken: Vec<Placement> = members
            .iter()
            .filter(|&&m| lifetimes[m].is_some_and(|l| l.first <= life.last && life.first <= l.last))
            .filter_map(|&m| plan.placements[m])
            .collect();
        taken.sort_by_key(|p| p.offset);
        let mut offset = 0;
        for p in &taken {
            if offset + bytes <= p.offset {
                break;
            }
            offset = offset.max((p.offset + p.bytes).next_multiple_of(align));
        }
        if (offset + bytes) as u64 > caps.max_buffer_bytes {
            continue;
        }
        let growth = (offset + bytes).saturating_sub(plan.lanes[lane]);
        if best.as_ref().is_none_or(|(g, _)| growth < *g) {
            best = Some((growth, Placement { lane, offset, bytes }));
        }
    }
    // A new lane grows the total by the whole tensor; an existing lane wins ties.
    match best {
        Some((growth, placement)) if growth <= bytes => placement,
        _ => Placement { lane: placed.len(), offset: 0, bytes },
    }
}

/// For each tensor, those that must not share its lane: the inputs of the dispatches that write it and vice versa.
fn conflicts(recording: &Recording) -> Vec<Vec<usize>> {
    let mut conflicts = vec![Vec::new(); recording.tensors.len()];
    for dispatch in &recording.dispatches {
        let written = dispatch.write.storage as usize;
        for (_, read) in &dispatch.reads {
            let read = read.storage as usize;
            conflicts[written].push(read);
            conflicts[read].push(written);
        }
    }
    conflicts
}

fn lifetimes(recording: &Recording) -> Vec<Option<Lifetime>> {
    let mut lifetimes: Vec<Option<Lifetime>> = vec![None; recording.tensors.len()];
    let mut touch = |storage: u32, at: usize| {
        let life = lifetimes[storage as usize].get_or_insert(Lifetime { first: at, last: at });
        life.first = life.first.min(at);
        life.last = life.last.max(at);
    };
    for (index, tensor) in recording.tensors.iter().enumerate() {
        if matches!(tensor.role, Role::Input(_)) {
            touch(index as u32, 0);
        }
    }
    for (at, dispatch) in recording.dispatches.iter().enumerate() {
        for (_, tensor) in &dispatch.reads {
            touch(tensor.storage, at + 1);
        }
        touch(dispatch.write.storage, at + 1);
    }
    for output in &recording.outputs {
        touch(output.tensor.storage, recording.dispatches.len() + 1);
    }
    // What a prologue leaves to other dispatches lives from run to run.
    let end = recording.dispatches.len() + 1;
    for dispatch in &recording.dispatches[..recording.prologue] {
        if let Some(life) = &mut lifetimes[dispatch.write.storage as usize]
            && life.last > recording.prologue
        {
            *life = Lifetime { first: 0, last: end };
        }
    }
    // So does what later dispatches read of those that a run on kept features leaves out.
    for dispatch in &recording.dispatches[recording.deep.clone()] {
        if let Some(life) = &mut lifetimes[dispatch.write.storage as usize]
            && life.last > recording.deep.end
        {
            *life = Lifetime { first: 0, last: end };
        }
    }
    for (index, tensor) in recording.tensors.iter().enumerate() {
        if matches!(tensor.role, Role::Constant(_)) {
            lifetimes[index] = None;
        }
    }
    lifetimes
}

/// Bytes of a recording's constant where it is kept, in all forms in which the host reads it.
pub(crate) fn kept_bytes(recording: &Recording, index: usize) -> usize {
    let (caps, tensor) = (&recording.caps, &recording.tensors[index]);
    match &tensor.role {
        Role::Constant(constant) if caps.is_host() && caps.products == Products::Bf16 => {
            forms(recording, index as u32).into_iter().map(|form| form.bytes(constant) as usize).sum()
        }
        _ => constant_bytes(caps, tensor.len, tensor.dtype),
    }
}

/// Bytes of a constant where it is kept; the host keeps blocks as f32.
pub(super) fn constant_bytes(caps: &Caps, len: usize, dtype: DType) -> usize {
    if caps.is_host() && dtype == DType::F16 { dtype.bytes(len) } else { stored_bytes(caps, len, dtype) }
}

/// Bytes of a tensor where it is kept; the host keeps all but constants as f32.
pub(super) fn stored_bytes(caps: &Caps, len: usize, dtype: DType) -> usize {
    if caps.is_host() { DType::F32.bytes(len) } else { dtype.bytes(len).next_multiple_of(4) }
}

fn too_large(recording: &Recording, index: usize, bytes: usize) -> Error {
    let what = match &recording.tensors[index].role {
        Role::Input(name) => format!("input {name}"),
        Role::Constant(constant) => constant.label.clone(),
        Role::Intermediate => recording
            .dispatches
            .iter()
            .find(|d| d.write.storage as usize == index)
            .map_or_else(|| "a tensor".into(), |d| format!("the output of {}", d.label)),
    };
    let caps = &recording.caps;
    let allowed = caps.max_binding_bytes.min(caps.max_buffer_bytes);
    Error::too_large(&caps.name, what, bytes as u64, allowed)
}
