//! What wgpu 30 asks of naga's writers for each of its back ends, with the layout that `gpu/pipeline.rs` makes of a kernel: one group, no offsets,
//! no samplers. Sources: wgpu-hal 30, `dx12/device.rs`, `metal/device.rs`, `vulkan/adapter.rs`, `vulkan/device.rs` (names of options are theirs).

use std::collections::HashSet;

use chiaro::gpu::BindingKind;
use naga::back::{TaskDispatchLimits, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::{ResourceBinding, ShaderStage};

use super::form::Form;

/// Group 0 of a number.
fn place(binding: u32) -> ResourceBinding {
    ResourceBinding { group: 0, binding }
}

fn policies(checks: bool) -> BoundsCheckPolicies {
    let policy = if checks { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let binding_array = BoundsCheckPolicy::Unchecked;
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array }
}

/// Register of each binding, `t1` and the like, in the order of the interface: constants, buffers to read and buffers to write are counted apart.
pub(super) fn registers(form: &Form) -> Vec<String> {
    let mut next = [0u32; 3];
    let mut register = |class: usize| {
        next[class] += 1;
        format!("{}{}", ["b", "t", "u"][class], next[class] - 1)
    };
    let class = |kind| match kind {
        BindingKind::Uniform => 0,
        BindingKind::Read => 1,
        BindingKind::ReadWrite => 2,
    };
    form.interface.bindings.iter().map(|binding| register(class(binding.kind))).collect()
}

/// HLSL, and the entry point's name there. `checks`: `GpuOptions::checks`.
pub(super) fn hlsl(form: &Form, shader_model: hlsl::ShaderModel, checks: bool) -> Result<(String, String), String> {
    let number = |register: &str| register[1..].parse().expect("a letter and a number");
    let registers = registers(form);
    let target = |register| hlsl::BindTarget { space: 0, register, ..hlsl::BindTarget::default() };
    let constants = registers.iter().filter(|r| r.starts_with('b')).count() as u32;
    let bound = form.interface.bindings.iter().zip(&registers);
    let options = hlsl::Options {
        shader_model,
        binding_map: bound.map(|(binding, register)| (place(binding.number), target(number(register)))).collect(),
        fake_missing_bindings: false,
        // After the last constant buffer: num_workgroups lies there.
        special_constants_binding: Some(target(constants)),
        immediates_target: None,
        sampler_heap_target: hlsl::SamplerHeapBindTargets {
            standard_samplers: target(0),
            comparison_samplers: target(2048),
        },
        zero_initialize_workgroup_memory: form.zeroed,
        restrict_indexing: checks,
        force_loop_bounding: checks,
        task_dispatch_limits: checks.then_some(TASKS),
        mesh_shader_primitive_indices_clamp: checks,
        ray_query_initialization_tracking: checks,
        ..hlsl::Options::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some(entry(form)) };
    let mut text = String::new();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&form.module, &form.info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    let name = reflection.entry_point_names[0].as_ref().map_err(|e| format!("HLSL: {e}"))?;
    Ok((text, name.clone()))
}

/// MSL. `version`: 4.0 on macOS 26, 2.4 on macOS 12.
pub(super) fn msl(form: &Form, version: (u8, u8), checks: bool) -> Result<String, String> {
    let bindings = &form.interface.bindings;
    let mut resources = msl::BindingMap::default();
    for (slot, binding) in bindings.iter().enumerate() {
        let mutable = binding.kind == BindingKind::ReadWrite;
        let target = msl::BindTarget { buffer: Some(slot as u8), mutable, ..msl::BindTarget::default() };
        resources.insert(place(binding.number), target);
    }
    // Every kernel has storage buffers; their sizes follow the last.
    let sizes_buffer = Some(bindings.len() as u8);
    let of_entry = msl::EntryPointResources { resources, immediates_buffer: None, sizes_buffer };
    let options = msl::Options {
        lang_version: version,
        per_entry_point_map: [(form.interface.entry_point.clone(), of_entry)].into(),
        inline_samplers: Vec::new(),
        spirv_cross_compatibility: false,
        fake_missing_bindings: false,
        bounds_check_policies: policies(checks),
        zero_initialize_workgroup_memory: form.zeroed,
        force_loop_bounding: checks,
        task_dispatch_limits: checks.then_some(TASKS),
        mesh_shader_primitive_indices_clamp: checks,
        emit_int_div_checks: checks,
        ray_query_initialization_tracking: checks,
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some(entry(form)),
        vertex_pulling_transform: true,
        ..msl::PipelineOptions::default()
    };
    let (text, translated) =
        msl::write_string(&form.module, &form.info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    translated.entry_point_names[0].as_ref().map_err(|e| format!("MSL: {e}"))?;
    Ok(text)
}

/// SPIR-V for a device that has what `form` needs and no more. `version`: 1.3 for Vulkan 1.1, 1.6 for Vulkan 1.3.
pub(super) fn spirv(form: &Form, version: (u8, u8), checks: bool) -> Result<Vec<u32>, String> {
    use spv::Capability::*;
    let mut capabilities: HashSet<_> =
        [Shader, Matrix, Sampled1D, Image1D, ImageQuery, DerivativeControl, StorageImageExtendedFormats].into();
    if form.subgroups {
        capabilities.extend([GroupNonUniform, GroupNonUniformVote, GroupNonUniformArithmetic, GroupNonUniformBallot]);
        capabilities.extend([GroupNonUniformShuffle, GroupNonUniformShuffleRelative, GroupNonUniformQuad]);
    }
    if form.f16 {
        capabilities.insert(Float16);
    }
    if form.matrices {
        capabilities.extend([CooperativeMatrixKHR, VulkanMemoryModel]);
    }
    // Present on every driver of Vulkan 1.3, where wgpu allows them.
    if version >= (1, 6) {
        capabilities.extend([DotProductInputAll, DotProductInput4x8Bit, DotProductInput4x8BitPacked]);
        capabilities.extend([DotProduct, Int8]);
    }
    let bindings = form.interface.bindings.iter().enumerate();
    let options = spv::Options {
        lang_version: version,
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        // Numbers in the descriptor set count from 0 without gaps.
        binding_map: bindings
            .map(|(at, binding)| {
                let info = spv::BindingInfo { descriptor_set: 0, binding: at as u32, binding_array_size: None };
                (place(binding.number), info)
            })
            .collect(),
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: policies(checks),
        zero_initialize_workgroup_memory: match form.zeroed {
            true => spv::ZeroInitializeWorkgroupMemoryMode::Polyfill,
            false => spv::ZeroInitializeWorkgroupMemoryMode::None,
        },
        force_loop_bounding: checks,
        ray_query_initialization_tracking: checks,
        use_storage_input_output_16: false,
        debug_info: None,
        task_dispatch_limits: checks.then_some(TASKS),
        mesh_shader_primitive_indices_clamp: checks,
        emit_int_div_checks: checks,
        ..spv::Options::default()
    };
    let (stage, entry_point) = entry(form);
    let pipeline = spv::PipelineOptions { shader_stage: stage, entry_point };
    spv::write_vec(&form.module, &form.info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))
}

/// No kernel has tasks; WebGPU's limits.
const TASKS: TaskDispatchLimits =
    TaskDispatchLimits { max_mesh_workgroups_per_dim: 65_535, max_mesh_workgroups_total: 1 << 22 };

fn entry(form: &Form) -> (ShaderStage, String) {
    (ShaderStage::Compute, form.interface.entry_point.clone())
}
