//! Group norm: `out[n, p, c] = (x[n, p, c] - mean) / √(var + eps) · gamma[c] + beta[c]`, then SiLU if asked; mean and
//! (biased) variance over all pixels of image `n` and the channels of `c`'s group.
//!
//! Two dispatches. STATISTICS gives each chunk of pixels and each group its mean and its sum of squared deviations (M2); APPLY
//! joins the chunks (Chan, Golub and LeVeque 1979: no difference of large squares, so a mean far from zero costs no precision)
//! and uses mean and scale as `(x - mean) · scale + beta`, which is exact where a group is constant. A group's channels need not
//! be a multiple of 4: 320 channels in 32 groups are 10 each.
//!
//! Of an image that comes in parts, the host computes the moments over the whole ([`group_moments`]), and APPLY
//! alone is recorded for each part ([`group_norm_by`]).

use std::ops::{Range, RangeInclusive};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Activation, WORKGROUP, expect, expect_quads, expect_vector, expect_view};
use crate::Result;
use crate::ops::host::simd::wide;
use crate::record::{DType, FeatureMap, HostCall, Kernel, Recording, Shape, Tensor, Variant};

/// What a group norm does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Records group norm over (pixels, channels of a group) of each image; `x` is `[n, h, w, c]`, any channel view, gamma and
/// beta are f32 constants `[c]`.
///
/// # Errors
/// When `x` is empty, its channels are not a multiple of 4 and of the groups, or gamma or beta does not fit.
pub fn group_norm(rec: &mut Recording, x: Tensor, gamma: Tensor, beta: Tensor, norm: GroupNorm) -> Result<Tensor> {
    let Shape { n, h, w, c } = x.shape;
    expect_quads("group_norm", "x", c)?;
    expect_view("group_norm", "x", x)?;
    expect("group_norm", "groups", norm.groups > 0 && c.is_multiple_of(norm.groups), || {
        format!("a divisor of {c} channels, got {}", norm.groups)
    })?;
    expect("group_norm", "x", n <= 65_535, || format!("at most 65535 images, got {n}"))?;
    expect_vector("group_norm", "gamma", rec, gamma, c)?;
    expect_vector("group_norm", "beta", rec, beta, c)?;
    let work = Division::of(h * w, c, norm.groups);
    let params = Params::of(x, &work, norm.groups, norm.eps);

    let partial = rec.scratch(Shape::image(n, work.chunks, norm.groups, 2 * work.segments));
    let variant = Variant { constants: work.constants(), ..Variant::default() };
    let grid = [work.blocks as u32, work.chunks as u32, n as u32];
    rec.dispatch(&STATISTICS, variant, &params, &[("x", x)], partial, grid, 7 * x.shape.len() as u64);

    let reads = [("x", x), ("moments_of_chunks", partial), ("gamma", gamma), ("beta", beta)];
    Ok(apply(rec, &reads, &work, params, norm.silu))
}

/// As [`group_norm`] of a part of an image whose [`group_moments`] are known: `x` is that part, `moments` `[n, 1, 2, c]`.
///
/// # Errors
/// When `x` is empty, its channels are not a multiple of 4, or moments or beta does not fit.
pub fn group_norm_by(rec: &mut Recording, x: Tensor, moments: Tensor, beta: Tensor, silu: bool) -> Result<Tensor> {
    let Shape { n, h, w, c } = x.shape;
    expect_quads("group_norm", "x", c)?;
    expect_view("group_norm", "x", x)?;
    let fits = moments.shape == Shape::image(n, 1, 2, c) && moments.is_contiguous();
    expect("group_norm", "moments", fits && rec.dtype(moments) == DType::F32, || {
        format!("[{n}, 1, 2, {c}] in f32, got {} in {:?}", moments.shape, rec.dtype(moments))
    })?;
    expect_vector("group_norm", "beta", rec, beta, c)?;
    let work = Division::of(h * w, c, c);
    let params = Params::of(x, &work, c, 0.0);
    Ok(apply(rec, &[("x", x), ("moments", moments), ("beta", beta)], &work, params, silu))
}

fn apply(rec: &mut Recording, reads: &[(&'static str, Tensor)], work: &Division, params: Params, silu: bool) -> Tensor {
    let shape = reads[0].1.shape;
    let out = rec.tensor(shape);
    let activation = if silu { Activation::Silu } else { Activation::None };
    let mut variant = Variant { constants: work.constants(), ..Variant::default() };
    variant.constants.push(("ACTIVATION", activation.code()));
    if reads.iter().any(|(name, _)| *name == "moments") {
        variant.flags.push("GIVEN");
    } else {
        variant.constants.push(("LANES", work.lanes as u32));
    }
    let grid = [work.blocks as u32, (params.pixels as usize).div_ceil(work.span) as u32, shape.n as u32];
    let flops = if silu { 9 } else { 3 } * shape.len() as u64;
    rec.dispatch(&APPLY, variant, &params, reads, out, grid, flops);
    out
}

/// What [`group_norm_by`] takes, `[2, c]`, of a map in host memory: the mean of each channel's group, then
/// `gamma / √(var + eps)`. Sums are f64 and joined in the order of rows, so the result does not depend on the number of cores.
///
/// # Errors
/// When gamma has not one value per channel, or the groups do not divide them.
pub fn group_moments(map: &FeatureMap, gamma: &[f32], norm: GroupNorm) -> Result<Vec<f32>> {
    let channels = map.shape().c;
    let fit = gamma.len() == channels && norm.groups > 0 && channels.is_multiple_of(norm.groups);
    expect("group_moments", "gamma", fit, || {
        format!("{channels} values in groups of one size, got {} in {} groups", gamma.len(), norm.groups)
    })?;
    let of_group = channels / norm.groups;
    let mut totals: Vec<Moments> = (0..norm.groups).map(|_| Moments::default()).collect();
    for row in map.map_rows(|row| row_moments(row, channels)) {
        for (c, moments) in row.iter().enumerate() {
            totals[c / of_group].join(moments.count, moments.mean, moments.m2);
        }
    }
    let mean = |c: usize| totals[c / of_group].mean as f32;
    let scale = |c: usize| (f64::from(gamma[c]) / totals[c / of_group].deviation(norm.eps)) as f32;
    Ok((0..channels).map(mean).chain((0..channels).map(scale)).collect())
}

/// Moments of each channel over some pixels `[pixels, channels]`.
fn row_moments(pixels: &[f32], channels: usize) -> Vec<Moments> {
    let mut sums = Vec::new();
    sum_deviations(pixels, channels, channels, &mut sums);
    let count = pixels.len() / channels;
    let (first, second) = sums.split_at(channels);
    let sums = first.iter().zip(second).map(|(first, second)| [*first, *second]);
    sums.zip(pixels).map(|(sum, &origin)| Moments::of(sum, origin, count)).collect()
}

/// See `shaders/group_norm_statistics.wgsl`.
pub(super) const STATISTICS: Kernel = Kernel {
    stem: "group_norm_statistics",
    source: include_str!("../../shaders/group_norm_statistics.wgsl"),
    host: host_statistics,
};

/// See `shaders/group_norm.wgsl`.
pub(super) const APPLY: Kernel =
    Kernel { stem: "group_norm", source: include_str!("../../shaders/group_norm.wgsl"), host: host_apply };

/// One block for both kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pixels: u32,
    channels: u32,
    chunks: u32,
    chunk_pixels: u32,
    groups: u32,
    segments: u32,
    block: u32,
    span: u32,
    x_stride: u32,
    x_offset: u32,
    eps: f32,
    pad: u32,
}

impl Params {
    fn of(x: Tensor, work: &Division, groups: usize, eps: f32) -> Self {
        Params {
            pixels: (x.shape.h * x.shape.w) as u32,
            channels: x.shape.c as u32,
            chunks: work.chunks as u32,
            chunk_pixels: work.chunk_pixels as u32,
            groups: groups as u32,
            segments: work.segments as u32,
            block: work.block() as u32,
            span: work.span as u32,
            x_stride: x.row_stride as u32,
            x_offset: x.channel_offset as u32,
            eps,
            pad: 0,
        }
    }

    /// The blocks that a group's channels lie in.
    fn blocks_of(&self, group: usize) -> RangeInclusive<usize> {
        let of_group = (self.channels / self.groups) as usize;
        group * of_group / self.block as usize..=((group + 1) * of_group - 1) / self.block as usize
    }

    /// A group's channels in a block.
    fn segment(&self, group: usize, block: usize) -> Range<usize> {
        let (of_group, width) = ((self.channels / self.groups) as usize, self.block as usize);
        (group * of_group).max(block * width)..((group + 1) * of_group).min((block + 1) * width)
    }

    fn pixels_of(&self, chunk: usize) -> usize {
        (self.chunk_pixels as usize).min(self.pixels as usize - chunk * self.chunk_pixels as usize)
    }
}

/// How the work on an image is divided. A workgroup has `across` vectors of channels, a block, by `WORKGROUP / across` pixels at a
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Division {
    across: usize,
    blocks: usize,
    /// Chunks of pixels, each a workgroup of STATISTICS for each block.
    chunks: usize,
    chunk_pixels: usize,
    /// Pixels of a workgroup of APPLY.
    span: usize,
    /// Most blocks that a group lies in.
    segments: usize,
    /// Invocations of APPLY that join the statistics of one group.
    lanes: usize,
}

impl Division {
    /// At least 128 neighbouring bytes per row of reads. STATISTICS takes eight pixels per invocation until there are 256 chunks,
    /// which keeps both the workgroups many and APPLY's joining small: it is done anew in each of its workgroups, which are
    /// made as few as keep a device busy.
    fn of(pixels: usize, channels: usize, groups: usize) -> Self {
        let quads = channels / 4;
        let across = match quads {
            q if q.is_multiple_of(32) => 32,
            q if q > 8 => 16,
            _ => 8,
        };
        let (down, block) = (WORKGROUP / across, 4 * across);
        let blocks = quads.div_ceil(across);
        let wanted = pixels.div_ceil(down * 8).clamp(1, 256);
        let chunk_pixels = pixels.div_ceil(wanted);
        let of_group = channels / groups;
        let of_blocks = |group: usize| ((group + 1) * of_group - 1) / block - group * of_group / block + 1;
        let in_block = |i: usize| (((i + 1) * block).min(channels) - 1) / of_group - i * block / of_group + 1;
        let most_groups = (0..blocks).map(in_block).max().unwrap_or(1);
        Division {
            across,
            blocks,
            chunks: pixels.div_ceil(chunk_pixels),
            chunk_pixels,
            span: down * (pixels * blocks).div_ceil(down * BUSY).max(1),
            segments: (0..groups).map(of_blocks).max().unwrap_or(1),
            lanes: 1 << (WORKGROUP / most_groups).ilog2(),
        }
    }

    /// Channels of a block.
    fn block(&self) -> usize {
        4 * self.across
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        vec![("ACROSS", self.across as u32), ("DOWN", (WORKGROUP / self.across) as u32)]
    }
}

/// Workgroups of APPLY for an image that keep a large GPU busy.
const BUSY: usize = 256;

fn host_statistics(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let x = call.read("x");
    let (channels, pixels, chunks) = (p.channels as usize, p.pixels as usize, p.chunks as usize);
    let width = (2 * p.groups * p.segments) as usize;
    call.out().par_chunks_mut(width).enumerate().for_each_init(Vec::new, |sums, (index, out)| {
        let (image, chunk) = (index / chunks, index % chunks);
        let (first, count) = (image * pixels + chunk * p.chunk_pixels as usize, p.pixels_of(chunk));
        let row = |pixel: usize| &x[pixel * p.x_stride as usize + p.x_offset as usize..][..channels];
        let (stride, start) = (p.x_stride as usize, first * p.x_stride as usize + p.x_offset as usize);
        sum_deviations(&x[start..start + (count - 1) * stride + channels], stride, channels, sums);
        for (group, out) in out.chunks_exact_mut(2 * p.segments as usize).enumerate() {
            for (block, out) in p.blocks_of(group).zip(out.chunks_exact_mut(2)) {
                let mut total = Moments::default();
                for c in p.segment(group, block) {
                    let Moments { count, mean, m2 } = Moments::of([sums[c], sums[channels + c]], row(first)[c], count);
                    total.join(count, mean, m2);
                }
                out.copy_from_slice(&[total.mean as f32, total.m2 as f32]);
            }
        }
    });
}

/// Of each channel the sums of deviations from the first pixel, then of their squares.
///
/// `pixels` begins with the first channel of the first pixel, rows are `stride` apart.
fn sum_deviations(pixels: &[f32], stride: usize, channels: usize, sums: &mut Vec<f64>) {
    sums.clear();
    sums.resize(2 * channels, 0.0);
    let (first, second) = sums.split_at_mut(channels);
    add_deviations(pixels, stride, &pixels[..channels], first, second);
}

wide! {
    /// In the order of memory; the sums stay in the first cache.
    fn add_deviations(pixels: &[f32], stride: usize, origin: &[f32], first: &mut [f64], second: &mut [f64]) {
        // The last row ends with its channels.
        for pixel in pixels.chunks(stride) {
            let values = pixel.iter().zip(origin);
            for ((first, second), (value, origin)) in first.iter_mut().zip(second.iter_mut()).zip(values) {
                let deviation = f64::from(value - origin);
                *first += deviation;
                *second += deviation * deviation;
            }
        }
    }
}

/// Count, mean and sum of squared deviations of a set of values.
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    m2: f64,
}

impl Moments {
    /// Of `count` values, from the sums of their deviations from `origin` and of the squares of those.
    fn of(sums: [f64; 2], origin: f32, count: usize) -> Self {
        let count = count as f64;
        let mean = f64::from(origin) + sums[0] / count;
        Moments { count, mean, m2: (sums[1] - sums[0] * sums[0] / count).max(0.0) }
    }

    fn join(&mut self, count: f64, mean: f64, m2: f64) {
        let total = self.count + count;
        let delta = mean - self.mean;
        self.mean += delta * count / total;
        self.m2 += m2 + delta * delta * self.count * count / total;
        self.count = total;
    }

    fn deviation(&self, eps: f32) -> f64 {
        (self.m2 / self.count + f64::from(eps)).sqrt()
    }
}

fn host_apply(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (x, beta) = (call.read("x"), call.read("beta"));
    let activation = Activation::of_variant(call.variant);
    let (channels, pixels) = (p.channels as usize, p.pixels as usize);
    let joined;
    let moments = match call.try_read("moments") {
        Some(moments) => moments,
        None => {
            joined = host_moments(&p, call.read("moments_of_chunks"), call.read("gamma"));
            &joined
        }
    };
    call.out().par_chunks_mut(channels).enumerate().with_min_len(16).for_each(|(row, out)| {
        let x = &x[row * p.x_stride as usize + p.x_offset as usize..][..channels];
        let moments = &moments[row / pixels * 2 * channels..][..2 * channels];
        normalize(x, moments, beta, activation, out);
    });
}

wide! {
    fn normalize(x: &[f32], moments: &[f32], beta: &[f32], activation: Activation, out: &mut [f32]) {
        let (mean, scale) = moments.split_at(out.len());
        for ((((out, x), mean), scale), beta) in out.iter_mut().zip(x).zip(mean).zip(scale).zip(beta) {
            *out = (x - mean) * scale + beta;
        }
        activation.apply_here(out);
    }
}

/// Mean and scale of each channel, `[images, 2, channels]`.
fn host_moments(p: &Params, partial: &[f32], gamma: &[f32]) -> Vec<f32> {
    let (channels, groups) = (p.channels as usize, p.groups as usize);
    let of_group = channels / groups;
    let (of_segments, of_chunk) = (2 * p.segments as usize, 2 * (p.segments * p.groups) as usize);
    let of_image = |partial: &[f32]| {
        let mut out = vec![0.0; 2 * channels];
        let (means, scales) = out.split_at_mut(channels);
        for group in 0..groups {
            let mut total = Moments::default();
            for (chunk, values) in partial.chunks_exact(of_chunk).enumerate() {
                let values = values[group * of_segments..].chunks_exact(2);
                for (block, moments) in p.blocks_of(group).zip(values) {
                    let count = p.pixels_of(chunk) * p.segment(group, block).len();
                    total.join(count as f64, f64::from(moments[0]), f64::from(moments[1]));
                }
            }
            let deviation = total.deviation(p.eps);
            for c in group * of_group..(group + 1) * of_group {
                means[c] = total.mean as f32;
                scales[c] = (f64::from(gamma[c]) / deviation) as f32;
            }
        }
        out
    };
    partial.par_chunks_exact(p.chunks as usize * of_chunk).flat_map_iter(of_image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_covers_every_image() {
        for pixels in (1..3000).chain([64 * 64, 512 * 512, 768 * 1024, 2048 * 2048]) {
            for (channels, groups) in [(4, 4), (12, 1), (32, 8), (64, 32), (128, 32), (320, 32), (960, 32), (2560, 32)]
            {
                let work = Division::of(pixels, channels, groups);
                assert!(work.chunks * work.chunk_pixels >= pixels, "{pixels}: {work:?}");
                assert!((work.chunks - 1) * work.chunk_pixels < pixels, "{pixels}: an empty chunk in {work:?}");
                assert!(work.chunks <= 256 && pixels.div_ceil(work.span) <= 65_535, "{pixels}: {work:?}");
                let params = Params::of(tensor(pixels, channels), &work, groups, 0.0);
                let mut covered = 0;
                for group in 0..groups {
                    let blocks = params.blocks_of(group);
                    assert!(blocks.clone().count() <= work.segments);
                    covered += blocks.map(|block| params.segment(group, block).len()).sum::<usize>();
                }
                assert_eq!(covered, channels);
                for block in 0..work.blocks {
                    let own = (0..groups).filter(|&group| params.blocks_of(group).contains(&block)).count();
                    assert!(own * work.lanes <= WORKGROUP, "{own} groups in block {block}: {work:?}");
                }
            }
        }
    }

    fn tensor(pixels: usize, channels: usize) -> Tensor {
        Recording::new(&crate::record::Caps::host()).input("x", Shape::image(1, 1, pixels, channels))
    }
}
