//! How a product of activations and weights is divided among invocations: what `matmul` and `conv2d` share.

use super::coop::Coop;
use crate::record::{AdapterKind, DType, Layout, Recording, Tensor, Variant};

/// One way of computing a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// `shaders/shared/tile.wgsl`: a workgroup owns `m`×`n` results and shares what it loads, an invocation `thread`×`thread`.
    Tiled { m: u32, n: u32, thread: u32 },
    /// `shaders/shared/direct.wgsl`: an invocation owns `rows`×(4 `quads`) results and shares nothing; `lanes` of them, a
    /// subgroup, own neighbouring columns of the same rows. What software adapters are good at: no barriers, no workgroup
    /// memory, and rows that the whole subgroup reads at one address. Weights lie in panels as wide as the subgroup's columns.
    Direct { lanes: u32, rows: u32, quads: u32 },
    /// `shaders/shared/coop.wgsl`: subgroups multiply matrices of f16 operands that a workgroup shares.
    Coop { coop: Coop, split: bool },
}

/// Workgroups along the first dimension; the rest goes along the last.
const MOST: u32 = 32_768;

impl Product {
    /// The way for a product of `x`. Large tiles reuse more of what they load; small ones keep a GPU busy when the product has few results.
    pub(super) fn choose(rec: &Recording, x: Tensor, weight: Tensor, rows: usize, columns: usize) -> Self {
        let caps = &rec.caps;
        if caps.kind == AdapterKind::Software {
            let lanes = if caps.subgroup_size.1 == 0 { 8 } else { caps.subgroup_size.1.min(32) };
            return Product::Direct { lanes, rows: 8, quads: 2 };
        }
        let split = rec.dtype(x) == DType::F32;
        // An f32 weight rounded to f16 is as far off as an f32 activation would be, where `nn` asks for f32 because norms magnify it: lcm's middle
        // block is then off by 2.8e-5 (NMSE).
        let exact = rec.dtype(weight) != DType::F32;
        if let Some(coop) = Coop::choose(caps, rows, columns, split).filter(|_| exact) {
            return Product::Coop { coop, split };
        }
        let workgroups = rows.div_ceil(64) * columns.div_ceil(64);
        let (m, thread) = if workgroups >= 64 { (64, 8) } else { (32, 4) };
        Product::Tiled { m, n: m, thread }
    }

    /// The variant for operands of these types; settles the weight's layout.
    pub(super) fn variant(self, rec: &mut Recording, x: Tensor, weight: Tensor) -> Variant {
        let mut variant = Variant::default();
        match self {
            Product::Tiled { m, n, thread } => {
                variant.constants.extend([("TILE_M", m), ("TILE_N", n), ("THREAD", thread)]);
            }
            Product::Direct { lanes, rows, quads } => {
                variant.flags.push("DIRECT");
                variant.constants.extend([("LANES", lanes), ("ROWS", rows), ("QUADS", quads)]);
                rec.lay_out(weight, Layout::Panels(4 * lanes * quads));
            }
            Product::Coop { coop, split } => {
                variant.flags.extend(coop.flags());
                variant.flags.extend((rec.dtype(x) == DType::F32).then_some("X_F32"));
                variant.flags.extend(split.then_some("SPLIT"));
                variant.flags.extend(rec.caps.matrix_quads.then_some("MATRIX_QUADS"));
                variant.constants.extend(coop.constants());
            }
        }
        variant.flags.extend(self.weight_flags(rec, weight));
        variant
    }

    /// The flags for a weight's element type: half-precision weights and blocks need no device feature, they are unpacked by
    /// bits where shaders have no 16-bit type, and where loads cost more than arithmetic.
    fn weight_flags(self, rec: &Recording, weight: Tensor) -> &'static [&'static str] {
        let typed = rec.caps.shader_f16 && !matches!(self, Product::Direct { .. });
        match (rec.dtype(weight), typed) {
            (DType::F32, _) => &[],
            (DType::F16, true) => &["WEIGHT_F16"],
            (DType::F16, false) => &["WEIGHT_F16_PACKED"],
            (DType::Q8_0, _) => &["WEIGHT_BLOCKS"],
            (DType::Q4_0, _) => &["WEIGHT_BLOCKS", "WEIGHT_Q4_0"],
        }
    }

    /// Workgroups: tiles of columns along x and of rows along y and z; direct ones of rows along x and z, so that neighbours
    /// read the same weights, and of columns along y.
    pub(super) fn grid(self, rows: usize, columns: usize) -> [u32; 3] {
        let (rows, columns) = (rows as u32, columns as u32);
        match self {
            Product::Tiled { m, n, .. } => tiles(rows, columns, [m, n]),
            Product::Coop { coop, .. } => tiles(rows, columns, coop.tile()),
            Product::Direct { lanes, rows: owned, quads } => {
                let tiles = rows.div_ceil(owned);
                [tiles.min(MOST), columns.div_ceil(4 * lanes * quads), tiles.div_ceil(MOST)]
            }
        }
    }
}

fn tiles(rows: u32, columns: u32, [m, n]: [u32; 2]) -> [u32; 3] {
    let tiles = rows.div_ceil(m);
    [columns.div_ceil(n), tiles.min(MOST), tiles.div_ceil(MOST)]
}
