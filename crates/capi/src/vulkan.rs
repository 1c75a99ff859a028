//! A Vulkan device that the program has.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};

use ash::vk::{self, Handle as _};
use chiaro_core::Device;
use chiaro_core::shared::{
    DevicePicture, HostDevice, device_descriptor, required_features, required_limits, texture, wgpu,
};
use serde_json::json;
use wgpu::hal::{ExposedAdapter, api, vulkan};

use crate::engine::{Choices, Engine, engine_on};
use crate::handle::{Handle, out};
use crate::status::{Fault, Status, border};
use crate::structs::{EngineOptions, VulkanDevice, read, write, zeroed};
use crate::text::give_json;

/// The `VkImage` of a picture that is on such a device; 0 where it is not.
pub(crate) fn image_of(picture: &DevicePicture) -> u64 {
    let Some(texture) = texture(picture) else { return 0 };
    // SAFETY: it is only asked; the caller has it as long as the image.
    unsafe { texture.as_hal::<api::Vulkan>().map_or(0, |texture| texture.raw_handle().as_raw()) }
}

const F16: u32 = 1;
const SUBGROUPS: u32 = 2;
/// By [`chiaro_vulkan_create_device`].
const CREATED: u32 = 4;

/// What wgpu's device is taken to have been created with, and the members of the features' structs that stand for it (wgpu-hal, `PhysicalDeviceFeatures`).
const ALWAYS: &[&str] = &[
    "robustBufferAccess",
    "timelineSemaphore",
    "robustImageAccess",
    "robustBufferAccess2",
    "imagelessFramebuffer",
    "shaderZeroInitializeWorkgroupMemory",
    "multiDrawIndirect",
    "samplerAnisotropy",
];
const OF_F16: &[&str] = &["shaderFloat16", "storageBuffer16BitAccess", "uniformAndStorageBuffer16BitAccess"];
const OF_SUBGROUPS: &[&str] = &["subgroupSizeControl", "computeFullSubgroups"];

fn refused(what: &str, why: impl std::fmt::Display) -> Fault {
    chiaro_core::Error::unsupported("the program's Vulkan device", format!("{what}: {why}")).into()
}

/// A program's instance and physical device as wgpu has them.
struct Physical {
    given: VulkanDevice,
    raw: ash::Instance,
    instance: vulkan::Instance,
    exposed: ExposedAdapter<api::Vulkan>,
}

impl Physical {
    /// # Safety
    /// `device` is NULL, or what it says and points to can be read and is what it says.
    unsafe fn of(device: *const VulkanDevice) -> Result<Self, Fault> {
        // SAFETY: the caller's.
        unsafe {
            let given = read(device, zeroed::<VulkanDevice>())?;
            for (pointer, name) in [(given.instance, "instance"), (given.physical_device, "physical_device")] {
                if pointer.is_null() {
                    return Err(Fault::argument(name, "expected a handle of Vulkan, got NULL"));
                }
            }
            if given.api_version < vk::API_VERSION_1_1 {
                return Err(Fault::argument("api_version", "expected VK_API_VERSION_1_1 or later"));
            }
            let entry = if given.get_instance_proc_addr.is_null() {
                ash::Entry::load().map_err(|why| refused("the system's loader", why))?
            } else {
                let get = std::mem::transmute::<*mut std::ffi::c_void, vk::PFN_vkGetInstanceProcAddr>(
                    given.get_instance_proc_addr,
                );
                ash::Entry::from_static_fn(ash::StaticFn { get_instance_proc_addr: get })
            };
            let raw = ash::Instance::load(entry.static_fn(), vk::Instance::from_raw(given.instance as u64));
            let enabled = names(given.instance_extensions, given.instance_extension_count, "instance_extensions")?;
            let flags = wgpu::InstanceFlags::empty();
            let known = vulkan::Instance::desired_extensions(&entry, given.api_version, flags)
                .map_err(|why| refused("instance", why))?;
            let extensions = known.into_iter().filter(|name| enabled.contains(*name)).collect();
            let thresholds = wgpu::MemoryBudgetThresholds::default();
            let (stays, version) = (Some(Box::new(|| ()) as _), given.api_version);
            let instance = vulkan::Instance::from_raw(
                entry,
                raw.clone(),
                version,
                0,
                None,
                extensions,
                flags,
                thresholds,
                false,
                stays,
            )
            .map_err(|why| refused("instance", why))?;
            let physical = vk::PhysicalDevice::from_raw(given.physical_device as u64);
            let exposed = instance
                .expose_adapter(physical)
                .ok_or_else(|| refused("physical_device", "it cannot do what WebGPU asks"))?;
            Ok(Physical { given, raw, instance, exposed })
        }
    }

    /// What of a device's features wgpu is told, with these of the program's.
    fn features(&self, chosen: u32) -> wgpu::Features {
        let mut wanted = wgpu::Features::TIMESTAMP_QUERY;
        wanted.set(wgpu::Features::SHADER_F16, chosen & F16 != 0);
        wanted.set(wgpu::Features::SUBGROUP, chosen & SUBGROUPS != 0);
        self.exposed.features & wanted
    }

    /// All of them that the device has.
    fn best(&self) -> u32 {
        let has = |feature, bit| if self.exposed.features.contains(feature) { bit } else { 0 };
        has(wgpu::Features::SHADER_F16, F16) | has(wgpu::Features::SUBGROUP, SUBGROUPS)
    }

    /// Names of extensions. Those of windows are left out where the instance has none: no device may have them then.
    fn extensions(&self, chosen: u32) -> Vec<&'static CStr> {
        let all = self.exposed.adapter.required_device_extensions(self.features(chosen));
        let shows = self.instance.shared_instance().extensions().contains(&ash::khr::surface::NAME);
        let is_window_s = |name: &CStr| name.to_bytes().starts_with(b"VK_KHR_swapchain");
        all.into_iter().filter(|name| shows || !is_window_s(name)).collect()
    }
}

/// Names of extensions.
///
/// # Safety
/// `list` is NULL or has `count` texts.
unsafe fn names(
    list: *const *const c_char,
    count: u32,
    member: &'static str,
) -> Result<BTreeSet<&'static CStr>, Fault> {
    if count == 0 {
        return Ok(BTreeSet::new());
    }
    if list.is_null() {
        return Err(Fault::argument(member, "expected names, got NULL"));
    }
    // SAFETY: the caller's; they are looked at during the call alone.
    let texts = unsafe { std::slice::from_raw_parts(list, count as usize) };
    let name = |text: &*const c_char| {
        // SAFETY: as above.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr::<'static>(*text) })
    };
    texts.iter().map(|text| name(text).ok_or_else(|| Fault::argument(member, "expected names, got NULL"))).collect()
}

/// What a device has to be created with.
///
/// # Safety
/// `device` is NULL, or what it says and points to can be read and is what it says; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_vulkan_required(
    device: *const VulkanDevice,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            out(json, "json")?;
            let physical = Physical::of(device)?;
            let always = physical.extensions(0);
            let more = |chosen: u32, features: &[&str]| {
                let list = physical.extensions(chosen);
                let own = list.iter().filter(|name| !always.contains(name)).map(|name| name.to_string_lossy());
                let is_there = physical.features(chosen) != physical.features(0);
                is_there.then(|| json!({ "extensions": own.collect::<Vec<_>>(), "features": features }))
            };
            let told = json!({
                "always": {
                    "extensions": always.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>(),
                    "features": ALWAYS,
                },
                "f16": more(F16, OF_F16), "subgroups": more(SUBGROUPS, OF_SUBGROUPS),
            });
            give_json(json, &told);
            Ok(())
        })
    }
}

/// Creates a device with all of it.
///
/// # Safety
/// `device` is NULL, or what it says and points to can be read and is what it says, and it can be written; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_vulkan_create_device(
    device: *mut VulkanDevice,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            let physical = Physical::of(device)?;
            let (mut given, chosen) = (physical.given, physical.best());
            let own = names(given.device_extensions, given.device_extension_count, "device_extensions")?;
            let needed = physical.extensions(chosen);
            let mut features = physical.exposed.adapter.physical_device_features(&needed, physical.features(chosen));
            let all: BTreeSet<&CStr> = own.into_iter().chain(needed).collect();
            let pointers: Vec<*const c_char> = all.iter().map(|name| name.as_ptr()).collect();
            let queue =
                [vk::DeviceQueueCreateInfo::default().queue_family_index(given.queue_family).queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default().queue_create_infos(&queue).enabled_extension_names(&pointers);
            let info = features.add_to_device_create(info);
            let raw = vk::PhysicalDevice::from_raw(given.physical_device as u64);
            let made = physical.raw.create_device(raw, &info, None).map_err(|why| refused("vkCreateDevice", why))?;
            given.device = made.handle().as_raw() as *mut _;
            (given.queue_index, given.features) = (0, chosen | CREATED);
            write(device, &given)
        })
    }
}

/// The program's device as wgpu's.
///
/// # Safety
/// The physical device's handles are what they say.
unsafe fn host(physical: Physical) -> Result<HostDevice, Fault> {
    let given = physical.given;
    if given.device.is_null() {
        return Err(Fault::argument("device", "expected a handle of Vulkan, got NULL"));
    }
    let features = physical.features(given.features);
    // SAFETY: the caller's.
    unsafe {
        let enabled = names(given.device_extensions, given.device_extension_count, "device_extensions")?;
        let needed = physical.extensions(given.features);
        let missing = needed.iter().filter(|name| !enabled.contains(*name)).map(|name| name.to_string_lossy());
        let missing = missing.collect::<Vec<_>>().join(", ");
        if given.features & CREATED == 0 && !missing.is_empty() {
            return Err(refused("device", format!("created without {missing}")));
        }
        let device = ash::Device::load(physical.raw.fp_v1_0(), vk::Device::from_raw(given.device as u64));
        let limits = physical.exposed.capabilities.limits.clone();
        let open = physical
            .exposed
            .adapter
            .device_from_raw(
                device,
                Some(Box::new(|| ())),
                &needed,
                features,
                &limits,
                &wgpu::MemoryHints::MemoryUsage,
                given.queue_family,
                given.queue_index,
            )
            .map_err(|why| refused("device", why))?;
        let instance = wgpu::Instance::from_hal::<api::Vulkan>(physical.instance);
        let adapter = instance.create_adapter_from_hal(physical.exposed);
        let descriptor = wgpu::DeviceDescriptor {
            required_features: required_features(&adapter) & features,
            required_limits: required_limits(&adapter),
            ..device_descriptor(&adapter)
        };
        let (device, queue) =
            adapter.create_device_from_hal(open, &descriptor).map_err(|why| refused("device", why))?;
        Ok(HostDevice { adapter, device, queue })
    }
}

/// An engine on the program's device.
///
/// # Safety
/// `device` is NULL, or what it says and points to can be read and is what it says, as long as the engine lives; `options` is NULL, or what it says
/// and points to can be read; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_from_vulkan(
    device: *const VulkanDevice,
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        let open = |choices: &Choices| Ok(Device::lent(host(Physical::of(device)?)?, choices.precision)?);
        engine_on(open, options, engine, error)
    }
}
