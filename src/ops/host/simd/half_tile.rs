//! Products of a few rows with a panel of 32 columns, of operands in bf16, whose sums stay in registers in f32.
//!
//! Both operands lie in pairs along the inner extent, as the instructions take them: rows as they are, panels as [`HostWeight`] keeps them.

use half::bf16;

#[cfg(target_arch = "aarch64")]
use super::half_neon::{SIDE, bfmmla};
use super::half_wide::widened;
use super::{Block, Level};
use crate::record::{Bf16, HostWeight};

/// What the inner extent is a multiple of: two values for each of 16 rows of a tile. Behind the last value are zeros.
pub(in crate::ops) const STEP: usize = HostWeight::STEP;

/// Rows that are read together: as many are there behind the first of each block of them, whatever they hold.
pub(in crate::ops) const TOGETHER: usize = 32;

const PANEL: usize = HostWeight::PANEL;

/// `out[row, c] = Σ_k x[row · pitch + k] · panel[k, c]`, added to what is there if asked; `out` has at most 32 columns, and `x` whole
/// blocks of [`TOGETHER`] rows. The order of sums depends on `depth` alone.
pub(in crate::ops) fn half_tiles(
    level: Bf16,
    (x, pitch): (&[bf16], usize),
    panel: &[bf16],
    depth: usize,
    out: &mut Block<'_>,
    add: bool,
) {
    let (rows, columns) = (out.rows(), out.columns());
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= PANEL && depth.is_multiple_of(STEP) && panel.len() >= depth * PANEL);
    assert!(depth <= pitch && x.len() >= (rows.next_multiple_of(TOGETHER) - 1) * pitch + depth);
    let tile = Tile { x: x.as_ptr(), pitch, panel: panel.as_ptr(), depth, add };
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertions above keep what is read of both operands inside them, and the processor has the instructions.
        Bf16::Amx => unsafe { tile.amx(out) },
        #[cfg(target_arch = "x86_64")]
        Bf16::Avx512 => {
            for first in (0..rows).step_by(12) {
                // SAFETY: as above; the rows are the block's.
                unsafe { tile.rows(out, first, 12.min(rows - first)) };
            }
        }
        #[cfg(target_arch = "aarch64")]
        Bf16::Mmla => {
            let stride = out.stride();
            for first in (0..rows).step_by(SIDE) {
                let (x, rows) = (tile.x.wrapping_add(first * pitch), SIDE.min(rows - first));
                let out = out.start().wrapping_add(first * stride);
                // SAFETY: as above; the rows are the block's, and of `x` whole blocks are there.
                unsafe { bfmmla(tile, x, out, stride, columns, rows) };
            }
        }
        _ => widened(Level::detect(), tile, x, panel, out),
    }
}

#[derive(Clone, Copy)]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "other processors read the slices")
)]
pub(super) struct Tile {
    pub(super) x: *const bf16,
    pub(super) pitch: usize,
    pub(super) panel: *const bf16,
    pub(super) depth: usize,
    pub(super) add: bool,
}

#[cfg(target_arch = "x86_64")]
impl Tile {
    /// # Safety
    /// What the fields name exists, `count` rows of `out` begin at `first`, and the processor has AVX-512 BF16.
    unsafe fn rows(self, out: &mut Block<'_>, first: usize, count: usize) {
        let stride = out.stride();
        let (x, columns) = (self.x.wrapping_add(first * self.pitch), out.columns());
        let out = out.start().wrapping_add(first * stride);
        macro_rules! by_rows {
            ($($rows:literal)*) => {
                match count {
                    // SAFETY: the caller's.
                    $($rows => unsafe { avx512::<$rows>(self, x, out, stride, columns) },)*
                    _ => unreachable!("tiles have fewer rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// # Safety
    /// What the fields name exists, rows in whole blocks of [`TOGETHER`], and the process may use tiles.
    unsafe fn amx(self, out: &mut Block<'_>) {
        let (rows, columns) = (out.rows(), out.columns());
        let mut cut = [0.0f32; TOGETHER * PANEL];
        // SAFETY: the shapes are the processor's own, and the process may use tiles.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, readonly)) };
        for first in (0..rows).step_by(TOGETHER) {
            let count = TOGETHER.min(rows - first);
            let x = self.x.wrapping_add(first * self.pitch);
            if columns == PANEL && count.is_multiple_of(16) {
                let stride = out.stride();
                let start = out.start().wrapping_add(first * stride);
                // SAFETY: the caller's; the block has so many rows of 32 columns.
                unsafe { matrices(self, x, start, stride, count > 16) };
                continue;
            }
            if self.add {
                for (row, cut) in (first..first + count).zip(cut.chunks_exact_mut(PANEL)) {
                    cut[..columns].copy_from_slice(out.row(row));
                }
            }
            // SAFETY: the caller's; there is room for all rows and columns.
            unsafe { matrices(self, x, cut.as_mut_ptr(), PANEL, count > 16) };
            for (row, cut) in (first..first + count).zip(cut.chunks_exact(PANEL)) {
                out.row(row).copy_from_slice(&cut[..columns]);
            }
        }
        // SAFETY: the process may use tiles. Threads that leave none in use are cheaper to switch.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// # Safety
/// As [`Tile::rows`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn avx512<const ROWS: usize>(tile: Tile, x: *const bf16, out: *mut f32, stride: usize, columns: usize) {
    use std::arch::x86_64::*;
    let masks = [((1u32 << columns.min(16)) - 1) as u16, ((1u32 << columns.saturating_sub(16)) - 1) as u16];
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller's: rows of `out` have `columns` values, which the masks keep to; `panel` and rows of `x` have `depth` positions.
    unsafe {
        if tile.add {
            for (row, sums) in sums.iter_mut().enumerate() {
                let out = out.add(row * stride);
                sums[0] = _mm512_maskz_loadu_ps(masks[0], out);
                sums[1] = _mm512_maskz_loadu_ps(masks[1], out.wrapping_add(16));
            }
        }
        for pair in 0..tile.depth / 2 {
            let weights = [0, 16].map(|column| {
                let at = tile.panel.add(HostWeight::pair_place(2 * pair, column));
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()))
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let both = x.add(row * tile.pitch + 2 * pair).cast::<i32>().read_unaligned();
                let both: __m512bh = std::mem::transmute(_mm512_set1_epi32(both));
                sums[0] = _mm512_dpbf16_ps(sums[0], both, weights[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], both, weights[1]);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let out = out.add(row * stride);
            _mm512_mask_storeu_ps(out, masks[0], sums[0]);
            _mm512_mask_storeu_ps(out.wrapping_add(16), masks[1], sums[1]);
        }
    }
}

/// What tiles are like (Intel, Software Developer's Manual, volume 2A, LDTILECFG).
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct TileShapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
static SHAPES: TileShapes = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    TileShapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// 16 rows, or 32 if `both`, of 32 columns: sums in tiles 0 to 3, rows in 4 and 5, columns in 6 and 7.
///
/// # Safety
/// What is read and written exists, and tiles are configured.
#[cfg(target_arch = "x86_64")]
unsafe fn matrices(tile: Tile, x: *const bf16, out: *mut f32, stride: usize, both: bool) {
    let steps = tile.depth / STEP;
    if steps == 0 {
        if !tile.add {
            for row in 0..if both { 32 } else { 16 } {
                // SAFETY: the caller's.
                unsafe { out.add(row * stride).write_bytes(0, PANEL) };
            }
        }
        return;
    }
    // SAFETY: the caller's; the instructions name no memory but what the operands point to, and no register but those that are said.
    unsafe {
        if both {
            std::arch::asm!(
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {stride}*1]",
                "tileloadd tmm1, [{out} + {stride}*1 + 64]",
                "tileloadd tmm2, [{below} + {stride}*1]",
                "tileloadd tmm3, [{below} + {stride}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm6, [{panel} + {width}*1]",
                "tileloadd tmm4, [{x} + {pitch}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {width}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{under} + {pitch}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, 64",
                "add {under}, 64",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm1",
                "tilestored [{below} + {stride}*1], tmm2",
                "tilestored [{below} + {stride}*1 + 64], tmm3",
                add = in(reg) u32::from(tile.add),
                out = in(reg) out,
                below = in(reg) out.wrapping_add(16 * stride),
                stride = in(reg) 4 * stride,
                x = inout(reg) x => _,
                under = inout(reg) x.wrapping_add(16 * tile.pitch) => _,
                pitch = in(reg) 2 * tile.pitch,
                panel = inout(reg) tile.panel => _,
                width = in(reg) 64usize,
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        } else {
            std::arch::asm!(
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {stride}*1]",
                "tileloadd tmm1, [{out} + {stride}*1 + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "3:",
                "tileloadd tmm6, [{panel} + {width}*1]",
                "tileloadd tmm4, [{x} + {pitch}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {width}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, 64",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out} + {stride}*1], tmm0",
                "tilestored [{out} + {stride}*1 + 64], tmm1",
                add = in(reg) u32::from(tile.add),
                out = in(reg) out,
                stride = in(reg) 4 * stride,
                x = inout(reg) x => _,
                pitch = in(reg) 2 * tile.pitch,
                panel = inout(reg) tile.panel => _,
                width = in(reg) 64usize,
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<bf16> {
        let value = |i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..len as u32).map(|i| bf16::from_f32(value(i))).collect()
    }

    /// Every level, number of rows and columns, over what is there and added to it.
    #[test]
    fn tiles_of_every_size_are_the_products() {
        for level in Bf16::available() {
            for (rows, depth) in
                (1..=34usize).flat_map(|rows| [0, 32, 96].map(|depth| (rows, depth))).chain([(77, 512)])
            {
                // Of sums below 32 a step of two positions errs by up to a unit in the last place (BFMMLA rounds to odd, others err by half of that), to
                // either side (Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis").
                let most = 32.0 * 2f64.powi(-23) * (depth as f64 / 2.0).sqrt();
                let pitch = depth + 8;
                let x = noise(rows.next_multiple_of(TOGETHER) * pitch, 1);
                let panel = noise(depth * PANEL, 3);
                for (columns, add) in
                    [1, 4, 15, 16, 17, 31, 32].into_iter().flat_map(|columns| [(columns, false), (columns, true)])
                {
                    let before: Vec<f32> = noise(rows * (columns + 2), 4).iter().map(|v| v.to_f32()).collect();
                    let mut found = before.clone();
                    let mut whole = Block::of(&mut found, columns + 2);
                    half_tiles(level, (&x, pitch), &panel, depth, &mut whole.part(1..columns + 1), add);
                    for (i, (&found, &before)) in found.iter().zip(&before).enumerate() {
                        let (row, at) = (i / (columns + 2), i % (columns + 2));
                        if at == 0 || at == columns + 1 {
                            assert_eq!(found, before, "outside of the block");
                            continue;
                        }
                        let weight = |k: usize| {
                            let column = at - 1;
                            let place = (k / 32 * 2 + column / 16) * 512 + k % 32 / 2 * 32 + column % 16 * 2 + k % 2;
                            panel[place].to_f64()
                        };
                        let terms = (0..depth).map(|k| x[row * pitch + k].to_f64() * weight(k));
                        let want = terms.sum::<f64>() + if add { f64::from(before) } else { 0.0 };
                        let error = (f64::from(found) - want).abs();
                        assert!(want.abs() < 32.0, "{want}");
                        assert!(error <= most, "{level:?} {rows}x{depth}x{columns} add {add}: {found} for {want}");
                    }
                }
            }
        }
    }

    /// Products of bf16 are exact in f32: every level adds the same in the same order.
    #[test]
    fn widened_operands_give_the_same_bits_on_every_level() {
        let depth = 96;
        let (x, panel) = (noise(TOGETHER * depth, 5), noise(depth * PANEL, 6));
        for (rows, columns) in (1..=9).flat_map(|rows| [1, 15, 16, 17, 32].map(|columns| (rows, columns))) {
            for add in [false, true] {
                let tile = Tile { x: x.as_ptr(), pitch: depth, panel: panel.as_ptr(), depth, add };
                let of = |level| {
                    let mut out: Vec<f32> = noise(rows * columns, 7).iter().map(|value| value.to_f32()).collect();
                    widened(level, tile, &x, &panel, &mut Block::of(&mut out, columns));
                    out.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
                };
                for level in Level::available() {
                    assert_eq!(of(level), of(Level::Portable), "{level:?} {rows}x{columns} add {add}");
                }
            }
        }
    }
}
