//! Constants that pass through two arenas, chunk by chunk, in every run.
//!
//! While a chunk computes, the host reads and converts the next one's constants and hands them to the queue, where their copies lie behind the
//! dispatches that read what they replace. So an arena needs no waiting for; a stage does, before the host writes to it again (`upload`).

use std::ops::Range;

use super::device::Gpu;
use super::memory::{Buffer, Use, buffer, write};
use super::upload::Upload;
use crate::Result;
use crate::record::{Load, Recording, Role, Run, StreamPlan};

/// Arenas and stages of a program.
pub(super) struct Stream {
    plan: StreamPlan,
    arenas: Vec<Buffer>,
    upload: Upload,
    #[cfg(test)]
    pub(super) fault: Fault,
}

/// What a test breaks.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Constants are written to another place than they are read from.
    Offset,
    /// A chunk is written to the arena that the one before it reads.
    Arena,
}

impl Stream {
    pub(super) fn new(gpu: &Gpu, plan: &StreamPlan) -> Result<Self> {
        let arenas = (0..plan.arenas())
            .map(|arena| buffer(gpu, &format!("weights arena {arena}"), plan.arena_bytes, Use::Storage))
            .collect::<Result<Vec<_>>>()?;
        let mut upload = Upload::with_stages(plan.stage_bytes);
        upload.reserve(gpu)?;
        if gpu.options.poison {
            arenas.iter().try_for_each(|arena| upload.poison(gpu, "weights arena", arena))?;
        }
        upload.submit(gpu)?;
        Ok(Stream {
            plan: plan.clone(),
            arenas,
            upload,
            #[cfg(test)]
            fault: Fault::None,
        })
    }

    /// Chunks of a run.
    pub(super) fn chunks(&self) -> usize {
        self.plan.chunks.len()
    }

    /// Dispatches of a chunk.
    pub(super) fn dispatches(&self, chunk: usize) -> Range<usize> {
        self.plan.chunks[chunk].dispatches.clone()
    }

    /// Where a dispatch finds a constant that passes through.
    pub(super) fn binding(&self, dispatch: usize, storage: u32) -> Option<wgpu::BufferBinding<'_>> {
        let chunk = self.plan.chunks.partition_point(|chunk| chunk.dispatches.end <= dispatch);
        let load = self.plan.chunks.get(chunk)?.loads.iter().find(|load| load.storage == storage as usize)?;
        Some(wgpu::BufferBinding {
            buffer: &self.arenas[chunk % self.arenas.len()],
            offset: load.offset as u64,
            size: wgpu::BufferSize::new(load.bytes as u64),
        })
    }

    /// Hands the constants of a chunk to the queue. What was submitted before still reads what they replace.
    pub(super) fn load(&mut self, gpu: &Gpu, recording: &Recording, chunk: usize, how: Run<'_>) -> Result<()> {
        let Some(loads) = self.plan.chunks.get(chunk).map(|chunk| &chunk.loads) else { return Ok(()) };
        for load in loads {
            how.check()?;
            let tensor = &recording.tensors[load.storage];
            let Role::Constant(constant) = &tensor.role else { continue };
            let (arena, offset) = self.target(chunk, load);
            write(gpu, &mut self.upload, (constant, tensor.layout), &self.arenas[arena], offset)?;
            gpu.counts.streamed_bytes.add(load.bytes as u64);
        }
        self.upload.submit(gpu)
    }

    #[cfg(not(test))]
    fn target(&self, chunk: usize, load: &Load) -> (usize, usize) {
        (chunk % self.arenas.len(), load.offset)
    }

    #[cfg(test)]
    fn target(&self, chunk: usize, load: &Load) -> (usize, usize) {
        let arena = (chunk + usize::from(self.fault == Fault::Arena)) % self.arenas.len();
        let off_by = if self.fault == Fault::Offset { 4 } else { 0 };
        (arena, load.offset + off_by)
    }

    #[cfg(test)]
    pub(super) fn set_stage(&mut self, bytes: usize, skips_waiting: bool) {
        self.upload = Upload::with_one_stage(bytes, skips_waiting);
    }

    /// Bytes of arenas and stages.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.size()).sum::<u64>() + self.upload.allocated_bytes()
    }
}
