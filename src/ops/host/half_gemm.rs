//! The matrix product of operands in bf16: as [`gemm`](super::gemm), with weights that lie as they are multiplied, so that larger parts pay.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use crate::ops::host::gemm::Share;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::STEP;
use crate::ops::host::simd::TOGETHER;
use crate::ops::host::simd::half_tiles;
use crate::record::{Bf16, Cancel, HostWeight, Lines};

/// Most positions of the inner extent that are treated at a time.
pub(in crate::ops) const DEPTH: usize = 512;

/// Values from one row of packed rows to the next: an odd number of cache lines.
pub(in crate::ops) const PITCH: usize = DEPTH + 32;

/// Most rows of a task.
const ROWS: usize = 256;

const PANEL: usize = HostWeight::PANEL;

/// Most sums of a task that are kept aside until they are whole.
const ASIDE: usize = ROWS * 1024;

thread_local! {
    static SCRATCH: RefCell<(Lines<bf16>, Lines<f32>)> = RefCell::default();
}

/// `out[row, n] = Σ_k x[row, k] · weight[n, k]`, on all cores, of a weight in pairs. `pack(rows, inner, to)` writes part of `x`, each row
/// [`PITCH`] values after the one before; `finish(row, column, block)` completes results that begin there.
///
/// The order of each sum depends on the inner extent alone. Asked to stop, it leaves `out` half made.
pub(in crate::ops) fn product(
    weight: &HostWeight,
    out: &mut [f32],
    cancel: &Cancel,
    pack: impl Fn(Range<usize>, Range<usize>, &mut [bf16]) + Sync,
    finish: impl Fn(usize, usize, &mut Block<'_>) + Sync,
) {
    let (level, columns, inner) = (Bf16::detect(), weight.rows(), weight.inner());
    let rows = out.len() / columns.max(1);
    if rows == 0 || inner == 0 {
        return;
    }
    let share = Share::choose(rows, columns, rayon::current_num_threads(), ROWS, TOGETHER);
    let depth = inner.div_ceil(inner.div_ceil(DEPTH)).next_multiple_of(STEP);
    share.each(out, columns, |own_rows, panels, mut own| {
        let first_column = panels.start * PANEL;
        // Sums to which is added lie panel by panel, near each other; among the results their rows are pages apart.
        let aside = if inner > depth { own_rows.len() * panels.len() * PANEL } else { 0 };
        let aside = if aside <= ASIDE { aside } else { 0 };
        SCRATCH.with_borrow_mut(|(packed, sums)| {
            packed.resize(ROWS * PITCH, bf16::ZERO);
            let kept = sums.len().max(aside);
            sums.resize(kept, 0.0);
            for start in (0..inner).step_by(depth) {
                if cancel.is_cancelled() {
                    return;
                }
                let part = start..(start + depth).min(inner);
                let whole = part.len().next_multiple_of(STEP);
                pack(own_rows.clone(), part.clone(), packed);
                if whole > part.len() {
                    let rows = packed.chunks_mut(PITCH).take(own_rows.len());
                    rows.for_each(|row| row[part.len()..whole].fill(bf16::ZERO));
                }
                for (place, index) in panels.clone().enumerate() {
                    let (column, width) = (index * PANEL - first_column, weight.width(index));
                    let mut results = own.part(column..column + width);
                    let panel = weight.panel_pairs(index, start..start + whole).expect("a weight in pairs");
                    let x = (&packed[..], PITCH);
                    if aside == 0 {
                        half_tiles(level, x, panel, whole, &mut results, start > 0);
                    } else {
                        let sums = &mut sums[place * own_rows.len() * PANEL..][..own_rows.len() * PANEL];
                        let mut block = Block::of(sums, PANEL);
                        half_tiles(level, x, panel, whole, &mut block.part(0..width), start > 0);
                        if part.end == inner {
                            let rows = sums.chunks_exact(PANEL).enumerate();
                            rows.for_each(|(row, sums)| results.row(row).copy_from_slice(&sums[..width]));
                        }
                    }
                    if part.end == inner {
                        finish(own_rows.start, index * PANEL, &mut results);
                    }
                }
            }
        });
    });
}
