//! Group norm: `out[n, p, c] = (x[n, p, c] - mean) / √(var + eps) · gamma[c] + beta[c]`, then SiLU if asked; mean and
//! (biased) variance over all pixels of image `n` and the channels of `c`'s group.
//!
//! Three dispatches. STATISTICS gives each chunk of pixels and each channel its mean and its sum of squared deviations
//! (M2); FOLD joins the chunks of an image and the channels of a group (Chan, Golub and LeVeque 1979: no difference of
//! large squares, so a mean far from zero costs no precision) and gives each channel a mean and a scale; APPLY uses them,
//! as `(x - mean) · scale + beta`, which is exact where a group is constant. A group's channels need not be a multiple of 4: 320 channels in 32 groups are 10 each.
//!
//! Of an image that comes in parts, the host computes the first two thirds over the whole ([`group_moments`]), and APPLY
//! alone is recorded for each part ([`group_norm_by`]).

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::simd::wide;
use super::{Activation, WORKGROUP, expect, expect_dense, expect_vector, fold_grid};
use crate::Result;
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

/// Records group norm over (pixels, channels of a group) of each image; `x` is `[n, h, w, c]` without gaps, gamma and
/// beta are f32 constants `[c]`.
///
/// # Errors
/// When `x` is empty or has gaps, its channels are not a multiple of 4 and of the groups, or gamma or beta does not fit.
pub fn group_norm(rec: &mut Recording, x: Tensor, gamma: Tensor, beta: Tensor, norm: GroupNorm) -> Result<Tensor> {
    let Shape { n, h, w, c } = x.shape;
    expect_dense("group_norm", "x", x)?;
    expect("group_norm", "groups", norm.groups > 0 && c.is_multiple_of(norm.groups), || {
        format!("a divisor of {c} channels, got {}", norm.groups)
    })?;
    expect("group_norm", "x", n.max(norm.groups) <= 65_535, || {
        format!("at most 65535 images and groups, got {n} and {}", norm.groups)
    })?;
    expect_vector("group_norm", "gamma", rec, gamma, c)?;
    expect_vector("group_norm", "beta", rec, beta, c)?;
    let chunks = choose(h * w, c);
    let params = Params {
        pixels: (h * w) as u32,
        channels: c as u32,
        chunks: chunks.count as u32,
        chunk_pixels: chunks.pixels as u32,
        groups: norm.groups as u32,
        quads: (x.shape.len() / 4) as u32,
        eps: norm.eps,
        pad: 0,
    };

    let partial = rec.scratch(Shape::image(n, chunks.count, 2, c));
    let variant = Variant { constants: chunks.constants(), ..Variant::default() };
    let grid = [(c / 4).div_ceil(chunks.across) as u32, chunks.count as u32, n as u32];
    rec.dispatch(&STATISTICS, variant, &params, &[("x", x)], partial, grid, 7 * x.shape.len() as u64);

    let moments = rec.scratch(Shape::image(n, 1, 2, c));
    let reads = [("moments_of_chunks", partial), ("gamma", gamma)];
    let grid = [norm.groups as u32, n as u32, 1];
    rec.dispatch(&FOLD, Variant::default(), &params, &reads, moments, grid, 10 * partial.shape.len() as u64);

    Ok(apply(rec, x, moments, beta, params, norm.silu))
}

/// As [`group_norm`] of a part of an image whose [`group_moments`] are known: `x` is that part, `moments` `[n, 1, 2, c]`.
///
/// # Errors
/// When `x` is empty or has gaps, its channels are not a multiple of 4, or moments or beta does not fit.
pub fn group_norm_by(rec: &mut Recording, x: Tensor, moments: Tensor, beta: Tensor, silu: bool) -> Result<Tensor> {
    let Shape { n, h, w, c } = x.shape;
    expect_dense("group_norm", "x", x)?;
    let fits = moments.shape == Shape::image(n, 1, 2, c) && moments.is_contiguous();
    expect("group_norm", "moments", fits && rec.dtype(moments) == DType::F32, || {
        format!("[{n}, 1, 2, {c}] in f32, got {} in {:?}", moments.shape, rec.dtype(moments))
    })?;
    expect_vector("group_norm", "beta", rec, beta, c)?;
    let (pixels, channels, quads) = ((h * w) as u32, c as u32, (x.shape.len() / 4) as u32);
    Ok(apply(rec, x, moments, beta, Params { pixels, channels, quads, ..Params::zeroed() }, silu))
}

fn apply(rec: &mut Recording, x: Tensor, moments: Tensor, beta: Tensor, params: Params, silu: bool) -> Tensor {
    let out = rec.tensor(x.shape);
    let activation = if silu { Activation::Silu } else { Activation::None };
    let variant = Variant { constants: vec![("ACTIVATION", activation.code())], ..Variant::default() };
    let reads = [("x", x), ("moments", moments), ("beta", beta)];
    let grid = fold_grid(&rec.caps, (x.shape.len() / 4).div_ceil(WORKGROUP));
    let flops = if silu { 9 } else { 3 } * x.shape.len() as u64;
    rec.dispatch(&APPLY, variant, &params, &reads, out, grid, flops);
    out
}

/// What [`group_norm_by`] takes, `[2, c]`, of a map in host memory: the mean of each channel's group, then
/// `gamma / √(var + eps)`. Sums are f64 and joined in the order of rows, so the result does not depend on the number of cores.
///
/// # Panics
/// When gamma has not one value per channel, or the groups do not divide them.
pub fn group_moments(map: &FeatureMap, gamma: &[f32], norm: GroupNorm) -> Vec<f32> {
    let channels = map.shape().c;
    assert!(
        gamma.len() == channels && channels.is_multiple_of(norm.groups),
        "gamma and groups fit {channels} channels"
    );
    let of_group = channels / norm.groups;
    let mut totals: Vec<Moments> = (0..norm.groups).map(|_| Moments::default()).collect();
    for row in map.map_rows(|row| row_moments(row, channels)) {
        for (c, moments) in row.iter().enumerate() {
            totals[c / of_group].join(moments.count, moments.mean, moments.m2);
        }
    }
    let mean = |c: usize| totals[c / of_group].mean as f32;
    let scale = |c: usize| (f64::from(gamma[c]) / totals[c / of_group].deviation(norm.eps)) as f32;
    (0..channels).map(mean).chain((0..channels).map(scale)).collect()
}

/// Moments of each channel over some pixels `[pixels, channels]`.
fn row_moments(pixels: &[f32], channels: usize) -> Vec<Moments> {
    let mut sums = Vec::new();
    sum_deviations(pixels, channels, &mut sums);
    let count = (pixels.len() / channels) as f64;
    let of_channel = |(sum, &origin): (&[f64; 2], &f32)| Moments {
        count,
        mean: f64::from(origin) + sum[0] / count,
        m2: (sum[1] - sum[0] * sum[0] / count).max(0.0),
    };
    sums.iter().zip(pixels).map(of_channel).collect()
}

/// See `shaders/group_norm_statistics.wgsl`.
pub(super) const STATISTICS: Kernel = Kernel {
    stem: "group_norm_statistics",
    source: include_str!("../../shaders/group_norm_statistics.wgsl"),
    host: host_statistics,
};

/// See `shaders/group_norm_fold.wgsl`.
pub(super) const FOLD: Kernel =
    Kernel { stem: "group_norm_fold", source: include_str!("../../shaders/group_norm_fold.wgsl"), host: host_fold };

/// See `shaders/group_norm.wgsl`.
pub(super) const APPLY: Kernel =
    Kernel { stem: "group_norm", source: include_str!("../../shaders/group_norm.wgsl"), host: host_apply };

/// One block for the three kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    pixels: u32,
    channels: u32,
    chunks: u32,
    chunk_pixels: u32,
    groups: u32,
    quads: u32,
    eps: f32,
    pad: u32,
}

/// How the pixels of an image are cut, and how a workgroup of STATISTICS covers a chunk: `across` vectors of channels by
/// `WORKGROUP / across` pixels at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunks {
    count: usize,
    pixels: usize,
    across: usize,
}

impl Chunks {
    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![("ACROSS", self.across as u32), ("DOWN", (WORKGROUP / self.across) as u32)]
    }
}

/// At least 128 neighbouring bytes per row of reads; eight pixels per invocation until there are 512 chunks, which
/// keeps both the workgroups many and FOLD's work small.
fn choose(pixels: usize, channels: usize) -> Chunks {
    let quads = channels / 4;
    let across = match quads {
        q if q.is_multiple_of(32) => 32,
        q if q > 8 => 16,
        _ => 8,
    };
    let wanted = pixels.div_ceil(WORKGROUP / across * 8).clamp(1, 512);
    let chunk_pixels = pixels.div_ceil(wanted);
    Chunks { count: pixels.div_ceil(chunk_pixels), pixels: chunk_pixels, across }
}

fn host_statistics(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let x = call.read("x");
    let (channels, pixels, chunks) = (p.channels as usize, p.pixels as usize, p.chunks as usize);
    call.out().par_chunks_mut(2 * channels).enumerate().for_each_init(Vec::new, |sums, (index, out)| {
        let (image, chunk) = (index / chunks, index % chunks);
        let first = chunk * p.chunk_pixels as usize;
        let last = (first + p.chunk_pixels as usize).min(pixels);
        let x = &x[(image * pixels + first) * channels..(image * pixels + last) * channels];
        let origin = &x[..channels];
        sum_deviations(x, channels, sums);
        let count = (last - first) as f64;
        let (mean, m2) = out.split_at_mut(channels);
        for (c, sum) in sums.iter().enumerate() {
            mean[c] = (f64::from(origin[c]) + sum[0] / count) as f32;
            m2[c] = (sum[1] - sum[0] * sum[0] / count).max(0.0) as f32;
        }
    });
}

/// Of each channel, the sums of deviations from the first pixel and of their squares.
fn sum_deviations(pixels: &[f32], channels: usize, sums: &mut Vec<[f64; 2]>) {
    sums.clear();
    sums.resize(channels, [0.0; 2]);
    sum_blocks(pixels, channels, sums);
}

wide! {
    /// A few channels at a time, whose sums stay in registers.
    fn sum_blocks(pixels: &[f32], channels: usize, sums: &mut [[f64; 2]]) {
        const BLOCK: usize = 16;
        let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
        for (index, sums) in blocks.iter_mut().enumerate() {
            let (mut first, mut second) = ([0.0f64; BLOCK], [0.0f64; BLOCK]);
            let mut origin = [0.0f32; BLOCK];
            origin.copy_from_slice(&pixels[index * BLOCK..][..BLOCK]);
            for pixel in pixels.chunks_exact(channels) {
                let mut values = [0.0f32; BLOCK];
                values.copy_from_slice(&pixel[index * BLOCK..][..BLOCK]);
                for c in 0..BLOCK {
                    let deviation = f64::from(values[c] - origin[c]);
                    first[c] += deviation;
                    second[c] += deviation * deviation;
                }
            }
            for c in 0..BLOCK {
                sums[c] = [first[c], second[c]];
            }
        }
        let done = channels - rest.len();
        for pixel in pixels.chunks_exact(channels) {
            for ((sum, v), origin) in rest.iter_mut().zip(&pixel[done..]).zip(&pixels[done..]) {
                let deviation = f64::from(v - origin);
                sum[0] += deviation;
                sum[1] += deviation * deviation;
            }
        }
    }
}

fn host_fold(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (partial, gamma) = (call.read("moments_of_chunks"), call.read("gamma"));
    let (channels, chunks) = (p.channels as usize, p.chunks as usize);
    let of_group = channels / p.groups as usize;
    call.out().par_chunks_mut(2 * channels).enumerate().for_each(|(image, out)| {
        let partial = &partial[image * chunks * 2 * channels..(image + 1) * chunks * 2 * channels];
        let (means, scales) = out.split_at_mut(channels);
        for group in 0..p.groups as usize {
            let members = group * of_group..(group + 1) * of_group;
            let mut total = Moments::default();
            for (chunk, values) in partial.chunks_exact(2 * channels).enumerate() {
                let first = chunk as u32 * p.chunk_pixels;
                let count = f64::from(p.chunk_pixels.min(p.pixels - first));
                for c in members.clone() {
                    total.join(count, f64::from(values[c]), f64::from(values[channels + c]));
                }
            }
            let deviation = total.deviation(p.eps);
            for c in members {
                means[c] = total.mean as f32;
                scales[c] = (f64::from(gamma[c]) / deviation) as f32;
            }
        }
    });
}

/// Count, mean and sum of squared deviations of a set of values.
#[derive(Default)]
struct Moments {
    count: f64,
    mean: f64,
    m2: f64,
}

impl Moments {
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
    let (x, moments, beta) = (call.read("x"), call.read("moments"), call.read("beta"));
    let activation = Activation::of_variant(call.variant);
    let (channels, pixels) = (p.channels as usize, p.pixels as usize);
    let rows = call.out().par_chunks_mut(channels).zip(x.par_chunks(channels)).enumerate();
    rows.with_min_len(16).for_each(|(row, (out, x))| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_image() {
        for pixels in (1..3000).chain([64 * 64, 512 * 512, 768 * 1024, 2048 * 2048]) {
            for channels in [4, 32, 64, 128, 320, 960, 2560] {
                let chunks = choose(pixels, channels);
                assert!(chunks.count * chunks.pixels >= pixels, "{pixels}: {chunks:?}");
                assert!((chunks.count - 1) * chunks.pixels < pixels, "{pixels}: an empty chunk in {chunks:?}");
                assert!(chunks.count <= 512);
            }
        }
    }
}
