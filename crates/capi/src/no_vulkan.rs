//! Where there is no Vulkan: the functions are there and say so.

use std::ffi::c_char;

use chiaro_core::Error;
use chiaro_core::shared::DevicePicture;

use crate::engine::Engine;
use crate::handle::{Handle, out};
use crate::status::{Fault, Status, border};
use crate::structs::{EngineOptions, VulkanDevice};

pub(crate) fn image_of(_: &DevicePicture) -> u64 {
    0
}

fn refused() -> Fault {
    Error::unsupported("this system", "there is no Vulkan on it").into()
}

/// # Safety
/// As on other systems.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_vulkan_required(
    _: *const VulkanDevice,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { border(error, || out(json, "json").and_then(|()| Err(refused()))) }
}

/// # Safety
/// As on other systems.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_vulkan_create_device(
    _: *mut VulkanDevice,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { border(error, || Err(refused())) }
}

/// # Safety
/// As on other systems.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_from_vulkan(
    _: *const VulkanDevice,
    _: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { border(error, || out(engine, "engine").and_then(|()| Err(refused()))) }
}
