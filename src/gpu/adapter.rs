//! Which devices there are, and which one is meant.

use std::collections::HashMap;

use super::identity::Identity;
use crate::record::{AdapterKind, Caps, DType, MatrixShape, Products, Vendor};
use crate::{Error, Remedy, Result};

/// One way to reach one GPU.
#[derive(Debug, Clone)]
pub struct AdapterInfo {
    /// Position in the list of [`adapters`].
    pub index: usize,
    /// Which GPU it leads to: adapters of one number are several ways to the same one.
    pub gpu: usize,
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
    /// What tells it from another of its name.
    pub identity: Identity,
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

    /// Name and backend, as in a sentence.
    pub fn way(&self) -> String {
        format!("{} by {}", self.name, self.backend)
    }
}

impl std::fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.backend, kind_name(self.kind))
    }
}

pub(super) fn with_storage(caps: &Caps, storage: DType) -> Result<Caps> {
    if storage == DType::F16 && !caps.shader_f16 {
        let what = "expected 16-bit types in shaders (SHADER_F16) for f16 storage, the device has none";
        return Err(Error::unsupported(&caps.name, what).advise([Remedy::SinglePrecision]));
    }
    if storage.is_quantized() {
        return Err(Error::refused(format!(
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
        AdapterKind::Host => "processor",
    }
}

/// All adapters that drivers offer: every GPU by each backend that reaches it. Ways of one GPU follow each other, the preferred one first. Empty where
/// there is no driver.
///
/// Vulkan and Metal come before DX12: they take the compilers' work without a detour through HLSL, and DX12 needs a DLL for more than f32
/// ([`dxc`]).
pub fn adapters() -> Vec<AdapterInfo> {
    let mut found: Vec<(usize, wgpu::Adapter, &'static str)> = Vec::new();
    let mut groups = Groups::default();
    for backend in [wgpu::Backends::VULKAN, wgpu::Backends::METAL] {
        groups.next_backend();
        for raw in enumerate(backend, None) {
            found.push((groups.of(&raw.get_info()), raw, ""));
        }
    }
    groups.next_backend();
    // Where the DLL does not load, wgpu has no DX12 at all.
    let by_dxc = dxc().map(|path| (enumerate(wgpu::Backends::DX12, Some(&path)), "DXC"));
    let (by_dx12, compiler) = by_dxc
        .filter(|(adapters, _)| !adapters.is_empty())
        .unwrap_or_else(|| (enumerate(wgpu::Backends::DX12, None), "FXC"));
    for raw in by_dx12 {
        found.push((groups.of(&raw.get_info()), raw, compiler));
    }
    // Stable: within a GPU, ways stay in the order of backends.
    found.sort_by_key(|(gpu, ..)| *gpu);
    found.into_iter().enumerate().map(|(index, (gpu, raw, compiler))| describe(index, gpu, raw, compiler)).collect()
}

/// What `backends` list; kernels of DX12 go through the compiler at `dxc`, or FXC.
pub(super) fn enumerate(backends: wgpu::Backends, dxc: Option<&std::path::Path>) -> Vec<wgpu::Adapter> {
    let mut descriptor =
        wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    // Validation of indirect dispatches, of which there are none here, takes a pipeline of its own on every device, which a driver may refuse.
    descriptor.flags.remove(wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL);
    descriptor.backend_options.dx12.shader_compiler = match dxc {
        Some(path) => wgpu::Dx12Compiler::DynamicDxc { dxc_path: path.display().to_string() },
        None => wgpu::Dx12Compiler::Fxc,
    };
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
}

/// `dxcompiler.dll` beside this program, if it is there: 16-bit types and subgroup operations on DX12 need it (1.8.2502 or later). Without it, kernels
/// go through the compiler that is part of Windows (FXC, shader model 5.1), in f32. No other place is searched: a DLL that lies elsewhere is
/// not this program's.
pub fn dxc() -> Option<std::path::PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("dxcompiler.dll");
    (cfg!(windows) && path.is_file()).then_some(path)
}

/// Which ways lead to one GPU. Two cards of one model are two entries of each backend: the n-th of one is the n-th of another.
#[derive(Default)]
struct Groups {
    /// Vendor, device and a number among those of one model.
    known: Vec<(u32, u32, usize)>,
    /// How many of a model this backend has listed.
    seen: HashMap<(u32, u32), usize>,
}

impl Groups {
    fn next_backend(&mut self) {
        self.seen.clear();
    }

    fn of(&mut self, info: &wgpu::AdapterInfo) -> usize {
        self.number(info.vendor, info.device)
    }

    fn number(&mut self, vendor: u32, device: u32) -> usize {
        let count = self.seen.entry((vendor, device)).or_default();
        let key = (vendor, device, *count);
        *count += 1;
        self.known.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.known.push(key);
            self.known.len() - 1
        })
    }
}

/// The adapter that `wanted` names, as [`find_adapter`] reads it. Without a name, the first discrete, else integrated, else virtual one; `None` where
/// there is only software or nothing at all.
///
/// # Errors
/// As [`find_adapter`].
pub fn choose_adapter(wanted: Option<&str>) -> Result<Option<AdapterInfo>> {
    choose(adapters(), wanted)
}

/// The adapter that `wanted` names: an index of [`adapters`] (up to 99, never a part of a name), a backend (`vulkan`, `metal`, `dx12`: its best GPU), or a part of a name in any case, of
/// which the best is taken.
///
/// # Errors
/// When nothing has that name; the message lists what there is.
pub fn find_adapter(wanted: &str) -> Result<AdapterInfo> {
    choose(adapters(), Some(wanted))?.ok_or_else(|| Error::refused(format!("no adapter is called {wanted}")))
}

fn choose(mut adapters: Vec<AdapterInfo>, wanted: Option<&str>) -> Result<Option<AdapterInfo>> {
    let ways: Vec<Way> = adapters.iter().map(|a| (a.kind, a.name.clone(), a.backend.clone())).collect();
    match position(&ways, wanted) {
        Some(index) => Ok(Some(adapters.swap_remove(index))),
        None => match wanted {
            None => Ok(None),
            Some(wanted) => {
                let list: Vec<String> = adapters.iter().map(ToString::to_string).collect();
                let there_is = if list.is_empty() { "no GPU driver was found".into() } else { list.join(", ") };
                let what = "the number or a part of the name of a device, or vulkan, metal or dx12";
                let error = Error::request("device.name", format!("{wanted}: expected {what}; there is: {there_is}"));
                Err(error.advise([Remedy::Processor]))
            }
        },
    }
}

/// Kind, name and backend.
type Way = (AdapterKind, String, String);

fn position(ways: &[Way], wanted: Option<&str>) -> Option<usize> {
    match wanted.and_then(|wanted| wanted.parse::<usize>().ok()) {
        Some(index) if index < ways.len() => return Some(index),
        // No model has so short a number; a name that has the digit somewhere is not meant.
        Some(0..=99) => return None,
        _ => {}
    }
    let wanted = wanted.map(str::to_lowercase);
    let best = |fits: &dyn Fn(&Way) -> bool| {
        (0..ways.len()).filter(|&i| fits(&ways[i])).min_by_key(|&i| ways[i].0.preference())
    };
    match &wanted {
        None => best(&|(kind, ..)| *kind != AdapterKind::Software),
        Some(wanted) if wanted.is_empty() => None,
        Some(wanted) => best(&|(_, _, backend)| backend.to_lowercase() == *wanted)
            .or_else(|| best(&|(_, name, _)| name.to_lowercase().contains(wanted))),
    }
}

/// `compiler`: what makes machine code of HLSL, where the backend takes that. What was found of a driver holds for it alone.
fn describe(index: usize, gpu: usize, raw: wgpu::Adapter, compiler: &str) -> AdapterInfo {
    let info = raw.get_info();
    let kind = kind_of(info.device_type);
    let features = raw.features();
    let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
    AdapterInfo {
        index,
        gpu,
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind,
        driver: if compiler.is_empty() { driver } else { format!("{driver}, {compiler}") },
        caps: caps_of(&raw, kind, features, &raw.limits()),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        identity: Identity::of(&raw),
        raw,
    }
}

pub(super) fn kind_of(device_type: wgpu::DeviceType) -> AdapterKind {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
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
        vendor: Vendor::of(info.vendor),
        storage: DType::F32,
        products: Products::F32,
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        packed_f16: true,
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

    fn way(kind: AdapterKind, name: &str, backend: &str) -> Way {
        (kind, name.to_owned(), backend.to_owned())
    }

    #[test]
    fn hardware_is_chosen_by_itself_and_software_only_by_name() {
        let software = way(AdapterKind::Software, "llvmpipe (LLVM 15)", "Vulkan");
        let integrated = way(AdapterKind::Integrated, "Intel UHD 620", "Vulkan");
        let discrete = way(AdapterKind::Discrete, "NVIDIA GeForce RTX 3080", "Vulkan");
        let all = [software, integrated, discrete];
        assert_eq!(position(&all, None), Some(2));
        assert_eq!(position(&all[..2], None), Some(1));
        assert_eq!(position(&all[..1], None), None);
        assert_eq!(position(&[], None), None);
        assert_eq!(position(&all, Some("LLVMpipe")), Some(0));
        assert_eq!(position(&all, Some("1")), Some(1));
        // Too large for an index, so a part of a name.
        assert_eq!(position(&all, Some("3080")), Some(2));
        assert_eq!(position(&all, Some("620")), Some(1));
        // llvmpipe's name has a 15.
        assert_eq!(position(&all, Some("15")), None);
        assert_eq!(position(&all, Some("radeon")), None);
        assert_eq!(position(&all, Some("")), None);
    }

    #[test]
    fn a_backend_is_a_name_too() {
        let ways = [
            way(AdapterKind::Integrated, "Intel UHD 620", "Vulkan"),
            way(AdapterKind::Integrated, "Intel UHD 620", "Dx12"),
            way(AdapterKind::Discrete, "NVIDIA GeForce RTX 3080", "Vulkan"),
            way(AdapterKind::Discrete, "NVIDIA GeForce RTX 3080", "Dx12"),
            way(AdapterKind::Software, "Microsoft Basic Render Driver", "Dx12"),
        ];
        assert_eq!(position(&ways, Some("dx12")), Some(3));
        assert_eq!(position(&ways, Some("Vulkan")), Some(2));
        assert_eq!(position(&ways, Some("metal")), None);
        assert_eq!(position(&ways, Some("intel")), Some(0));
        assert_eq!(position(&ways[4..], Some("dx12")), Some(0));
        assert_eq!(position(&ways, None), Some(2));
    }

    #[test]
    fn ways_of_one_gpu_are_one_group() {
        let mut groups = Groups::default();
        let (radeon, intel) = ((0x1002, 0x73bf), (0x8086, 0x3ea0));
        let mut numbers = |list: &[(u32, u32)]| {
            groups.next_backend();
            list.iter().map(|&(vendor, device)| groups.number(vendor, device)).collect::<Vec<_>>()
        };
        // Two cards of one model, and another order by the second backend.
        assert_eq!(numbers(&[radeon, intel, radeon]), [0, 1, 2]);
        assert_eq!(numbers(&[intel, radeon, radeon]), [1, 0, 2]);
        // One that only this backend reaches.
        assert_eq!(numbers(&[(0x1414, 0x8c), intel]), [3, 1]);
    }

    #[test]
    fn an_unknown_name_is_answered_with_what_there_is() {
        let error = choose(Vec::new(), Some("radeon")).unwrap_err().to_string();
        assert!(error.contains("radeon: expected") && error.contains("no GPU driver was found"), "{error}");
    }
}
