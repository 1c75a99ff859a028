//! Buffers, and constants that programs share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::device::Gpu;
use super::upload::Upload;
use crate::Result;
use crate::record::{Constant, Layout};

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

/// A constant on the device.
pub(super) struct GpuConstant {
    pub(super) buffer: wgpu::Buffer,
    /// Keeps the address that is the cache's key from being given to another constant.
    _source: Arc<Constant>,
}

/// Constants on the device, shared between programs by the identity of their `Arc` and the order of their values.
#[derive(Default)]
pub(super) struct Constants(Mutex<HashMap<(usize, Layout), Weak<GpuConstant>>>);

impl Constants {
    /// Bytes of those that some program holds.
    pub(super) fn bytes(&self) -> u64 {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.values().filter_map(Weak::upgrade).map(|constant| constant.buffer.size()).sum()
    }

    /// The copies of `constants` on the device; what is not there yet is uploaded.
    pub(super) fn of<'c>(
        &self,
        gpu: &Gpu,
        constants: impl Iterator<Item = (u32, &'c Arc<Constant>, Layout)>,
    ) -> Result<HashMap<u32, Arc<GpuConstant>>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|_, weak| weak.strong_count() > 0);
        let constants: Vec<_> = constants.collect();
        let bytes = constants.iter().map(|(_, constant, _)| constant.byte_len()).sum();
        let mut upload = Upload::new(bytes);
        let mut found = HashMap::new();
        for (storage, constant, layout) in constants {
            let key = (Arc::as_ptr(constant) as usize, layout);
            let shared = match cache.get(&key).and_then(Weak::upgrade) {
                Some(shared) => shared,
                None => {
                    let made = Arc::new(load(gpu, &mut upload, constant, layout)?);
                    cache.insert(key, Arc::downgrade(&made));
                    made
                }
            };
            found.insert(storage, shared);
        }
        upload.finish(gpu)?;
        Ok(found)
    }
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
    layout.pieces(constant, &mut |at, bytes| upload.write(gpu, &constant.label, buffer, offset + at, bytes))
}
