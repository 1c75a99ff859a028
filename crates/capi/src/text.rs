//! Texts in and out.

use std::ffi::{CStr, CString, c_char};

use serde_json::Value;

use crate::status::Fault;

/// A text with a zero byte behind it; one that has zero bytes inside is told without them.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// A text that a caller gives, or none.
///
/// # Safety
/// `text` is NULL, or ends with a zero byte and lives through the call.
pub(crate) unsafe fn given<'a>(text: *const c_char, name: &'static str) -> Result<Option<&'a str>, Fault> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Fault::argument(name, "expected UTF-8"))
}

/// JSON into an out-parameter, for [`chiaro_text_free`].
///
/// # Safety
/// `out` can be written.
pub(crate) unsafe fn give_json(out: *mut *mut c_char, value: &Value) {
    // SAFETY: the caller's.
    unsafe { *out = c_text(&value.to_string()).into_raw() };
}

/// # Safety
/// `text` is NULL or a text that a function gave and that was not freed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's.
        drop(unsafe { CString::from_raw(text) });
    }
}
