//! How long each dispatch takes.

use std::ops::Range;
use std::sync::Arc;

use super::memory::{Buffer, Use, buffer};
use super::program::GpuProgram;
use crate::Result;
use crate::record::{DispatchTime, Outputs, Run, match_inputs};

/// Dispatches that one set of timestamps covers: WebGPU's limit of 4096 queries.
const TIMED_TOGETHER: usize = 2048;

impl GpuProgram {
    /// [`Program::run_profiled`](crate::record::Program::run_profiled).
    pub(super) fn profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let inputs = match_inputs(&self.recording, inputs)?;
        self.has_results = false;
        self.write_inputs(&inputs)?;
        let ranges = self.kept.ranges(&self.recording, &inputs, false)?;
        let times = self.execute_timed(&ranges)?;
        let outputs = self.read_outputs()?;
        self.kept.made(&self.recording, ranges[0].start, &inputs);
        self.has_results = true;
        Ok((outputs, times))
    }

    fn execute_timed(&mut self, ranges: &[Range<usize>]) -> Result<Vec<DispatchTime>> {
        let shared = Arc::clone(&self.shared);
        let gpu = &shared.gpu;
        let period = gpu.timestamp_period.ok_or_else(|| gpu.unsupported("the device has no timestamps"))?;
        let queries = 2 * TIMED_TOGETHER.min(self.steps.len().max(1)) as u32;
        let bytes = 8 * queries as usize;
        let readback = buffer(gpu, "timestamps", bytes, Use::Readback)?;
        let descriptor = wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: bytes as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        };
        let resolved = Buffer::new(gpu, || "timestamps".into(), &descriptor)?;
        let query_set = gpu.scoped(
            || "timestamps".into(),
            || {
                gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count: queries,
                })
            },
        )?;
        let mut times = Vec::with_capacity(self.steps.len());
        self.in_chunks(ranges, Run::default(), |program, chunk| {
            let mut next = chunk.start;
            while next < chunk.end {
                let range = program.cut(next..chunk.end.min(next + TIMED_TOGETHER));
                next = range.end;
                program.submit(range.clone(), Some(&query_set))?;
                let read = gpu.scoped(
                    || "timestamps".into(),
                    || {
                        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                        encoder.resolve_query_set(&query_set, 0..2 * range.len() as u32, &resolved, 0);
                        encoder.copy_buffer_to_buffer(&resolved, 0, &readback, 0, 16 * range.len() as u64);
                        gpu.submit(encoder)
                    },
                )?;
                let ticks = program.map(&[(&readback, "timestamps")], &read, |_, bytes| {
                    bytemuck::pod_collect_to_vec::<u8, [u64; 2]>(&bytes[..16 * range.len()])
                })?;
                let dispatches = &program.recording.dispatches[range];
                for (dispatch, [begin, end]) in dispatches.iter().zip(ticks.into_iter().flatten()) {
                    times.push(DispatchTime {
                        label: dispatch.label.clone(),
                        kernel: dispatch.kernel.stem,
                        seconds: end.saturating_sub(begin) as f64 * f64::from(period) * 1e-9,
                        flops: dispatch.flops,
                    });
                }
            }
            Ok(0)
        })?;
        Ok(times)
    }
}
