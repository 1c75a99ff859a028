//! The host twin of `attention` with operands in bf16: as [`attention`](super::attention), scores transposed. Queries and weights are panels in
//! pairs, keys rows, and values rows of channels. Scores, their softmax and all sums are f32.

use std::cell::RefCell;

use half::bf16;

use crate::ops::attention::Params;
use crate::ops::exp;
use crate::ops::host::attention;
use crate::ops::host::attention::LANES;
use crate::ops::host::attention::Softmax;
use crate::ops::host::attention::Task;
use crate::ops::host::attention::mask;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::STEP;
use crate::ops::host::simd::TOGETHER;
use crate::ops::host::simd::half_tiles;
use crate::ops::host::simd::wide;
use crate::record::{Bf16, HostCall, HostWeight, Lines, narrow};

/// Keys visited at a time: their scores for one panel of queries stay in the first cache.
const KEYS: usize = 256;

/// Values from one channel's keys to the next's: an odd number of cache lines.
const KEYS_PITCH: usize = KEYS + 32;

/// Queries of a task, which share what is packed of keys and values: as many as leave their sums in the second cache.
fn queries_together(head_dim: usize) -> usize {
    if head_dim <= 80 { 1024 } else { 256 }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(in crate::ops) fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let queries = p.queries as usize;
    let blocks = queries.div_ceil(queries_together(p.head_dim as usize));
    attention::each_task(call, queries.div_ceil(blocks).next_multiple_of(LANES), |task, out| {
        SCRATCH.with_borrow_mut(|scratch| run(task, scratch, out));
    });
}

/// What a task packs; two values of bf16 in each u32.
#[derive(Default)]
struct Scratch {
    /// Of each panel of queries `depth` positions in pairs, scaled.
    queries: Lines<u32>,
    /// `[KEYS, depth / 2 + a line]`
    keys: Lines<u32>,
    /// `[channels, KEYS_PITCH / 2]`
    values: Lines<u32>,
    /// `[KEYS, LANES]`: of one panel.
    scores: Lines<f32>,
    /// A panel of `KEYS` positions in pairs.
    weights: Lines<u32>,
    /// Of each panel `[head_dim, LANES]`.
    sums: Lines<f32>,
    panels: Vec<Softmax>,
    /// Two rows on their way.
    rows: [Vec<bf16>; 2],
    wide: Vec<f32>,
}

fn halves(pairs: &[u32]) -> &[bf16] {
    bytemuck::cast_slice(pairs)
}

fn run(task: &Task<'_>, s: &mut Scratch, out: Block<'_>) {
    let level = Bf16::detect();
    let head_dim = task.p.head_dim as usize;
    // Of the products with queries, up to whole steps of zeros.
    let depth = head_dim.next_multiple_of(STEP);
    let (panel_len, query_len) = (head_dim * LANES, depth / 2 * LANES);
    let panels = task.count.div_ceil(LANES);
    let keys_pitch = depth + STEP;
    s.keys.resize(s.keys.len().max(KEYS * keys_pitch / 2), 0);
    s.values.resize(s.values.len().max(head_dim.next_multiple_of(TOGETHER) * KEYS_PITCH / 2), 0);
    s.scores.resize(KEYS * LANES, 0.0);
    s.weights.resize(KEYS / 2 * LANES, 0);
    s.sums.clear();
    s.sums.resize(panels * panel_len, 0.0);
    s.panels.clear();
    s.panels.resize(panels, Softmax::NONE);
    for row in &mut s.rows {
        row.clear();
        row.resize(depth, bf16::ZERO);
    }
    pack_queries(task, panels, query_len, s);
    let seen = task.seen();
    for first_key in (0..seen).step_by(KEYS) {
        if task.cancel.is_cancelled() {
            return;
        }
        let count = KEYS.min(seen - first_key);
        pack_keys(task, first_key, count, keys_pitch, s);
        pack_values(task, first_key, count, s);
        for (panel, softmax) in s.panels.iter_mut().enumerate() {
            let scores = &mut s.scores[..count * LANES];
            let queries = halves(&s.queries[panel * query_len..(panel + 1) * query_len]);
            half_tiles(level, (halves(&s.keys), keys_pitch), queries, depth, &mut Block::of(scores, LANES), false);
            if task.causal {
                mask(scores, first_key, task.first + panel * LANES);
            }
            let sums = &mut s.sums[panel * panel_len..(panel + 1) * panel_len];
            let whole = count.next_multiple_of(STEP);
            let weights = &mut s.weights[..whole / 2 * LANES];
            weigh(scores, softmax, sums, weights);
            let sums = &mut Block::of(sums, LANES);
            half_tiles(level, (halves(&s.values), KEYS_PITCH), halves(weights), whole, sums, true);
        }
    }
    task.finish(&s.sums, &s.panels, out);
}

fn pack_queries(task: &Task<'_>, panels: usize, query_len: usize, s: &mut Scratch) {
    let (head_dim, stride) = (task.p.head_dim as usize, task.p.q_stride as usize);
    s.queries.clear();
    s.queries.resize(panels * query_len, 0);
    let first_row = task.image * task.p.queries as usize + task.first;
    for query in 0..task.count {
        let start = (first_row + query) * stride + task.p.q_offset as usize + task.head * head_dim;
        s.wide.clear();
        s.wide.extend(task.operands.q[start..start + head_dim].iter().map(|value| value * task.p.scale));
        narrow(&s.wide, &mut s.rows[0][..head_dim]);
        let to = &mut s.queries[query / LANES * query_len..][..query_len];
        let pairs: &[u32] = bytemuck::cast_slice(&s.rows[0]);
        for (pair, values) in pairs.iter().enumerate() {
            to[HostWeight::pair_place(2 * pair, query % LANES) / 2] = *values;
        }
    }
}

fn pack_keys(task: &Task<'_>, first: usize, count: usize, pitch: usize, s: &mut Scratch) {
    let (p, head_dim) = (task.p, task.p.head_dim as usize);
    let rows = bytemuck::cast_slice_mut::<u32, bf16>(&mut s.keys);
    for (key, to) in (0..count).zip(rows.chunks_exact_mut(pitch)) {
        let row = task.image * p.keys as usize + first + key;
        let start = row * p.k_stride as usize + p.k_offset as usize + task.head * head_dim;
        narrow(&task.operands.k[start..start + head_dim], &mut to[..head_dim]);
        to[head_dim..].fill(bf16::ZERO);
    }
}

/// Two keys at a time, whose values lie side by side; of no key are zeros.
fn pack_values(task: &Task<'_>, first: usize, count: usize, s: &mut Scratch) {
    let (p, head_dim) = (task.p, task.p.head_dim as usize);
    let pitch = KEYS_PITCH / 2;
    for pair in 0..count.next_multiple_of(STEP) / 2 {
        for (side, narrowed) in s.rows.iter_mut().enumerate() {
            let key = 2 * pair + side;
            if key >= count {
                narrowed.fill(bf16::ZERO);
                continue;
            }
            let row = task.image * p.keys as usize + first + key;
            let start = row * p.v_stride as usize + p.v_offset as usize + task.head * head_dim;
            narrow(&task.operands.v[start..start + head_dim], &mut narrowed[..head_dim]);
        }
        let both = s.rows[0].iter().zip(&s.rows[1]);
        for (to, (a, b)) in s.values[pair..].iter_mut().step_by(pitch).zip(both.take(head_dim)) {
            *to = u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
        }
    }
}

/// To bf16, the nearest, halves to even; of values that are neither negative nor infinite.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
}

wide! {
    /// `exp(score - max)` in pairs of keys, zero behind the last; brings what was summed before to the new maximum.
    fn weigh(scores: &[f32], softmax: &mut Softmax, sums: &mut [f32], weights: &mut [u32]) {
        let rows = scores.as_chunks::<LANES>().0;
        let [max, decay] = softmax.raised(rows);
        let mut total = [0.0; LANES];
        weights[rows.len() / (2 * 16) * 16 * LANES..].fill(0);
        for (index, pair) in rows.chunks(2).enumerate() {
            let mut both = [0; LANES];
            for lane in 0..LANES {
                let value = exp(pair[0][lane] - max[lane]);
                total[lane] += value;
                both[lane] = rounded(value);
            }
            if let [_, row] = pair {
                for lane in 0..LANES {
                    let value = exp(row[lane] - max[lane]);
                    total[lane] += value;
                    both[lane] |= rounded(value) << 16;
                }
            }
            for (column, values) in [(0, &both[..16]), (16, &both[16..])] {
                weights[HostWeight::pair_place(2 * index, column) / 2..][..16].copy_from_slice(values);
            }
        }
        softmax.settle([max, decay], &total, sums);
    }
}
