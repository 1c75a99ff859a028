//! Devices of Direct3D 12 and Metal that the program has.

use std::ffi::c_void;

use chiaro_core::shared::HostDevice;
use chiaro_core::{Device, Result};

use crate::engine::{Choices, Engine, engine_on};
use crate::handle::Handle;
use crate::status::{Fault, Status};
use crate::structs::EngineOptions;

/// What `host` makes of the program's device, lent.
///
/// # Safety
/// `device` is NULL or as `host` wants it.
unsafe fn lent(
    host: unsafe fn(*mut c_void) -> Result<HostDevice>,
    device: *mut c_void,
    choices: &Choices,
) -> std::result::Result<Device, Fault> {
    if device.is_null() {
        return Err(Fault::argument("device", "expected the program's device, got NULL"));
    }
    // SAFETY: the caller's.
    Ok(Device::lent(unsafe { host(device) }?, choices.precision)?)
}

/// An engine on the program's device of Direct3D 12.
///
/// # Safety
/// `device` is NULL or an `ID3D12Device`; the others as [`engine_on`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_from_d3d12(
    device: *mut c_void,
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { engine_on(|choices| lent(HostDevice::of_d3d12, device, choices), options, engine, error) }
}

/// An engine on the program's device of Metal.
///
/// # Safety
/// `device` is NULL or an `MTLDevice`; the others as [`engine_on`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_engine_from_metal(
    device: *mut c_void,
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe { engine_on(|choices| lent(HostDevice::of_metal, device, choices), options, engine, error) }
}
