//! The host twin of `attention` with operands in bf16: as [`attention`](super::attention), scores transposed. Queries and weights are panels in
//! pairs, keys rows, and values rows of channels. Scores, their softmax and all sums are f32.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use crate::ops::attention::Params;
use crate::ops::exp;
use crate::ops::host::attention::LANES;
use crate::ops::host::attention::Operands;
use crate::ops::host::attention::Softmax;
use crate::ops::host::attention::mask;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::STEP;
use crate::ops::host::simd::Shared;
use crate::ops::host::simd::TOGETHER;
use crate::ops::host::simd::half_tiles;
use crate::ops::host::simd::wide;
use crate::record::{Bf16, Cancel, HostCall, narrow};

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
    let causal = call.variant.has("CAUSAL");
    let operands = Operands { q: call.read("q"), k: call.read("k"), v: call.read("v") };
    let cancel = call.cancel();
    let (queries, heads, head_dim) = (p.queries as usize, p.heads as usize, p.head_dim as usize);
    let blocks = queries.div_ceil(queries_together(head_dim));
    let of_block = queries.div_ceil(blocks).next_multiple_of(LANES);
    let values = call.out();
    let images = values.len() / (queries * heads * head_dim);
    let blocks = queries.div_ceil(of_block);
    let out = Shared::new(values, heads * head_dim);
    (0..images * heads * blocks).into_par_iter().with_max_len(1).for_each(|task| {
        let (image, head, first) = (task / blocks / heads, task / blocks % heads, task % blocks * of_block);
        let count = of_block.min(queries - first);
        let first_row = image * queries + first;
        // SAFETY: tasks differ in their rows or in their head's columns.
        let own = unsafe { out.block(first_row..first_row + count, head * head_dim..(head + 1) * head_dim) };
        let task = Task { p: &p, operands: &operands, image, head, first, count, causal, cancel };
        SCRATCH.with_borrow_mut(|scratch| task.run(scratch, own));
    });
}

/// Some queries of one head.
struct Task<'a> {
    p: &'a Params,
    operands: &'a Operands<'a>,
    image: usize,
    head: usize,
    /// Position of the first query.
    first: usize,
    count: usize,
    causal: bool,
    cancel: &'a Cancel,
}

/// What a task packs; two values of bf16 in each u32.
#[derive(Default)]
struct Scratch {
    /// Of each panel of queries `depth` positions in pairs, scaled.
    queries: Vec<u32>,
    /// `[KEYS, depth / 2 + a line]`
    keys: Vec<u32>,
    /// `[channels, KEYS_PITCH / 2]`
    values: Vec<u32>,
    /// `[KEYS, LANES]`: of one panel.
    scores: Vec<f32>,
    /// A panel of `KEYS` positions in pairs.
    weights: Vec<u32>,
    /// Of each panel `[head_dim, LANES]`.
    sums: Vec<f32>,
    panels: Vec<Softmax>,
    /// Two rows on their way.
    rows: [Vec<bf16>; 2],
    wide: Vec<f32>,
}

fn halves(pairs: &[u32]) -> &[bf16] {
    bytemuck::cast_slice(pairs)
}

impl Task<'_> {
    fn run(&self, s: &mut Scratch, mut out: Block<'_>) {
        let level = Bf16::detect();
        let head_dim = self.p.head_dim as usize;
        // Of the products with queries, up to whole steps of zeros.
        let depth = head_dim.next_multiple_of(STEP);
        let (panel_len, query_len) = (head_dim * LANES, depth / 2 * LANES);
        let panels = self.count.div_ceil(LANES);
        let keys_pitch = depth + STEP;
        s.keys.clear();
        s.keys.resize(KEYS * keys_pitch / 2, 0);
        s.values.clear();
        s.values.resize(head_dim.next_multiple_of(TOGETHER) * KEYS_PITCH / 2, 0);
        s.scores.resize(KEYS * LANES, 0.0);
        s.weights.resize(KEYS / 2 * LANES, 0);
        s.sums.clear();
        s.sums.resize(panels * panel_len, 0.0);
        s.panels.clear();
        s.panels.resize(panels, Softmax { max: [f32::MIN; LANES], sum: [0.0; LANES] });
        for row in &mut s.rows {
            row.clear();
            row.resize(depth, bf16::ZERO);
        }
        self.pack_queries(panels, query_len, s);
        let keys = self.p.keys as usize;
        let seen = if self.causal { keys.min(self.first + self.count) } else { keys };
        for first_key in (0..seen).step_by(KEYS) {
            if self.cancel.is_cancelled() {
                return;
            }
            let count = KEYS.min(seen - first_key);
            self.pack_keys(first_key, count, keys_pitch, s);
            self.pack_values(first_key, count, s);
            for (panel, softmax) in s.panels.iter_mut().enumerate() {
                let scores = &mut s.scores[..count * LANES];
                let queries = halves(&s.queries[panel * query_len..(panel + 1) * query_len]);
                half_tiles(level, (halves(&s.keys), keys_pitch), queries, depth, &mut Block::of(scores, LANES), false);
                if self.causal {
                    mask(scores, first_key, self.first + panel * LANES);
                }
                let sums = &mut s.sums[panel * panel_len..(panel + 1) * panel_len];
                let whole = count.next_multiple_of(STEP);
                let weights = &mut s.weights[..whole / 2 * LANES];
                weigh(scores, softmax, sums, weights);
                let sums = &mut Block::of(sums, LANES);
                half_tiles(level, (halves(&s.values), KEYS_PITCH), halves(weights), whole, sums, true);
            }
        }
        for (query, softmax) in (0..self.count).map(|query| (query, &s.panels[query / LANES])) {
            let sums = &s.sums[query / LANES * panel_len + query % LANES..];
            let total = softmax.sum[query % LANES];
            for (out, sum) in out.row(query).iter_mut().zip(sums.iter().step_by(LANES)) {
                *out = sum / total;
            }
        }
    }

    fn pack_queries(&self, panels: usize, query_len: usize, s: &mut Scratch) {
        let (head_dim, stride) = (self.p.head_dim as usize, self.p.q_stride as usize);
        s.queries.clear();
        s.queries.resize(panels * query_len, 0);
        let first_row = self.image * self.p.queries as usize + self.first;
        for query in 0..self.count {
            let start = (first_row + query) * stride + self.p.q_offset as usize + self.head * head_dim;
            s.wide.clear();
            s.wide.extend(self.operands.q[start..start + head_dim].iter().map(|value| value * self.p.scale));
            narrow(&s.wide, &mut s.rows[0][..head_dim]);
            let to = &mut s.queries[query / LANES * query_len..][..query_len];
            let pairs: &[u32] = bytemuck::cast_slice(&s.rows[0]);
            for (to, pairs) in to.chunks_exact_mut(16 * LANES).zip(pairs.chunks_exact(16)) {
                let to = &mut to[query % LANES / 16 * 256 + query % 16..];
                to.iter_mut().step_by(16).zip(pairs).for_each(|(to, pair)| *to = *pair);
            }
        }
    }

    fn pack_keys(&self, first: usize, count: usize, pitch: usize, s: &mut Scratch) {
        let (p, head_dim) = (self.p, self.p.head_dim as usize);
        let rows = bytemuck::cast_slice_mut::<u32, bf16>(&mut s.keys);
        for (key, to) in (0..count).zip(rows.chunks_exact_mut(pitch)) {
            let row = self.image * p.keys as usize + first + key;
            let start = row * p.k_stride as usize + p.k_offset as usize + self.head * head_dim;
            narrow(&self.operands.k[start..start + head_dim], &mut to[..head_dim]);
        }
    }

    /// Two keys at a time, whose values lie side by side; of no key are zeros.
    fn pack_values(&self, first: usize, count: usize, s: &mut Scratch) {
        let (p, head_dim) = (self.p, self.p.head_dim as usize);
        let pitch = KEYS_PITCH / 2;
        for pair in 0..count.next_multiple_of(STEP) / 2 {
            for (side, narrowed) in s.rows.iter_mut().enumerate() {
                let key = 2 * pair + side;
                if key >= count {
                    narrowed.fill(bf16::ZERO);
                    continue;
                }
                let row = self.image * p.keys as usize + first + key;
                let start = row * p.v_stride as usize + p.v_offset as usize + self.head * head_dim;
                narrow(&self.operands.v[start..start + head_dim], &mut narrowed[..head_dim]);
            }
            let both = s.rows[0].iter().zip(&s.rows[1]);
            for (to, (a, b)) in s.values[pair..].iter_mut().step_by(pitch).zip(both.take(head_dim)) {
                *to = u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
            }
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
        let mut max = softmax.max;
        for row in rows {
            for (max, score) in max.iter_mut().zip(row) {
                *max = if *score > *max { *score } else { *max };
            }
        }
        let mut decay = softmax.max;
        for (decay, max) in decay.iter_mut().zip(&max) {
            *decay = exp(*decay - max);
        }
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
            let first = index / 16 * 16 * LANES + index % 16 * 16;
            weights[first..first + 16].copy_from_slice(&both[..16]);
            weights[first + 256..first + 272].copy_from_slice(&both[16..]);
        }
        for ((sum, decay), total) in softmax.sum.iter_mut().zip(&decay).zip(&total) {
            *sum = *sum * decay + total;
        }
        for row in sums.as_chunks_mut::<LANES>().0 {
            for (sum, decay) in row.iter_mut().zip(&decay) {
                *sum *= decay;
            }
        }
        softmax.max = max;
    }
}
