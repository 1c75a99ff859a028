//! Constants that pass through the device in every run because not all of them fit.
//!
//! The dispatches are cut into consecutive chunks. A chunk's constants lie in one of two arenas; while it computes, the host writes those of the
//! next chunk into the other. Everything that is written passes through two stages, buffers that the host maps.
//!
//! With `S` the constants that pass through and `u` the number of dispatches that read each, a run moves `Σ_S u · bytes`. It is small when as
//! much as possible stays: the limit less two arenas and two stages, filled from the largest constant down. So arenas are as small as the largest dispatch among those whose
//! constants pass through, but no smaller than [`ARENA`] where there is room for that: smaller chunks only cost submissions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::plan::constant_bytes;
use super::{Recording, Role};

/// Arenas: one is read while the other is written.
const ARENAS: usize = 2;

/// Stages through which the host writes.
pub(crate) const STAGES: usize = 2;

/// The largest stage, in bytes.
pub(crate) const STAGE: usize = 32 << 20;

/// Arenas are not made smaller than this, in bytes, as long as they and the stages then take a quarter of the limit at most.
const ARENA: usize = 16 << 20;

/// How the constants that do not stay on the device pass through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// Bytes of each arena.
    pub arena_bytes: usize,
    /// Bytes of each stage.
    pub stage_bytes: usize,
    /// All dispatches in order. The constants of chunk `k` lie in arena `k % arenas`.
    pub chunks: Vec<Chunk>,
    /// Dispatches of the recording's prologue; a chunk ends with them.
    pub prologue: usize,
}

/// Dispatches whose constants are on the device together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which.
    pub dispatches: Range<usize>,
    /// What is written before them.
    pub loads: Vec<Load>,
}

/// A constant in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Index of its storage in the recording.
    pub storage: usize,
    /// Byte offset in the arena.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

impl StreamPlan {
    /// How many arenas there are.
    pub fn arenas(&self) -> usize {
        ARENAS.min(self.chunks.len())
    }

    /// Bytes of arenas and stages.
    pub fn allocated_bytes(&self) -> usize {
        self.arenas() * self.arena_bytes + STAGES * self.stage_bytes
    }

    /// Bytes that are written to the device in every run, but for what its prologue reads.
    pub fn bytes_per_run(&self) -> u64 {
        bytes(self.chunks.iter().filter(|chunk| chunk.dispatches.end > self.prologue))
    }

    /// Bytes that are written to the device in a run that computes its prologue too.
    pub fn bytes_of_first_run(&self) -> u64 {
        bytes(self.chunks.iter())
    }
}

fn bytes<'c>(chunks: impl Iterator<Item = &'c Chunk>) -> u64 {
    chunks.flat_map(|chunk| &chunk.loads).map(|load| load.bytes as u64).sum()
}

/// A constant that may pass through.
struct Candidate {
    bytes: usize,
    /// Bytes in an arena, up to where the next may begin.
    place: usize,
    /// Dispatches that read it in every run.
    uses: usize,
}

/// Constants that could pass through, and the dispatches that read them.
struct Candidates {
    constants: BTreeMap<usize, Candidate>,
    /// For each dispatch, which of them it reads.
    reads: Vec<Vec<usize>>,
    prologue: usize,
}

/// A choice of what passes through.
struct Choice {
    arena: usize,
    passing: BTreeSet<usize>,
    /// Bytes that all constants take on the device, and their way there.
    total: usize,
    /// Bytes that each run moves.
    traffic: usize,
}

/// A plan whose runs move little among those that keep constants, arenas and stages within `limit` bytes; the smallest one if none
/// does. `None` when everything stays: because it fits, or because streaming it would take no less. Beside it, the bytes that stay.
pub(super) fn stream(recording: &Recording, limit: usize) -> Option<(usize, StreamPlan)> {
    let all: usize = constants(recording).map(|(_, bytes)| bytes).sum();
    if recording.caps.is_host() || all <= limit {
        return None;
    }
    let candidates = Candidates::of(recording);
    let fixed = all - candidates.constants.values().map(|c| c.bytes).sum::<usize>();
    let needs: BTreeSet<usize> = candidates.needs().filter(|need| *need > 0).collect();
    let floor = ARENA.min(limit / 16);
    let most = usize::try_from(recording.caps.max_buffer_bytes).unwrap_or(usize::MAX);
    let arenas: BTreeSet<usize> = needs.into_iter().chain([floor]).filter(|arena| (1..=most).contains(arena)).collect();
    let choices = arenas.into_iter().map(|arena| candidates.choose(arena, fixed, limit));
    let best = choices.min_by_key(|choice| match (choice.total <= limit, choice.arena >= floor) {
        (true, true) => (0, choice.traffic),
        (true, false) => (1, choice.traffic),
        (false, _) => (2, choice.total),
    })?;
    if best.passing.is_empty() || best.total >= all {
        return None;
    }
    let passing: usize = best.passing.iter().map(|storage| candidates.constants[storage].bytes).sum();
    Some((all - passing, candidates.plan(&best)))
}

/// Constants by storage, with their bytes on the device.
fn constants(recording: &Recording) -> impl Iterator<Item = (usize, usize)> {
    recording.tensors.iter().enumerate().filter(|(_, tensor)| matches!(tensor.role, Role::Constant(_))).map(
        |(storage, tensor)| (storage, constant_bytes(&recording.caps, tensor.len, tensor.dtype).next_multiple_of(4)),
    )
}

impl Candidates {
    /// Matrices and convolutions that dispatches read; biases and norms are too small to be worth it.
    fn of(recording: &Recording) -> Self {
        let is_result = |storage: usize| recording.outputs.iter().any(|output| output.tensor.storage() == storage);
        let align = recording.caps.binding_alignment as usize;
        let mut constants: BTreeMap<usize, Candidate> = constants(recording)
            .filter(|&(storage, _)| match &recording.tensors[storage].role {
                Role::Constant(constant) => constant.shape.len() > 1 && !is_result(storage),
                _ => false,
            })
            .map(|(storage, bytes)| (storage, Candidate { bytes, place: bytes.next_multiple_of(align), uses: 0 }))
            .collect();
        let mut reads = Vec::with_capacity(recording.dispatches.len());
        let mut read = BTreeSet::new();
        for (index, dispatch) in recording.dispatches.iter().enumerate() {
            let storages: BTreeSet<usize> = dispatch.reads.iter().map(|(_, tensor)| tensor.storage()).collect();
            let own: Vec<usize> = storages.into_iter().filter(|storage| constants.contains_key(storage)).collect();
            for storage in &own {
                let every_run = usize::from(index >= recording.prologue);
                constants.entry(*storage).and_modify(|constant| constant.uses += every_run);
                read.insert(*storage);
            }
            reads.push(own);
        }
        constants.retain(|storage, _| read.contains(storage));
        Candidates { constants, reads, prologue: recording.prologue }
    }

    /// Bytes that each dispatch would read from an arena.
    fn needs(&self) -> impl Iterator<Item = usize> {
        self.reads.iter().map(|reads| reads.iter().map(|storage| self.constants[storage].place).sum())
    }

    /// With arenas of this size: what must stay because it does not go through them, and then the largest that there is room for.
    fn choose(&self, arena: usize, fixed: usize, limit: usize) -> Choice {
        let too_large = self.reads.iter().zip(self.needs()).filter(|(_, need)| *need > arena);
        let mut staying: BTreeSet<usize> = too_large.flat_map(|(reads, _)| reads.iter().copied()).collect();
        let kept: usize = staying.iter().map(|storage| self.constants[storage].bytes).sum();
        let mut total = fixed + ARENAS * arena + STAGES * stage_bytes(arena) + kept;
        let mut order: Vec<(&usize, &Candidate)> = self.constants.iter().collect();
        order.sort_by_key(|(storage, c)| (std::cmp::Reverse((c.uses, c.bytes)), **storage));
        for (storage, constant) in order {
            if !staying.contains(storage) && total + constant.bytes <= limit {
                total += constant.bytes;
                staying.insert(*storage);
            }
        }
        let passing: BTreeSet<usize> = self.constants.keys().copied().filter(|s| !staying.contains(s)).collect();
        let traffic = passing.iter().map(|storage| self.constants[storage].uses * self.constants[storage].bytes).sum();
        Choice { arena, passing, total, traffic }
    }

    /// Chunks as long as their constants fit an arena.
    fn plan(&self, choice: &Choice) -> StreamPlan {
        let mut chunks: Vec<Chunk> = Vec::new();
        let (mut current, mut used, mut largest) = (Chunk { dispatches: 0..0, loads: Vec::new() }, 0, 0);
        for (index, reads) in self.reads.iter().enumerate() {
            let passing = || reads.iter().filter(|storage| choice.passing.contains(*storage));
            let new = |chunk: &Chunk| -> Vec<usize> {
                passing().copied().filter(|s| chunk.loads.iter().all(|load| load.storage != *s)).collect()
            };
            let need = |storages: &[usize]| storages.iter().map(|s| self.constants[s].place).sum::<usize>();
            let mut loads = new(&current);
            if used + need(&loads) > choice.arena || (index > 0 && index == self.prologue) {
                let next = Chunk { dispatches: index..index, loads: Vec::new() };
                chunks.push(std::mem::replace(&mut current, next));
                used = 0;
                loads = new(&current);
            }
            for storage in loads {
                let Candidate { bytes, place, .. } = self.constants[&storage];
                current.loads.push(Load { storage, offset: used, bytes });
                used += place;
                largest = largest.max(used);
            }
            current.dispatches.end = index + 1;
        }
        chunks.push(current);
        StreamPlan { arena_bytes: largest, stage_bytes: stage_bytes(largest), chunks, prologue: self.prologue }
    }
}

fn stage_bytes(arena: usize) -> usize {
    arena.min(STAGE).next_multiple_of(8)
}
