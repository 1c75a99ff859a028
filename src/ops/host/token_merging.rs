//! The host twins of the kernels of `token_merging`.

use std::cell::RefCell;
use std::cmp::Ordering;

use rayon::prelude::*;

use crate::ops::host::gemm::DEPTH;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::Level;
use crate::ops::host::simd::Operand;
use crate::ops::host::simd::PITCH;
use crate::ops::host::simd::tiles;
use crate::ops::token_merging::{MatchParams, MergeParams, SlotParams, UnmergeParams};
use crate::record::{HostCall, HostWeight, Lines};

/// Tokens side by side.
const LANES: usize = HostWeight::PANEL;

/// Destinations whose products with those are made at a time.
const CELLS: usize = 96;

/// The similarity of a destination, above every cosine.
const DESTINATION: f32 = 4.0;

/// What the square of a vector's length is at least.
const SMALLEST_SQUARE: f32 = 1e-24;

/// The token of a cell of an image `width` wide that others may be merged into: `destination_of` of `shaders/shared/tokens.wgsl`.
fn destination_of(cell: u32, width: u32, seed: u32) -> usize {
    let state = (cell ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    let place = (word >> 22) ^ word;
    let row = cell / (width / 2) * 2 + (place & 1);
    let column = cell % (width / 2) * 2 + ((place >> 1) & 1);
    (row * width + column) as usize
}

#[derive(Default)]
struct Scratch {
    /// `[channels, LANES]`
    tokens: Lines<f32>,
    /// In parts of `DEPTH` channels, `[CELLS, PITCH]` each.
    cells: Lines<f32>,
    /// `[CELLS, LANES]`
    products: Lines<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn inverse_length(vector: &[f32]) -> f32 {
    let mut squares = [0.0; 16];
    for chunk in vector.chunks(16) {
        for (sum, value) in squares.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    squares.iter().sum::<f32>().max(SMALLEST_SQUARE).sqrt().recip()
}

pub(in crate::ops) fn find(call: &mut HostCall<'_>) {
    let p: MatchParams = call.params();
    let (tokens, channels) = ((p.height * p.width) as usize, 4 * p.quads as usize);
    let cells = (p.height / 2) * (p.width / 2);
    let destinations: Vec<usize> = (0..cells).map(|cell| destination_of(cell, p.width, p.seed)).collect();
    let x = call.read("x");
    let lengths: Vec<f32> = x.par_chunks(channels).with_min_len(64).map(inverse_length).collect();
    let (level, cancel) = (Level::detect(), call.cancel());
    call.out().par_chunks_mut(4 * tokens).enumerate().for_each(|(image, out)| {
        let first_row = image * tokens;
        let row = |token: usize| &x[(first_row + token) * channels..][..channels];
        out.par_chunks_mut(4 * LANES).enumerate().for_each(|(block, out)| {
            let first = block * LANES;
            SCRATCH.with_borrow_mut(|s| {
                s.tokens.clear();
                s.tokens.resize(channels * LANES, 0.0);
                for lane in 0..out.len() / 4 {
                    for (to, value) in s.tokens[lane..].iter_mut().step_by(LANES).zip(row(first + lane)) {
                        *to = *value;
                    }
                }
                let parts = channels.div_ceil(DEPTH);
                s.cells.resize(s.cells.len().max(parts * CELLS * PITCH), 0.0);
                s.products.resize(CELLS * LANES, 0.0);
                let mut best = [(f32::NEG_INFINITY, 0usize); LANES];
                for (chunk, some) in destinations.chunks(CELLS).enumerate() {
                    if cancel.is_cancelled() {
                        return;
                    }
                    for (place, &token) in some.iter().enumerate() {
                        for (part, from) in row(token).chunks(DEPTH).enumerate() {
                            s.cells[(part * CELLS + place) * PITCH..][..from.len()].copy_from_slice(from);
                        }
                    }
                    let products = &mut s.products[..some.len() * LANES];
                    for part in 0..parts {
                        let (start, end) = (part * DEPTH, channels.min((part + 1) * DEPTH));
                        let rows = Operand::Rows(&s.cells[part * CELLS * PITCH..]);
                        let panel = &s.tokens[start * LANES..end * LANES];
                        tiles(level, rows, panel, end - start, &mut Block::of(products, LANES), part > 0);
                    }
                    for (place, (products, token)) in products.as_chunks::<LANES>().0.iter().zip(some).enumerate() {
                        let scale = lengths[first_row + token];
                        for (best, product) in best.iter_mut().zip(products) {
                            if product * scale > best.0 {
                                *best = (product * scale, chunk * CELLS + place);
                            }
                        }
                    }
                }
                for (lane, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    // Products of what is no number are never the best.
                    let similarity = best[lane].0.max(-DESTINATION) * lengths[first_row + first + lane];
                    *out = [if similarity.is_nan() { -DESTINATION } else { similarity }, best[lane].1 as f32, 0.0, 0.0];
                }
            });
        });
        for (cell, &token) in destinations.iter().enumerate() {
            out[4 * token..4 * token + 2].copy_from_slice(&[DESTINATION, cell as f32]);
        }
    });
}

pub(in crate::ops) fn slots(call: &mut HostCall<'_>) {
    let p: SlotParams = call.params();
    let (tokens, cells, merged) = (p.tokens as usize, p.cells as usize, p.merged as usize);
    let matches = call.read("x");
    call.out().par_chunks_mut(4 * tokens).zip(matches.par_chunks(4 * tokens)).for_each(|(out, matches)| {
        let matches = matches.as_chunks::<4>().0;
        let out = out.as_chunks_mut::<4>().0;
        let mut others: Vec<usize> = (0..tokens).filter(|&token| matches[token][0] < DESTINATION).collect();
        // Stable: of equal ones the first comes first.
        let order = |a: usize, b: usize| matches[b][0].partial_cmp(&matches[a][0]).unwrap_or(Ordering::Equal);
        others.sort_by(|&a, &b| order(a, b));
        for (out, found) in out.iter_mut().zip(matches) {
            *out = [found[1], 0.0, 0.0, 0.0];
        }
        for (rank, &token) in others.iter().enumerate().skip(merged) {
            out[token][0] = (cells + rank - merged) as f32;
        }
    });
}

pub(in crate::ops) fn merge(call: &mut HostCall<'_>) {
    let p: MergeParams = call.params();
    let (tokens, slots, channels) = (p.tokens as usize, p.slots as usize, 4 * p.quads as usize);
    let (x, slot) = (call.read("x"), call.read("slot"));
    call.out().par_chunks_mut(slots * channels).enumerate().for_each(|(image, out)| {
        let mut counts = vec![0u32; slots];
        out.fill(0.0);
        for token in image * tokens..(image + 1) * tokens {
            let own = slot[4 * token] as usize;
            counts[own] += 1;
            for (sum, value) in out[own * channels..][..channels].iter_mut().zip(&x[token * channels..]) {
                *sum += value;
            }
        }
        for (out, count) in out.chunks_mut(channels).zip(counts).filter(|(_, count)| *count > 1) {
            for value in out {
                *value /= count as f32;
            }
        }
    });
}

pub(in crate::ops) fn unmerge(call: &mut HostCall<'_>) {
    let p: UnmergeParams = call.params();
    let (tokens, slots, channels) = (p.tokens as usize, p.slots as usize, 4 * p.quads as usize);
    let (x, y, slot) = (call.read("x"), call.read("y"), call.read("slot"));
    call.out().par_chunks_mut(channels).enumerate().with_min_len(16).for_each(|(token, out)| {
        let from = token / tokens * slots + slot[4 * token] as usize;
        let values = x[token * channels..].iter().zip(&y[from * channels..]);
        for (out, (x, y)) in out.iter_mut().zip(values) {
            *out = x + y;
        }
    });
}
