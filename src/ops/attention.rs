//! Attention in one kernel: `out[n, i, head] = Σ_j softmax_j(q[n, i, head] · k[n, j, head] / √d) v[n, j, head]`.
//!
//! Keys are visited in blocks with a running maximum and a running sum (Milakov and Gimelshein 2018; Dao et al. 2022,
//! FlashAttention, algorithm 1), so the scores of a query never exist all at once.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Rows, multiply, multiply_add};
use super::{exp, expect, expect_quads, expect_view};
use crate::Result;
use crate::record::{Caps, HostCall, Kernel, Recording, Tensor, Variant};

/// What an attention does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Heads; each owns neighbouring channels.
    pub heads: usize,
    /// Whether a query sees only keys at its own position and before.
    pub causal: bool,
}

/// Records softmax(q kᵀ / √d) v per head, d = c / heads. `q` is `[n, .., t_q, c]`, `k` and `v` `[n, .., t_k, c]`; each may
/// be a channel view (of one fused product). The result has the shape of `q`, without gaps.
///
/// # Errors
/// When the shapes differ in images or channels, `k` and `v` in tokens, an operand is empty, or a head does not have a
/// multiple of 4 channels up to 512.
pub fn attention(rec: &mut Recording, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Result<Tensor> {
    let Attention { heads, causal } = attention;
    let c = q.shape.c;
    for (name, tensor) in [("q", q), ("k", k), ("v", v)] {
        expect_view("attention", name, tensor)?;
    }
    expect("attention", "heads", heads > 0 && c.is_multiple_of(heads), || {
        format!("a divisor of {c} channels, got {heads}")
    })?;
    let head_dim = c / heads;
    expect_quads("attention", "q (per head)", head_dim)?;
    expect("attention", "q", head_dim <= 512, || format!("at most 512 channels per head, got {head_dim}"))?;
    expect("attention", "k", k.shape.n == q.shape.n && k.shape.c == c, || {
        format!("[{}, .., tokens, {c}], got {}", q.shape.n, k.shape)
    })?;
    expect("attention", "v", v.shape == k.shape, || format!("the shape of k, {}, got {}", k.shape, v.shape))?;
    expect("attention", "q", q.shape.n.max(heads) <= 65_535, || {
        format!("at most 65535 images and heads, got {} and {heads}", q.shape.n)
    })?;

    let out = rec.tensor(q.shape);
    let (queries, keys) = (q.shape.h * q.shape.w, k.shape.h * k.shape.w);
    let tile = choose(&rec.caps, head_dim, queries, q.shape.n * heads);
    let mut variant = Variant { constants: tile.constants(), ..Variant::default() };
    if causal {
        variant.flags.push("CAUSAL");
    }
    if tile.depth == tile.head_quads {
        variant.flags.push("QUERIES_STAY");
    }
    let params = Params {
        queries: queries as u32,
        keys: keys as u32,
        heads: heads as u32,
        scale: (head_dim as f32).sqrt().recip(),
        q_stride: q.row_stride as u32,
        q_offset: q.channel_offset as u32,
        k_stride: k.row_stride as u32,
        k_offset: k.channel_offset as u32,
        v_stride: v.row_stride as u32,
        v_offset: v.channel_offset as u32,
        head_dim: head_dim as u32,
        pad: 0,
    };
    // Two products, and about five operations per score for the softmax.
    let scores = (q.shape.n * heads * queries) as u64 * keys as u64;
    let flops = scores * (4 * head_dim as u64 + 5) / if causal { 2 } else { 1 };
    let grid = [(queries as u32).div_ceil(tile.queries()), heads as u32, q.shape.n as u32];
    rec.dispatch(&KERNEL, variant, &params, &[("q", q), ("k", k), ("v", v)], out, grid, flops);
    Ok(out)
}

/// See `shaders/attention.wgsl`.
pub(super) const KERNEL: Kernel =
    Kernel { stem: "attention", source: include_str!("../../shaders/attention.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
    q_stride: u32,
    q_offset: u32,
    k_stride: u32,
    k_offset: u32,
    v_stride: u32,
    v_offset: u32,
    head_dim: u32,
    pad: u32,
}

/// How `shaders/attention.wgsl` divides its work: a workgroup of `across` × `down` invocations owns `4 · down` queries of
/// a head and visits `4 · across` keys at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    /// Vectors of four channels in a head.
    head_quads: u32,
    across: u32,
    down: u32,
    /// Vectors of q and k that workgroup memory holds at a time; when that is the whole head, q is loaded once.
    depth: u32,
    /// Rows of v that workgroup memory holds at a time: a divisor of the keys, and a multiple of 4.
    value_keys: u32,
}

impl Tile {
    fn queries(self) -> u32 {
        4 * self.down
    }

    fn keys(self) -> u32 {
        4 * self.across
    }

    /// Vectors of the tile that keys and values share in turn.
    fn shared_quads(self) -> u32 {
        let value_pitch = self.head_quads.next_multiple_of(self.across);
        (self.keys() * (self.depth | 1)).max(self.value_keys * value_pitch)
    }

    /// Bytes of workgroup memory, as the kernel declares it.
    fn bytes(self) -> u32 {
        let query_tile = self.queries() * (self.depth | 1);
        let weight_tile = self.queries() * (self.across | 1);
        16 * (query_tile + weight_tile + self.shared_quads() + self.across * self.down)
    }

    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![
            ("HEAD_QUADS", self.head_quads),
            ("ACROSS", self.across),
            ("DOWN", self.down),
            ("DEPTH", self.depth),
            ("VALUE_KEYS", self.value_keys),
            ("SHARED_QUADS", self.shared_quads()),
        ]
    }
}

/// The largest tile that fits into workgroup memory, preferring to keep q there, but into 32 KiB of it, so that a GPU
/// keeps two workgroups or more on each of its cores (64 to 128 KiB); fewer queries per workgroup when there
/// would be too few workgroups to keep a GPU busy.
fn choose(caps: &Caps, head_dim: usize, queries: usize, heads: usize) -> Tile {
    let head_quads = head_dim as u32 / 4;
    let across = across(head_quads);
    let bytes = caps.max_workgroup_bytes.min(32 << 10);
    let few = queries.div_ceil(64) * heads < 64;
    let most = if few { 8 } else { 16 };
    let mut tile = Tile { head_quads, across, down: 1, depth: head_quads.min(4), value_keys: 4 };
    for down in [16, 8, 4, 2, 1] {
        if down > most || down * across > caps.max_invocations.min(256) {
            continue;
        }
        for steps in [1, 2, 4, 8, 16, 32] {
            let depth = head_quads.div_ceil(steps);
            tile = Tile { head_quads, across, down, depth, value_keys: value_keys(head_quads, across, depth) };
            if depth >= 4.min(head_quads) && tile.bytes() <= bytes {
                return tile;
            }
        }
    }
    tile
}

/// The most rows of v that need no more room than the keys do, or 4.
fn value_keys(head_quads: u32, across: u32, depth: u32) -> u32 {
    let (keys, pitch) = (4 * across, head_quads.next_multiple_of(across));
    let fits = |rows: &u32| keys.is_multiple_of(*rows) && rows * pitch <= keys * (depth | 1);
    (4..=keys).rev().step_by(4).find(fits).unwrap_or(4)
}

/// Invocations side by side: those that leave the fewest idle over a head's vectors, with at most 4 vectors each.
fn across(head_quads: u32) -> u32 {
    if head_quads <= 4 {
        return 4;
    }
    let padded = |across: u32| head_quads.next_multiple_of(across);
    let few_registers = |across: &u32| head_quads.div_ceil(*across) <= 4;
    [8, 10, 12, 16, 32].into_iter().filter(few_registers).min_by_key(|&a| (padded(a), a)).unwrap_or(32)
}

/// Queries and keys that the host treats at a time: their scores stay in a core's cache.
const HOST_QUERIES: usize = 64;
const HOST_KEYS: usize = 512;

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let causal = call.variant.has("CAUSAL");
    let (q, k, v) = (call.read("q"), call.read("k"), call.read("v"));
    let (queries, keys, channels) = (p.queries as usize, p.keys as usize, (p.heads * p.head_dim) as usize);
    let block = queries.div_ceil(2 * rayon::current_num_threads()).clamp(1, HOST_QUERIES);
    call.out().par_chunks_mut(queries * channels).enumerate().for_each(|(image, out)| {
        let k = &k[image * keys * p.k_stride as usize + p.k_offset as usize..];
        let v = &v[image * keys * p.v_stride as usize + p.v_offset as usize..];
        out.par_chunks_mut(block * channels).enumerate().for_each_init(Softmax::default, |state, (index, out)| {
            let first = index * block;
            let q = &q[(image * queries + first) * p.q_stride as usize + p.q_offset as usize..];
            for head in 0..p.heads as usize {
                let start = head * p.head_dim as usize;
                let seen = causal.then_some(first);
                state.attend(&p, &q[start..], &k[start..], &v[start..], &mut out[start..], seen);
            }
        });
    });
}

/// The state of one block of queries while it visits the keys.
#[derive(Default)]
struct Softmax {
    scores: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

impl Softmax {
    /// One head of a block of queries: all slices start at the head's first channel. With `causal`, the position of the
    /// block's first query.
    fn attend(&mut self, p: &Params, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], causal: Option<usize>) {
        let (head_dim, channels) = (p.head_dim as usize, (p.heads * p.head_dim) as usize);
        let rows = out.len().div_ceil(channels);
        let keys = causal.map_or(p.keys as usize, |first| (first + rows).min(p.keys as usize));
        self.max.clear();
        self.max.resize(rows, f32::MIN);
        self.sum.clear();
        self.sum.resize(rows, 0.0);
        for row in out.chunks_mut(channels) {
            row[..head_dim].fill(0.0);
        }
        for first_key in (0..keys).step_by(HOST_KEYS) {
            let width = HOST_KEYS.min(keys - first_key);
            self.scores.resize(rows * width, 0.0);
            let queries = Rows { values: q, stride: p.q_stride as usize };
            let block = Rows { values: &k[first_key * p.k_stride as usize..], stride: p.k_stride as usize };
            multiply(rows, width, head_dim, queries, block, &mut self.scores, width);
            for (row, scores) in self.scores.chunks_exact_mut(width).enumerate() {
                let seen = causal.map_or(width, |first| (first + row + 1).saturating_sub(first_key).min(width));
                let (seen, masked) = scores.split_at_mut(seen);
                masked.fill(0.0);
                // The first key is visible to every query, so max is a score from the first block on.
                let max = largest(seen, p.scale).max(self.max[row]);
                let decay = exp(self.max[row] - max);
                self.sum[row] = self.sum[row] * decay + weigh(seen, p.scale, max);
                self.max[row] = max;
                if first_key > 0 {
                    out[row * channels..row * channels + head_dim].iter_mut().for_each(|v| *v *= decay);
                }
            }
            let weights = Rows { values: &self.scores, stride: width };
            let block = Rows { values: &v[first_key * p.v_stride as usize..], stride: p.v_stride as usize };
            multiply_add(rows, head_dim, width, weights, block, out, channels);
        }
        for (row, sum) in out.chunks_mut(channels).zip(&self.sum) {
            row[..head_dim].iter_mut().for_each(|v| *v /= sum);
        }
    }
}

/// The largest of `scale · scores`, in eight interleaved parts.
fn largest(scores: &[f32], scale: f32) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (head, tail) = scores.as_chunks::<8>();
    let mut parts = [f32::MIN; 8];
    for chunk in head {
        for (part, score) in parts.iter_mut().zip(chunk) {
            *part = larger(score * scale, *part);
        }
    }
    let tail = tail.iter().map(|score| score * scale).fold(f32::MIN, larger);
    parts.into_iter().fold(tail, larger)
}

/// Replaces each score by `exp(scale · score - max)` and returns their sum.
fn weigh(scores: &mut [f32], scale: f32, max: f32) -> f32 {
    let (head, tail) = scores.as_chunks_mut::<8>();
    let mut parts = [0.0; 8];
    for chunk in head {
        for (part, score) in parts.iter_mut().zip(chunk) {
            *score = exp(*score * scale - max);
            *part += *score;
        }
    }
    let mut sum: f32 = parts.iter().sum();
    for score in tail {
        *score = exp(*score * scale - max);
        sum += *score;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_fits_the_smallest_device() {
        for bytes in [16 << 10, 32 << 10, 48 << 10] {
            let caps = Caps { max_workgroup_bytes: bytes, ..Caps::webgpu() };
            for head_dim in (4..=512).step_by(4) {
                for (queries, heads) in [(1, 1), (77, 8), (4096, 16)] {
                    let tile = choose(&caps, head_dim, queries, heads);
                    assert!(tile.bytes() <= bytes, "{head_dim}: {tile:?} needs {} bytes", tile.bytes());
                    assert!(tile.across * tile.down <= 256, "{head_dim}: {tile:?}");
                    assert!(
                        tile.keys().is_multiple_of(tile.value_keys) && tile.value_keys.is_multiple_of(4),
                        "{head_dim}: {tile:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn tiles_of_stable_diffusion() {
        let caps = Caps { max_workgroup_bytes: 32 << 10, ..Caps::webgpu() };
        for head_dim in [8, 16, 32, 40, 64, 80, 128, 160, 512] {
            let tile = choose(&caps, head_dim, 4096, 16);
            assert!(tile.head_quads.div_ceil(tile.across) <= 4, "{head_dim}: {tile:?} spills registers");
        }
    }
}
