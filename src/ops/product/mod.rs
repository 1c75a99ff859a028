//! How a product of activations and weights is divided among invocations: what `matmul` and `conv2d` share.

pub(super) mod class;
pub(super) mod coop;
pub(super) mod tuning;

use crate::ops::product::class::Extents;
use crate::ops::product::class::ProductClass;
use crate::ops::product::coop::Coop;
use crate::record::{AdapterKind, Caps, DType, Layout, Recording, Tensor, Variant, Vendor};

/// One way of computing a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Product {
    /// `shaders/shared/tile.wgsl`: a workgroup owns `tile` results (rows, columns) and shares what it loads; each of its `slices` takes a part
    /// of the sums, an invocation of a slice `thread` results. `whole` where runs are whole steps. `packed`: products of f16, in short sums of f16.
    Tiled { tile: [u32; 2], thread: [u32; 2], slices: u32, whole: bool, packed: bool },
    /// `shaders/shared/direct.wgsl`: an invocation owns `rows`×(4 `quads`) results and shares nothing; a subgroup is `across`×`down` of them, one of
    /// which is 1. What software adapters are good at: no barriers, no workgroup memory, and values that the whole subgroup reads at one address.
    /// Weights lie in panels as wide as the subgroup's columns.
    Direct { across: u32, down: u32, rows: u32, quads: u32 },
    /// `shaders/shared/coop.wgsl`: subgroups multiply matrices of f16 operands that a workgroup shares.
    Coop { coop: Coop, split: bool },
}

/// Workgroups along the first dimension; the rest goes along the last.
const MOST: u32 = 32_768;

/// Results (rows, columns) of an invocation of the tiled product, where nothing was measured. More would reuse more of workgroup memory, and leave room for fewer waves
/// on AMD (8×8: 6 to 8 instead of 8 to 14 on RDNA, 1 instead of 2 or 3 on Vega) at the same estimated rate.
const THREAD: [u32; 2] = [8, 4];

/// Tiles and results of an invocation that are worth measuring.
const TILES: [([u32; 2], [u32; 2]); 7] = [
    ([64, 64], [8, 4]),
    ([64, 64], [8, 8]),
    ([64, 128], [8, 8]),
    ([128, 128], [8, 8]),
    ([32, 64], [8, 4]),
    ([32, 64], [8, 8]),
    ([32, 32], [4, 4]),
];

/// Terms of a step of the tiled product, and of the packed one.
const STEPS: [usize; 2] = [16, 32];

impl Product {
    /// The way for a product of `x` and `weight`: what was measured to be fastest on the device, else what is reasoned.
    pub(in crate::ops) fn choose(
        rec: &Recording,
        kernel: &'static str,
        x: Tensor,
        weight: Tensor,
        extents: Extents,
    ) -> Self {
        let class = ProductClass { kernel, x: rec.dtype(x), weight: rec.dtype(weight), extents };
        let measured = rec.caps.tuning.get(&class.key()).and_then(|name| {
            let mut known = Self::candidates(&rec.caps, &class).into_iter();
            known.find(|product| product.to_string() == name)
        });
        measured.unwrap_or_else(|| Self::reasoned(&rec.caps, &class))
    }

    /// Large tiles reuse more of what they load; products with few results have smaller ones and slices, since what keeps a GPU busy is
    /// the number of subgroups.
    fn reasoned(caps: &Caps, class: &ProductClass) -> Self {
        let Extents { rows, columns, .. } = class.extents;
        if caps.kind == AdapterKind::Software {
            return match columns {
                // One row of lanes would leave most without a column.
                ..=8 => Product::Direct { across: 1, down: lanes(caps), rows: 4, quads: columns.div_ceil(4) as u32 },
                _ => Product::Direct { across: lanes(caps), down: 1, rows: 8, quads: 2 },
            };
        }
        let split = class.x == DType::F32;
        if let Some(coop) = Coop::choose(caps, rows, columns, split).filter(|_| class.weight != DType::F32) {
            return Product::Coop { coop, split };
        }
        let packed = Self::packs(caps, class);
        let tiled = |tile, slices| Self::tiled(caps, class, tile, THREAD, slices, packed);
        let large = tiled([64, 64], 1).filter(|_| rows.div_ceil(64) * columns.div_ceil(64) >= 256);
        let sliced = || [4, 2, 1].into_iter().find_map(|slices| tiled([32, 64], slices));
        large.or_else(sliced).unwrap_or(Product::Tiled {
            tile: [32, 64],
            thread: THREAD,
            slices: 1,
            whole: false,
            packed: false,
        })
    }

    /// Whether f16 arithmetic pays and is exact enough: its sums of four add about 1e-7 to a product's normalised squared error, which f16
    /// storage allows and f32 does not.
    fn packs(caps: &Caps, class: &ProductClass) -> bool {
        let is_half = caps.storage == DType::F16 && caps.shader_f16 && class.x == DType::F16;
        is_half && caps.packs_f16() && class.weight != DType::F32
    }

    /// All ways that a device has for a product, the reasoned one first. Software adapters differ in rows alone: a weight lies in panels that every
    /// product of it has to share.
    pub(in crate::ops) fn candidates(caps: &Caps, class: &ProductClass) -> Vec<Self> {
        let reasoned = Self::reasoned(caps, class);
        let mut all = vec![reasoned];
        if let Product::Direct { across, down, quads, .. } = reasoned {
            all.extend([2, 4, 6, 8, 12, 16].map(|rows| Product::Direct { across, down, rows, quads }));
        } else {
            let forms: &[bool] = if Self::packs(caps, class) { &[true, false] } else { &[false] };
            for ((tile, thread), &packed) in TILES.iter().flat_map(|way| forms.iter().map(move |packed| (*way, packed)))
            {
                let of = |slices| Self::tiled(caps, class, tile, thread, slices, packed);
                all.extend([1, 2, 4, 8].into_iter().filter_map(of));
            }
            let split = class.x == DType::F32;
            let matrices = if class.weight == DType::F32 { Vec::new() } else { Coop::candidates(caps, split) };
            all.extend(matrices.into_iter().map(|coop| Product::Coop { coop, split }));
        }
        let mut seen = Vec::new();
        all.retain(|product| {
            !seen.contains(product) && {
                seen.push(*product);
                true
            }
        });
        all
    }

    /// A tiled product, if its loads divide evenly, its sums can be added up in the workgroup memory that is left, and the device has the room.
    fn tiled(
        caps: &Caps,
        class: &ProductClass,
        tile: [u32; 2],
        thread: [u32; 2],
        slices: u32,
        packed: bool,
    ) -> Option<Self> {
        let [m, n] = tile;
        let step = STEPS[usize::from(packed)];
        let invocations = m * n / (thread[0] * thread[1]);
        // Four units of 16 bytes of each row and column and a pitch of one; packed, also a vector of sums of half of the slices.
        let sums = if packed { 16 * (slices / 2).max(1) * invocations } else { 0 };
        let bytes = slices * (m + n) * 80 + sums;
        let row_step = invocations / (step as u32 / 8);
        let fits = m.is_multiple_of(row_step)
            && n.is_multiple_of(row_step)
            && (slices == 1 || (packed || m <= 40) && class.extents.terms() >= 4 * step * slices as usize)
            && bytes <= caps.max_workgroup_bytes
            && slices * invocations <= caps.max_invocations;
        let whole = class.extents.run.is_multiple_of(step);
        fits.then_some(Product::Tiled { tile, thread, slices, whole, packed })
    }

    /// The variant for operands of these types; settles the weight's layout.
    pub(in crate::ops) fn variant(self, rec: &mut Recording, x: Tensor, weight: Tensor) -> Variant {
        let mut variant = Variant::default();
        match self {
            Product::Tiled { tile: [m, n], thread: [rows, columns], slices, whole, packed } => {
                variant.flags.extend(packed.then_some("PACKED"));
                variant.flags.extend(whole.then_some("WHOLE"));
                variant.flags.extend((self.waits_in_words(rec) && rec.dtype(x) == DType::F16).then_some("WORDS"));
                variant.flags.extend((rec.caps.vendor == Vendor::Intel && !packed).then_some("APART"));
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

    /// Whether f16 values wait for their step two a word: where a register of 16 bits is as large as one of 32.
    fn waits_in_words(self, rec: &Recording) -> bool {
        rec.caps.vendor == Vendor::Intel && matches!(self, Product::Tiled { packed: false, .. })
    }

    /// The flags for a weight's element type: half-precision weights and blocks need no device feature, they are unpacked by
    /// bits where shaders have no 16-bit type, and where loads cost more than arithmetic.
    fn weight_flags(self, rec: &Recording, weight: Tensor) -> &'static [&'static str] {
        let typed = rec.caps.shader_f16 && !matches!(self, Product::Direct { .. }) && !self.waits_in_words(rec);
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
    pub(in crate::ops) fn grid(self, rows: usize, columns: usize) -> [u32; 3] {
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

/// Lanes of a software adapter's subgroup.
fn lanes(caps: &Caps) -> u32 {
    if caps.subgroup_size.1 == 0 { 8 } else { caps.subgroup_size.1.min(32) }
}

/// What a table of measured tiles calls it.
impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Product::Tiled { tile: [m, n], thread: [rows, columns], slices, packed, .. } => {
                let form = if *packed { "packed" } else { "tiled" };
                write!(f, "{form} {m}x{n} by {rows}x{columns}, slices {slices}")
            }
            Product::Direct { across, down, rows, quads } => {
                write!(f, "direct {across}x{down}, rows {rows}, quads {quads}")
            }
            Product::Coop { coop, .. } => write!(f, "matrices {coop}"),
        }
    }
}
