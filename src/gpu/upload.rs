//! Bytes to the device through bounded staging memory that is used again and again.
//!
//! Two stages take turns: while the device copies out of one, the host fills the other. Memory that is new to a process is slow to touch, so
//! the stages are kept for all that one upload writes.

use std::sync::mpsc::{Receiver, channel};

use super::device::Gpu;
use crate::Result;

/// Bytes of a stage. Two exist at a time.
const STAGE: usize = 32 << 20;

/// Mapped ranges begin at multiples of this.
const ALIGNMENT: usize = wgpu::MAP_ALIGNMENT as usize;

/// Writes to buffers in order.
pub(super) struct Upload<'a> {
    gpu: &'a Gpu,
    /// Bytes of each stage: no more than is expected.
    stage_bytes: usize,
    current: Option<Stage>,
    /// The stage that the device copies out of.
    busy: Option<Stage>,
}

struct Stage {
    buffer: wgpu::Buffer,
    used: usize,
    copies: Vec<Copy>,
    /// Set once handed over: until when the device copies, and whether the host may write again.
    pending: Option<(wgpu::SubmissionIndex, Receiver<bool>)>,
}

struct Copy {
    from: usize,
    to: wgpu::Buffer,
    offset: usize,
    bytes: usize,
}

impl<'a> Upload<'a> {
    /// An upload of about `expected` bytes.
    pub(super) fn new(gpu: &'a Gpu, expected: usize) -> Self {
        let stage_bytes = expected.clamp(1 << 16, STAGE).next_multiple_of(ALIGNMENT);
        Upload { gpu, stage_bytes, current: None, busy: None }
    }

    /// Writes `bytes` to the start of `buffer`.
    pub(super) fn write(&mut self, label: &str, buffer: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.write_some(label, buffer, at, &bytes[at..])?;
        }
        Ok(())
    }

    /// Fills `buffer` with a pattern that is NaN in f32 and in f16.
    pub(super) fn poison(&mut self, label: &str, buffer: &wgpu::Buffer) -> Result<()> {
        let size = buffer.size() as usize;
        let pattern = vec![0xFF; self.stage_bytes.min(size)];
        let mut at = 0;
        while at < size {
            at += self.write_some(label, buffer, at, &pattern[..pattern.len().min(size - at)])?;
        }
        Ok(())
    }

    /// Stages what there is room for, and says how much that was; a last odd word is filled up with zeros.
    fn write_some(&mut self, label: &str, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) -> Result<usize> {
        let gpu = self.gpu;
        let mut stage = self.stage()?;
        let take = bytes.len().min(self.stage_bytes - stage.used);
        let from = stage.used;
        let whole = take / 4 * 4;
        let filled = take.next_multiple_of(4);
        let range = from as u64..(from + filled) as u64;
        let mut view = stage
            .buffer
            .get_mapped_range_mut(range)
            .map_err(|e| gpu.error(format!("upload of {label}: the staging memory was not mapped: {e}")))?;
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
            self.hand_over()?;
        }
        Ok(take)
    }

    /// A stage that the host may write to.
    fn stage(&mut self) -> Result<Stage> {
        if let Some(stage) = self.current.take() {
            return Ok(stage);
        }
        let gpu = self.gpu;
        let size = self.stage_bytes as u64;
        let buffer = gpu.scoped(
            || format!("staging memory, {} MiB", size.div_ceil(1 << 20)),
            || {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("staging"),
                    size,
                    usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                })
            },
        )?;
        Ok(Stage { buffer, used: 0, copies: Vec::new(), pending: None })
    }

    /// Submits the copies out of the current stage, and waits for those out of the other, which is then free.
    fn hand_over(&mut self) -> Result<()> {
        let Some(mut stage) = self.current.take() else { return Ok(()) };
        let gpu = self.gpu;
        let (sender, receiver) = channel();
        let submission = gpu.scoped(
            || "upload".into(),
            || {
                stage.buffer.unmap();
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for Copy { from, to, offset, bytes } in stage.copies.drain(..) {
                    encoder.copy_buffer_to_buffer(&stage.buffer, from as u64, &to, offset as u64, Some(bytes as u64));
                }
                let submission = gpu.queue.submit([encoder.finish()]);
                stage.buffer.map_async(wgpu::MapMode::Write, .., move |result| {
                    // The receiver is gone only when the upload has failed already.
                    let _ = sender.send(result.is_ok());
                });
                submission
            },
        )?;
        stage.pending = Some((submission, receiver));
        if let Some(other) = self.busy.replace(stage) {
            self.current = Some(self.free(other)?);
        }
        Ok(())
    }

    /// Waits until a stage may be written to again.
    fn free(&self, mut stage: Stage) -> Result<Stage> {
        if let Some((submission, receiver)) = stage.pending.take() {
            self.gpu.wait(&submission)?;
            if !receiver.try_iter().any(|mapped| mapped) {
                return Err(self.gpu.error("upload: the staging memory was not mapped again"));
            }
        }
        stage.used = 0;
        Ok(stage)
    }

    /// Waits until everything is on the device.
    pub(super) fn finish(mut self) -> Result<()> {
        self.hand_over()?;
        self.current = None;
        self.busy.take().map_or(Ok(()), |last| self.free(last).map(|_| ()))
    }
}
