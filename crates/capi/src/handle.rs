//! Counted objects behind opaque pointers: an `Arc`, with a number before it that tells what it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::status::Fault;

/// What can be behind a handle.
pub(crate) trait Object {
    /// Tells it from the others.
    const KIND: u64;
    /// What messages call it.
    const NAME: &'static str;
}

/// An object with what is known of it. `repr(C)`: the kind is readable whatever a caller took the pointer for.
#[repr(C)]
pub(crate) struct Handle<T> {
    kind: u64,
    is_poisoned: AtomicBool,
    pub(crate) value: T,
}

impl<T: Object> Handle<T> {
    pub(crate) fn new(value: T) -> Arc<Self> {
        Arc::new(Handle { kind: T::KIND, is_poisoned: AtomicBool::new(false), value })
    }

    /// After a fault of this library nothing but its release makes sense.
    pub(crate) fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Release);
    }

    /// # Safety
    /// `pointer` is NULL, or a handle of this library that is not released.
    unsafe fn known<'a>(pointer: *const Self) -> Result<&'a Self, Fault> {
        if pointer.is_null() {
            return Err(Fault::argument(T::NAME, "expected a handle, got NULL"));
        }
        if !pointer.is_aligned() {
            return Err(Fault::argument(T::NAME, "no handle of this library"));
        }
        // SAFETY: every handle begins with its kind.
        let kind = unsafe { *pointer.cast::<u64>() };
        if kind != T::KIND {
            return Err(Fault::argument(T::NAME, "a handle of another kind"));
        }
        // SAFETY: it is what it says.
        Ok(unsafe { &*pointer })
    }

    /// The object of a handle.
    ///
    /// # Safety
    /// As [`known`](Self::known).
    pub(crate) unsafe fn of<'a>(pointer: *const Self) -> Result<&'a Self, Fault> {
        // SAFETY: the caller's.
        let found = unsafe { Self::known(pointer) }?;
        if found.is_poisoned.load(Ordering::Acquire) {
            return Err(Fault::internal(format!("{}: a fault happened in it before; release it", T::NAME)));
        }
        Ok(found)
    }

    /// One more owner of the object.
    ///
    /// # Safety
    /// As [`known`](Self::known).
    pub(crate) unsafe fn shared(pointer: *const Self) -> Result<Arc<Self>, Fault> {
        // SAFETY: the caller's; handles are made by `Arc::into_raw`.
        unsafe {
            Self::of(pointer)?;
            Arc::increment_strong_count(pointer);
            Ok(Arc::from_raw(pointer))
        }
    }

    /// # Safety
    /// As [`known`](Self::known).
    pub(crate) unsafe fn retain(pointer: *mut Self) -> *mut Self {
        // SAFETY: the caller's.
        unsafe {
            if Self::known(pointer).is_ok() {
                Arc::increment_strong_count(pointer.cast_const());
            }
        }
        pointer
    }

    /// # Safety
    /// As [`known`](Self::known); the owner is one no more.
    pub(crate) unsafe fn release(pointer: *mut Self) {
        // SAFETY: the caller's.
        unsafe {
            if Self::known(pointer).is_ok() {
                let gone = Arc::from_raw(pointer.cast_const());
                // A fault in a destructor must not cross the border.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(gone)));
            }
        }
    }
}

/// Puts an object into an out-parameter.
///
/// # Safety
/// `out` is NULL or can be written.
pub(crate) unsafe fn give<T>(out: *mut *mut Handle<T>, object: Arc<Handle<T>>) {
    // SAFETY: the caller's.
    unsafe { *out = Arc::into_raw(object).cast_mut() };
}

/// An out-parameter that has to be there; what it points to is NULL from now on.
///
/// # Safety
/// `out` is NULL or can be written.
pub(crate) unsafe fn out<T>(out: *mut *mut T, name: &'static str) -> Result<(), Fault> {
    if out.is_null() {
        return Err(Fault::argument(name, "expected a place for the result, got NULL"));
    }
    // SAFETY: the caller's.
    unsafe { *out = std::ptr::null_mut() };
    Ok(())
}
