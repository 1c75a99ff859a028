//! Devices, as a program chooses among them.

use std::ffi::c_char;

use chiaro_core::gpu::{self, AdapterInfo};
use chiaro_core::pipeline::load_findings;
use chiaro_core::record::AdapterKind;

use crate::handle::Handle;
use crate::status::{Fault, Status, border};
use crate::structs::{DeviceInfo, write, zeroed};

const HOST: u32 = 5;

fn kind(kind: AdapterKind) -> u32 {
    match kind {
        AdapterKind::Discrete => 1,
        AdapterKind::Integrated => 2,
        AdapterKind::Software => 4,
        AdapterKind::Host => HOST,
        _ => 3,
    }
}

/// Copies a text into a member, cut between characters where it is longer.
fn put<const N: usize>(member: &mut [c_char; N], text: &str) {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in member.iter_mut().zip(text.as_bytes()[..end].iter().filter(|byte| **byte != 0)) {
        *to = *from as c_char;
    }
}

fn described(adapter: &AdapterInfo) -> DeviceInfo {
    let (mut info, own, caps) = (zeroed::<DeviceInfo>(), &adapter.identity, &adapter.caps);
    info.kind = kind(adapter.kind);
    (info.index, info.gpu) = (adapter.index as u32, adapter.gpu as u32);
    (info.vendor, info.device) = (own.vendor, own.device);
    put(&mut info.name, &adapter.name);
    put(&mut info.backend, &adapter.backend);
    put(&mut info.driver, &adapter.driver);
    put(&mut info.pci, &own.pci);
    (info.uuid, info.has_uuid) = (own.uuid.unwrap_or_default(), u32::from(own.uuid.is_some()));
    (info.luid, info.has_luid) = (own.luid.unwrap_or_default(), u32::from(own.luid.is_some()));
    info.memory_bytes = own.memory_bytes.unwrap_or(0);
    (info.max_buffer_bytes, info.max_binding_bytes) = (caps.max_buffer_bytes, caps.max_binding_bytes);
    (info.has_f16, info.has_subgroups) = (u32::from(caps.shader_f16), u32::from(caps.subgroups));
    info.matrix_size = caps.matrix_size().unwrap_or(0);
    info.examined = match load_findings(adapter) {
        Ok(Some(findings)) if findings.refusal().is_some() => 3,
        Ok(Some(findings)) if !findings.wrong.is_empty() => 2,
        Ok(Some(_)) => 1,
        _ => 0,
    };
    info
}

/// The processor, which stands behind all adapters.
fn host(index: usize) -> DeviceInfo {
    let mut info = zeroed::<DeviceInfo>();
    (info.kind, info.index, info.gpu, info.examined) = (HOST, index as u32, index as u32, 1);
    put(&mut info.name, "processor");
    put(&mut info.backend, "Host");
    (info.max_buffer_bytes, info.max_binding_bytes) = (u64::MAX, u64::MAX);
    info
}

/// How many there are.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_device_count() -> usize {
    std::panic::catch_unwind(|| gpu::adapters().len()).unwrap_or(0) + 1
}

/// Describes one.
///
/// # Safety
/// `info` and `error` are NULL or can be written; `info` says its size.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_device_get(
    index: usize,
    info: *mut DeviceInfo,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            let adapters = gpu::adapters();
            let found = match adapters.get(index) {
                Some(adapter) => described(adapter),
                None if index == adapters.len() => host(index),
                None => {
                    let message = format!("expected 0 to {}, got {index}", adapters.len());
                    return Err(Fault::argument("index", &message));
                }
            };
            write(info, &found)
        })
    }
}
