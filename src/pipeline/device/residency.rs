//! Whether networks stay on a device when a request is done with them, and which network is which.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use sysinfo::System;

use super::Device;
use super::programs::Programs;

/// Whether compiled networks and their weights stay on a device when a request is done with them, so that the next one of their kind costs its
/// arithmetic alone. Least recently used goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Residency {
    /// One network at a time: a single request takes the least memory.
    #[default]
    Off,
    /// As much as the device's limit of memory holds ([`Pipeline::load_within`](crate::pipeline::Pipeline::load_within)). Without one: on a GPU as much
    /// as it has, where what it refuses makes room; on the processor half of the memory that is free when this is set.
    On,
    /// Within so many bytes, for all models of the device together, with what runs.
    Within(u64),
}

/// What a device did so far and holds now. All models of the device count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Bytes of weights that were brought to the device (on the processor: put in the order in which products read them), to stay.
    pub uploaded_bytes: u64,
    /// Bytes of weights that passed through the device.
    pub streamed_bytes: u64,
    /// Kernels that were compiled.
    pub compiled_pipelines: u64,
    /// Networks that were planned and compiled at fixed shapes.
    pub compiled_programs: u64,
    /// Networks that were found compiled.
    pub hits: u64,
    /// Networks that made room for others.
    pub evictions: u64,
    /// Bytes that are allocated now.
    pub allocated_bytes: u64,
}

/// A network with a number that no other has: what is compiled of it is known by that, and goes when it goes.
pub(crate) struct Numbered<T> {
    network: T,
    number: u64,
    programs: Weak<Programs>,
}

impl<T> Numbered<T> {
    pub(crate) fn new(network: T, device: &Device) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let programs = Arc::downgrade(device.programs());
        Arc::new(Numbered { network, number: NEXT.fetch_add(1, Ordering::Relaxed), programs })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl<T> Deref for Numbered<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.network
    }
}

impl<T> Drop for Numbered<T> {
    fn drop(&mut self) {
        if let Some(programs) = self.programs.upgrade() {
            programs.forget(self.number);
        }
    }
}

/// Bytes that the system can give, its swap too, within the limits of a container; `None` where it does not tell.
pub(crate) fn free_bytes() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let free = system.available_memory() + system.free_swap();
    // What files left in memory is given up when it is wanted, so that it does not count.
    let allowed = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    (system.total_memory() > 0).then_some(free.min(allowed))
}

/// Bytes of main memory and swap, within the limits of a container; `None` where the system does not tell.
pub(crate) fn all_bytes() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let all = system.total_memory() + system.total_swap();
    let allowed = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    (system.total_memory() > 0).then_some(all.min(allowed))
}
