//! A decoder's output as a texture, without a way through host memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::memory::{Buffer, Use, buffer};
use super::pipeline::Pipeline;
use super::program::GpuProgram;
use crate::record::{Caps, DType, DevicePicture, HostCall, Kernel, PixelRange, Recording, Shape, Tensor, Variant};
use crate::{Error, Result};

static KERNEL: Kernel =
    Kernel { stem: "device/picture", source: include_str!("../../shaders/device/picture.wgsl"), host: never };

fn never(_: &mut HostCall<'_>) {
    unreachable!("the processor has no textures");
}

/// Invocations of a workgroup: `shared/flat.wgsl`.
const WORKGROUP: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    width: u32,
    height: u32,
    stride: u32,
    offset: u32,
    row: u32,
    from_zero: u32,
    pad: [u32; 2],
}

/// The kernel's form for values of a type.
fn variant(dtype: DType) -> Variant {
    Variant { types: vec![("x", dtype)], ..Variant::default() }
}

/// The kernel as an operation of a recording, so that it can be looked at where all others are.
pub fn picture_recording(caps: &Caps) -> Recording {
    let mut rec = Recording::new(caps);
    let x = rec.input("x", Shape::image(1, 8, 8, 4));
    let out = rec.in_type(DType::F32, |rec| rec.scratch(Shape::tokens(1, 9, 64)));
    let params = Params { width: 8, height: 8, stride: 4, offset: 0, row: 64, from_zero: 0, pad: [0; 2] };
    rec.dispatch(&KERNEL, Variant::default(), &params, &[("x", x)], out, [1, 1, 1], 0);
    let dtype = rec.dtype(x);
    rec.dispatches[0].variant = variant(dtype);
    rec
}

/// The texture of a picture that a GPU's program made: `Rgba8Unorm`, opaque, rows from the top, the bytes of `image::Rgb8Image`.
/// It can be sampled, copied from, and seen as sRGB. `None` where another backend made it.
pub fn texture(picture: &DevicePicture) -> Option<wgpu::Texture> {
    picture.handle().downcast_ref().cloned()
}

/// Buffers on the way to a texture.
struct Way {
    params: Buffer,
    /// Rows of pixels, and the count of values that are not finite.
    pixels: Buffer,
    read_back: Buffer,
}

impl GpuProgram {
    /// [`Program::picture`](crate::record::Program::picture).
    pub(super) fn draw(&self, output: &str, range: PixelRange) -> Result<DevicePicture> {
        let gpu = &self.shared.gpu;
        let tensor = self.drawable(output)?;
        let (width, height) = (tensor.shape.w as u32, tensor.shape.h as u32);
        let row = (4 * width).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let params = Params {
            width,
            height,
            stride: tensor.row_stride as u32,
            offset: tensor.channel_offset as u32,
            row: row / 4,
            from_zero: u32::from(range == PixelRange::FromZero),
            pad: [0; 2],
        };
        let bytes = row as usize * height as usize + 4;
        if bytes as u64 > gpu.caps.max_binding_bytes {
            return Err(Error::too_large(&gpu.caps.name, output, bytes as u64, gpu.caps.max_binding_bytes));
        }
        let way = Way {
            params: buffer(gpu, "picture's size", size_of::<Params>(), Use::Params)?,
            pixels: buffer(gpu, "picture", bytes, Use::Storage)?,
            read_back: buffer(gpu, "picture's faults", 4, Use::Readback)?,
        };
        gpu.scoped(
            || format!("the size of picture {output}"),
            || gpu.queue.write_buffer(&way.params, 0, bytemuck::bytes_of(&params)),
        )?;
        let texture = self.new_texture(output, width, height)?;
        let non_finite = self.fill(&texture, tensor, &way, row)?;
        Ok(DevicePicture::new((width as usize, height as usize), non_finite, Box::new(texture)))
    }

    /// The tensor of an output that can be a picture.
    fn drawable(&self, output: &str) -> Result<Tensor> {
        let gpu = &self.shared.gpu;
        if !self.has_results {
            return Err(Error::shape("picture", "expected a run that ended well before, got none"));
        }
        let found = self.recording.outputs.iter().find(|one| one.name == output);
        let tensor = found.ok_or_else(|| Error::shape("picture", format!("there is no output {output}")))?.tensor;
        let (shape, info) = (tensor.shape, &self.recording.tensors[tensor.storage()]);
        let is_image = shape.n == 1 && matches!(shape.c, 3 | 4) && !shape.is_empty();
        if !is_image || info.dtype.is_quantized() || !info.len.is_multiple_of(4) {
            return Err(Error::shape(
                "picture",
                format!("{output}: expected [1, h, w, 3] or [1, h, w, 4], got {shape}"),
            ));
        }
        let most = gpu.device.limits().max_texture_dimension_2d as usize;
        if shape.w.max(shape.h) > most {
            return Err(gpu.unsupported(format!("expected textures of {}×{}, it has {most}×{most}", shape.w, shape.h)));
        }
        Ok(tensor)
    }

    fn new_texture(&self, output: &str, width: u32, height: u32) -> Result<wgpu::Texture> {
        let gpu = &self.shared.gpu;
        let descriptor = wgpu::TextureDescriptor {
            label: Some("chiaro: picture"),
            size: wgpu::Extent3d { width, height, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::COPY_DST | wgpu::TextureUsages::COPY_SRC | wgpu::TextureUsages::TEXTURE_BINDING,
            view_formats: &[wgpu::TextureFormat::Rgba8UnormSrgb],
        };
        gpu.scoped(|| format!("the texture of {output}"), || gpu.device.create_texture(&descriptor))
    }

    /// Computes the pixels and copies them to the texture. Gives how many values are not finite.
    fn fill(&self, texture: &wgpu::Texture, tensor: Tensor, way: &Way, row: u32) -> Result<usize> {
        let gpu = &self.shared.gpu;
        let dtype = self.recording.dtype(tensor);
        let pipeline = self.shared.pipelines.one(gpu, &KERNEL, variant(dtype))?;
        let bind_group = self.bind_picture(&pipeline, tensor, way)?;
        let (width, height) = (texture.width(), texture.height());
        let groups = (width * height).div_ceil(WORKGROUP);
        let across = groups.min(gpu.caps.max_workgroups);
        let submission = gpu.scoped(
            || "a picture".into(),
            || {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    pass.set_pipeline(&pipeline.raw);
                    pass.set_bind_group(0, &bind_group, &[]);
                    pass.dispatch_workgroups(across, groups.div_ceil(across), 1);
                }
                let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
                encoder.copy_buffer_to_texture(
                    wgpu::TexelCopyBufferInfo { buffer: &way.pixels, layout },
                    texture.as_image_copy(),
                    texture.size(),
                );
                let behind = u64::from(row) * u64::from(height);
                encoder.copy_buffer_to_buffer(&way.pixels, behind, &way.read_back, 0, 4);
                gpu.submit(encoder)
            },
        )?;
        let non_finite = AtomicUsize::new(0);
        self.map(&[(&way.read_back, "a picture's faults")], &submission, |_, bytes| {
            let count = bytemuck::pod_collect_to_vec::<u8, u32>(&bytes[..4]).first().map_or(0, |&count| count as usize);
            non_finite.store(count, Ordering::Relaxed);
        })?;
        Ok(non_finite.into_inner())
    }

    fn bind_picture(&self, pipeline: &Pipeline, tensor: Tensor, way: &Way) -> Result<wgpu::BindGroup> {
        let gpu = &self.shared.gpu;
        let values = self.storage(tensor.storage() as u32);
        let values = values.ok_or_else(|| gpu.error("a picture's values have no memory"))?;
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let entries = [
            entry(0, way.params.as_entire_binding()),
            entry(1, wgpu::BindingResource::Buffer(values)),
            entry(2, way.pixels.as_entire_binding()),
        ];
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some("picture"), layout: &pipeline.layout, entries: &entries };
        gpu.scoped(|| "bindings of a picture".into(), || gpu.device.create_bind_group(&descriptor))
    }
}
