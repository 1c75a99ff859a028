//! Compiles variants of kernels, each once per device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::device::Gpu;
use super::reflect::{BindingKind, Interface};
use super::template::{expand, needs_f16, needs_matrices, tier_of};
use super::unroll::unroll;
use crate::record::{Dispatch, Kernel, Variant, caught};
use crate::{Error, Result};

/// A compiled variant.
pub(super) struct Pipeline {
    pub(super) interface: Interface,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) raw: wgpu::ComputePipeline,
}

/// Compiled variants by stem. Variants fix whether 16-bit types are used, so they need no key of their own.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<HashMap<(&'static str, Variant), Arc<Pipeline>>>);

impl Pipelines {
    /// The pipeline of a variant.
    pub(super) fn one(&self, gpu: &Gpu, kernel: &'static Kernel, variant: Variant) -> Result<Arc<Pipeline>> {
        let key = (kernel.stem, variant);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(compile(gpu, kernel, &key.1)?);
        gpu.counts.compiled_pipelines.add(1);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.entry(key).or_insert(made)))
    }

    /// The pipeline of each dispatch; what is new is compiled on all cores.
    pub(super) fn of(&self, gpu: &Gpu, dispatches: &[Dispatch]) -> Result<Vec<Arc<Pipeline>>> {
        let mut missing: HashMap<(&'static str, Variant), &'static Kernel> = HashMap::new();
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for dispatch in dispatches {
                let key = (dispatch.kernel.stem, dispatch.variant.clone());
                if !known.contains_key(&key) {
                    missing.insert(key, dispatch.kernel);
                }
            }
        }
        let made = caught("compiling kernels", || {
            gpu.workers.install(|| {
                let compiled = missing
                    .into_par_iter()
                    .map(|(key, kernel)| compile(gpu, kernel, &key.1).map(|pipeline| (key, Arc::new(pipeline))));
                compiled.collect::<Result<Vec<_>>>()
            })
        })?;
        gpu.counts.compiled_pipelines.add(made.len() as u64);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What another thread compiled meanwhile is as good.
        for (key, pipeline) in made {
            known.entry(key).or_insert(pipeline);
        }
        Ok(dispatches.iter().map(|d| Arc::clone(&known[&(d.kernel.stem, d.variant.clone())])).collect())
    }
}

/// Whatever is wrong with a kernel is [`Error::Kernel`]; a device that is gone, or has no memory, says nothing of the kernel.
fn compile(gpu: &Gpu, kernel: &Kernel, variant: &Variant) -> Result<Pipeline> {
    compile_text(gpu, kernel, variant).map_err(|error| match error {
        Error::Device(message) => {
            Error::Kernel { tier: tier_of(kernel, variant), kernel: kernel.stem.to_owned(), message }
        }
        error => error,
    })
}

fn compile_text(gpu: &Gpu, kernel: &Kernel, variant: &Variant) -> Result<Pipeline> {
    let stem = kernel.stem;
    if needs_f16(variant) && !gpu.caps.shader_f16 {
        let what = "the recording needs 16-bit types in shaders, the device has none";
        return Err(gpu.unsupported(format!("kernel {stem}: {what}")));
    }
    if needs_matrices(variant) && gpu.caps.matrix_size().is_none() {
        let what = "the recording needs cooperative matrices, the device has none";
        return Err(gpu.unsupported(format!("kernel {stem}: {what}")));
    }
    let mut wgsl = expand(kernel, variant)?;
    if let Some(fault) = gpu.options.fault {
        if fault.refuses(kernel, variant) {
            return Err(gpu.error(format!("kernel {stem}: refused, as the fault {fault} asks")));
        }
        wgsl = fault.change_text(wgsl);
    }
    if gpu.has_fxc {
        wgsl = unroll(&wgsl);
    }
    let interface = Interface::of(stem, &wgsl)?;
    let entries: Vec<_> = interface
        .bindings
        .iter()
        .map(|binding| wgpu::BindGroupLayoutEntry {
            binding: binding.number,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding.kind {
                    BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                    BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                // Known here, so that it is checked when a bind group is made and not at each dispatch.
                min_binding_size: wgpu::BufferSize::new(u64::from(binding.min_bytes)),
            },
            count: None,
        })
        .collect();
    let constants: Vec<(&str, f64)> = variant.overrides.iter().map(|&(name, v)| (name, f64::from(v))).collect();
    let what = || format!("kernel {stem} {variant:?}");
    let (layout, raw) = gpu.scoped(what, || {
        let layout = gpu
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(stem), entries: &entries });
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(stem),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = shader_module(gpu, stem, wgsl);
        let raw = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(stem),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(&interface.entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // No kernel of a network reads what it did not write.
                zero_initialize_workgroup_memory: variant.has("ZEROED"),
            },
            cache: None,
        });
        (layout, raw)
    })?;
    Ok(Pipeline { interface, layout, raw })
}

fn shader_module(gpu: &Gpu, stem: &str, wgsl: String) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(stem), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
    let checks = match gpu.options.checks {
        // A counter in every loop keeps compilers from writing loops out, and Mesa's software driver from ending long ones (`ops/attention.rs`).
        true => wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() },
        false => wgpu::ShaderRuntimeChecks::unchecked(),
    };
    // SAFETY: the text is one of this crate's own kernels. Each guards its reads and writes by the extents in its
    // parameters, which `ops` computes from the tensors that are bound; its loops end and its divisors are not 0.
    // The tests run every kernel with the checks of bounds on.
    unsafe { gpu.device.create_shader_module_trusted(descriptor, checks) }
}
