//! Buffers, and constants that programs share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::device::Gpu;
use crate::Result;
use crate::record::Constant;

/// Bytes that one copy into the device's staging memory takes along.
const PIECE: usize = 16 << 20;

/// Bytes staged before a submission hands them over. Two such loads may exist at a time.
const LOAD: usize = 64 << 20;

/// What the executor does with a buffer.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Bound as storage; written by the host and copied from.
    Storage,
    /// Parameter blocks.
    Params,
    /// Copied to, then mapped by the host.
    Readback,
}

/// Creates a buffer, zero-filled as WebGPU demands.
pub(super) fn buffer(gpu: &Gpu, label: &str, bytes: usize, purpose: Use) -> Result<wgpu::Buffer> {
    let usage = match purpose {
        Use::Storage => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        Use::Params => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        Use::Readback => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
    };
    let size = bytes.next_multiple_of(4).max(4) as u64;
    gpu.scoped(
        || format!("{label}, {} MiB", size.div_ceil(1 << 20)),
        || {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        },
    )
}

/// Writes to buffers through bounded staging memory.
pub(super) struct Upload<'a> {
    gpu: &'a Gpu,
    staged: usize,
    in_flight: Option<wgpu::SubmissionIndex>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(gpu: &'a Gpu) -> Self {
        Upload { gpu, staged: 0, in_flight: None }
    }

    /// Writes `bytes` to the start of `buffer`.
    pub(super) fn write(&mut self, label: &str, buffer: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        let mut pieces = bytes.chunks(PIECE).enumerate();
        pieces.try_for_each(|(index, piece)| self.write_piece(label, buffer, index * PIECE, piece))
    }

    /// Fills `buffer` with a pattern that is NaN in f32 and in f16.
    pub(super) fn poison(&mut self, label: &str, buffer: &wgpu::Buffer) -> Result<()> {
        let size = buffer.size() as usize;
        let pattern = vec![0xFF; PIECE.min(size)];
        let mut offsets = (0..size).step_by(PIECE);
        offsets.try_for_each(|at| self.write_piece(label, buffer, at, &pattern[..PIECE.min(size - at)]))
    }

    /// Writes a part; a last odd word is filled up with zeros.
    fn write_piece(&mut self, label: &str, buffer: &wgpu::Buffer, offset: usize, piece: &[u8]) -> Result<()> {
        let (whole, rest) = piece.split_at(piece.len() / 4 * 4);
        self.gpu.scoped(
            || format!("upload of {label}"),
            || {
                if !whole.is_empty() {
                    self.gpu.queue.write_buffer(buffer, offset as u64, whole);
                }
                if !rest.is_empty() {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    self.gpu.queue.write_buffer(buffer, (offset + whole.len()) as u64, &last);
                }
            },
        )?;
        self.staged += piece.len();
        if self.staged >= LOAD { self.hand_over() } else { Ok(()) }
    }

    /// Submits what is staged and waits for the load before it, so that reading the next one overlaps with the copy.
    fn hand_over(&mut self) -> Result<()> {
        self.staged = 0;
        let submission = self.gpu.scoped(|| "upload".into(), || self.gpu.queue.submit([]))?;
        match self.in_flight.replace(submission) {
            Some(previous) => self.gpu.wait(&previous),
            None => Ok(()),
        }
    }

    /// Waits until everything is on the device.
    pub(super) fn finish(mut self) -> Result<()> {
        self.hand_over()?;
        self.in_flight.take().map_or(Ok(()), |last| self.gpu.wait(&last))
    }
}

/// A constant on the device.
pub(super) struct GpuConstant {
    pub(super) buffer: wgpu::Buffer,
    /// Keeps the address that is the cache's key from being given to another constant.
    _source: Arc<Constant>,
}

/// Constants on the device, shared between programs by the identity of their `Arc`.
#[derive(Default)]
pub(super) struct Constants(Mutex<HashMap<usize, Weak<GpuConstant>>>);

impl Constants {
    /// The copies of `constants` on the device; what is not there yet is uploaded.
    pub(super) fn of<'c>(
        &self,
        gpu: &Gpu,
        constants: impl Iterator<Item = (u32, &'c Arc<Constant>)>,
    ) -> Result<HashMap<u32, Arc<GpuConstant>>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|_, weak| weak.strong_count() > 0);
        let mut upload = Upload::new(gpu);
        let mut found = HashMap::new();
        for (storage, constant) in constants {
            let key = Arc::as_ptr(constant) as usize;
            let shared = match cache.get(&key).and_then(Weak::upgrade) {
                Some(shared) => shared,
                None => {
                    let made = Arc::new(load(gpu, &mut upload, constant)?);
                    cache.insert(key, Arc::downgrade(&made));
                    made
                }
            };
            found.insert(storage, shared);
        }
        upload.finish()?;
        Ok(found)
    }
}

fn load(gpu: &Gpu, upload: &mut Upload<'_>, constant: &Arc<Constant>) -> Result<GpuConstant> {
    let bytes = constant.checked_bytes()?;
    let buffer = buffer(gpu, &constant.label, bytes.len(), Use::Storage)?;
    upload.write(&constant.label, &buffer, &bytes)?;
    Ok(GpuConstant { buffer, _source: Arc::clone(constant) })
}
