//! A compiled recording: write inputs, submit, read results.

use std::collections::HashMap;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use super::backend::Shared;
use super::memory::{Buffer, GpuConstant, Use, buffer};
use super::pace::work;
use super::pipeline::Pipeline;
use super::stream::Stream;
use super::upload::Upload;
use crate::Result;
use crate::record::{
    DType, DevicePicture, Dispatch, DispatchTime, Kept, MemoryPlan, Outputs, PARAMS_STRIDE, PixelRange, Program,
    Recording, Run, match_inputs, plan,
};

/// A recording compiled for a GPU.
pub struct GpuProgram {
    pub(super) shared: Arc<Shared>,
    pub(super) recording: Recording,
    plan: MemoryPlan,
    lanes: Vec<Buffer>,
    constants: HashMap<u32, Arc<GpuConstant>>,
    /// The constants that do not stay.
    pub(super) stream: Option<Stream>,
    params: Option<Buffer>,
    pub(super) readbacks: Vec<Buffer>,
    pub(super) steps: Vec<Step>,
    pub(super) submissions: usize,
    pub(super) kept: Kept,
    /// Whether the outputs in memory are those of a run that ended well.
    pub(super) has_results: bool,
}

/// A dispatch that is ready to be encoded.
pub(super) struct Step {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) grid: [u32; 3],
    pub(super) work: f64,
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
        let mut upload = Upload::new(plan.params_bytes + poisoned);
        if let Some(params) = &params {
            let mut blocks = vec![0; plan.params_bytes];
            for (offset, dispatch) in params_offsets(&recording) {
                blocks[offset..offset + dispatch.params.len()].copy_from_slice(&dispatch.params);
            }
            upload.write(gpu, "parameters", params, 0, &blocks)?;
        }
        if gpu.options.poison {
            lanes.iter().try_for_each(|lane| upload.poison(gpu, "activations", lane))?;
        }
        upload.finish(gpu)?;
        let constants = shared.constants.of(gpu, &recording, &plan)?;
        let stream = plan.stream.as_ref().map(|plan| Stream::new(gpu, plan)).transpose()?;
        let mut program = GpuProgram {
            kept: Kept::of(&recording),
            has_results: false,
            recording,
            plan,
            lanes,
            constants,
            stream,
            params,
            readbacks,
            steps: Vec::new(),
            submissions: 0,
            shared: Arc::clone(&shared),
        };
        program.steps = program.bind(pipelines)?;
        gpu.counts.compiled_programs.add(1);
        Ok(program)
    }

    /// Makes the bind group of every dispatch, by name.
    fn bind(&self, pipelines: Vec<Arc<Pipeline>>) -> Result<Vec<Step>> {
        let gpu = &self.shared.gpu;
        let mut steps = Vec::with_capacity(pipelines.len());
        for (index, (pipeline, (offset, dispatch))) in
            pipelines.into_iter().zip(params_offsets(&self.recording)).enumerate()
        {
            let passing = |storage| self.stream.as_ref().and_then(|stream| stream.binding(index, storage));
            let resource = |name: &str| match name {
                "params" => self.params.as_ref().map(|buffer| wgpu::BufferBinding {
                    buffer,
                    offset: offset as u64,
                    size: wgpu::BufferSize::new(dispatch.params.len() as u64),
                }),
                "out" => self.storage(dispatch.write.storage),
                _ => {
                    let (_, read) = dispatch.reads.iter().find(|(n, _)| *n == name)?;
                    passing(read.storage).or_else(|| self.storage(read.storage))
                }
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

    /// The bytes of a tensor's storage on the device, unless it passes through.
    pub(super) fn storage(&self, storage: u32) -> Option<wgpu::BufferBinding<'_>> {
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

    fn run_as(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs> {
        let inputs = match_inputs(&self.recording, inputs)?;
        how.check()?;
        self.has_results = false;
        self.write_inputs(&inputs)?;
        let ranges = self.kept.ranges(&self.recording, &inputs, how.reuse)?;
        self.submit_all(&ranges, how)?;
        let outputs = if how.keep_on_device { Outputs::new() } else { self.read_outputs()? };
        self.kept.made(&self.recording, ranges[0].start, &inputs);
        self.has_results = true;
        Ok(outputs)
    }

    pub(super) fn write_inputs(&self, inputs: &[(u32, &[f32])]) -> Result<()> {
        let gpu = &self.shared.gpu;
        gpu.check()?;
        for &(storage, values) in inputs {
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
}

impl Program for GpuProgram {
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs> {
        let shared = Arc::clone(&self.shared);
        shared.gpu.workers.apart(|| self.run_as(inputs, how))
    }

    fn run_profiled(&mut self, inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        let shared = Arc::clone(&self.shared);
        shared.gpu.workers.apart(|| self.profiled(inputs))
    }

    fn picture(&mut self, output: &str, range: PixelRange) -> Result<DevicePicture> {
        self.shared.gpu.workers.apart(|| self.draw(output, range))
    }

    fn allocated_bytes(&self) -> u64 {
        let own = self.lanes.iter().chain(&self.readbacks).chain(&self.params).map(|buffer| buffer.size());
        let staying = self.constants.values().map(|constant| constant.buffer.size());
        own.chain(staying).sum::<u64>() + self.stream.as_ref().map_or(0, Stream::allocated_bytes)
    }

    fn weights(mut self: Box<Self>) -> Box<dyn Send> {
        Box::new(std::mem::take(&mut self.constants))
    }
}

/// Narrows the recording's limits to the device's, so that the plan keeps to both.
fn fit_caps(shared: &Shared, recording: &mut Recording) -> Result<()> {
    let (device, caps) = (&shared.gpu.caps, &mut recording.caps);
    if caps.is_host() {
        return Err(shared.gpu.error("the recording was made for the processor; record it with this backend's caps"));
    }
    caps.max_binding_bytes = caps.max_binding_bytes.min(device.max_binding_bytes);
    caps.max_buffer_bytes = caps.max_buffer_bytes.min(device.max_buffer_bytes);
    caps.binding_alignment = caps.binding_alignment.max(device.binding_alignment);
    Ok(())
}

/// Each dispatch with the offset of its parameter block.
fn params_offsets(recording: &Recording) -> impl Iterator<Item = (usize, &Dispatch)> {
    recording.dispatches.iter().scan(0, |next, dispatch| {
        let offset = *next;
        *next += dispatch.params.len().next_multiple_of(PARAMS_STRIDE);
        Some((offset, dispatch))
    })
}
