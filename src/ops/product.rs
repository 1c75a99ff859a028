//! How a product of activations and weights is divided among invocations: what `matmul` and `conv2d` share.

use super::coop::Coop;
use crate::record::{AdapterKind, DType, Layout, Recording, Tensor, Variant};

/// One way of computing a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// `shaders/shared/tile.wgsl`: a workgroup owns `tile` results (rows, columns) and shares what it loads; each of its `slices` takes a part
    /// of the sums, an invocation of a slice [`THREAD`] results. `whole` where runs are whole steps.
    Tiled { tile: [u32; 2], slices: u32, whole: bool },
    /// `shaders/shared/direct.wgsl`: an invocation owns `rows`×(4 `quads`) results and shares nothing; a subgroup is `across`×`down` of them, one of
    /// which is 1. What software adapters are good at: no barriers, no workgroup memory, and values that the whole subgroup reads at one address.
    /// Weights lie in panels as wide as the subgroup's columns.
    Direct { across: u32, down: u32, rows: u32, quads: u32 },
    /// `shaders/shared/coop.wgsl`: subgroups multiply matrices of f16 operands that a workgroup shares.
    Coop { coop: Coop, split: bool },
}

/// Workgroups along the first dimension; the rest goes along the last.
const MOST: u32 = 32_768;

/// Results (rows, columns) of an invocation of the tiled product. More would reuse more of workgroup memory, and leave room for fewer waves
/// on AMD (8×8: 6 to 8 instead of 8 to 14 on RDNA, 1 instead of 2 or 3 on Vega) at the same estimated rate.
const THREAD: [u32; 2] = [8, 4];

/// Terms of a step of the tiled product.
const STEP: usize = 16;

impl Product {
    /// The way for a product of `x` and `weight` with so many rows and columns, whose sums have `runs` times `run` terms (shared/run.wgsl).
    /// Large tiles reuse more of what they load; products with few results have smaller ones and slices, since what keeps a GPU busy is
    /// the number of subgroups.
    pub(super) fn choose(
        rec: &Recording,
        x: Tensor,
        weight: Tensor,
        [rows, columns]: [usize; 2],
        [runs, run]: [usize; 2],
    ) -> Self {
        let caps = &rec.caps;
        if caps.kind == AdapterKind::Software {
            let lanes = if caps.subgroup_size.1 == 0 { 8 } else { caps.subgroup_size.1.min(32) };
            return match columns {
                // One row of lanes would leave most without a column.
                ..=8 => Product::Direct { across: 1, down: lanes, rows: 4, quads: columns.div_ceil(4) as u32 },
                _ => Product::Direct { across: lanes, down: 1, rows: 8, quads: 2 },
            };
        }
        let split = rec.dtype(x) == DType::F32;
        if let Some(coop) = Coop::choose(caps, rows, columns, split).filter(|_| rec.dtype(weight) != DType::F32) {
            return Product::Coop { coop, split };
        }
        let whole = run.is_multiple_of(STEP);
        if rows.div_ceil(64) * columns.div_ceil(64) >= 256 {
            return Product::Tiled { tile: [64, 64], slices: 1, whole };
        }
        let tile = [32, 64];
        // Four values of k of each row and column and a pitch of 16 bytes, in f32.
        let bytes = (tile[0] + tile[1]) * 80;
        let invocations = tile[0] * tile[1] / (THREAD[0] * THREAD[1]);
        let fits = |slices: u32| {
            slices * bytes <= caps.max_workgroup_bytes
                && slices * invocations <= caps.max_invocations
                && runs * run >= 64 * slices as usize
        };
        Product::Tiled { tile, slices: [4, 2].into_iter().find(|&slices| fits(slices)).unwrap_or(1), whole }
    }

    /// The variant for operands of these types; settles the weight's layout.
    pub(super) fn variant(self, rec: &mut Recording, weight: Tensor) -> Variant {
        let mut variant = Variant::default();
        match self {
            Product::Tiled { tile: [m, n], slices, whole } => {
                variant.flags.extend(whole.then_some("WHOLE"));
                let [rows, columns] = THREAD;
                variant.constants.extend([("TILE_M", m), ("TILE_N", n), ("THREAD_M", rows), ("THREAD_N", columns)]);
                variant.constants.push(("SLICES", slices));
            }
            Product::Direct { across, down, rows, quads } => {
                variant.flags.push("DIRECT");
                variant.flags.extend((down > 1).then_some("DOWNWARDS"));
                variant.constants.extend([("ACROSS", across), ("DOWN", down), ("ROWS", rows), ("QUADS", quads)]);
                rec.lay_out(weight, Layout::Panels(4 * across * quads));
            }
            Product::Coop { coop, split } => {
                variant.flags.extend(coop.flags());
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
            Product::Tiled { tile, .. } => tiles(rows, columns, tile),
            Product::Coop { coop, .. } => tiles(rows, columns, coop.tile()),
            Product::Direct { across, down, rows: owned, quads } => {
                let tiles = rows.div_ceil(owned * down);
                [tiles.min(MOST), columns.div_ceil(4 * across * quads), tiles.div_ceil(MOST)]
            }
        }
    }
}

fn tiles(rows: u32, columns: u32, [m, n]: [u32; 2]) -> [u32; 3] {
    let tiles = rows.div_ceil(m);
    [columns.div_ceil(n), tiles.min(MOST), tiles.div_ceil(MOST)]
}
