//! How a product is divided among cooperative matrices: `shaders/shared/coop.wgsl`.

use crate::record::{Caps, DType};

/// A workgroup of one subgroup a block; a block of `fragments` matrices of `size`×`size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Coop {
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

/// Values of k that are staged at a time, the preferred first.
const DEPTHS: [u32; 3] = [32, 64, 16];

impl Coop {
    /// The largest tile that leaves enough workgroups to keep a GPU busy, or else the smallest. `None` where the device has no
    /// matrices, and where activations are f32: operands are rounded to f16, which f16 storage allows and f32 does not.
    pub(in crate::ops) fn choose(caps: &Caps, rows: usize, columns: usize, split: bool) -> Option<Self> {
        let size = caps.matrix_size().filter(|_| caps.storage == DType::F16)?;
        let fitting = || FRAGMENTS.iter().filter_map(|&fragments| Self::fitting(caps, size, fragments, split));
        fitting().find(|coop| coop.workgroups(rows, columns) >= 64).or_else(|| fitting().next_back())
    }

    /// Every tile that fits.
    pub(in crate::ops) fn candidates(caps: &Caps, split: bool) -> Vec<Self> {
        let Some(size) = caps.matrix_size().filter(|_| caps.storage == DType::F16) else { return Vec::new() };
        let all = FRAGMENTS.iter().flat_map(|&fragments| DEPTHS.map(|depth| Self::of(caps, size, fragments, depth)));
        all.filter(|coop| coop.fits(caps, split)).collect()
    }

    fn of(caps: &Caps, size: u32, fragments: [u32; 2], depth: u32) -> Self {
        Coop { size, lanes: caps.subgroup_size.1, blocks: [2, 2], fragments, depth }
    }

    /// The tile with the first depth for which the invocations share its loads evenly, within the device's limits.
    fn fitting(caps: &Caps, size: u32, fragments: [u32; 2], split: bool) -> Option<Self> {
        DEPTHS.map(|depth| Self::of(caps, size, fragments, depth)).into_iter().find(|coop| coop.fits(caps, split))
    }

    fn fits(&self, caps: &Caps, split: bool) -> bool {
        let [m, n] = self.tile();
        let row_step = self.invocations() / (self.depth / 8);
        self.invocations() <= caps.max_invocations
            && self.bytes(split) <= caps.max_workgroup_bytes
            && row_step > 0
            && m.is_multiple_of(row_step)
            && n.is_multiple_of(row_step)
    }

    /// Rows and columns of a workgroup.
    pub(in crate::ops) fn tile(self) -> [u32; 2] {
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

    pub(in crate::ops) fn flags(self) -> impl Iterator<Item = &'static str> {
        std::iter::once("COOP").chain((self.size == 16).then_some("MATRIX_16"))
    }

    pub(in crate::ops) fn constants(self) -> [(&'static str, u32); 6] {
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

impl std::fmt::Display for Coop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([m, n], [rows, columns]) = (self.tile(), self.fragments);
        write!(f, "{m}x{n} by {rows}x{columns} of {}, depth {}", self.size, self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MatrixShape;

    fn caps(size: u32, lanes: u32, workgroup_bytes: u32) -> Caps {
        Caps {
            storage: DType::F16,
            shader_f16: true,
            subgroups: true,
            subgroup_size: (lanes, lanes),
            matrices: vec![MatrixShape::square(size)],
            max_workgroup_bytes: workgroup_bytes,
            max_invocations: 1024,
            ..Caps::webgpu()
        }
    }

    #[test]
    fn tiles_shrink_with_the_product_and_with_the_memory() {
        let tile = |caps: &Caps, rows, columns| Coop::choose(caps, rows, columns, false).map(Coop::tile);
        let large = caps(16, 32, 64 << 10);
        assert_eq!(tile(&large, 4096, 1280), Some([128, 128]));
        assert_eq!(tile(&large, 1024, 640), Some([128, 64]));
        assert_eq!(tile(&large, 1024, 320), Some([64, 64]));
        assert_eq!(tile(&large, 64, 320), Some([32, 32]));
        assert_eq!(tile(&caps(8, 32, 32 << 10), 4096, 320), Some([64, 64]));
        assert_eq!(tile(&caps(16, 32, 4 << 10), 4096, 1280), None, "4 KiB hold no tile");
    }

    #[test]
    fn only_for_f16_storage_and_the_shapes_that_kernels_use() {
        let full = caps(16, 32, 64 << 10);
        assert!(Coop::choose(&full, 64, 64, true).is_some());
        assert_eq!(Coop::choose(&Caps { storage: DType::F32, ..full.clone() }, 64, 64, true), None);
        let half_sums = MatrixShape { sums: DType::F16, ..MatrixShape::square(16) };
        assert_eq!(Coop::choose(&Caps { matrices: vec![half_sums], ..full.clone() }, 64, 64, true), None);
        assert_eq!(Coop::choose(&Caps { subgroups: false, ..full }, 64, 64, true), None);
    }
}
