//! Statuses, errors, and the border: what goes wrong becomes a number and an object.

use std::any::Any;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use chiaro_core::{Error, ErrorCode};
use serde_json::{Map, Value, json};

use crate::handle::{Handle, Object};
use crate::text::c_text;

/// `chiaro_status`.
pub(crate) type Status = i32;

pub(crate) const OK: Status = 0;
pub(crate) const INVALID_ARGUMENT: Status = 1;
pub(crate) const UNSUPPORTED: Status = 2;
pub(crate) const MODEL: Status = 3;
pub(crate) const IO: Status = 4;
pub(crate) const OUT_OF_MEMORY: Status = 5;
pub(crate) const DEVICE: Status = 6;
pub(crate) const DEVICE_LOST: Status = 7;
pub(crate) const CANCELLED: Status = 8;
pub(crate) const NON_FINITE: Status = 9;
pub(crate) const BUSY: Status = 10;
pub(crate) const VERSION_MISMATCH: Status = 11;
pub(crate) const INTERNAL: Status = 12;

/// Number, the name in an error's JSON, and what it means.
const MEANINGS: &[(Status, &str, &CStr)] = &[
    (OK, "ok", c"done"),
    (INVALID_ARGUMENT, "invalid_argument", c"an argument or a field of a request cannot be"),
    (UNSUPPORTED, "unsupported", c"the device has not, or not so large, what is asked"),
    (MODEL, "model", c"a model's file is missing, damaged, or something else"),
    (IO, "io", c"a file could not be read or written"),
    (OUT_OF_MEMORY, "out_of_memory", c"out of memory"),
    (DEVICE, "device", c"the device refused something"),
    (DEVICE_LOST, "device_lost", c"the device is gone"),
    (CANCELLED, "cancelled", c"cancelled"),
    (NON_FINITE, "non_finite", c"a network overflowed"),
    (BUSY, "busy", c"in use, or not ended"),
    (VERSION_MISMATCH, "version_mismatch", c"a version that is not known"),
    (INTERNAL, "internal", c"a fault of the library"),
];

/// What went wrong, as callers hear of it; told again it is the same.
#[derive(Clone)]
pub(crate) struct Fault(Arc<Told>);

pub(crate) struct Told {
    status: Status,
    message: CString,
    json: CString,
}

impl Object for Fault {
    const KIND: u64 = 0x6368_6961_0000_0001;
    const NAME: &'static str = "error";
}

impl Fault {
    fn new(status: Status, message: &str, more: Map<String, Value>) -> Self {
        let code = MEANINGS.iter().find(|(known, ..)| *known == status).map_or("unknown", |(_, name, _)| name);
        let mut told = json!({ "status": status, "code": code, "message": message });
        if let Value::Object(told) = &mut told {
            told.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Fault(Arc::new(Told { status, message: c_text(message), json: c_text(&told.to_string()) }))
    }

    /// An argument that cannot be.
    pub(crate) fn argument(name: &str, message: &str) -> Self {
        let more = Map::from_iter([("field".to_owned(), json!(name))]);
        Fault::new(INVALID_ARGUMENT, &format!("{name}: {message}"), more)
    }

    /// A buffer that is too small.
    pub(crate) fn too_small(name: &str, wanted: usize, available: usize) -> Self {
        let more = json!({ "field": name, "wanted": wanted, "available": available });
        let message = format!("{name}: expected at least {wanted} bytes, got {available}");
        Fault::new(INVALID_ARGUMENT, &message, more.as_object().cloned().unwrap_or_default())
    }

    pub(crate) fn busy(message: &str) -> Self {
        Fault::new(BUSY, message, Map::new())
    }

    pub(crate) fn version(message: &str) -> Self {
        Fault::new(VERSION_MISMATCH, message, Map::new())
    }

    pub(crate) fn io(message: &str) -> Self {
        Fault::new(IO, message, Map::new())
    }

    pub(crate) fn internal(message: impl AsRef<str>) -> Self {
        Fault::new(INTERNAL, message.as_ref(), Map::new())
    }

    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Fault::internal(format!("a fault of the library: {}", said.unwrap_or("no word of what")))
    }

    pub(crate) fn status(&self) -> Status {
        self.0.status
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            ErrorCode::Request => INVALID_ARGUMENT,
            ErrorCode::Model => MODEL,
            ErrorCode::Io => IO,
            ErrorCode::OutOfMemory => OUT_OF_MEMORY,
            ErrorCode::Device => DEVICE,
            ErrorCode::DeviceLost => DEVICE_LOST,
            ErrorCode::Kernel | ErrorCode::Unsupported => UNSUPPORTED,
            ErrorCode::Cancelled => CANCELLED,
            ErrorCode::NonFinite => NON_FINITE,
            _ => INTERNAL,
        };
        let (wanted, available) = match error.cause() {
            Error::OutOfMemory { wanted, available, .. } | Error::Unsupported { wanted, available, .. } => {
                (*wanted, *available)
            }
            _ => (None, None),
        };
        let remedies: Vec<String> = error.remedies().iter().map(ToString::to_string).collect();
        let more = json!({
            "field": error.field(), "file": error.file(), "tensor": error.tensor(), "wanted": wanted,
            "available": available, "remedies": (!remedies.is_empty()).then_some(remedies),
        });
        Fault::new(status, &error.to_string(), more.as_object().cloned().unwrap_or_default())
    }
}

/// Runs what a function of the library does. What goes wrong, a fault of the library among it, becomes a status and an error object.
///
/// # Safety
/// `error` is NULL or can be written.
pub(crate) unsafe fn border(error: *mut *mut Handle<Fault>, body: impl FnOnce() -> Result<(), Fault>) -> Status {
    quiet();
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::panicked(&*panic),
    };
    let status = fault.status();
    if !error.is_null() {
        // SAFETY: the caller's.
        unsafe { *error = Arc::into_raw(Handle::new(fault)).cast_mut() };
    }
    status
}

/// [`border`] for a function of an object, which a fault of the library makes unusable.
///
/// # Safety
/// As [`border`]; `object` as for [`Handle::of`].
pub(crate) unsafe fn border_of<T: Object>(
    object: *const Handle<T>,
    error: *mut *mut Handle<Fault>,
    body: impl FnOnce(&Handle<T>) -> Result<(), Fault>,
) -> Status {
    let mut found = None;
    // SAFETY: the caller's.
    let status = unsafe {
        border(error, || {
            let object = Handle::of(object)?;
            found = Some(object);
            body(object)
        })
    };
    if let (INTERNAL, Some(object)) = (status, found) {
        object.poison();
    }
    status
}

/// A fault is told to who called, not printed. The hook is this library's copy of the standard library's, not a program's.
fn quiet() {
    static ONCE: Once = Once::new();
    if cfg!(not(test)) {
        ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    }
}

/// What a status means.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_status_text(status: Status) -> *const c_char {
    MEANINGS.iter().find(|(known, ..)| *known == status).map_or(c"an unknown status", |(.., text)| text).as_ptr()
}

/// The error of a handle, or what stands for none.
///
/// # Safety
/// As for [`Handle::of`].
unsafe fn told<'a>(error: *const Handle<Fault>) -> Option<&'a Told> {
    // SAFETY: the caller's.
    unsafe { Handle::of(error).ok().map(|found| &*found.value.0) }
}

/// # Safety
/// `error` is NULL or an error.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_error_status(error: *const Handle<Fault>) -> Status {
    // SAFETY: the caller's.
    unsafe { told(error) }.map_or(OK, |told| told.status)
}

/// # Safety
/// `error` is NULL or an error.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_error_message(error: *const Handle<Fault>) -> *const c_char {
    // SAFETY: the caller's.
    unsafe { told(error) }.map_or(c"", |told| &told.message).as_ptr()
}

/// # Safety
/// `error` is NULL or an error.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_error_json(error: *const Handle<Fault>) -> *const c_char {
    // SAFETY: the caller's.
    unsafe { told(error) }.map_or(c"{}", |told| &told.json).as_ptr()
}

/// # Safety
/// `error` is NULL or an error.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_error_retain(error: *mut Handle<Fault>) -> *mut Handle<Fault> {
    // SAFETY: the caller's.
    unsafe { Handle::retain(error) }
}

/// # Safety
/// `error` is NULL or an error that the caller owns.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_error_release(error: *mut Handle<Fault>) {
    // SAFETY: the caller's.
    unsafe { Handle::release(error) }
}
