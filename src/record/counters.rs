//! What a backend has done and what it holds, counted where it happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a backend has done since it was opened; each number only grows. Their differences over a request tell whether what was loaded stays
/// loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of constants that were brought to the device to stay there (on the host: that were converted), each time that they were.
    pub uploaded_bytes: u64,
    /// Bytes of constants that passed through the device in runs; not among the others.
    pub streamed_bytes: u64,
    /// Kernels that were compiled.
    pub compiled_pipelines: u64,
    /// Recordings that were compiled.
    pub compiled_programs: u64,
}

/// [`Counters`] as they grow.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) uploaded_bytes: Count,
    pub(crate) streamed_bytes: Count,
    pub(crate) compiled_pipelines: Count,
    pub(crate) compiled_programs: Count,
}

impl Counts {
    pub(crate) fn now(&self) -> Counters {
        Counters {
            uploaded_bytes: self.uploaded_bytes.now(),
            streamed_bytes: self.streamed_bytes.now(),
            compiled_pipelines: self.compiled_pipelines.now(),
            compiled_programs: self.compiled_programs.now(),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that are allocated now. Who allocates keeps a [`Held`] beside the memory, so that no way out of a function forgets to give them back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<AtomicU64>);

impl Ledger {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until what is returned is dropped.
    pub(crate) fn hold(&self, bytes: u64) -> Held {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held { bytes, ledger: self.clone() }
    }
}

/// Bytes on a [`Ledger`].
#[derive(Debug)]
pub(crate) struct Held {
    bytes: u64,
    ledger: Ledger,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
