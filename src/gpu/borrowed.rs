//! A device that a host made, for its own pictures: what it has to have, and how it is used without getting in the host's way.
//!
//! The host keeps its callbacks for lost devices and uncaptured errors, its error scopes and its polls; the device is never destroyed. That it is
//! lost is found out from what calls give (`wait`).

use super::adapter::{caps_of, kind_of, with_storage};
use super::device::{Gpu, GpuOptions, Owner, experimental};
use crate::record::DType;
use crate::{Error, Result, Tier};

/// A device that a program lends, with the adapter that it was opened from and its queue.
#[derive(Debug, Clone)]
pub struct HostDevice {
    /// What the device was opened from.
    pub adapter: wgpu::Adapter,
    /// The device.
    pub device: wgpu::Device,
    /// The device's queue: nothing else is submitted to.
    pub queue: wgpu::Queue,
}

impl HostDevice {
    /// Whether it was opened with 16-bit types in shaders.
    pub fn has_f16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }
}

/// The features that make a device of this adapter fast, of those that it has: 16-bit types, subgroups, timestamps. None has to be there, but for
/// `SHADER_F16` where activations are to be kept as f16.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
    adapter.features() & wanted
}

/// WebGPU's default limits, with those that kernels use as far as the adapter goes: a host adds its own by taking the greater of each.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let all = adapter.limits();
    wgpu::Limits {
        max_buffer_size: all.max_buffer_size,
        max_storage_buffer_binding_size: all.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: all.max_storage_buffers_per_shader_stage,
        max_compute_workgroup_storage_size: all.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: all.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: all.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: all.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: all.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: all.max_compute_workgroups_per_dimension,
        min_storage_buffer_offset_alignment: all.min_storage_buffer_offset_alignment,
        max_texture_dimension_2d: all.max_texture_dimension_2d,
        ..wgpu::Limits::defaults()
    }
}

/// What to open a device with that does all that this adapter can: [`required_features`], [`required_limits`], and cooperative matrices where
/// kernels have a use for them.
pub fn device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    let mut descriptor = wgpu::DeviceDescriptor {
        label: Some("chiaro"),
        required_features: required_features(adapter),
        required_limits: required_limits(adapter),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let kind = kind_of(adapter.get_info().device_type);
    if caps_of(adapter, kind, adapter.features(), &adapter.limits()).matrix_size().is_some() {
        descriptor.required_features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        descriptor.experimental_features = experimental();
    }
    descriptor
}

/// Limits that every kernel counts on.
const LIMITS: &[&str] = &[
    "max_bind_groups",
    "max_bindings_per_bind_group",
    "max_buffer_size",
    "max_compute_invocations_per_workgroup",
    "max_compute_workgroup_size_x",
    "max_compute_workgroup_size_y",
    "max_compute_workgroup_storage_size",
    "max_compute_workgroups_per_dimension",
    "max_storage_buffer_binding_size",
    "max_storage_buffers_per_shader_stage",
    "max_uniform_buffer_binding_size",
    "min_storage_buffer_offset_alignment",
    "min_uniform_buffer_offset_alignment",
];

/// What a device with these features and limits lacks, by name.
fn missing(features: wgpu::Features, limits: &wgpu::Limits, storage: DType) -> Vec<String> {
    let mut missing = Vec::new();
    if storage == DType::F16 && !features.contains(wgpu::Features::SHADER_F16) {
        missing.push("feature SHADER_F16".to_owned());
    }
    wgpu::Limits::defaults().check_limits_with_fail_fn(limits, false, |name, wanted, there| {
        if LIMITS.contains(&name) {
            missing.push(format!("{name} {wanted} (it has {there})"));
        }
    });
    missing
}

impl Gpu {
    /// A host's device, that was opened from `adapter`.
    pub(super) fn on(
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        storage: DType,
        options: GpuOptions,
    ) -> Result<Self> {
        let (info, own) = (adapter.get_info(), device.adapter_info());
        if (&info.name, info.vendor, info.device, info.backend) != (&own.name, own.vendor, own.device, own.backend) {
            let what = "expected a device that was opened from the adapter beside it";
            return Err(Error::refused(format!("{}: {what}, got one of {}", info.name, own.name)));
        }
        let (mut features, limits) = (device.features(), device.limits());
        let missing = missing(features, &limits, storage);
        if !missing.is_empty() {
            return Err(Error::unsupported(
                &info.name,
                format!("the device was opened without {}", missing.join(", ")),
            ));
        }
        let tiers = options.tiers;
        for (tier, feature) in [
            (Tier::Half, wgpu::Features::SHADER_F16),
            (Tier::Subgroups, wgpu::Features::SUBGROUP),
            (Tier::Matrices, wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        ] {
            if !tiers.has(tier) {
                features.remove(feature);
            }
        }
        let caps = with_storage(&caps_of(adapter, kind_of(info.device_type), features, &limits), storage)?;
        Ok(Gpu::new(adapter, (device, queue), caps, features, options, Owner::Host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let (none, defaults) = (wgpu::Features::empty(), wgpu::Limits::defaults());
        assert!(missing(none, &defaults, DType::F32).is_empty());
        let small = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, max_texture_dimension_3d: 1, ..defaults };
        assert_eq!(
            missing(none, &small, DType::F16),
            ["feature SHADER_F16", "max_storage_buffers_per_shader_stage 8 (it has 4)"]
        );
    }
}
