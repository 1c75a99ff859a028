//! AArch64's products in single precision.

use std::arch::aarch64::*;

use super::tile::{PITCH, Tile, store};
use crate::record::HostWeight;

/// Columns whose sums stay in registers: with 6 rows 24 of the 32, beside 6 of values and 2 of weights.
const WIDTH: usize = 16;

/// # Safety
/// As [`Tile::run`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn neon<const ROWS: usize, const STEP: usize>(tile: Tile, x: *const f32, next: usize) {
    let Tile { panel, depth, out, stride, columns, add } = tile;
    for first in (0..columns).step_by(WIDTH) {
        let width = WIDTH.min(columns - first);
        let (mut panel, mut x, mut left) = (panel.wrapping_add(first), x, depth);
        let mut sums = [[vdupq_n_f32(0.0); WIDTH / 4]; ROWS];
        // SAFETY: the caller's: `panel` and `x` have `depth` positions, those of a row side by side where rows are apart, and a panel 32 columns.
        unsafe {
            if STEP == PITCH {
                while left >= 4 {
                    let mut values = [vdupq_n_f32(0.0); ROWS];
                    for (row, values) in values.iter_mut().enumerate() {
                        *values = vld1q_f32(x.add(row * STEP));
                    }
                    position::<ROWS, 0>(&mut sums, &values, panel);
                    position::<ROWS, 1>(&mut sums, &values, panel.add(HostWeight::PANEL));
                    position::<ROWS, 2>(&mut sums, &values, panel.add(2 * HostWeight::PANEL));
                    position::<ROWS, 3>(&mut sums, &values, panel.add(3 * HostWeight::PANEL));
                    panel = panel.wrapping_add(4 * HostWeight::PANEL);
                    x = x.wrapping_add(4);
                    left -= 4;
                }
            }
            for _ in 0..left {
                let mut values = [vdupq_n_f32(0.0); ROWS];
                for (row, value) in values.iter_mut().enumerate() {
                    *value = vld1q_dup_f32(x.add(row * STEP));
                }
                position::<ROWS, 0>(&mut sums, &values, panel);
                panel = panel.wrapping_add(HostWeight::PANEL);
                x = x.wrapping_add(next);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let mut values = [0.0f32; WIDTH];
            for (values, sum) in values.chunks_exact_mut(4).zip(sums) {
                // SAFETY: the chunk has 4 values.
                unsafe { vst1q_f32(values.as_mut_ptr(), *sum) };
            }
            // SAFETY: the caller's: rows of `out` have `columns` values, of which these are `width`.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride + first), width) };
            store(out, &values, add);
        }
    }
}

/// One position of every row, which is in the same lane of all values.
///
/// # Safety
/// `panel` has [`WIDTH`] values.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn position<const ROWS: usize, const LANE: i32>(
    sums: &mut [[float32x4_t; WIDTH / 4]; ROWS],
    values: &[float32x4_t; ROWS],
    panel: *const f32,
) {
    for four in 0..WIDTH / 4 {
        // SAFETY: the caller's.
        let weights = unsafe { vld1q_f32(panel.add(4 * four)) };
        for (sums, value) in sums.iter_mut().zip(values) {
            sums[four] = vfmaq_laneq_f32::<LANE>(sums[four], weights, *value);
        }
    }
}
