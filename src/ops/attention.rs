//! Attention in one kernel: `out[n, i, head] = Σ_j softmax_j(q[n, i, head] · k[n, j, head] / √d) v[n, j, head]`.
//!
//! Keys are visited in blocks with a running maximum and a running sum (Milakov and Gimelshein 2018; Dao et al. 2022,
//! FlashAttention, algorithm 1), so the scores of a query never exist all at once.

use bytemuck::{Pod, Zeroable};

use super::attention_coop::Matrices;
use super::{expect, expect_quads, expect_view};
use crate::ops::host::attention::host;
use crate::ops::product::class::CHOSEN_FOR;
use crate::record::{AdapterKind, BF16, Caps, DType, Kernel, Products, Recording, Tensor, Variant, Vendor};
use crate::{Error, Remedy, Result};

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
/// multiple of 4 channels up to 512. [`Error::Unsupported`] when a software adapter would give up before the last key.
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
    let one_type = [k, v].iter().all(|operand| rec.dtype(*operand) == rec.dtype(q));
    let quad_bytes = if one_type { rec.dtype(q).bytes(4) as u32 } else { 16 };
    let split = !one_type || rec.dtype(q) == DType::F32;
    let way = Way::choose(&rec.caps, head_dim, queries, CHOSEN_FOR * heads, quad_bytes, split);
    if rec.caps.kind == AdapterKind::Software && way.turns(keys as u32) > TURNS {
        let what = format!("attention to {keys} tokens of {head_dim} channels: it ends loops after {TURNS} turns");
        return Err(Error::unsupported(&rec.caps.name, what).advise([Remedy::Processor, Remedy::SmallerSize]));
    }
    let mut variant = Variant { constants: way.constants(), ..Variant::default() };
    if let Way::Matrices(matrices) = way {
        variant.flags.extend(matrices.flags());
        variant.flags.extend(rec.caps.matrix_quads.then_some("MATRIX_QUADS"));
    }
    if causal {
        variant.flags.push("CAUSAL");
    }
    variant.flags.extend((rec.caps.products == Products::Bf16).then_some(BF16));
    if way.queries_stay() {
        variant.flags.push("QUERIES_STAY");
    }
    if one_type && matches!(way, Way::Tiled(_)) {
        variant.flags.push("OPERANDS_STAY");
        if rec.dtype(q) == DType::F16 {
            variant.flags.push(if rec.caps.packs_f16() { "PACKED" } else { "WORDS" });
        }
    }
    if matches!(way, Way::Tiled(_)) && rec.caps.vendor == Vendor::Intel {
        variant.flags.push("APART");
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
    let grid = [(queries as u32).div_ceil(way.queries()), heads as u32, q.shape.n as u32];
    rec.dispatch(way.kernel(), variant, &params, &[("q", q), ("k", k), ("v", v)], out, grid, flops);
    Ok(out)
}

/// See `shaders/attention.wgsl`.
pub(super) const KERNEL: Kernel =
    Kernel { stem: "attention", source: include_str!("../../shaders/attention.wgsl"), host };

/// See `shaders/attention_direct.wgsl`.
pub(super) const DIRECT: Kernel =
    Kernel { stem: "attention_direct", source: include_str!("../../shaders/attention_direct.wgsl"), host };

/// See `shaders/attention_coop.wgsl`.
pub(super) const COOP: Kernel =
    Kernel { stem: "attention_coop", source: include_str!("../../shaders/attention_coop.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) queries: u32,
    pub(super) keys: u32,
    pub(super) heads: u32,
    pub(super) scale: f32,
    pub(super) q_stride: u32,
    pub(super) q_offset: u32,
    pub(super) k_stride: u32,
    pub(super) k_offset: u32,
    pub(super) v_stride: u32,
    pub(super) v_offset: u32,
    pub(super) head_dim: u32,
    pad: u32,
}

/// Turns of all loops of an invocation after which Mesa's software driver ends them, and goes on as if they had ended by themselves
/// (`LP_MAX_TGSI_LOOP_ITERATIONS`, gallivm/lp_bld_limits.h, in Debian 12's 22.3). No other software driver is asked for more.
const TURNS: u64 = 65_535;

/// One way of computing attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tiled(Tile),
    Direct(Direct),
    Matrices(Matrices),
}

impl Way {
    /// `heads` is their number in [`CHOSEN_FOR`] images, `quad_bytes` what four values take in workgroup memory, `split` whether an operand is f32.
    fn choose(caps: &Caps, head_dim: usize, queries: usize, heads: usize, quad_bytes: u32, split: bool) -> Self {
        let direct = Direct::choose(caps, head_dim, queries).map(Way::Direct);
        let matrices = || match caps.kind {
            AdapterKind::Software => None,
            _ => Matrices::choose(caps, head_dim, queries, heads, split).map(Way::Matrices),
        };
        let tiled = || Way::Tiled(choose(caps, head_dim, queries, heads, quad_bytes));
        direct.or_else(matrices).unwrap_or_else(tiled)
    }

    fn kernel(self) -> &'static Kernel {
        match self {
            Way::Tiled(_) => &KERNEL,
            Way::Direct(_) => &DIRECT,
            Way::Matrices(_) => &COOP,
        }
    }

    /// Queries of a workgroup.
    fn queries(self) -> u32 {
        match self {
            Way::Tiled(tile) => tile.queries(),
            Way::Direct(direct) => direct.own * direct.lanes,
            Way::Matrices(matrices) => matrices.queries(),
        }
    }

    /// Turns of an invocation's loops for so many keys, at most; loops over constants of a few are written out by every compiler.
    fn turns(self, keys: u32) -> u64 {
        let (at_once, head_quads, own) = match self {
            Way::Tiled(tile) => (4 * tile.across, tile.head_quads, 1),
            Way::Direct(direct) => (direct.lanes * direct.blocks, direct.head_quads, direct.own),
            Way::Matrices(_) => return 0,
        };
        // Scores and sums go over the channels.
        u64::from(keys.div_ceil(at_once)) * u64::from(1 + 2 * head_quads) + u64::from(own * (1 + head_quads))
    }

    fn queries_stay(self) -> bool {
        matches!(self, Way::Tiled(tile) if tile.depth == tile.head_quads)
    }

    fn constants(self) -> Vec<(&'static str, u32)> {
        match self {
            Way::Tiled(tile) => tile.constants(),
            Way::Direct(direct) => direct.constants(),
            Way::Matrices(matrices) => matrices.constants(),
        }
    }
}

/// How `shaders/attention_direct.wgsl` divides its work: a subgroup of `lanes` owns `own · lanes` queries of a head and visits
/// `lanes · blocks` keys at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Direct {
    /// Vectors of four channels in a head.
    head_quads: u32,
    lanes: u32,
    own: u32,
    blocks: u32,
}

impl Direct {
    /// For software adapters whose subgroups are all of one size. More queries and keys at a time divide what loads cost among
    /// more products, and take longer to compile (under a second with 128 weights of each lane).
    fn choose(caps: &Caps, head_dim: usize, queries: usize) -> Option<Self> {
        let (least, lanes) = caps.subgroup_size;
        if caps.kind != AdapterKind::Software || !caps.subgroups || least != lanes || !(4..=32).contains(&lanes) {
            return None;
        }
        let head_quads = head_dim as u32 / 4;
        let most = queries.div_ceil(lanes as usize) as u32;
        let of = |own: u32| Direct { head_quads, lanes, own, blocks: ((128 / own).min(64) / lanes).max(1) };
        let fits =
            |direct: &Direct| direct.bytes() <= caps.max_workgroup_bytes && (direct.own <= most || direct.own == 1);
        [4, 2, 1].into_iter().map(of).find(fits)
    }

    /// Bytes of workgroup memory, as the kernel declares it.
    fn bytes(self) -> u32 {
        16 * self.head_quads * self.own * self.lanes
    }

    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![("HEAD_QUADS", self.head_quads), ("LANES", self.lanes), ("OWN", self.own), ("BLOCKS", self.blocks)]
    }
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
    /// Vectors that are loaded from workgroup memory at once: 16 bytes.
    step: u32,
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
        (self.keys() * pitch(self.depth, self.step)).max(self.value_keys * value_pitch)
    }

    /// Bytes of workgroup memory, as the kernel declares it with tiles of `quad_bytes` for four values.
    fn bytes(self, quad_bytes: u32) -> u32 {
        let query_tile = self.queries() * pitch(self.depth, self.step);
        let weight_tile = self.queries() * pitch(self.across, self.step);
        quad_bytes * (query_tile + weight_tile + self.shared_quads()) + 16 * self.across * self.down
    }

    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![
            ("HEAD_QUADS", self.head_quads),
            ("ACROSS", self.across),
            ("DOWN", self.down),
            ("DEPTH", self.depth),
            ("VALUE_KEYS", self.value_keys),
            ("STEP", self.step),
            ("SHARED_QUADS", self.shared_quads()),
        ]
    }
}

/// The largest tile that fits into workgroup memory, preferring to keep q there, but into 32 KiB of it, so that a GPU
/// keeps two workgroups or more on each of its cores (64 to 128 KiB); fewer queries per workgroup when there
/// would be too few workgroups to keep a GPU busy.
fn choose(caps: &Caps, head_dim: usize, queries: usize, heads: usize, quad_bytes: u32) -> Tile {
    let head_quads = head_dim as u32 / 4;
    let across = across(head_quads);
    let bytes = caps.max_workgroup_bytes.min(32 << 10);
    let few = queries.div_ceil(64) * heads < 64;
    let most = if few { 8 } else { 16 };
    let mut tile = Tile { head_quads, across, down: 1, depth: head_quads.min(4), value_keys: 4, step: 1 };
    for down in [16, 8, 4, 2, 1] {
        if down > most || down * across > caps.max_invocations.min(256) {
            continue;
        }
        for steps in [1, 2, 4, 8, 16, 32] {
            let depth = head_quads.div_ceil(steps);
            let pairs = quad_bytes == 8 && head_quads.is_multiple_of(2) && depth.is_multiple_of(2);
            let step = if pairs { 2 } else { 1 };
            tile =
                Tile { head_quads, across, down, depth, value_keys: value_keys(head_quads, across, depth, step), step };
            if depth >= 4.min(head_quads) && tile.bytes(quad_bytes) <= bytes {
                return tile;
            }
        }
    }
    tile
}

/// The vectors of a row in workgroup memory: an odd number of loads, so that neighbouring rows lie in different banks.
fn pitch(vectors: u32, step: u32) -> u32 {
    ((vectors / step) | 1) * step
}

/// The most rows of v that need no more room than the keys do, or the fewest that there can be.
fn value_keys(head_quads: u32, across: u32, depth: u32, step: u32) -> u32 {
    let (keys, values) = (4 * across, head_quads.next_multiple_of(across));
    let fits = |rows: &u32| keys.is_multiple_of(*rows) && rows * values <= keys * pitch(depth, step);
    (1..=keys / (4 * step)).rev().map(|rows| 4 * step * rows).find(fits).unwrap_or(4 * step)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_fits_the_smallest_device() {
        for bytes in [16 << 10, 32 << 10, 48 << 10] {
            let caps = Caps { max_workgroup_bytes: bytes, ..Caps::webgpu() };
            for head_dim in (4..=512).step_by(4) {
                for ((queries, heads), quad) in
                    [(1, 1), (77, 8), (4096, 16)].into_iter().zip([16, 8, 8]).chain([((4096, 16), 16)])
                {
                    let tile = choose(&caps, head_dim, queries, heads, quad);
                    let (needed, head_quads) = (tile.bytes(quad), tile.head_quads);
                    assert!(needed <= bytes, "{head_dim}: {tile:?} needs {needed} bytes");
                    assert!(tile.across * tile.down <= 256, "{head_dim}: {tile:?}");
                    assert!(tile.step == 1 || quad == 8, "{head_dim}: {tile:?}");
                    assert!([head_quads, tile.depth, tile.value_keys / 4].iter().all(|n| n.is_multiple_of(tile.step)));
                    assert!(
                        tile.keys().is_multiple_of(tile.value_keys) && tile.value_keys.is_multiple_of(4),
                        "{head_dim}: {tile:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn software_adapters_share_nothing_where_subgroups_have_one_size() {
        let software = |lanes| Caps {
            kind: AdapterKind::Software,
            subgroups: true,
            subgroup_size: (lanes, lanes),
            max_workgroup_bytes: 32 << 10,
            ..Caps::webgpu()
        };
        let own = |caps: &Caps, head_dim, queries| Direct::choose(caps, head_dim, queries).map(|direct| direct.own);
        for lanes in [4, 8, 16, 32] {
            for head_dim in (4..=512).step_by(4) {
                let caps = software(lanes);
                let fits = |own| 4 * head_dim as u32 * own * lanes <= caps.max_workgroup_bytes;
                let most = [4, 2, 1].into_iter().find(|&own| fits(own));
                assert_eq!(own(&caps, head_dim, 4096), most, "{lanes} lanes, {head_dim} channels");
            }
        }
        assert_eq!(own(&software(8), 512, 4096), Some(2));
        assert_eq!([1, 8, 9, 17, 25].map(|queries| own(&software(8), 40, queries)), [1, 1, 2, 2, 4].map(Some));
        for other in [
            Caps { kind: AdapterKind::Integrated, ..software(8) },
            Caps { subgroups: false, ..software(8) },
            Caps { subgroup_size: (4, 8), ..software(8) },
            Caps { subgroup_size: (64, 64), ..software(8) },
            Caps { subgroup_size: (0, 0), ..software(8) },
        ] {
            assert_eq!(own(&other, 40, 4096), None, "{other:?}");
        }
    }

    #[test]
    fn tiles_of_stable_diffusion() {
        let caps = Caps { max_workgroup_bytes: 32 << 10, ..Caps::webgpu() };
        for head_dim in [8, 16, 32, 40, 64, 80, 128, 160, 512] {
            let tile = choose(&caps, head_dim, 4096, 16, 16);
            assert!(tile.head_quads.div_ceil(tile.across) <= 4, "{head_dim}: {tile:?} spills registers");
        }
    }
}
