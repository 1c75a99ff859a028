//! What an adapter can do, as plain numbers: all that `ops` and the planner know of a device.

use std::sync::Arc;

use super::{DType, Products, Tuning};

/// The kind of an adapter, in the order of preference for automatic choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU seen through a virtual machine.
    Virtual,
    /// A driver that computes on the host's cores.
    Software,
    /// The host executor.
    Host,
}

impl AdapterKind {
    /// The place in the order of preference: least is best.
    pub const fn preference(self) -> u8 {
        match self {
            AdapterKind::Discrete => 0,
            AdapterKind::Integrated => 1,
            AdapterKind::Virtual => 2,
            AdapterKind::Software | AdapterKind::Host => 3,
        }
    }
}

/// Whose GPU it is, as far as kernels differ by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Vendor {
    /// A hardware thread has 128 registers, each of one value for 8 lanes (16 from Xe2 on), whether the value has 16 bits or 32.
    Intel,
    /// Registers are shared by as many threads as they are enough for, and two values of 16 bits are multiplied at once.
    #[default]
    Other,
}

impl Vendor {
    /// Of a PCI vendor's number.
    pub const fn of(number: u32) -> Self {
        match number {
            0x8086 => Vendor::Intel,
            _ => Vendor::Other,
        }
    }
}

/// A product that the lanes of a subgroup compute together: `[m, k] · [k, n] + [m, n]` (cooperative matrices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    /// Rows of the first operand and of the sum.
    pub m: u32,
    /// Columns of the second operand and of the sum.
    pub n: u32,
    /// Columns of the first operand, rows of the second.
    pub k: u32,
    /// Element type of both operands.
    pub operands: DType,
    /// Element type of the sum.
    pub sums: DType,
}

impl MatrixShape {
    /// A square one of f16 operands with f32 sums, as kernels use it.
    pub const fn square(size: u32) -> Self {
        MatrixShape { m: size, n: size, k: size, operands: DType::F16, sums: DType::F32 }
    }
}

/// Capabilities and limits of one adapter, with the storage type chosen for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Caps {
    /// The adapter's name, as its driver gives it.
    pub name: String,
    /// What sort of adapter it is.
    pub kind: AdapterKind,
    /// Whose it is.
    pub vendor: Vendor,
    /// How activations are stored where f32 is not needed (`nn` says where it is). Accumulation is always f32.
    pub storage: DType,
    /// Operands of products on the host executor.
    pub products: Products,
    /// `SHADER_F16`: arithmetic types of 16 bits in shaders.
    pub shader_f16: bool,
    /// Whether products of f16 values may be added up in f16, in sums of four, where there is [`Self::shader_f16`].
    pub packed_f16: bool,
    /// `SUBGROUP`: subgroup operations.
    pub subgroups: bool,
    /// Smallest and largest subgroup size; equal where the driver fixes it, 0 without [`Self::subgroups`].
    pub subgroup_size: (u32, u32),
    /// What subgroups can multiply at once; empty where the device was opened without it.
    pub matrices: Vec<MatrixShape>,
    /// Whether matrices are loaded from workgroup arrays of vectors (Vulkan), not of single values (Metal).
    pub matrix_quads: bool,
    /// Tiles that were measured on the device; empty where nothing was.
    pub tuning: Arc<Tuning>,
    /// Largest range of a storage buffer that one binding can name, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory, in bytes.
    pub max_workgroup_bytes: u32,
    /// Invocations per workgroup.
    pub max_invocations: u32,
    /// Workgroups per dimension of a dispatch.
    pub max_workgroups: u32,
    /// Storage buffers that one kernel may bind.
    pub max_storage_buffers: u32,
    /// Alignment of a storage binding's offset, in bytes.
    pub binding_alignment: u32,
}

impl Caps {
    /// The least that WebGPU guarantees: f32 storage, no optional feature, default limits.
    pub fn webgpu() -> Self {
        Caps {
            name: "webgpu defaults".into(),
            kind: AdapterKind::Virtual,
            vendor: Vendor::Other,
            storage: DType::F32,
            products: Products::F32,
            shader_f16: false,
            packed_f16: true,
            subgroups: false,
            subgroup_size: (0, 0),
            matrices: Vec::new(),
            matrix_quads: false,
            tuning: Arc::default(),
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_workgroup_bytes: 16 << 10,
            max_invocations: 256,
            max_workgroups: 65_535,
            max_storage_buffers: 8,
            binding_alignment: 256,
        }
    }

    /// The host executor: f32 storage and no limit but the address space.
    pub fn host() -> Self {
        Caps {
            name: "the processor".into(),
            kind: AdapterKind::Host,
            max_binding_bytes: u64::MAX,
            max_buffer_bytes: u64::MAX,
            max_workgroups: u32::MAX,
            binding_alignment: 64,
            ..Caps::webgpu()
        }
    }

    /// Whether products of f16 values, added up in f16 in sums of four, may be and pay. Intel's compiler makes 2.3 instructions of one of them, for
    /// pairs that it has to part, and 1.3 of one of f32 (`benches/offline`).
    pub fn packs_f16(&self) -> bool {
        self.packed_f16 && self.vendor != Vendor::Intel
    }

    /// Rows, columns and depth of the cooperative matrices that kernels use: 16 (Vulkan's GPUs) before 8 (Metal, Mesa's
    /// software driver), with f16 operands and f32 sums. `None` where there are none, or not what they come with, and on GPUs of Intel's: their units
    /// multiply 8×8×16 (Arc) or 8×16×16 (Xe2), which kernels cannot say, and Mesa's compiler dies of what is square.
    pub fn matrix_size(&self) -> Option<u32> {
        let usable = self.shader_f16 && self.subgroups && self.vendor != Vendor::Intel;
        [16, 8].into_iter().find(|&size| usable && self.matrices.contains(&MatrixShape::square(size)))
    }

    /// Whether recordings for these capabilities run on the host executor.
    pub fn is_host(&self) -> bool {
        self.kind == AdapterKind::Host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intel_has_no_matrices_that_kernels_use_and_does_not_pack() {
        let shape = |m, n, k| MatrixShape { m, n, k, ..MatrixShape::square(0) };
        let half = Caps { shader_f16: true, subgroups: true, ..Caps::webgpu() };
        let of = |vendor, matrices| Caps { vendor, matrices, ..half.clone() };
        // What Arc, Xe2, and both together with what a later driver may list.
        for listed in [vec![shape(8, 8, 16)], vec![shape(8, 16, 16)], vec![shape(8, 16, 16), MatrixShape::square(16)]] {
            let intel = of(Vendor::of(0x8086), listed);
            assert_eq!(intel.matrix_size(), None, "{intel:?}");
            assert!(!intel.packs_f16());
        }
        let other = of(Vendor::of(0x1002), vec![MatrixShape::square(16)]);
        assert_eq!(other.matrix_size(), Some(16));
        assert!(other.packs_f16());
        assert!(!Caps { packed_f16: false, ..other }.packs_f16());
    }
}
