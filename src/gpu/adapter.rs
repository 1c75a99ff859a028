//! Which devices there are, and which one is meant.

use std::collections::HashMap;

use crate::record::{AdapterKind, Caps, DType, MatrixShape};
use crate::{Error, Result};

/// One way to reach one GPU.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Position in the list of [`adapters`].
    pub index: usize,
    /// The name that its driver gives it.
    pub name: String,
    /// `Vulkan`, `Metal` or `Dx12`.
    pub backend: String,
    /// What sort of adapter it is.
    pub kind: AdapterKind,
    /// Driver and version.
    pub driver: String,
    /// Capabilities and limits, with f32 storage.
    pub caps: Caps,
    /// Whether dispatches can be timed on the device.
    pub timestamps: bool,
    pub(super) raw: wgpu::Adapter,
}

impl AdapterInfo {
    /// What recordings for this adapter are made with.
    ///
    /// # Errors
    /// When `storage` is half precision and the adapter has no 16-bit type in shaders, or is for weights alone.
    pub fn caps(&self, storage: DType) -> Result<Caps> {
        with_storage(&self.caps, storage)
    }
}

impl std::fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.backend, kind_name(self.kind))
    }
}

pub(super) fn with_storage(caps: &Caps, storage: DType) -> Result<Caps> {
    if storage == DType::F16 && !caps.shader_f16 {
        return Err(Error::Device(format!(
            "{}: expected 16-bit types in shaders (SHADER_F16) for f16 storage, the device has none; choose --precision f32",
            caps.name
        )));
    }
    if storage.is_quantized() {
        return Err(Error::Device(format!(
            "{}: expected f32 or f16 for storage, got {}; only weights are quantised",
            caps.name,
            storage.name()
        )));
    }
    Ok(Caps { storage, ..caps.clone() })
}

fn kind_name(kind: AdapterKind) -> &'static str {
    match kind {
        AdapterKind::Discrete => "discrete",
        AdapterKind::Integrated => "integrated",
        AdapterKind::Virtual => "virtual",
        AdapterKind::Software => "software",
        AdapterKind::Host => "host",
    }
}

/// All adapters that a driver offers, each GPU once. Empty where there is no driver.
///
/// A GPU that several backends reach is listed by the one that compiles kernels best: Vulkan or Metal before DX12, whose
/// compiler needs a separate DLL to be fast.
pub fn adapters() -> Vec<AdapterInfo> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut found = Vec::new();
    let mut listed: HashMap<(u32, u32), usize> = HashMap::new();
    for backend in [wgpu::Backends::VULKAN, wgpu::Backends::METAL, wgpu::Backends::DX12] {
        let mut seen: HashMap<(u32, u32), usize> = HashMap::new();
        for raw in pollster::block_on(instance.enumerate_adapters(backend)) {
            let info = raw.get_info();
            // Two cards of one model are two entries of each backend: the n-th here is the n-th there.
            let count = seen.entry((info.vendor, info.device)).or_default();
            *count += 1;
            let listed = listed.entry((info.vendor, info.device)).or_default();
            if *count > *listed {
                *listed = *count;
                found.push(describe(found.len(), raw, &info));
            }
        }
    }
    found
}

/// The adapter that `wanted` names: an index of [`adapters`], or a part of a name in any case. Without a name, the
/// first discrete, else integrated, else virtual one; `None` where there is only software or nothing at all.
///
/// # Errors
/// When nothing has that name; the message lists what there is.
pub fn choose_adapter(wanted: Option<&str>) -> Result<Option<AdapterInfo>> {
    choose(adapters(), wanted)
}

fn choose(mut adapters: Vec<AdapterInfo>, wanted: Option<&str>) -> Result<Option<AdapterInfo>> {
    let kinds: Vec<(AdapterKind, String)> = adapters.iter().map(|a| (a.kind, a.name.clone())).collect();
    match position(&kinds, wanted) {
        Some(index) => Ok(Some(adapters.swap_remove(index))),
        None => match wanted {
            None => Ok(None),
            Some(wanted) => {
                let list: Vec<String> = adapters.iter().map(ToString::to_string).collect();
                let there_is = if list.is_empty() { "no GPU driver was found".into() } else { list.join(", ") };
                Err(Error::Request(format!(
                    "--device {wanted}: expected the number or a part of the name of a device, there is: {there_is}; \
                     --device cpu needs no GPU"
                )))
            }
        },
    }
}

fn position(adapters: &[(AdapterKind, String)], wanted: Option<&str>) -> Option<usize> {
    if let Some(index) = wanted.and_then(|w| w.parse().ok()).filter(|&i: &usize| i < adapters.len()) {
        return Some(index);
    }
    let wanted = wanted.map(str::to_lowercase);
    let preference = |kind: AdapterKind| match kind {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Software | AdapterKind::Host => 3,
    };
    (0..adapters.len())
        .filter(|&i| match &wanted {
            Some(wanted) => !wanted.is_empty() && adapters[i].1.to_lowercase().contains(wanted),
            None => adapters[i].0 != AdapterKind::Software,
        })
        .min_by_key(|&i| preference(adapters[i].0))
}

fn describe(index: usize, raw: wgpu::Adapter, info: &wgpu::AdapterInfo) -> AdapterInfo {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
    };
    let features = raw.features();
    AdapterInfo {
        index,
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        caps: caps_of(&raw, kind, features, &raw.limits()),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        raw,
    }
}

/// What a device with these features and limits can do.
pub(super) fn caps_of(raw: &wgpu::Adapter, kind: AdapterKind, features: wgpu::Features, limits: &wgpu::Limits) -> Caps {
    let info = raw.get_info();
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    Caps {
        name: info.name,
        kind,
        storage: DType::F32,
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups,
        subgroup_size: if subgroups { (info.subgroup_min_size, info.subgroup_max_size) } else { (0, 0) },
        matrices: if matrices { matrices_of(raw) } else { Vec::new() },
        matrix_quads: matrices && info.backend == wgpu::Backend::Vulkan,
        tuning: Default::default(),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
        max_workgroups: limits.max_compute_workgroups_per_dimension,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        binding_alignment: limits.min_storage_buffer_offset_alignment,
    }
}

/// The listed shapes of floating-point matrices.
fn matrices_of(raw: &wgpu::Adapter) -> Vec<MatrixShape> {
    let dtype = |scalar| match scalar {
        wgpu::CooperativeScalarType::F32 => Some(DType::F32),
        wgpu::CooperativeScalarType::F16 => Some(DType::F16),
        _ => None,
    };
    let shape = |listed: wgpu::CooperativeMatrixProperties| {
        let (operands, sums) = (dtype(listed.ab_type)?, dtype(listed.cr_type)?);
        Some(MatrixShape { m: listed.m_size, n: listed.n_size, k: listed.k_size, operands, sums })
    };
    raw.cooperative_matrix_properties().into_iter().filter_map(shape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_chosen_by_itself_and_software_only_by_name() {
        let software = (AdapterKind::Software, "llvmpipe (LLVM 15)".to_owned());
        let integrated = (AdapterKind::Integrated, "Intel UHD 620".to_owned());
        let discrete = (AdapterKind::Discrete, "NVIDIA GeForce RTX 3080".to_owned());
        let all = [software.clone(), integrated.clone(), discrete];
        assert_eq!(position(&all, None), Some(2));
        assert_eq!(position(&all[..2], None), Some(1));
        assert_eq!(position(&all[..1], None), None);
        assert_eq!(position(&[], None), None);
        assert_eq!(position(&all, Some("LLVMpipe")), Some(0));
        assert_eq!(position(&all, Some("1")), Some(1));
        // Too large for an index, so a part of a name.
        assert_eq!(position(&all, Some("3080")), Some(2));
        assert_eq!(position(&all, Some("radeon")), None);
        assert_eq!(position(&all, Some("")), None);
    }

    #[test]
    fn an_unknown_name_is_answered_with_what_there_is() {
        let error = choose(Vec::new(), Some("radeon")).unwrap_err().to_string();
        assert!(error.contains("--device radeon") && error.contains("no GPU driver was found"), "{error}");
    }
}
