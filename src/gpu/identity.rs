//! What tells a physical device from another of its name.

/// Numbers of a physical device, as far as its driver tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// PCI's number of who made it; 0 where there is none.
    pub vendor: u32,
    /// PCI's number of what it is; 0 where there is none.
    pub device: u32,
    /// Where it is plugged in, as `0000:03:00.0`; empty where that is not known.
    pub pci: String,
    /// Its UUID, the same for every program and after every start (`VkPhysicalDeviceIDProperties`).
    pub uuid: Option<[u8; 16]>,
    /// Its LUID, as DXGI has it, until the system is started anew (`VkPhysicalDeviceIDProperties`, `DXGI_ADAPTER_DESC1`).
    pub luid: Option<[u8; 8]>,
    /// Bytes of memory of its own.
    pub memory_bytes: Option<u64>,
}

impl Identity {
    pub(super) fn of(raw: &wgpu::Adapter) -> Self {
        let info = raw.get_info();
        let known =
            Identity { vendor: info.vendor, device: info.device, pci: info.device_pci_bus_id, ..Identity::default() };
        match info.backend {
            wgpu::Backend::Vulkan => by_vulkan(raw, known),
            wgpu::Backend::Dx12 => by_dx12(raw, known),
            // Metal's registry id is neither; a Mac has one GPU in nearly every case.
            _ => known,
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
fn by_vulkan(raw: &wgpu::Adapter, known: Identity) -> Identity {
    use ash::vk;
    // SAFETY: the adapter is only asked.
    let Some(adapter) = (unsafe { raw.as_hal::<wgpu::hal::api::Vulkan>() }) else { return known };
    let (shared, physical) = (adapter.shared_instance(), adapter.raw_physical_device());
    let instance = shared.raw_instance();
    // SAFETY: both are alive as long as the adapter is.
    let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
    let own = |heap: &&vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let bytes = memory.memory_heaps_as_slice().iter().filter(own).map(|heap| heap.size).sum();
    let known = Identity { memory_bytes: Some(bytes), ..known };
    // SAFETY: as above.
    let version = unsafe { instance.get_physical_device_properties(physical) }.api_version;
    // The question is part of 1.1, of the instance and of the device.
    if shared.instance_api_version().min(version) < vk::API_VERSION_1_1 {
        return known;
    }
    let mut ids = vk::PhysicalDeviceIDProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut ids);
    // SAFETY: as above, and the chain is of this function.
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    let luid = (ids.device_luid_valid == vk::TRUE).then_some(ids.device_luid);
    Identity { uuid: Some(ids.device_uuid), luid, ..known }
}

#[cfg(target_vendor = "apple")]
fn by_vulkan(_: &wgpu::Adapter, known: Identity) -> Identity {
    known
}

#[cfg(windows)]
fn by_dx12(raw: &wgpu::Adapter, known: Identity) -> Identity {
    // SAFETY: the adapter is only asked.
    let Some(adapter) = (unsafe { raw.as_hal::<wgpu::hal::api::Dx12>() }) else { return known };
    // SAFETY: it is alive.
    let Ok(described) = (unsafe { adapter.raw_adapter().GetDesc1() }) else { return known };
    let mut luid = [0; 8];
    luid[..4].copy_from_slice(&described.AdapterLuid.LowPart.to_le_bytes());
    luid[4..].copy_from_slice(&described.AdapterLuid.HighPart.to_le_bytes());
    Identity { luid: Some(luid), memory_bytes: Some(described.DedicatedVideoMemory as u64), ..known }
}

#[cfg(not(windows))]
fn by_dx12(_: &wgpu::Adapter, known: Identity) -> Identity {
    known
}
