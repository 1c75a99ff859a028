//! A compiled recording: write inputs, submit, read results.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use half::slice::HalfFloatSliceExt;

use super::backend::Shared;
use super::memory::{GpuConstant, Use, buffer};
use super::pace::work;
use super::pipeline::Pipeline;
use super::upload::Upload;
use crate::Result;
use crate::record::{DType, MemoryPlan, Outputs, PARAMS_STRIDE, Program, Recording, Role, gather, match_inputs, plan};

/// Submissions that may wait on the device: one runs while the next is ready and a third is encoded.
const IN_FLIGHT: usize = 3;

/// Dispatches that one set of timestamps covers: WebGPU's limit of 4096 queries.
const TIMED_TOGETHER: usize = 2048;

/// How long one dispatch took on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct DispatchTime {
    /// Where in the network.
    pub label: String,
    /// Stem of the kernel.
    pub kernel: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: u64,
}

/// A recording compiled for a GPU.
pub struct GpuProgram {
    shared: Arc<Shared>,
    recording: Recording,
    plan: MemoryPlan,
    lanes: Vec<wgpu::Buffer>,
    constants: HashMap<u32, Arc<GpuConstant>>,
    params: Option<wgpu::Buffer>,
    readbacks: Vec<wgpu::Buffer>,
    steps: Vec<Step>,
    submissions: usize,
}

/// A dispatch that is ready to be encoded.
struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    work: f64,
}

impl GpuProgram {
    pub(super) fn new(shared: Arc<Shared>, mut recording: Recording) -> Result<Self> {
        fit_caps(&shared, &mut recording)?;
        let gpu = &shared.gpu;
        let plan = plan(&recording)?;
        // Kernels first: a fault in one shows before gigabytes are uploaded.
        let pipelines = shared.pipelines.of(gpu, &recording.dispatches)?;
        for (pipeline, dispatch) in pipelines.iter().zip(&recording.dispatches) {
            let names: Vec<&str> = dispatch.reads.iter().map(|(name, _)| *name).collect();
            pipeline.interface.check(&dispatch.label, &names)?;
        }
        let lanes = plan
            .lanes
            .iter()
            .enumerate()
            .map(|(lane, &bytes)| buffer(gpu, &format!("activations {lane}"), bytes, Use::Storage))
            .collect::<Result<Vec<_>>>()?;
        let readbacks = recording
            .outputs
            .iter()
            .map(|o| {
                let bytes = recording.tensors[o.tensor.storage as usize].bytes().next_multiple_of(8);
                buffer(gpu, &format!("readback of {}", o.name), bytes, Use::Readback)
            })
            .collect::<Result<Vec<_>>>()?;
        let params = (plan.params_bytes > 0).then(|| buffer(gpu, "parameters", plan.params_bytes, Use::Params));
        let params = params.transpose()?;
        let poisoned = if gpu.options.poison { plan.lanes.iter().sum() } else { 0 };
        let mut upload = Upload::new(gpu, plan.params_bytes + poisoned);
        if let Some(params) = &params {
            let mut blocks = vec![0; plan.params_bytes];
            for (offset, dispatch) in params_offsets(&recording) {
                blocks[offset..offset + dispatch.params.len()].copy_from_slice(&dispatch.params);
            }
            upload.write("parameters", params, &blocks)?;
        }
        if gpu.options.poison {
            lanes.iter().try_for_each(|lane| upload.poison("activations", lane))?;
        }
        upload.finish()?;
        let constants = shared.constants.of(
            gpu,
            recording.tensors.iter().enumerate().filter_map(|(index, tensor)| match &tensor.role {
                Role::Constant(constant) => Some((index as u32, constant)),
                _ => None,
            }),
        )?;
        let mut program = GpuProgram {
            recording,
            plan,
            lanes,
            constants,
            params,
            readbacks,
            steps: Vec::new(),
            submissions: 0,
            shared: Arc::clone(&shared),
        };
        program.steps = program.bind(pipelines)?;
        Ok(program)
    }

    /// Makes the bind group of every dispatch, by name.
    fn bind(&self, pipelines: Vec<Arc<Pipeline>>) -> Result<Vec<Step>> {
        let gpu = &self.shared.gpu;
        let mut steps = Vec::with_capacity(pipelines.len());
        for (pipeline, (offset, dispatch)) in pipelines.into_iter().zip(params_offsets(&self.recording)) {
            let resource = |name: &str| match name {
                "params" => self.params.as_ref().map(|buffer| wgpu::BufferBinding {
                    buffer,
                    offset: offset as u64,
                    size: wgpu::BufferSize::new(dispatch.params.len() as u64),
                }),
                "out" => self.storage(dispatch.write.storage),
                _ => dispatch.reads.iter().find(|(n, _)| *n == name).and_then(|(_, t)| self.storage(t.storage)),
            };
            let entries = pipeline
                .interface
                .bindings
                .iter()
                .map(|binding| {
                    let resource = resource(&binding.name)
                        .ok_or_else(|| gpu.error(format!("{}: {} has no memory", dispatch.label, binding.name)))?;
                    Ok(wgpu::BindGroupEntry {
                        binding: binding.number,
                        resource: wgpu::BindingResource::Buffer(resource),
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            let bind_group = gpu.scoped(
                || format!("bindings of {}", dispatch.label),
                || {
                    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some(&dispatch.label),
                        layout: &pipeline.layout,
                        entries: &entries,
                    })
                },
            )?;
            steps.push(Step { pipeline, bind_group, grid: dispatch.grid, work: work(&self.recording, dispatch) });
        }
        Ok(steps)
    }

    /// The bytes of a tensor's storage on the device.
    fn storage(&self, storage: u32) -> Option<wgpu::BufferBinding<'_>> {
        if let Some(constant) = self.constants.get(&storage) {
            return Some(wgpu::BufferBinding { buffer: &constant.buffer, offset: 0, size: None });
        }
        let place = self.plan.placements[storage as usize]?;
        Some(wgpu::BufferBinding {
            buffer: &self.lanes[place.lane],
            offset: place.offset as u64,
            size: wgpu::BufferSize::new(place.bytes as u64),
        })
    }

    /// The plan that the memory was allocated by.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Command buffers that the last run was cut into, results aside.
    pub fn submissions(&self) -> usize {
        self.submissions
    }

    /// Like [`Program::run`], with the time of each dispatch on the device. Slower, since each is timed alone.
    ///
    /// # Errors
    /// As [`Program::run`], and when the device has no timestamps.
    pub fn run_profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        self.write_inputs(inputs)?;
        let times = self.execute_timed()?;
        Ok((self.read_outputs()?, times))
    }

    fn write_inputs(&self, inputs: &[(&str, &[f32])]) -> Result<()> {
        let gpu = &self.shared.gpu;
        gpu.check()?;
        for (storage, values) in match_inputs(&self.recording, inputs)? {
            let (Some(place), dtype) = (self.storage(storage), self.recording.tensors[storage as usize].dtype) else {
                continue;
            };
            let mut bytes = match dtype {
                DType::F32 => bytemuck::cast_slice(values).to_vec(),
                DType::F16 => {
                    let mut halves = vec![half::f16::ZERO; values.len()];
                    halves.convert_from_f32_slice(values);
                    bytemuck::cast_slice(&halves).to_vec()
                }
                DType::Q8_0 | DType::Q4_0 => unreachable!("only constants are quantised"),
            };
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            gpu.scoped(|| "writing inputs".into(), || gpu.queue.write_buffer(place.buffer, place.offset, &bytes))?;
        }
        Ok(())
    }

    /// Submits all dispatches, cut to the time budget, and waits for them.
    fn execute(&mut self) -> Result<()> {
        let shared = &self.shared;
        let mut in_flight: VecDeque<(wgpu::SubmissionIndex, f64, Instant)> = VecDeque::new();
        let mut last_finished = Instant::now();
        let mut land = |(submission, work, submitted): (wgpu::SubmissionIndex, f64, Instant)| {
            shared.gpu.wait(&submission)?;
            let finished = Instant::now();
            shared.pace.learn(work, finished - submitted.max(last_finished));
            last_finished = finished;
            Ok(())
        };
        self.submissions = 0;
        let mut next = 0;
        while next < self.steps.len() {
            let range = self.cut(next, self.steps.len());
            next = range.end;
            let work = self.steps[range.clone()].iter().map(|s| s.work).sum();
            in_flight.push_back((self.submit(range, None)?, work, Instant::now()));
            self.submissions += 1;
            if in_flight.len() == IN_FLIGHT {
                in_flight.pop_front().map_or(Ok(()), &mut land)?;
            }
        }
        in_flight.into_iter().try_for_each(land)
    }

    /// The dispatches from `first` on that fit the time budget: one at least, `most` at most.
    fn cut(&self, first: usize, most: usize) -> Range<usize> {
        let quota = self.shared.pace.quota();
        let mut total = self.steps[first].work;
        let mut end = first + 1;
        while end < self.steps.len() && end - first < most && total + self.steps[end].work <= quota {
            total += self.steps[end].work;
            end += 1;
        }
        first..end
    }

    /// Submits some dispatches; with `timestamps`, each in a pass of its own, from query 0 on.
    fn submit(&self, range: Range<usize>, timestamps: Option<&wgpu::QuerySet>) -> Result<wgpu::SubmissionIndex> {
        let gpu = &self.shared.gpu;
        let label = |index: usize| &self.recording.dispatches[index].label;
        gpu.scoped(
            || format!("{} to {}", label(range.start), label(range.end - 1)),
            || {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                match timestamps {
                    None => {
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                        self.steps[range.clone()].iter().for_each(|step| step.encode(&mut pass));
                    }
                    Some(query_set) => {
                        for (query, step) in self.steps[range.clone()].iter().enumerate() {
                            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                                label: None,
                                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                                    query_set,
                                    beginning_of_pass_write_index: Some(2 * query as u32),
                                    end_of_pass_write_index: Some(2 * query as u32 + 1),
                                }),
                            });
                            step.encode(&mut pass);
                        }
                    }
                }
                gpu.queue.submit([encoder.finish()])
            },
        )
    }

    fn execute_timed(&mut self) -> Result<Vec<DispatchTime>> {
        let gpu = &self.shared.gpu;
        let period = gpu.timestamp_period.ok_or_else(|| gpu.error("the device has no timestamps"))?;
        let queries = 2 * TIMED_TOGETHER.min(self.steps.len().max(1)) as u32;
        let bytes = 8 * queries as usize;
        let readback = buffer(gpu, "timestamps", bytes, Use::Readback)?;
        let (query_set, resolved) = gpu.scoped(
            || "timestamps".into(),
            || {
                let query_set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count: queries,
                });
                let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("timestamps"),
                    size: bytes as u64,
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                });
                (query_set, resolved)
            },
        )?;
        let mut times = Vec::with_capacity(self.steps.len());
        let mut next = 0;
        while next < self.steps.len() {
            let range = self.cut(next, TIMED_TOGETHER);
            next = range.end;
            self.submit(range.clone(), Some(&query_set))?;
            let read = gpu.scoped(
                || "timestamps".into(),
                || {
                    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                    encoder.resolve_query_set(&query_set, 0..2 * range.len() as u32, &resolved, 0);
                    encoder.copy_buffer_to_buffer(&resolved, 0, &readback, 0, 16 * range.len() as u64);
                    gpu.queue.submit([encoder.finish()])
                },
            )?;
            let ticks = self.map(&[(&readback, "timestamps")], &read, |_, bytes| {
                bytemuck::pod_collect_to_vec::<u8, [u64; 2]>(&bytes[..16 * range.len()])
            })?;
            for (dispatch, [begin, end]) in self.recording.dispatches[range].iter().zip(ticks.into_iter().flatten()) {
                times.push(DispatchTime {
                    label: dispatch.label.clone(),
                    kernel: dispatch.kernel.stem,
                    seconds: end.saturating_sub(begin) as f64 * f64::from(period) * 1e-9,
                    flops: dispatch.flops,
                });
            }
        }
        Ok(times)
    }

    fn read_outputs(&self) -> Result<Outputs> {
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
                gpu.queue.submit([encoder.finish()])
            },
        )?;
        let buffers: Vec<_> = self.readbacks.iter().zip(outputs).map(|(b, o)| (b, o.name.as_str())).collect();
        let values = self.map(&buffers, &submission, |index, bytes| {
            let tensor = outputs[index].tensor;
            let info = &self.recording.tensors[tensor.storage as usize];
            gather(&to_f32(&bytes[..info.bytes()], info.dtype), tensor)
        })?;
        Ok(outputs.iter().map(|o| o.name.clone()).zip(values).collect())
    }

    /// Waits for `submission` and reads `buffers`, which it has filled.
    fn map<T>(
        &self,
        buffers: &[(&wgpu::Buffer, &str)],
        submission: &wgpu::SubmissionIndex,
        read: impl Fn(usize, &[u8]) -> T,
    ) -> Result<Vec<T>> {
        let gpu = &self.shared.gpu;
        let (sender, receiver) = mpsc::channel();
        gpu.scoped(
            || "mapping results".into(),
            || {
                for (buffer, _) in buffers {
                    let sender = sender.clone();
                    // The receiver is gone only when the run has failed already.
                    buffer.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
                }
            },
        )?;
        gpu.wait(submission)?;
        let mapped = receiver.try_iter().filter(|result| result.is_ok()).count();
        let values = buffers.iter().enumerate().map(|(index, (buffer, name))| {
            let view = buffer
                .get_mapped_range(..)
                .map_err(|e| gpu.error(format!("{name}: the result was not mapped: {e}")))?;
            Ok(read(index, &view))
        });
        let values = if mapped == buffers.len() {
            values.collect::<Result<Vec<T>>>()
        } else {
            Err(gpu.error(format!("{mapped} of {} results were mapped", buffers.len())))
        };
        buffers.iter().for_each(|(buffer, _)| buffer.unmap());
        values
    }
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Program for GpuProgram {
    fn run(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        self.write_inputs(inputs)?;
        self.execute()?;
        self.read_outputs()
    }

    fn allocated_bytes(&self) -> u64 {
        let own = self.lanes.iter().chain(&self.readbacks).chain(&self.params).map(wgpu::Buffer::size);
        own.chain(self.constants.values().map(|c| c.buffer.size())).sum()
    }

    fn weights(mut self: Box<Self>) -> Box<dyn Send> {
        Box::new(std::mem::take(&mut self.constants))
    }
}

/// Narrows the recording's limits to the device's, so that the plan keeps to both.
fn fit_caps(shared: &Shared, recording: &mut Recording) -> Result<()> {
    let (device, caps) = (&shared.gpu.caps, &mut recording.caps);
    if caps.is_host() {
        return Err(shared.gpu.error("the recording was made for the host; record it with this backend's caps"));
    }
    caps.max_binding_bytes = caps.max_binding_bytes.min(device.max_binding_bytes);
    caps.max_buffer_bytes = caps.max_buffer_bytes.min(device.max_buffer_bytes);
    caps.binding_alignment = caps.binding_alignment.max(device.binding_alignment);
    Ok(())
}

/// Each dispatch with the offset of its parameter block.
fn params_offsets(recording: &Recording) -> impl Iterator<Item = (usize, &crate::record::Dispatch)> {
    recording.dispatches.iter().scan(0, |next, dispatch| {
        let offset = *next;
        *next += dispatch.params.len().next_multiple_of(PARAMS_STRIDE);
        Some((offset, dispatch))
    })
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
