//! Merging similar tokens before an attention and giving each what its slot got (Bolya and Hoffman, "Token Merging for Fast Stable Diffusion",
//! CVPR Workshops 2023, arXiv 2303.17604, and their code, tomesd).
//!
//! One token of each cell of 2×2 is a destination. Of the others, the ones most similar to a destination are merged into it; a merged token is the
//! mean of its members. Attention does not depend on the order of its tokens, so destinations come first, then the others by falling similarity.

use bytemuck::{Pod, Zeroable};

use super::{WORKGROUP, expect, expect_dense, fold_grid};
use crate::Result;
use crate::ops::host::token_merging as host;
use crate::record::{Kernel, Recording, Shape, Tensor, Variant};

/// Which slot each token of each image has.
#[derive(Debug, Clone, Copy)]
pub struct MergedTokens {
    /// `[n, 1, tokens, 4]` in f32, the slot in the first channel.
    slots: Tensor,
    /// Of an image.
    count: usize,
}

/// Most tokens of an image, whose numbers f32 holds.
const MOST: usize = 1 << 24;

/// Finds for every token of `x` `[n, h, w, c]` its slot when `merged` tokens of each image are merged into others: the cosine of their vectors
/// tells how similar they are. `seed` chooses the destinations. `None` where nothing is to be merged: `merged` is 0, or there is no cell of 2×2.
/// At most all tokens but the destinations are merged.
///
/// # Errors
/// When `x` is empty, has gaps, more than 2^24 pixels, or channels that are not a multiple of 4.
pub fn match_tokens(rec: &mut Recording, x: Tensor, merged: usize, seed: u32) -> Result<Option<MergedTokens>> {
    expect_dense("match_tokens", "x", x)?;
    let Shape { n, h, w, c } = x.shape;
    let (tokens, cells) = (h * w, (h / 2) * (w / 2));
    expect("match_tokens", "x", tokens <= MOST && n <= 65_535, || {
        format!("at most {MOST} pixels and 65535 images, got {}", x.shape)
    })?;
    let merged = merged.min(tokens - cells);
    if merged == 0 || cells == 0 {
        return Ok(None);
    }
    rec.in_f32(|rec| {
        let of_tokens = Shape::tokens(n, tokens, 4);
        let matches = rec.tensor(of_tokens);
        let params = MatchParams { height: h as u32, width: w as u32, quads: (c / 4) as u32, seed };
        let grid = [tokens.div_ceil(MATCH_BLOCK) as u32, n as u32, 1];
        let flops = 2 * (n * tokens) as u64 * cells as u64 * c as u64;
        rec.dispatch(&MATCH, Variant::default(), &params, &[("x", x)], matches, grid, flops);
        let slots = rec.tensor(of_tokens);
        let params = SlotParams { tokens: tokens as u32, cells: cells as u32, merged: merged as u32, pad: 0 };
        let grid = [tokens.div_ceil(WORKGROUP) as u32, n as u32, 1];
        rec.dispatch(&SLOTS, Variant::default(), &params, &[("x", matches)], slots, grid, 0);
        Ok(Some(MergedTokens { slots, count: tokens - merged }))
    })
}

/// Records the tokens of `x` in their slots, `[n, 1, slots, c]`: the mean of those that share one.
///
/// # Errors
/// When `x` is not what the slots are of, or has gaps.
pub fn merge_tokens(rec: &mut Recording, x: Tensor, by: &MergedTokens) -> Result<Tensor> {
    expect_dense("merge_tokens", "x", x)?;
    by.expect_of("merge_tokens", x)?;
    let (n, quads) = (x.shape.n, x.shape.c / 4);
    let out = rec.tensor(Shape::tokens(n, by.count, x.shape.c));
    let blocks = quads.div_ceil(MERGE_BLOCK);
    let all = n * by.count * blocks;
    let params = MergeParams {
        tokens: by.tokens() as u32,
        slots: by.count as u32,
        quads: quads as u32,
        blocks: blocks as u32,
        all: all as u32,
        pad: [0; 3],
    };
    let grid = fold_grid(&rec.caps, all);
    let flops = x.shape.len() as u64;
    rec.dispatch(&MERGE, Variant::default(), &params, &[("x", x), ("slot", by.slots)], out, grid, flops);
    Ok(out)
}

/// Records `x[token] + y[slot of the token]`: `x` is `[n, h, w, c]`, `y` what was made of merged tokens, `[n, 1, slots, c]`.
///
/// # Errors
/// When the shapes are not those, or an operand has gaps.
pub fn unmerge_tokens(rec: &mut Recording, x: Tensor, y: Tensor, by: &MergedTokens) -> Result<Tensor> {
    expect_dense("unmerge_tokens", "x", x)?;
    expect_dense("unmerge_tokens", "y", y)?;
    by.expect_of("unmerge_tokens", x)?;
    let slots = Shape::tokens(x.shape.n, by.count, x.shape.c);
    expect("unmerge_tokens", "y", y.shape == slots, || format!("{slots}, got {}", y.shape))?;
    let out = rec.tensor_for(x.shape, &[x, y]);
    let all_quads = x.shape.len() / 4;
    let params = UnmergeParams {
        all_quads: all_quads as u32,
        tokens: by.tokens() as u32,
        slots: by.count as u32,
        quads: (x.shape.c / 4) as u32,
    };
    let grid = fold_grid(&rec.caps, all_quads.div_ceil(WORKGROUP));
    let reads = [("x", x), ("y", y), ("slot", by.slots)];
    rec.dispatch(&UNMERGE, Variant::default(), &params, &reads, out, grid, x.shape.len() as u64);
    Ok(out)
}

impl MergedTokens {
    /// The slots as a tensor, for tests: `[n, 1, tokens, 4]`, the slot in the first channel.
    pub fn slots(&self) -> Tensor {
        self.slots
    }

    /// Slots of an image.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Of an image.
    fn tokens(&self) -> usize {
        self.slots.shape.w
    }

    fn expect_of(&self, op: &'static str, x: Tensor) -> Result<()> {
        let fits = x.shape.n == self.slots.shape.n && x.shape.h * x.shape.w == self.tokens();
        expect(op, "x", fits, || format!("{} images of {} tokens, got {}", self.slots.shape.n, self.tokens(), x.shape))
    }
}

/// Tokens of a workgroup of `token_match.wgsl`.
const MATCH_BLOCK: usize = 32;

/// Quads of a workgroup of `token_merge.wgsl`.
const MERGE_BLOCK: usize = 64;

/// See `shaders/token_match.wgsl`.
pub(super) const MATCH: Kernel =
    Kernel { stem: "token_match", source: include_str!("../../shaders/token_match.wgsl"), host: host::find };

/// See `shaders/token_slots.wgsl`.
pub(super) const SLOTS: Kernel =
    Kernel { stem: "token_slots", source: include_str!("../../shaders/token_slots.wgsl"), host: host::slots };

/// See `shaders/token_merge.wgsl`.
pub(super) const MERGE: Kernel =
    Kernel { stem: "token_merge", source: include_str!("../../shaders/token_merge.wgsl"), host: host::merge };

/// See `shaders/token_unmerge.wgsl`.
pub(super) const UNMERGE: Kernel =
    Kernel { stem: "token_unmerge", source: include_str!("../../shaders/token_unmerge.wgsl"), host: host::unmerge };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct MatchParams {
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) quads: u32,
    pub(super) seed: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct SlotParams {
    pub(super) tokens: u32,
    pub(super) cells: u32,
    pub(super) merged: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct MergeParams {
    pub(super) tokens: u32,
    pub(super) slots: u32,
    pub(super) quads: u32,
    blocks: u32,
    all: u32,
    pad: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct UnmergeParams {
    all_quads: u32,
    pub(super) tokens: u32,
    pub(super) slots: u32,
    pub(super) quads: u32,
}
