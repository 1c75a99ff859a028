//! 3×3 convolutions on the host with fewer products: F(2×2, 3×3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
//! (CVPR 2016, arXiv 1509.09308), section 4.1.
//!
//! A tile is 2×2 results. With input d (4×4 under the kernel) and kernel g, Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, summed over channels before A: 16
//! matrix products of tiles × channels × columns in place of 36 multiplications a tile. Weights are transformed when they are needed, a part of a
//! panel at a time and for all tiles of a task, so that they take no more memory than the kernel has.

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
use crate::ops::host::simd::wide;
use crate::ops::product::class::CHOSEN_FOR;
use crate::record::{Cancel, HostWeight, Lines};

/// Tiles of a task, whole multiples of the rows that are multiplied at a time. What is made of them stays in a second cache of 1 MiB.
const TILES: usize = 60;

/// Most channels that are treated at a time.
const DEPTH: usize = 128;

/// Channels whose weights are transformed at a time: they stay in the first cache.
const WEIGHTS: usize = 16;

/// Elements of a transformed tile.
const PLACES: usize = 16;

/// From one place to the next: a few cache lines more than there are values, so that the places of one tile or weight lie in different sets of the
/// first cache.
const INPUT_STEP: usize = TILES * PITCH + 16;
const WEIGHT_STEP: usize = DEPTH * PANEL + 48;
const SUM_STEP: usize = TILES * PANEL + 16;

const PANEL: usize = HostWeight::PANEL;

/// Values treated side by side.
const LANES: usize = 16;

type Lanes = [f32; LANES];

/// The images of a convolution whose result is as large as its (possibly enlarged) input.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Images {
    pub(in crate::ops) count: usize,
    /// As stored.
    pub(in crate::ops) height: usize,
    pub(in crate::ops) width: usize,
    pub(in crate::ops) channels: usize,
    /// As the kernel sees them, each pixel repeated; and the result's.
    pub(in crate::ops) seen_height: usize,
    pub(in crate::ops) seen_width: usize,
}

/// A row of tiles, or a part of it, in a task.
struct Run {
    image: usize,
    /// Of the tiles in their image.
    down: usize,
    first: usize,
    count: usize,
    /// Of the first tile in its task.
    place: usize,
}

#[derive(Default)]
struct Scratch {
    /// Of each place `[TILES, PITCH]`.
    input: Lines<f32>,
    /// Of each tap `[WEIGHTS, PANEL]`.
    taps: Lines<f32>,
    /// Of each place `[DEPTH, PANEL]`.
    weights: Lines<f32>,
    /// Of each panel and place `[TILES, PANEL]`.
    sums: Lines<f32>,
    /// `[2, TILES, 2, PANEL]`: the pixels of both rows in their order.
    results: Lines<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Images {
    fn across(&self) -> usize {
        self.seen_width.div_ceil(2)
    }

    fn down(&self) -> usize {
        self.seen_height.div_ceil(2)
    }

    /// Tiles of all images.
    fn tiles(&self) -> usize {
        self.count * self.down() * self.across()
    }

    fn runs(&self, tiles: Range<usize>) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut tile = tiles.start;
        while tile < tiles.end {
            let (row, first) = (tile / self.across(), tile % self.across());
            let count = (self.across() - first).min(tiles.end - tile);
            let (image, down) = (row / self.down(), row % self.down());
            runs.push(Run { image, down, first, count, place: tile - tiles.start });
            tile += count;
        }
        runs
    }

    /// The channels `part` of a pixel that the kernel sees, if it is in the image. Positions are one too large.
    fn pixel<'x>(&self, x: &'x [f32], image: usize, y: usize, column: usize, part: &Range<usize>) -> Option<&'x [f32]> {
        let (y, column) = (y.checked_sub(1)?, column.checked_sub(1)?);
        if y >= self.seen_height || column >= self.seen_width {
            return None;
        }
        let y = if self.seen_height == self.height { y } else { y * self.height / self.seen_height };
        let column = if self.seen_width == self.width { column } else { column * self.width / self.seen_width };
        let start = ((image * self.height + y) * self.width + column) * self.channels;
        Some(&x[start + part.start..start + part.end])
    }
}

/// Whether it takes less time than a product of patches, as measured with shapes of Stable Diffusion 1.5 (docs/PERFORMANCE.md): few tiles do not
/// repay the transformed weights, few channels or columns not the transformed tiles. How many images there are makes no difference: it rounds
/// differently from patches.
pub(in crate::ops) fn pays(images: &Images, columns: usize) -> bool {
    images.channels >= 128 && columns >= 128 && CHOSEN_FOR * images.down() * images.across() >= 24
}

/// The convolution of `x` with `weight` (`[columns, 3, 3, channels]`), one pixel of padding on each side. `finish(row, column, block)` completes
/// results that begin there.
///
/// The order of each sum depends on the channels alone. Asked to stop, it leaves `out` half made.
pub(in crate::ops) fn convolve(
    level: Level,
    images: Images,
    weight: &HostWeight,
    x: &[f32],
    out: &mut [f32],
    cancel: &Cancel,
    finish: impl Fn(usize, usize, &mut Block<'_>) + Sync,
) {
    let (columns, channels) = (weight.rows(), images.channels);
    let panels = columns.div_ceil(PANEL);
    let blocks = images.tiles().div_ceil(TILES);
    if blocks == 0 || panels == 0 {
        return;
    }
    let of_block = images.tiles().div_ceil(blocks);
    // Several panels in a group share what is made of the input.
    let groups = (4 * rayon::current_num_threads()).div_ceil(blocks).min(panels.div_ceil(4)).max(panels.div_ceil(16));
    let of_group = panels.div_ceil(groups);
    let depth = channels.div_ceil(channels.div_ceil(DEPTH)).next_multiple_of(4);
    let out = Shared::new(out, columns);
    (0..blocks * panels.div_ceil(of_group)).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, group) = (task % blocks, task / blocks);
        let own = block * of_block..((block + 1) * of_block).min(images.tiles());
        let panels = group * of_group..((group + 1) * of_group).min(panels);
        let (count, runs) = (own.len(), images.runs(own));
        SCRATCH.with_borrow_mut(|s| {
            s.input.resize(PLACES * INPUT_STEP, 0.0);
            s.taps.resize(9 * WEIGHTS * PANEL, 0.0);
            s.weights.resize(PLACES * WEIGHT_STEP, 0.0);
            s.sums.resize(s.sums.len().max(panels.len() * PLACES * SUM_STEP), 0.0);
            s.results.resize(4 * TILES * PANEL, 0.0);
            for start in (0..channels).step_by(depth) {
                if cancel.is_cancelled() {
                    return;
                }
                let part = start..(start + depth).min(channels);
                for run in &runs {
                    transform_run(&images, x, run, &part, &mut s.input);
                }
                for (index, panel) in panels.clone().enumerate() {
                    for first in part.clone().step_by(WEIGHTS) {
                        let some = first..(first + WEIGHTS).min(part.end);
                        for tap in 0..9 {
                            let inner = tap * channels + some.start..tap * channels + some.end;
                            let taps = &mut s.taps[tap * WEIGHTS * PANEL..][..some.len() * PANEL];
                            expand(weight.panel(panel, inner), weight.width(panel), taps);
                        }
                        transform_weights(&s.taps, some.len(), &mut s.weights[(first - part.start) * PANEL..]);
                    }
                    for place in 0..PLACES {
                        let sums = &mut s.sums[(index * PLACES + place) * SUM_STEP..][..count * PANEL];
                        let rows = Operand::Rows(&s.input[place * INPUT_STEP..]);
                        let weights = &s.weights[place * WEIGHT_STEP..][..part.len() * PANEL];
                        tiles(level, rows, weights, part.len(), &mut Block::of(sums, PANEL), start > 0);
                    }
                }
            }
            for (index, panel) in panels.clone().enumerate() {
                let sums = &s.sums[index * PLACES * SUM_STEP..][..PLACES * SUM_STEP];
                transform_results(sums, count, &mut s.results);
                let own_columns = panel * PANEL..panel * PANEL + weight.width(panel);
                for (run, below) in runs.iter().flat_map(|run| [(run, 0), (run, 1)]) {
                    let (y, left) = (2 * run.down + below, 2 * run.first);
                    if y >= images.seen_height {
                        continue;
                    }
                    let pixels = (2 * run.count).min(images.seen_width - left);
                    let first_row = (run.image * images.seen_height + y) * images.seen_width + left;
                    // SAFETY: tasks differ in their tiles, which have no pixel in common, or in their columns.
                    let mut results = unsafe { out.block(first_row..first_row + pixels, own_columns.clone()) };
                    let found = s.results[(below * TILES + run.place) * 2 * PANEL..].chunks_exact(PANEL);
                    for (pixel, found) in (0..pixels).zip(found) {
                        results.row(pixel).copy_from_slice(&found[..own_columns.len()]);
                    }
                    finish(first_row, own_columns.start, &mut results);
                }
            }
        });
    });
}

/// Bᵀ d B of a run's tiles, channels `part`.
fn transform_run(images: &Images, x: &[f32], run: &Run, part: &Range<usize>, input: &mut [f32]) {
    const NOTHING: [f32; DEPTH] = [0.0; DEPTH];
    for tile in 0..run.count {
        let (top, left) = (2 * run.down, 2 * (run.first + tile));
        let d: [&[f32]; PLACES] = std::array::from_fn(|place| {
            let found = images.pixel(x, run.image, top + place / 4, left + place % 4, part);
            found.unwrap_or(&NOTHING[..part.len()])
        });
        transform_input(&d, &mut input[(run.place + tile) * PITCH..]);
    }
}

#[inline(always)]
fn add(a: &Lanes, b: &Lanes) -> Lanes {
    let mut sum = *a;
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum += b;
    }
    sum
}

#[inline(always)]
fn subtract(a: &Lanes, b: &Lanes) -> Lanes {
    let mut difference = *a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

#[inline(always)]
fn halve(mut values: Lanes) -> Lanes {
    for value in &mut values {
        *value *= 0.5;
    }
    values
}

/// Bᵀ of a column of four.
#[inline(always)]
fn input_column(d: [&Lanes; 4]) -> [Lanes; 4] {
    [subtract(d[0], d[2]), add(d[1], d[2]), subtract(d[2], d[1]), subtract(d[1], d[3])]
}

/// G of a column of three.
#[inline(always)]
fn weight_column(g: [&Lanes; 3]) -> [Lanes; 4] {
    let ends = add(g[0], g[2]);
    [*g[0], halve(add(&ends, g[1])), halve(subtract(&ends, g[1])), *g[2]]
}

/// Aᵀ of a column of four.
#[inline(always)]
fn result_column(m: [&Lanes; 4]) -> [Lanes; 2] {
    let (sum, difference) = (add(m[1], m[2]), subtract(m[1], m[2]));
    [add(m[0], &sum), subtract(&difference, m[3])]
}

/// Row `row` of four columns.
#[inline(always)]
fn across<const ROWS: usize>(columns: &[[Lanes; ROWS]; 4], row: usize) -> [&Lanes; 4] {
    let [a, b, c, d] = columns;
    [&a[row], &b[row], &c[row], &d[row]]
}

/// The first values, zeros behind the last.
#[inline(always)]
fn load(from: &[f32]) -> Lanes {
    match from.first_chunk::<LANES>() {
        Some(whole) => *whole,
        None => {
            let mut lanes = [0.0; LANES];
            for (lane, value) in lanes.iter_mut().zip(from) {
                *lane = *value;
            }
            lanes
        }
    }
}

#[inline(always)]
fn store(values: &Lanes, to: &mut [f32]) {
    match to.first_chunk_mut::<LANES>() {
        Some(whole) => *whole = *values,
        None => {
            for (to, value) in to.iter_mut().zip(values) {
                *to = *value;
            }
        }
    }
}

wide! {
    /// Bᵀ d B of one tile; place p goes to `to[p · INPUT_STEP..]`.
    fn transform_input(d: &[&[f32]; PLACES], to: &mut [f32]) {
        let len = d[0].len();
        for at in (0..len).step_by(LANES) {
            let end = len.min(at + LANES);
            let mut values = [[0.0; LANES]; PLACES];
            for (values, d) in values.iter_mut().zip(d) {
                *values = load(&d[at..end]);
            }
            let mut columns = [[[0.0; LANES]; 4]; 4];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = input_column([&values[c], &values[4 + c], &values[8 + c], &values[12 + c]]);
            }
            for row in 0..4 {
                let values = input_column(across(&columns, row));
                for (column, values) in values.iter().enumerate() {
                    let start = (4 * row + column) * INPUT_STEP;
                    store(values, &mut to[start + at..start + end]);
                }
            }
        }
    }
}

wide! {
    /// G g Gᵀ of the weights of `channels` channels.
    fn transform_weights(taps: &[f32], channels: usize, to: &mut [f32]) {
        for at in (0..channels * PANEL).step_by(LANES) {
            let mut g = [[0.0; LANES]; 9];
            for (tap, g) in g.iter_mut().enumerate() {
                *g = load(&taps[tap * WEIGHTS * PANEL + at..][..LANES]);
            }
            let mut columns = [[[0.0; LANES]; 4]; 3];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = weight_column([&g[c], &g[3 + c], &g[6 + c]]);
            }
            for row in 0..4 {
                let values = weight_column([&columns[0][row], &columns[1][row], &columns[2][row]]);
                for (column, values) in values.iter().enumerate() {
                    store(values, &mut to[(4 * row + column) * WEIGHT_STEP + at..][..LANES]);
                }
            }
        }
    }
}

wide! {
    /// Aᵀ m A of `count` tiles.
    fn transform_results(sums: &[f32], count: usize, to: &mut [f32]) {
        for tile in 0..count {
            for at in (0..PANEL).step_by(LANES) {
                let mut m = [[0.0; LANES]; PLACES];
                for (place, m) in m.iter_mut().enumerate() {
                    *m = load(&sums[place * SUM_STEP + tile * PANEL + at..][..LANES]);
                }
                let mut columns = [[[0.0; LANES]; 2]; 4];
                for (c, column) in columns.iter_mut().enumerate() {
                    *column = result_column([&m[c], &m[4 + c], &m[8 + c], &m[12 + c]]);
                }
                for row in 0..2 {
                    let values = result_column(across(&columns, row));
                    for (column, values) in values.iter().enumerate() {
                        store(values, &mut to[((row * TILES + tile) * 2 + column) * PANEL + at..][..LANES]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
    }

    /// By definition, in f64.
    fn expected(images: &Images, columns: usize, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for pixel in 0..images.count * images.seen_height * images.seen_width {
            let (row, left) = (pixel / images.seen_width, pixel % images.seen_width);
            let (image, top) = (row / images.seen_height, row % images.seen_height);
            for column in 0..columns {
                let mut sum = 0.0;
                for tap in 0..9 {
                    let seen = images.pixel(x, image, top + tap / 3, left + tap % 3, &(0..images.channels));
                    let weight = &weight[(column * 9 + tap) * images.channels..];
                    let products = seen.unwrap_or(&[]).iter().zip(weight).map(|(d, g)| f64::from(*d) * f64::from(*g));
                    sum += products.sum::<f64>();
                }
                out.push(sum);
            }
        }
        out
    }

    /// Whole and cut tiles, more than one task, part and panel, doubled pixels; every result is completed once.
    #[test]
    fn every_size_is_the_convolution() {
        let sizes = [(1, 1), (1, 2), (2, 1), (3, 3), (5, 4), (4, 9), (8, 8), (13, 30)];
        for (count, (height, width)) in [1, 2].into_iter().flat_map(|count| sizes.map(|size| (count, size))) {
            for (channels, columns, factor) in [(4, 1, 1), (20, 33, 2), (132, 40, 1), (36, 8, 2)] {
                let seen_height = if factor == 2 && height > 2 { 2 * height - 1 } else { factor * height };
                let images = Images { count, height, width, channels, seen_height, seen_width: factor * width };
                let (x, weight) = (noise(count * height * width * channels, 1), noise(columns * 9 * channels, 2));
                let want = expected(&images, columns, &x, &weight);
                let largest = want.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
                let weight = HostWeight::from_f32(&weight, columns);
                for level in Level::available() {
                    let completed: Vec<AtomicU32> = want.iter().map(|_| AtomicU32::new(0)).collect();
                    let mut out = vec![f32::NAN; want.len()];
                    convolve(level, images, &weight, &x, &mut out, &Cancel::default(), |row, column, block| {
                        for i in 0..block.rows() * block.columns() {
                            let at = (row + i / block.columns()) * columns + column + i % block.columns();
                            completed[at].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    assert!(completed.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{images:?}");
                    for (found, want) in out.iter().zip(&want) {
                        assert!((f64::from(*found) - want).abs() <= 2e-6 * largest, "{images:?}: {found} for {want}");
                    }
                }
            }
        }
    }
}
