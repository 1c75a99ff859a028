//! The matrix product behind the host twins of `matmul` and `conv2d`.
//!
//! A task owns some rows and some panels of columns. For each part of the inner extent it copies its rows into a block that
//! stays in the second cache ("packs" them; a convolution gathers its patches so, and never unfolds more), and multiplies them
//! with one panel of weights after another, each widened to f32 while it is in the first cache.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::ops::host::simd::Block;
use crate::ops::host::simd::Level;
use crate::ops::host::simd::Operand;
use crate::ops::host::simd::PITCH;
use crate::ops::host::simd::Shared;
use crate::ops::host::simd::expand;
use crate::ops::host::simd::tiles;
use crate::record::{Cancel, HostWeight, Lines};

/// Most positions of the inner extent that are treated at a time.
pub(in crate::ops) const DEPTH: usize = 256;

/// Most rows of a task: a multiple of every tile's.
const ROWS: usize = 144;

/// Rows of a tile at the widest level.
const TILE: usize = 12;

const PANEL: usize = HostWeight::PANEL;

#[derive(Default)]
struct Scratch {
    rows: Lines<f32>,
    panel: Lines<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out[row, n] = Σ_k x[row, k] · weight[n, k]`, on all cores. `pack(rows, inner, to)` writes part of `x`, each row
/// [`PITCH`] values after the one before; `finish(row, column, block)` completes results that begin there.
///
/// The order of each sum depends on the inner extent alone. Asked to stop, it leaves `out` half made.
pub(in crate::ops) fn product(
    level: Level,
    weight: &HostWeight,
    out: &mut [f32],
    cancel: &Cancel,
    pack: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
    finish: impl Fn(usize, usize, &mut Block<'_>) + Sync,
) {
    let (columns, inner) = (weight.rows(), weight.inner());
    let rows = out.len() / columns.max(1);
    if rows == 0 || inner == 0 {
        return;
    }
    let share = Share::choose(rows, columns, rayon::current_num_threads(), ROWS, TILE);
    let depth = inner.div_ceil(inner.div_ceil(DEPTH)).next_multiple_of(4);
    share.each(out, columns, |own_rows, panels, mut own| {
        let first_column = panels.start * PANEL;
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.rows.resize(ROWS * PITCH, 0.0);
            scratch.panel.resize(DEPTH * PANEL, 0.0);
            for start in (0..inner).step_by(depth) {
                if cancel.is_cancelled() {
                    return;
                }
                let part = start..(start + depth).min(inner);
                pack(own_rows.clone(), part.clone(), &mut scratch.rows);
                for index in panels.clone() {
                    let panel = &mut scratch.panel[..part.len() * PANEL];
                    expand(weight.panel(index, part.clone()), weight.width(index), panel);
                    let column = index * PANEL - first_column;
                    let mut results = own.part(column..column + weight.width(index));
                    tiles(level, Operand::Rows(&scratch.rows), panel, part.len(), &mut results, start > 0);
                    if part.end == inner {
                        finish(own_rows.start, index * PANEL, &mut results);
                    }
                }
            }
        });
    });
}

/// How a product is divided among tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) row_blocks: usize,
    /// Rows of a block.
    pub(super) rows: usize,
    pub(super) groups: usize,
    /// Panels of a group.
    pub(super) panels: usize,
}

impl Share {
    /// Four tasks or more for each core, by columns where there are few rows: but several panels in a group, which share what
    /// is packed. A block has at most `most` rows, in multiples of `tile`.
    pub(super) fn choose(rows: usize, columns: usize, threads: usize, most: usize, tile: usize) -> Self {
        let blocks = rows.div_ceil(most);
        let of_block = rows.div_ceil(blocks).next_multiple_of(tile).min(most);
        let blocks = rows.div_ceil(of_block);
        let panels = columns.div_ceil(PANEL);
        let least = if rows <= tile { 1 } else { 4 };
        let groups = (4 * threads).div_ceil(blocks).min(panels.div_ceil(least));
        let of_group = panels.div_ceil(groups);
        Share { row_blocks: blocks, rows: of_block, groups: panels.div_ceil(of_group), panels: of_group }
    }

    /// Has `work` do each task, with its rows, its panels, and what is theirs of `out`.
    pub(super) fn each(
        self,
        out: &mut [f32],
        columns: usize,
        work: impl Fn(Range<usize>, Range<usize>, Block<'_>) + Sync,
    ) {
        let rows = out.len() / columns;
        let out = Shared::new(out, columns);
        (0..self.row_blocks * self.groups).into_par_iter().with_max_len(1).for_each(|task| {
            let (block, group) = (task % self.row_blocks, task / self.row_blocks);
            let own_rows = block * self.rows..((block + 1) * self.rows).min(rows);
            let panels = group * self.panels..((group + 1) * self.panels).min(columns.div_ceil(PANEL));
            // SAFETY: tasks differ in their rows or in their columns.
            let own = unsafe { out.block(own_rows.clone(), panels.start * PANEL..(panels.end * PANEL).min(columns)) };
            work(own_rows, panels, own);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_product_once() {
        for threads in [1, 2, 7, 64] {
            for rows in (1..400).chain([1024, 4096, 262_144]) {
                for columns in [4, 32, 36, 320, 1280, 10_240] {
                    let share = Share::choose(rows, columns, threads, ROWS, TILE);
                    assert!(share.rows <= ROWS && share.rows.is_multiple_of(TILE), "{share:?}");
                    assert!(
                        (share.row_blocks - 1) * share.rows < rows && share.row_blocks * share.rows >= rows,
                        "{share:?}"
                    );
                    let panels = columns.div_ceil(PANEL);
                    assert!(
                        (share.groups - 1) * share.panels < panels && share.groups * share.panels >= panels,
                        "{share:?}"
                    );
                }
            }
        }
    }
}
