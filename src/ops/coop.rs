//! How a product is divided among cooperative matrices: `shaders/shared/coop.wgsl`.

use crate::record::{Caps, DType};

/// A workgroup of one subgroup a block; a block of `fragments` matrices of `size`×`size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coop {
    size: u32,
    /// Of a subgroup.
    lanes: u32,
    /// Rows and columns of blocks.
    blocks: [u32; 2],
    /// Rows and columns of matrices in a block.
    fragments: [u32; 2],
    /// Values of k that are staged at a time.
    depth: u32,
}

/// Matrices in the rows and columns of a block, the largest first; blocks are 2×2.
const FRAGMENTS: [[u32; 2]; 4] = [[4, 4], [4, 2], [2, 2], [1, 1]];

impl Coop {
    /// The largest tile that leaves enough workgroups to keep a GPU busy, or else the smallest. `None` where the device has no
    /// matrices, and where activations are f32: operands are rounded to f16, which f16 storage allows and f32 does not.
    pub(super) fn choose(caps: &Caps, rows: usize, columns: usize, split: bool) -> Option<Self> {
        let size = caps.matrix_size().filter(|_| caps.storage == DType::F16)?;
        let fitting = || FRAGMENTS.iter().filter_map(|&fragments| Self::fitting(caps, size, fragments, split));
        fitting().find(|coop| coop.workgroups(rows, columns) >= 64).or_else(|| fitting().last())
    }

    /// The tile with the first depth for which the invocations share its loads evenly, within the device's limits.
    fn fitting(caps: &Caps, size: u32, fragments: [u32; 2], split: bool) -> Option<Self> {
        let lanes = caps.subgroup_size.1;
        let fits = |coop: &Coop| {
            let [m, n] = coop.tile();
            let row_step = coop.invocations() / (coop.depth / 8);
            coop.invocations() <= caps.max_invocations
                && coop.bytes(split) <= caps.max_workgroup_bytes
                && row_step > 0
                && m.is_multiple_of(row_step)
                && n.is_multiple_of(row_step)
        };
        [32, 64, 16].map(|depth| Coop { size, lanes, blocks: [2, 2], fragments, depth }).into_iter().find(fits)
    }

    /// Rows and columns of a workgroup.
    pub(super) fn tile(self) -> [u32; 2] {
        [0, 1].map(|i| self.blocks[i] * self.fragments[i] * self.size)
    }

    fn invocations(self) -> u32 {
        self.blocks[0] * self.blocks[1] * self.lanes
    }

    /// Workgroup memory: two stages of both operands, and a row of matrices of each block.
    fn bytes(self, split: bool) -> u32 {
        let [m, n] = self.tile();
        let staged = if split { 2 * m + n } else { m + n };
        2 * 2 * staged * (self.depth + 8) + 4 * self.blocks[0] * self.size * (n + 4)
    }

    fn workgroups(self, rows: usize, columns: usize) -> usize {
        let [m, n] = self.tile();
        rows.div_ceil(m as usize) * columns.div_ceil(n as usize)
    }

    pub(super) fn flags(self) -> impl Iterator<Item = &'static str> {
        std::iter::once("COOP").chain((self.size == 16).then_some("MATRIX_16"))
    }

    pub(super) fn constants(self) -> [(&'static str, u32); 6] {
        [
            ("BLOCKS_M", self.blocks[0]),
            ("BLOCKS_N", self.blocks[1]),
            ("FRAGMENTS_M", self.fragments[0]),
            ("FRAGMENTS_N", self.fragments[1]),
            ("TILE_K", self.depth),
            ("INVOCATIONS", self.invocations()),
        ]
    }
}
