//! From buffers on the device to values on the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::slice::HalfFloatSliceExt;

use super::program::GpuProgram;
use super::wait::Submission;
use crate::Result;
use crate::record::{DType, Outputs, gather};

impl GpuProgram {
    pub(super) fn read_outputs(&self) -> Result<Outputs> {
        let gpu = &self.shared.gpu;
        let outputs = &self.recording.outputs;
        let submission = gpu.scoped(
            || "reading results".into(),
            || {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for (output, readback) in outputs.iter().zip(&self.readbacks) {
                    if let Some(source) = self.storage(output.tensor.storage) {
                        let bytes = self.recording.tensors[output.tensor.storage as usize].bytes();
                        let bytes = bytes.next_multiple_of(4) as u64;
                        encoder.copy_buffer_to_buffer(source.buffer, source.offset, readback, 0, bytes);
                    }
                }
                gpu.submit(encoder)
            },
        )?;
        let buffers: Vec<_> = self.readbacks.iter().zip(outputs).map(|(b, o)| (&**b, o.name.as_str())).collect();
        let values = self.map(&buffers, &submission, |index, bytes| {
            let tensor = outputs[index].tensor;
            let info = &self.recording.tensors[tensor.storage as usize];
            gather(&to_f32(&bytes[..info.bytes()], info.dtype), tensor)
        })?;
        Ok(outputs.iter().map(|o| o.name.clone()).zip(values).collect())
    }

    /// Waits for `submission` and reads `buffers`, which it has filled.
    pub(super) fn map<T>(
        &self,
        buffers: &[(&wgpu::Buffer, &str)],
        submission: &Submission,
        read: impl Fn(usize, &[u8]) -> T,
    ) -> Result<Vec<T>> {
        let gpu = &self.shared.gpu;
        // How many were mapped, and how many were told of.
        let told = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        gpu.scoped(
            || "mapping results".into(),
            || {
                for (buffer, _) in buffers {
                    let told = Arc::clone(&told);
                    buffer.map_async(wgpu::MapMode::Read, .., move |result| {
                        told[0].fetch_add(usize::from(result.is_ok()), Ordering::AcqRel);
                        told[1].fetch_add(1, Ordering::AcqRel);
                    });
                }
            },
        )?;
        gpu.wait_until(submission, || told[1].load(Ordering::Acquire) >= buffers.len())?;
        let mapped = told[0].load(Ordering::Acquire);
        let values = buffers.iter().enumerate().map(|(index, (buffer, name))| {
            let view = buffer
                .get_mapped_range(..)
                .map_err(|e| gpu.unreported(format!("{name}: the result was not mapped: {e}")))?;
            Ok(read(index, &view))
        });
        let values = if mapped == buffers.len() {
            values.collect::<Result<Vec<T>>>()
        } else {
            Err(gpu.unreported(format!("{mapped} of {} results were mapped", buffers.len())))
        };
        buffers.iter().for_each(|(buffer, _)| buffer.unmap());
        values
    }
}

fn to_f32(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => {
            let halves: Vec<half::f16> = bytemuck::pod_collect_to_vec(bytes);
            let mut values = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut values);
            values
        }
        DType::Q8_0 | DType::Q4_0 => unreachable!("only constants are quantised"),
    }
}
