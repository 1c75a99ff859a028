//! Devices that a program has of Direct3D 12 or Metal, without wgpu. Both give every part of a process the same device of a GPU: it is opened anew, with a
//! queue beside the program's, and looked at whether it is the same.

use std::ffi::c_void;
use std::ptr::NonNull;

use super::borrowed::HostDevice;
use super::picture::texture;
use crate::record::DevicePicture;
use crate::{Error, Result};

impl HostDevice {
    /// The device of an `ID3D12Device`, with a queue of its own. A process has one device of each adapter (Microsoft, `D3D12CreateDevice`), but for
    /// those of independent device factories, which are refused.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no Direct3D 12, or it is no such device; as opening a device otherwise.
    ///
    /// # Safety
    /// `device` is NULL or an `ID3D12Device`.
    pub unsafe fn of_d3d12(device: *mut c_void) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { d3d12::opened(device) }
    }

    /// The device of an `MTLDevice`, with a queue of its own. A process has one device of each GPU (Apple, `MTLCopyAllDevices`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no Metal, or it is no such device; as opening a device otherwise.
    ///
    /// # Safety
    /// `device` is NULL or an `MTLDevice`.
    pub unsafe fn of_metal(device: *mut c_void) -> Result<Self> {
        metal::opened(device)
    }
}

/// A picture's `ID3D12Resource` (in `D3D12_RESOURCE_STATE_COPY_DEST`) or `MTLTexture`, which lives as long as the picture. `None` on other systems, and
/// where another backend made it.
pub fn native_texture(picture: &DevicePicture) -> Option<NonNull<c_void>> {
    texture(picture).and_then(|texture| d3d12::resource(&texture).or_else(|| metal::resource(&texture)))
}

/// No adapter has the device.
fn refused(what: &str) -> Error {
    Error::unsupported("the program's device", format!("expected {what}"))
}

/// The first adapter that is meant, opened.
#[cfg(any(windows, target_vendor = "apple"))]
fn open(backends: wgpu::Backends, what: &str, is_meant: impl Fn(&wgpu::Adapter) -> bool) -> Result<HostDevice> {
    use super::adapter::{dxc, enumerate};
    use super::borrowed::device_descriptor;

    let adapter = enumerate(backends, dxc().as_deref()).into_iter().find(is_meant).ok_or_else(|| refused(what))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&device_descriptor(&adapter)))
        .map_err(|why| Error::Device(format!("{}: {why}", adapter.get_info().name)))?;
    Ok(HostDevice { adapter, device, queue })
}

#[cfg(windows)]
mod d3d12 {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use wgpu::hal::api::Dx12;
    use windows::Win32::Graphics::Direct3D12::ID3D12Device;
    use windows::core::{IUnknown, Interface};

    use super::{HostDevice, Result, open, refused};

    const WHAT: &str = "an ID3D12Device of D3D12CreateDevice, on an adapter that is listed";

    /// # Safety
    /// `raw` is NULL or an `ID3D12Device`.
    pub(super) unsafe fn opened(raw: *mut c_void) -> Result<HostDevice> {
        // SAFETY: the caller's.
        let given = unsafe { ID3D12Device::from_raw_borrowed(&raw) }.ok_or_else(|| refused(WHAT))?;
        // SAFETY: it is alive.
        let luid = unsafe { given.GetAdapterLuid() };
        let host = open(wgpu::Backends::DX12, WHAT, |adapter| {
            // SAFETY: the adapter is only asked.
            let described = unsafe { adapter.as_hal::<Dx12>().and_then(|own| own.raw_adapter().GetDesc1().ok()) };
            described.is_some_and(|described| described.AdapterLuid == luid)
        })?;
        // What tells one object of COM from another.
        let identity = |device: &ID3D12Device| device.cast::<IUnknown>().ok().map(|object| object.as_raw());
        // SAFETY: the device is only asked.
        let own = unsafe { host.device.as_hal::<Dx12>() }.and_then(|own| identity(own.raw_device()));
        if own.is_none() || own != identity(given) {
            return Err(refused(WHAT));
        }
        Ok(host)
    }

    pub(super) fn resource(texture: &wgpu::Texture) -> Option<NonNull<c_void>> {
        // SAFETY: it is only asked; the caller has it as long as the picture.
        unsafe { texture.as_hal::<Dx12>().and_then(|texture| NonNull::new(texture.raw_resource().as_raw())) }
    }
}

#[cfg(not(windows))]
mod d3d12 {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use super::{HostDevice, Result, refused};

    /// # Safety
    /// None is needed.
    pub(super) unsafe fn opened(_: *mut c_void) -> Result<HostDevice> {
        Err(refused("Windows, for Direct3D 12"))
    }

    pub(super) fn resource(_: &wgpu::Texture) -> Option<NonNull<c_void>> {
        None
    }
}

#[cfg(target_vendor = "apple")]
mod metal {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use wgpu::hal::api::Metal;

    use super::{HostDevice, Result, open};

    /// The pointer is compared, never followed.
    pub(super) fn opened(raw: *mut c_void) -> Result<HostDevice> {
        open(wgpu::Backends::METAL, "an MTLDevice of this system", |adapter| {
            // SAFETY: the adapter is only asked.
            let own = unsafe { adapter.as_hal::<Metal>() };
            own.is_some_and(|own| std::ptr::from_ref(own.raw_device()).cast::<c_void>() == raw.cast_const())
        })
    }

    pub(super) fn resource(texture: &wgpu::Texture) -> Option<NonNull<c_void>> {
        // SAFETY: it is only asked; the caller has it as long as the picture.
        let own = unsafe { texture.as_hal::<Metal>() }?;
        Some(NonNull::from(own.raw_handle()).cast())
    }
}

#[cfg(not(target_vendor = "apple"))]
mod metal {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use super::{HostDevice, Result, refused};

    pub(super) fn opened(_: *mut c_void) -> Result<HostDevice> {
        Err(refused("a system of Apple's, for Metal"))
    }

    pub(super) fn resource(_: &wgpu::Texture) -> Option<NonNull<c_void>> {
        None
    }
}
