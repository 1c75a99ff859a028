//! Products of a few rows with a panel of 32 columns, whose sums stay in registers.
//!
//! One value of the rows is spread over a register and multiplied with the panel's registers, position after position (the
//! outer-product kernel of Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 6).

#[cfg(target_arch = "aarch64")]
use super::neon::neon;
use super::{Block, Level};
use crate::record::{HostWeight, PanelValues, widen};

/// Values from one row of packed rows to the next: more than are used at a time, so that rows fall on different cache sets.
pub(in crate::ops) const PITCH: usize = 272;

const PANEL: usize = HostWeight::PANEL;

/// The left operand of a product.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Operand<'a> {
    /// `x[row · PITCH + k]`
    Rows(&'a [f32]),
    /// `x[k · stride + row]`
    Columns(&'a [f32], usize),
}

/// `out[row, c] = Σ_k x[row, k] · panel[k, c]`, added to what is there if asked; `panel` is `[depth, 32]`, and `out` has at most
/// 32 columns. The order of sums depends on `depth` alone.
pub(in crate::ops) fn tiles(level: Level, x: Operand<'_>, panel: &[f32], depth: usize, out: &mut Block<'_>, add: bool) {
    let (rows, columns, stride) = (out.rows(), out.columns(), out.stride());
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= PANEL && panel.len() >= depth * PANEL);
    match x {
        Operand::Rows(x) => assert!(depth <= PITCH && x.len() >= (rows - 1) * PITCH + depth),
        Operand::Columns(x, stride) => assert!(depth == 0 || x.len() >= (depth - 1) * stride + rows),
    }
    let together = match level {
        Level::Avx512 => 12,
        Level::Avx2 | Level::Neon => 6,
        Level::Portable => 4,
    };
    for first in (0..rows).step_by(together) {
        let rows = together.min(rows - first);
        // SAFETY: the row is the block's.
        let out = unsafe { out.start().add(first * stride) };
        let tile = Tile { panel: panel.as_ptr(), depth, out, stride, columns, add };
        // SAFETY: the assertions above keep what a tile reads of both operands inside them, and `out` is a block of so many
        // rows and columns that is borrowed mutably; `level` is one that the processor has.
        unsafe {
            match x {
                Operand::Rows(x) => tile.run::<PITCH>(level, rows, x.as_ptr().add(first * PITCH), 1),
                Operand::Columns(x, stride) => tile.run::<1>(level, rows, x.as_ptr().add(first), stride),
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) panel: *const f32,
    pub(super) depth: usize,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) add: bool,
}

/// Calls a function that is generic over the number of rows.
macro_rules! by_rows {
    ($rows:expr, $call:ident, $step:ident, $arguments:tt, $($count:literal)*) => {
        match $rows {
            $($count => by_rows!(@one $call $count $step $arguments),)*
            _ => unreachable!("tiles have fewer rows"),
        }
    };
    (@one $call:ident $count:literal $step:ident ($($argument:expr),*)) => {
        $call::<$count, $step>($($argument),*)
    };
}

impl Tile {
    /// `x[row · STEP + k · next]`, up to 12 rows.
    ///
    /// # Safety
    /// All that the fields and arguments name exists, and the processor has the instructions.
    unsafe fn run<const STEP: usize>(self, level: Level, rows: usize, x: *const f32, next: usize) {
        // SAFETY: the caller's.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => by_rows!(rows, avx512, STEP, (self, x, next), 1 2 3 4 5 6 7 8 9 10 11 12),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => by_rows!(rows, avx2, STEP, (self, x, next), 1 2 3 4 5 6),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => by_rows!(rows, neon, STEP, (self, x, next), 1 2 3 4 5 6),
                _ => by_rows!(rows, portable, STEP, (self, x, next), 1 2 3 4),
            }
        }
    }
}

/// # Safety
/// As [`Tile::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const STEP: usize>(tile: Tile, mut x: *const f32, next: usize) {
    use std::arch::x86_64::*;
    let Tile { mut panel, depth, out, stride, columns, add } = tile;
    let masks = [((1u32 << columns.min(16)) - 1) as u16, ((1u32 << columns.saturating_sub(16)) - 1) as u16];
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller's: rows of `out` have `columns` values, which the masks keep to; `panel` and `x` have `depth` positions.
    unsafe {
        if add {
            for (row, sums) in sums.iter_mut().enumerate() {
                let out = out.add(row * stride);
                sums[0] = _mm512_maskz_loadu_ps(masks[0], out);
                sums[1] = _mm512_maskz_loadu_ps(masks[1], out.wrapping_add(16));
            }
        }
        for _ in 0..depth {
            let weights = [_mm512_loadu_ps(panel), _mm512_loadu_ps(panel.add(16))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*x.add(row * STEP));
                sums[0] = _mm512_fmadd_ps(value, weights[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(value, weights[1], sums[1]);
            }
            panel = panel.wrapping_add(PANEL);
            x = x.wrapping_add(next);
        }
        for (row, sums) in sums.iter().enumerate() {
            let out = out.add(row * stride);
            _mm512_mask_storeu_ps(out, masks[0], sums[0]);
            _mm512_mask_storeu_ps(out.wrapping_add(16), masks[1], sums[1]);
        }
    }
}

/// # Safety
/// As [`Tile::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize, const STEP: usize>(tile: Tile, x: *const f32, next: usize) {
    use std::arch::x86_64::*;
    let Tile { panel, depth, out, stride, columns, add } = tile;
    for first in (0..columns).step_by(16) {
        let width = 16.min(columns - first);
        let (mut panel, mut x) = (panel.wrapping_add(first), x);
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        // SAFETY: the caller's: `panel` and `x` have `depth` positions, and a panel 32 columns.
        unsafe {
            for _ in 0..depth {
                let weights = [_mm256_loadu_ps(panel), _mm256_loadu_ps(panel.add(8))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = _mm256_broadcast_ss(&*x.add(row * STEP));
                    sums[0] = _mm256_fmadd_ps(value, weights[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(value, weights[1], sums[1]);
                }
                panel = panel.wrapping_add(PANEL);
                x = x.wrapping_add(next);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let mut values = [0.0f32; 16];
            // SAFETY: the array has both halves.
            unsafe {
                _mm256_storeu_ps(values.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(values.as_mut_ptr().add(8), sums[1]);
            }
            // SAFETY: the caller's: rows of `out` have `columns` values, of which these are `width`.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride + first), width) };
            store(out, &values, add);
        }
    }
}

#[inline(always)]
pub(super) fn store(out: &mut [f32], values: &[f32], add: bool) {
    if add {
        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    } else {
        out.copy_from_slice(&values[..out.len()]);
    }
}

/// # Safety
/// As [`Tile::run`].
unsafe fn portable<const ROWS: usize, const STEP: usize>(tile: Tile, x: *const f32, next: usize) {
    const WIDTH: usize = 8;
    let Tile { panel, depth, out, stride, columns, add } = tile;
    for first in (0..columns).step_by(WIDTH) {
        let width = WIDTH.min(columns - first);
        let mut sums = [[0.0f32; WIDTH]; ROWS];
        for k in 0..depth {
            // SAFETY: the caller's: `panel` has `depth` positions of 32 columns.
            let weights = unsafe { &*panel.add(k * PANEL + first).cast::<[f32; WIDTH]>() };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's: `x` has `depth` positions of all rows.
                let value = unsafe { *x.add(row * STEP + k * next) };
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's: rows of `out` have `columns` values, of which these are `width`.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride + first), width) };
            store(out, sums, add);
        }
    }
}

/// Part of a panel as f32, `[depth, 32]`, with zeros where the panel is narrower; `width` values are given of each position.
pub(in crate::ops) fn expand(values: PanelValues<'_>, width: usize, out: &mut [f32]) {
    if width < PANEL {
        out.fill(0.0);
        let rows = out.chunks_exact_mut(PANEL);
        match values {
            PanelValues::F32(values) => {
                rows.zip(values.chunks_exact(width)).for_each(|(out, row)| out[..width].copy_from_slice(row));
            }
            PanelValues::F16(values) => {
                rows.zip(values.chunks_exact(width)).for_each(|(out, row)| widen(row, &mut out[..width]));
            }
        }
        return;
    }
    match values {
        PanelValues::F32(values) => out.copy_from_slice(values),
        PanelValues::F16(values) => widen(values, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
    }

    /// Every level, every number of rows and columns, both operands, over what is there and added to it.
    #[test]
    fn tiles_of_every_size_are_the_products() {
        for (rows, depth) in
            (1..=14).flat_map(|rows| [0, 1, 7, 64].map(|depth| (rows, depth))).chain([(37, 256), (24, 40)])
        {
            let (packed, columnar) = (noise(rows * PITCH, 1), noise(depth * (rows + 3), 2));
            let panel = noise(depth * PANEL, 3);
            for (columns, add) in (1..=PANEL).flat_map(|columns| [(columns, false), (columns, true)]) {
                for level in Level::available() {
                    for x in [Operand::Rows(&packed), Operand::Columns(&columnar, rows + 3)] {
                        let before = noise(rows * (columns + 2), 4);
                        let mut found = before.clone();
                        tiles(
                            level,
                            x,
                            &panel,
                            depth,
                            &mut Block::of(&mut found, columns + 2).part(1..columns + 1),
                            add,
                        );
                        for (i, (&found, &before)) in found.iter().zip(&before).enumerate() {
                            let (row, at) = (i / (columns + 2), i % (columns + 2));
                            if at == 0 || at == columns + 1 {
                                assert_eq!(found, before, "outside of the block");
                                continue;
                            }
                            let value = |k: usize| match x {
                                Operand::Rows(x) => x[row * PITCH + k],
                                Operand::Columns(x, stride) => x[k * stride + row],
                            };
                            let terms = (0..depth).map(|k| f64::from(value(k)) * f64::from(panel[k * PANEL + at - 1]));
                            let want = terms.sum::<f64>() + if add { f64::from(before) } else { 0.0 };
                            let error = (f64::from(found) - want).abs();
                            assert!(error < 2e-5, "{level:?} {rows}x{depth}x{columns} add {add}: {found} for {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn halves_are_widened_on_every_level() {
        let halves: Vec<half::f16> = noise(5 * PANEL, 7).iter().map(|&v| half::f16::from_f32(v)).collect();
        for level in Level::available() {
            for width in [4, 20, 31, 32] {
                let mut out = vec![f32::NAN; 5 * PANEL];
                expand(PanelValues::F16(&halves[..5 * width]), width, &mut out);
                for (i, &found) in out.iter().enumerate() {
                    let (k, lane) = (i / PANEL, i % PANEL);
                    let want = if lane < width { halves[k * width + lane].to_f32() } else { 0.0 };
                    assert_eq!(found, want, "{level:?} {width}: {k} {lane}");
                }
            }
        }
    }
}
