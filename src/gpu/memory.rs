//! Buffers, and constants that programs share.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use super::device::Gpu;
use super::upload::Upload;
use crate::record::{Constant, Held, Layout, MemoryPlan, Recording, Resident, Role, caught};
use crate::{Error, Result};

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

/// A buffer that counts as allocated until it is dropped.
pub(super) struct Buffer {
    raw: wgpu::Buffer,
    _held: Held,
}

impl Buffer {
    /// # Errors
    /// Whatever the device reports; `what` says what the buffer is for.
    pub(super) fn new(
        gpu: &Gpu,
        what: impl FnOnce() -> String,
        descriptor: &wgpu::BufferDescriptor<'_>,
    ) -> Result<Self> {
        let raw = gpu.scoped(what, || gpu.device.create_buffer(descriptor)).map_err(|mut error| {
            if let Error::OutOfMemory { wanted, .. } = &mut error {
                *wanted = Some(descriptor.size);
            }
            error
        })?;
        let held = gpu.memory.hold(raw.size());
        Ok(Buffer { raw, _held: held })
    }
}

impl Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

/// Creates a buffer, zero-filled as WebGPU demands.
pub(super) fn buffer(gpu: &Gpu, label: &str, bytes: usize, purpose: Use) -> Result<Buffer> {
    let usage = match purpose {
        Use::Storage => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        Use::Params => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        Use::Readback => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
    };
    let size = bytes.next_multiple_of(4).max(4) as u64;
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    Buffer::new(gpu, || label.to_owned(), &descriptor)
}

/// A constant on the device.
pub(super) struct GpuConstant {
    pub(super) buffer: Buffer,
    /// Keeps the address that is a part of its key from being given to another constant.
    _source: Arc<Constant>,
}

/// The identity of a constant's `Arc`, and the order of its values.
type Key = (usize, Layout);

/// Constants on the device, shared between programs.
#[derive(Default)]
pub(super) struct Constants(Resident<Key, GpuConstant>);

impl Constants {
    /// Bytes of those that some program holds.
    pub(super) fn bytes(&self) -> u64 {
        self.0.all().iter().map(|constant| constant.buffer.size()).sum()
    }

    /// Those of a recording that its plan keeps on the device, by storage; what is not there yet is uploaded.
    pub(super) fn of(
        &self,
        gpu: &Gpu,
        recording: &Recording,
        plan: &MemoryPlan,
    ) -> Result<HashMap<u32, Arc<GpuConstant>>> {
        let staying: Vec<(u32, &Arc<Constant>, Layout)> = staying(recording, plan).collect();
        let keys: Vec<Key> = staying.iter().map(|(_, constant, layout)| key(constant, *layout)).collect();
        let sources: HashMap<Key, &Arc<Constant>> =
            keys.iter().copied().zip(staying.iter().map(|(_, constant, _)| *constant)).collect();
        let make = |keys: &[Key]| {
            let bytes = keys.iter().map(|key| sources[key].byte_len()).sum();
            let mut upload = Upload::new(bytes);
            let made =
                keys.iter().map(|key| load(gpu, &mut upload, sources[key], key.1)).collect::<Result<Vec<_>>>()?;
            upload.finish(gpu)?;
            gpu.counts.uploaded_bytes.add(bytes as u64);
            Ok(made)
        };
        let found = self.0.of(&keys, !gpu.workers.is_worker(), make)?;
        Ok(staying.iter().zip(&keys).map(|((storage, ..), key)| (*storage, Arc::clone(&found[key]))).collect())
    }

    /// Bytes of a recording's constants that its plan keeps on the device and no program holds.
    pub(super) fn missing_bytes(&self, recording: &Recording, plan: &MemoryPlan) -> u64 {
        let missing = staying(recording, plan).filter(|(_, constant, layout)| !self.0.has(key(constant, *layout)));
        missing.map(|(_, constant, _)| constant.byte_len().next_multiple_of(4) as u64).sum()
    }
}

fn key(constant: &Arc<Constant>, layout: Layout) -> Key {
    (Arc::as_ptr(constant) as usize, layout)
}

fn staying<'r>(recording: &'r Recording, plan: &MemoryPlan) -> impl Iterator<Item = (u32, &'r Arc<Constant>, Layout)> {
    let passing = plan.stream.iter().flat_map(|stream| &stream.chunks).flat_map(|chunk| &chunk.loads);
    let passing: HashSet<usize> = passing.map(|load| load.storage).collect();
    recording.tensors.iter().enumerate().filter_map(move |(index, tensor)| match &tensor.role {
        Role::Constant(constant) if !passing.contains(&index) => Some((index as u32, constant, tensor.layout)),
        _ => None,
    })
}

fn load(gpu: &Gpu, upload: &mut Upload, constant: &Arc<Constant>, layout: Layout) -> Result<GpuConstant> {
    let buffer = buffer(gpu, &constant.label, constant.byte_len(), Use::Storage)?;
    write(gpu, upload, (constant, layout), &buffer, 0)?;
    Ok(GpuConstant { buffer, _source: Arc::clone(constant) })
}

/// Writes a constant to `buffer` from `offset` on, as its source gives it: no second copy of it is made.
pub(super) fn write(
    gpu: &Gpu,
    upload: &mut Upload,
    (constant, layout): (&Constant, Layout),
    buffer: &wgpu::Buffer,
    offset: usize,
) -> Result<()> {
    let label = &constant.label;
    caught(label, || {
        gpu.workers
            .install(|| layout.pieces(constant, &mut |at, bytes| upload.write(gpu, label, buffer, offset + at, bytes)))
    })
}
