//! The host twin of `attention`: scores lie transposed, a key's for 32 queries side by side, so that the softmax is vector
//! arithmetic over queries and the weights are the panel of the product with v as they are.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::ops::attention::Params;
use crate::ops::exp;
use crate::ops::host::gemm::DEPTH;
use crate::ops::host::half_attention;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::Level;
use crate::ops::host::simd::Operand;
use crate::ops::host::simd::PITCH;
use crate::ops::host::simd::Shared;
use crate::ops::host::simd::tiles;
use crate::ops::host::simd::wide;
use crate::record::{BF16, Cancel, HostCall, HostWeight, Lines};

/// Queries side by side.
pub(super) const LANES: usize = HostWeight::PANEL;

/// Queries of a task: they share what is packed of keys and values.
const QUERIES: usize = 4 * LANES;

/// Keys visited at a time: their scores for one panel of queries stay in the first cache, and they in the second.
fn keys_together(head_dim: usize) -> usize {
    if head_dim <= 160 { 240 } else { 96 }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(in crate::ops) fn host(call: &mut HostCall<'_>) {
    if call.variant.has(BF16) {
        return half_attention::host(call);
    }
    each_task(call, QUERIES, |task, out| {
        SCRATCH.with_borrow_mut(|scratch| task.run(Level::detect(), scratch, out));
    });
}

/// Has `work` write the results of each head's queries, `of_block` of them at a time.
pub(super) fn each_task(call: &mut HostCall<'_>, of_block: usize, work: impl Fn(&Task<'_>, Block<'_>) + Sync) {
    let p: Params = call.params();
    let causal = call.variant.has("CAUSAL");
    let operands = Operands { q: call.read("q"), k: call.read("k"), v: call.read("v") };
    let cancel = call.cancel();
    let (queries, heads, head_dim) = (p.queries as usize, p.heads as usize, p.head_dim as usize);
    let blocks = queries.div_ceil(of_block);
    let values = call.out();
    let images = values.len() / (queries * heads * head_dim);
    let out = Shared::new(values, heads * head_dim);
    (0..images * heads * blocks).into_par_iter().with_max_len(1).for_each(|task| {
        let (image, head, first) = (task / blocks / heads, task / blocks % heads, task % blocks * of_block);
        let count = of_block.min(queries - first);
        let first_row = image * queries + first;
        // SAFETY: tasks differ in their rows or in their head's columns.
        let own = unsafe { out.block(first_row..first_row + count, head * head_dim..(head + 1) * head_dim) };
        work(&Task { p: &p, operands: &operands, image, head, first, count, causal, cancel }, own);
    });
}

pub(super) struct Operands<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// Some queries of one head.
pub(super) struct Task<'a> {
    pub(super) p: &'a Params,
    pub(super) operands: &'a Operands<'a>,
    pub(super) image: usize,
    pub(super) head: usize,
    /// Position of the first query.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) causal: bool,
    pub(super) cancel: &'a Cancel,
}

#[derive(Default)]
struct Scratch {
    /// Of each panel of queries `[head_dim, LANES]`, scaled.
    queries: Lines<f32>,
    /// In parts of `DEPTH` channels, `[keys, PITCH]` each.
    keys: Lines<f32>,
    /// `[keys, head_dim]`
    values: Lines<f32>,
    /// `[keys, LANES]`: of one panel.
    scores: Lines<f32>,
    /// Of each panel `[head_dim, LANES]`.
    sums: Lines<f32>,
    panels: Vec<Softmax>,
}

/// The running maximum and sum of each query of a panel.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    max: [f32; LANES],
    sum: [f32; LANES],
}

impl Softmax {
    /// Of no score.
    pub(super) const NONE: Softmax = Softmax { max: [f32::MIN; LANES], sum: [0.0; LANES] };

    /// The maximum with these scores, and what is left of weights that were summed before.
    #[inline(always)]
    pub(super) fn raised(&self, rows: &[[f32; LANES]]) -> [[f32; LANES]; 2] {
        let mut max = self.max;
        for row in rows {
            for (max, score) in max.iter_mut().zip(row) {
                *max = if *score > *max { *score } else { *max };
            }
        }
        let mut decay = self.max;
        for (decay, max) in decay.iter_mut().zip(&max) {
            *decay = exp(*decay - max);
        }
        [max, decay]
    }

    /// Brings what was summed before to the new maximum, and adds what the new weights come to.
    #[inline(always)]
    pub(super) fn settle(&mut self, [max, decay]: [[f32; LANES]; 2], total: &[f32; LANES], sums: &mut [f32]) {
        for ((sum, decay), total) in self.sum.iter_mut().zip(&decay).zip(total) {
            *sum = *sum * decay + total;
        }
        for row in sums.as_chunks_mut::<LANES>().0 {
            for (sum, decay) in row.iter_mut().zip(&decay) {
                *sum *= decay;
            }
        }
        self.max = max;
    }
}

impl Task<'_> {
    fn run(&self, level: Level, s: &mut Scratch, out: Block<'_>) {
        let head_dim = self.p.head_dim as usize;
        let panel_len = head_dim * LANES;
        let panels = self.count.div_ceil(LANES);
        let together = keys_together(head_dim);
        let parts = head_dim.div_ceil(DEPTH);
        s.keys.resize(s.keys.len().max(parts * together * PITCH), 0.0);
        s.values.resize(s.values.len().max(together * head_dim), 0.0);
        s.scores.resize(s.scores.len().max(together * LANES), 0.0);
        s.sums.clear();
        s.sums.resize(panels * panel_len, 0.0);
        s.panels.clear();
        s.panels.resize(panels, Softmax::NONE);
        self.pack_queries(panels, &mut s.queries);
        let seen = self.seen();
        for first_key in (0..seen).step_by(together) {
            if self.cancel.is_cancelled() {
                return;
            }
            let count = together.min(seen - first_key);
            self.pack_keys(first_key, count, together, s);
            for (panel, softmax) in s.panels.iter_mut().enumerate() {
                let scores = &mut s.scores[..count * LANES];
                for part in 0..parts {
                    let (start, end) = (part * DEPTH, head_dim.min((part + 1) * DEPTH));
                    let queries = &s.queries[panel * panel_len + start * LANES..][..(end - start) * LANES];
                    let keys = Operand::Rows(&s.keys[part * together * PITCH..]);
                    tiles(level, keys, queries, end - start, &mut Block::of(scores, LANES), part > 0);
                }
                if self.causal {
                    mask(scores, first_key, self.first + panel * LANES);
                }
                let sums = &mut s.sums[panel * panel_len..(panel + 1) * panel_len];
                weigh(scores, softmax, sums);
                tiles(level, Operand::Columns(&s.values, head_dim), scores, count, &mut Block::of(sums, LANES), true);
            }
        }
        self.finish(&s.sums, &s.panels, out);
    }

    /// Keys that some query sees.
    pub(super) fn seen(&self) -> usize {
        let keys = self.p.keys as usize;
        if self.causal { keys.min(self.first + self.count) } else { keys }
    }

    /// Sums of each panel `[head_dim, LANES]`, divided by what the weights add up to.
    pub(super) fn finish(&self, sums: &[f32], panels: &[Softmax], mut out: Block<'_>) {
        let panel_len = self.p.head_dim as usize * LANES;
        for (query, softmax) in (0..self.count).map(|query| (query, &panels[query / LANES])) {
            let sums = &sums[query / LANES * panel_len + query % LANES..];
            let total = softmax.sum[query % LANES];
            for (out, sum) in out.row(query).iter_mut().zip(sums.iter().step_by(LANES)) {
                *out = sum / total;
            }
        }
    }

    /// Transposed and scaled; zeros where there are fewer queries.
    fn pack_queries(&self, panels: usize, packed: &mut Lines<f32>) {
        let (head_dim, stride) = (self.p.head_dim as usize, self.p.q_stride as usize);
        packed.clear();
        packed.resize(panels * head_dim * LANES, 0.0);
        let first_row = self.image * self.p.queries as usize + self.first;
        for query in 0..self.count {
            let start = (first_row + query) * stride + self.p.q_offset as usize + self.head * head_dim;
            let to = &mut packed[query / LANES * head_dim * LANES + query % LANES..];
            for (to, value) in to.iter_mut().step_by(LANES).zip(&self.operands.q[start..start + head_dim]) {
                *to = value * self.p.scale;
            }
        }
    }

    fn pack_keys(&self, first: usize, count: usize, together: usize, s: &mut Scratch) {
        let (p, head_dim) = (self.p, self.p.head_dim as usize);
        for key in 0..count {
            let row = self.image * p.keys as usize + first + key;
            let start = row * p.k_stride as usize + p.k_offset as usize + self.head * head_dim;
            for (part, from) in self.operands.k[start..start + head_dim].chunks(DEPTH).enumerate() {
                s.keys[(part * together + key) * PITCH..][..from.len()].copy_from_slice(from);
            }
            let start = row * p.v_stride as usize + p.v_offset as usize + self.head * head_dim;
            s.values[key * head_dim..(key + 1) * head_dim].copy_from_slice(&self.operands.v[start..start + head_dim]);
        }
    }
}

/// Hides the keys behind each query: the smallest score has no weight beside that of the first key, which all see.
pub(super) fn mask(scores: &mut [f32], first_key: usize, first_query: usize) {
    for (key, row) in (first_key..).zip(scores.as_chunks_mut::<LANES>().0) {
        for (query, score) in (first_query..).zip(row) {
            if key > query {
                *score = f32::MIN;
            }
        }
    }
}

wide! {
    /// Replaces scores by `exp(score - max)`, and brings what was summed before to the new maximum.
    fn weigh(scores: &mut [f32], softmax: &mut Softmax, sums: &mut [f32]) {
        let rows = scores.as_chunks_mut::<LANES>().0;
        let [max, decay] = softmax.raised(rows);
        let mut total = [0.0; LANES];
        for row in rows.iter_mut() {
            for ((score, max), total) in row.iter_mut().zip(&max).zip(&mut total) {
                *score = exp(*score - max);
                *total += *score;
            }
        }
        softmax.settle([max, decay], &total, sums);
    }
}
