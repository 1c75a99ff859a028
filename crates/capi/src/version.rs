//! Which version it is.

use std::ffi::{CString, c_char};
use std::sync::LazyLock;

use crate::status::{OK, Status, VERSION_MISMATCH};

const fn number(text: &str) -> u32 {
    let (bytes, mut at, mut value) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    value
}

/// `CHIARO_VERSION`.
pub(crate) const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 1000
    + number(env!("CARGO_PKG_VERSION_PATCH"));

/// `CHIARO_ABI_VERSION`: the major version.
pub(crate) const ABI_VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR"));

/// The library's version.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_version() -> u32 {
    VERSION
}

/// The same as a text.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_version_text() -> *const c_char {
    static TEXT: LazyLock<CString> = LazyLock::new(|| crate::text::c_text(env!("CARGO_PKG_VERSION")));
    TEXT.as_ptr()
}

/// What programs are compiled for.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_abi_version() -> u32 {
    ABI_VERSION
}

/// Whether a program of that header works with this library. A newer header of the same major may know what this library does not: what it uses of
/// that is refused where it is used.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn chiaro_version_check(version: u32, abi_version: u32) -> Status {
    if abi_version == ABI_VERSION && version / 1_000_000 == VERSION / 1_000_000 { OK } else { VERSION_MISMATCH }
}
