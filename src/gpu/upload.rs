//! Bytes to the device through bounded staging memory that is used again and again.
//!
//! Two stages take turns: while the device copies out of one, the host fills the other. Memory that is new to a process is slow to touch, so
//! the stages are kept for all that one upload writes. Copies are in the order of the queue: what was submitted before them still reads what
//! they replace.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::device::Gpu;
use super::memory::Buffer;
use super::wait::Submission;
use crate::Result;
use crate::record::{STAGE, STAGES};

/// Mapped ranges begin at multiples of this.
const ALIGNMENT: usize = wgpu::MAP_ALIGNMENT as usize;

/// Writes to buffers in order.
pub(super) struct Upload {
    /// Bytes of each stage: no more than is expected.
    stage_bytes: usize,
    current: Option<Stage>,
    /// Stages that the device copies out of or has copied out of, oldest first.
    handed_over: VecDeque<Stage>,
    made: usize,
    #[cfg(test)]
    skips_waiting: bool,
}

struct Stage {
    buffer: Buffer,
    used: usize,
    copies: Vec<Copy>,
    /// Set once handed over: until when the device copies, and whether the host may write again.
    pending: Option<(Submission, Arc<AtomicU8>)>,
}

/// Whether the host may write to a stage again, as its mapping says.
const PENDING: u8 = 0;
const MAPPED: u8 = 1;
const REFUSED: u8 = 2;

struct Copy {
    from: usize,
    to: wgpu::Buffer,
    offset: usize,
    bytes: usize,
}

impl Upload {
    /// An upload of about `expected` bytes.
    pub(super) fn new(expected: usize) -> Self {
        Self::with_stages(expected.clamp(1 << 16, STAGE))
    }

    /// An upload through stages of this size.
    pub(super) fn with_stages(bytes: usize) -> Self {
        Upload {
            stage_bytes: bytes.next_multiple_of(ALIGNMENT),
            current: None,
            handed_over: VecDeque::new(),
            made: 0,
            #[cfg(test)]
            skips_waiting: false,
        }
    }

    #[cfg(test)]
    pub(super) fn with_one_stage(bytes: usize, skips_waiting: bool) -> Self {
        Upload { made: STAGES - 1, skips_waiting, ..Self::with_stages(bytes) }
    }

    /// Makes all stages now, not when they are first needed.
    pub(super) fn reserve(&mut self, gpu: &Gpu) -> Result<()> {
        while self.made < STAGES {
            let stage = self.new_stage(gpu)?;
            self.handed_over.push_back(stage);
        }
        Ok(())
    }

    /// Bytes of the stages that there are.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.current.iter().chain(&self.handed_over).map(|stage| stage.buffer.size()).sum()
    }

    /// Writes `bytes` to `buffer` from `offset` on, a multiple of 4.
    pub(super) fn write(
        &mut self,
        gpu: &Gpu,
        label: &str,
        buffer: &wgpu::Buffer,
        offset: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.write_some(gpu, label, buffer, offset + at, &bytes[at..])?;
        }
        Ok(())
    }

    /// Fills `buffer` with a pattern that is NaN in f32 and in f16.
    pub(super) fn poison(&mut self, gpu: &Gpu, label: &str, buffer: &wgpu::Buffer) -> Result<()> {
        let size = buffer.size() as usize;
        let pattern = vec![0xFF; self.stage_bytes.min(size)];
        let mut at = 0;
        while at < size {
            at += self.write_some(gpu, label, buffer, at, &pattern[..pattern.len().min(size - at)])?;
        }
        Ok(())
    }

    /// Stages what there is room for, and says how much that was; a last odd word is filled up with zeros.
    fn write_some(
        &mut self,
        gpu: &Gpu,
        label: &str,
        buffer: &wgpu::Buffer,
        offset: usize,
        bytes: &[u8],
    ) -> Result<usize> {
        let mut stage = self.stage(gpu)?;
        let take = bytes.len().min(self.stage_bytes - stage.used);
        let from = stage.used;
        let whole = take / 4 * 4;
        let filled = take.next_multiple_of(4);
        let range = from as u64..(from + filled) as u64;
        let mut view = stage
            .buffer
            .get_mapped_range_mut(range)
            .map_err(|e| gpu.unreported(format!("upload of {label}: the staging memory was not mapped: {e}")))?;
        view.slice(..whole).copy_from_slice(&bytes[..whole]);
        if whole < take {
            let mut last = [0; 4];
            last[..take - whole].copy_from_slice(&bytes[whole..take]);
            view.slice(whole..).copy_from_slice(&last);
        }
        drop(view);
        stage.copies.push(Copy { from, to: buffer.clone(), offset, bytes: filled });
        stage.used = (from + filled).next_multiple_of(ALIGNMENT);
        let full = stage.used >= self.stage_bytes;
        self.current = Some(stage);
        if full {
            self.submit(gpu)?;
        }
        Ok(take)
    }

    /// A stage that the host may write to: the one at hand, a new one, or the oldest once the device has copied out of it.
    fn stage(&mut self, gpu: &Gpu) -> Result<Stage> {
        if let Some(stage) = self.current.take() {
            return Ok(stage);
        }
        match self.handed_over.pop_front() {
            Some(stage) if self.made >= STAGES || stage.pending.is_none() => self.free(gpu, stage),
            other => {
                self.handed_over.extend(other);
                self.new_stage(gpu)
            }
        }
    }

    fn new_stage(&mut self, gpu: &Gpu) -> Result<Stage> {
        let size = self.stage_bytes as u64;
        let descriptor = wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        };
        let buffer = Buffer::new(gpu, || "staging memory".into(), &descriptor)?;
        self.made += 1;
        Ok(Stage { buffer, used: 0, copies: Vec::new(), pending: None })
    }

    /// Submits the copies out of the current stage.
    pub(super) fn submit(&mut self, gpu: &Gpu) -> Result<()> {
        let Some(mut stage) = self.current.take() else { return Ok(()) };
        let mapped = Arc::new(AtomicU8::new(PENDING));
        let told = Arc::clone(&mapped);
        let submission = gpu.scoped(
            || "upload".into(),
            || {
                stage.buffer.unmap();
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for Copy { from, to, offset, bytes } in stage.copies.drain(..) {
                    encoder.copy_buffer_to_buffer(&stage.buffer, from as u64, &to, offset as u64, Some(bytes as u64));
                }
                let submission = gpu.submit(encoder);
                stage.buffer.map_async(wgpu::MapMode::Write, .., move |result| {
                    told.store(if result.is_ok() { MAPPED } else { REFUSED }, Ordering::Release);
                });
                submission
            },
        )?;
        stage.pending = Some((submission, mapped));
        self.handed_over.push_back(stage);
        Ok(())
    }

    /// Waits until a stage may be written to again.
    fn free(&self, gpu: &Gpu, mut stage: Stage) -> Result<Stage> {
        if let Some((submission, mapped)) = stage.pending.take() {
            #[cfg(test)]
            if self.skips_waiting {
                stage.used = 0;
                return Ok(stage);
            }
            gpu.wait_until(&submission, || mapped.load(Ordering::Acquire) != PENDING)?;
            if mapped.load(Ordering::Acquire) != MAPPED {
                return Err(gpu.unreported("upload: the staging memory was not mapped again"));
            }
        }
        stage.used = 0;
        Ok(stage)
    }

    /// Waits until everything is on the device.
    pub(super) fn finish(mut self, gpu: &Gpu) -> Result<()> {
        self.submit(gpu)?;
        while let Some(stage) = self.handed_over.pop_front() {
            self.free(gpu, stage)?;
        }
        Ok(())
    }
}
