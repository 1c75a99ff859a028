//! The header's structs. A caller's may be shorter, of an older header, or longer, of a newer one.

use std::ffi::{c_char, c_void};
use std::mem::size_of;

use crate::handle::Handle;
use crate::image::Image;
use crate::job::Job;
use crate::status::Fault;

/// A struct of the header.
///
/// # Safety
/// Any bits are a value: numbers, pointers and arrays of them alone. `ENDS` are where its members end.
pub(crate) unsafe trait Struct: Copy {
    const NAME: &'static str;
    const ENDS: &'static [usize];
}

macro_rules! c_struct {
    ($(#[$about:meta])* $name:ident as $c:literal { $($member:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub(crate) struct $name { $(pub(crate) $member: $kind,)* }

        // SAFETY: the members are of the kinds that are meant.
        unsafe impl Struct for $name {
            const NAME: &'static str = $c;
            const ENDS: &'static [usize] =
                &[$(std::mem::offset_of!($name, $member) + size_of::<$kind>(),)*];
        }

        #[cfg(test)]
        impl $name {
            /// Members and where they begin, for the comparison with the header.
            pub(crate) fn members() -> Vec<(&'static str, usize)> {
                vec![$((stringify!($member), std::mem::offset_of!($name, $member)),)*]
            }
        }
    };
}

c_struct! {
    /// `chiaro_device_info`.
    DeviceInfo as "chiaro_device_info" {
        struct_size: u32,
        kind: u32,
        index: u32,
        gpu: u32,
        vendor: u32,
        device: u32,
        name: [c_char; 256],
        backend: [c_char; 16],
        driver: [c_char; 256],
        pci: [c_char; 32],
        uuid: [u8; 16],
        luid: [u8; 8],
        has_uuid: u32,
        has_luid: u32,
        memory_bytes: u64,
        max_buffer_bytes: u64,
        max_binding_bytes: u64,
        has_f16: u32,
        has_subgroups: u32,
        matrix_size: u32,
        examined: u32,
    }
}

/// `chiaro_log_callback`.
pub(crate) type LogCallback = unsafe extern "C" fn(level: u32, message: *const c_char, user: *mut c_void);

c_struct! {
    /// `chiaro_engine_options`.
    EngineOptions as "chiaro_engine_options" {
        struct_size: u32,
        precision: u32,
        device: *const c_char,
        uuid: *const u8,
        luid: *const u8,
        pci: *const c_char,
        weights: *const c_char,
        resident_bytes: u64,
        residency: u32,
        vae_tiling: u32,
        stream_weights: u32,
        log_level: u32,
        log: Option<LogCallback>,
        log_user: *mut c_void,
        model_folders: *const c_char,
        hash_file: *const c_char,
    }
}

c_struct! {
    /// `chiaro_statistics`.
    Statistics as "chiaro_statistics" {
        struct_size: u32,
        reserved: u32,
        uploaded_bytes: u64,
        streamed_bytes: u64,
        compiled_pipelines: u64,
        compiled_programs: u64,
        hits: u64,
        evictions: u64,
        allocated_bytes: u64,
    }
}

c_struct! {
    /// `chiaro_vulkan_device`.
    VulkanDevice as "chiaro_vulkan_device" {
        struct_size: u32,
        api_version: u32,
        get_instance_proc_addr: *mut c_void,
        instance: *mut c_void,
        physical_device: *mut c_void,
        device: *mut c_void,
        queue_family: u32,
        queue_index: u32,
        instance_extensions: *const *const c_char,
        device_extensions: *const *const c_char,
        instance_extension_count: u32,
        device_extension_count: u32,
        features: u32,
        reserved: u32,
    }
}

/// `chiaro_reader::read_at`.
pub(crate) type ReadCallback =
    unsafe extern "C" fn(offset: u64, buffer: *mut u8, size: usize, user: *mut c_void) -> i32;
/// `chiaro_reader::close`.
pub(crate) type CloseCallback = unsafe extern "C" fn(user: *mut c_void);

c_struct! {
    /// `chiaro_reader`.
    Reader as "chiaro_reader" {
        struct_size: u32,
        reserved: u32,
        size: u64,
        read_at: Option<ReadCallback>,
        close: Option<CloseCallback>,
        user: *mut c_void,
    }
}

/// `chiaro_load_callback`.
pub(crate) type LoadCallback = unsafe extern "C" fn(done: u32, of: u32, what: *const c_char, user: *mut c_void) -> i32;

c_struct! {
    /// `chiaro_load_options`.
    LoadOptions as "chiaro_load_options" {
        struct_size: u32,
        width: u32,
        height: u32,
        reserved: u32,
        memory_limit: u64,
        path: *const c_char,
        bytes: *const u8,
        size: usize,
        reader: *const Reader,
        oms: *const c_char,
        oms_text_encoder: *const c_char,
        json: *const c_char,
        progress: Option<LoadCallback>,
        progress_user: *mut c_void,
    }
}

c_struct! {
    /// `chiaro_request`.
    Request as "chiaro_request" {
        struct_size: u32,
        width: u32,
        height: u32,
        steps: u32,
        prompt: *const c_char,
        negative_prompt: *const c_char,
        sampler: *const c_char,
        guidance: f64,
        seed: u64,
        count: u32,
        batch: u32,
        oms: u32,
        preview_every: u32,
        on_device: u32,
        reserved: u32,
        oms_prompt: *const c_char,
        oms_guidance: f64,
        json: *const c_char,
    }
}

c_struct! {
    /// `chiaro_event`.
    Event as "chiaro_event" {
        struct_size: u32,
        kind: u32,
        image: u32,
        step: u32,
        of: u32,
        reserved: u32,
        done: u64,
        total: u64,
        seconds: f64,
        seconds_left: f64,
        picture: *mut Handle<Image>,
    }
}

/// `chiaro_event_callback`.
pub(crate) type EventCallback = unsafe extern "C" fn(job: *mut Handle<Job>, event: *const Event, user: *mut c_void);
/// `chiaro_write_callback`.
pub(crate) type WriteCallback = unsafe extern "C" fn(bytes: *const u8, size: usize, user: *mut c_void) -> i32;

/// No struct of any version is larger; what says so is no struct.
const MOST: usize = 4096;

/// What a caller's struct says of its size, checked.
///
/// # Safety
/// `given` can be read for as many bytes as it says.
unsafe fn size_of_given<T: Struct>(given: *const T) -> Result<usize, Fault> {
    if given.is_null() {
        return Err(Fault::argument(T::NAME, "expected a struct, got NULL"));
    }
    // SAFETY: every struct begins with its size.
    let size = unsafe { given.cast::<u32>().read_unaligned() } as usize;
    if size < size_of::<u32>() || size > MOST {
        let message = format!("expected struct_size of {} (use the INIT macro), got {size}", size_of::<T>());
        return Err(Fault::argument(T::NAME, &message));
    }
    Ok(size)
}

/// The bytes of whole members that both know.
fn common<T: Struct>(size: usize) -> usize {
    T::ENDS.iter().copied().filter(|end| *end <= size).max().unwrap_or(0)
}

/// Reads a caller's struct; members that it has not are as in `default`.
///
/// # Safety
/// `given` is NULL or can be read for as many bytes as it says.
pub(crate) unsafe fn read<T: Struct>(given: *const T, default: T) -> Result<T, Fault> {
    let mut value = default;
    // SAFETY: the caller's, and both have so many bytes.
    unsafe {
        let size = size_of_given(given)?;
        let bytes = given.cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), common::<T>(size));
        let beyond = (size_of::<T>()..size).any(|at| *bytes.add(at) != 0);
        if beyond {
            return Err(Fault::version(&format!("{}: members are set that this library does not know", T::NAME)));
        }
    }
    Ok(value)
}

/// Writes into a caller's struct what it has room for; its size stays.
///
/// # Safety
/// `given` is NULL or can be read and written for as many bytes as it says.
pub(crate) unsafe fn write<T: Struct>(given: *mut T, value: &T) -> Result<(), Fault> {
    // SAFETY: the caller's, and both have so many bytes.
    unsafe {
        let size = size_of_given(given.cast_const())?;
        let (from, skipped) = ((&raw const *value).cast::<u8>(), size_of::<u32>());
        let count = common::<T>(size).saturating_sub(skipped);
        std::ptr::copy_nonoverlapping(from.add(skipped), given.cast::<u8>().add(skipped), count);
    }
    Ok(())
}

/// A struct of zeros.
pub(crate) fn zeroed<T: Struct>() -> T {
    // SAFETY: any bits are a value.
    unsafe { std::mem::zeroed() }
}
