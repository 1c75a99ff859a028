//! What a kernel's host twin is called with.

use super::{Cancel, HostWeight, Variant};

/// One kernel call on the host: the same bindings and parameters as in WGSL, everything in f32 but a product's weight.
pub struct HostCall<'a> {
    /// Which form of the kernel.
    pub variant: &'a Variant,
    pub(super) params: &'a [u8],
    pub(super) reads: Vec<(&'static str, &'a [f32])>,
    pub(super) weight: Option<&'a HostWeight>,
    pub(super) out: Option<&'a mut [f32]>,
    pub(super) cancel: &'a Cancel,
}

impl<'a> HostCall<'a> {
    /// The parameter block.
    pub fn params<P: bytemuck::AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }

    /// The whole storage bound as `name`.
    pub fn read(&self, name: &str) -> &'a [f32] {
        self.try_read(name).unwrap_or_else(|| panic!("binding {name} was recorded"))
    }

    /// The whole storage bound as `name`, if the variant binds it.
    pub fn try_read(&self, name: &str) -> Option<&'a [f32]> {
        self.reads.iter().find(|(n, _)| *n == name).map(|(_, slice)| *slice)
    }

    /// The constant bound as `weight`, in panels.
    pub fn weight(&self) -> &'a HostWeight {
        self.weight.expect("binding weight was recorded")
    }

    /// The run's request to stop. A kernel that takes long looks at it between its blocks, and returns with any result when it is made.
    pub fn cancel(&self) -> &'a Cancel {
        self.cancel
    }

    /// The whole storage bound as `out`; can be taken once.
    pub fn out(&mut self) -> &'a mut [f32] {
        self.out.take().expect("a host kernel takes its output once")
    }
}
