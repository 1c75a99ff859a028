//! Devices of Direct3D 12 and Metal that the program has.

use std::ffi::c_void;

use chiaro_core::shared::HostDevice;
use chiaro_core::{Device, Result};

use crate::engine::{Choices, Engine};
use crate::handle::{Handle, give, out};
use crate::status::{Fault, Status, border};
use crate::structs::EngineOptions;

/// An engine on what `host` makes of the program's device.
///
/// # Safety
/// `device` is NULL or as `host` wants it; `options` is NULL, or what it says and points to can be read; the others are NULL or can be written.
unsafe fn engine_on(
    host: unsafe fn(*mut c_void) -> Result<HostDevice>,
    device: *mut c_void,
    options: *const EngineOptions,
    engine: *mut *mut Handle<Engine>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            out(engine, "engine")?;
            if device.is_null() {
                return Err(Fault::argument("device", "expected the program's device, got NULL"));
            }
            let choices = Choices::read(options)?;
            let device = Device::lent(host(device)?, choices.precision)?;
            give(engine, choices.engine(device)?);
            Ok(())
        })
    }
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
    unsafe { engine_on(HostDevice::of_d3d12, device, options, engine, error) }
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
    unsafe { engine_on(HostDevice::of_metal, device, options, engine, error) }
}
