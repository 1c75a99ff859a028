//! Two-dimensional convolution as an implicit matrix product, with the epilogue of `matmul`.
//!
//! `out[n, y, x, o] = activation(Σ_{i,j,c} x[n, s·y + i - top, s·x + j - left, c] · weight[o, i, j, c] + …)`, zero outside.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::matmul::HostEpilogue;
use super::{Epilogue, expect, expect_blocks, expect_quads};
use crate::Result;
use crate::ops::host::gemm;
use crate::ops::host::half_gemm;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::Level;
use crate::ops::host::simd::PITCH;
use crate::ops::host::winograd;
use crate::ops::product::Product;
use crate::ops::product::class::Extents;
use crate::record::{BF16, Bf16, HostCall, Kernel, Products, Recording, Shape, Tensor, narrow};

/// How a convolution walks over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Kernel height and width.
    pub kernel: usize,
    /// Step between neighbouring results.
    pub stride: usize,
    /// Zeros above and left of the input.
    pub pad_before: usize,
    /// Zeros below and right of the input.
    pub pad_after: usize,
    /// Size to which the input is first enlarged by repeating pixels (`x = floor(x_out · w_in / w_out)`): (height, width).
    /// The UNet enlarges to the size of the skip, which is not always twice the input.
    pub upsample_to: Option<(usize, usize)>,
}

impl Conv2d {
    /// 3×3, stride 1, padding 1.
    pub const SAME: Conv2d = Conv2d { kernel: 3, stride: 1, pad_before: 1, pad_after: 1, upsample_to: None };
}

/// Records a convolution. `x` is `[n, h, w, c_in]` without gaps, `weight` a constant `[c_out, k, k, c_in]`.
///
/// # Errors
/// When extents differ, a channel count is not a multiple of 4, the input is smaller than the kernel, or an operand of
/// the epilogue does not fit.
pub fn conv2d(rec: &mut Recording, x: Tensor, weight: Tensor, geometry: Conv2d, epilogue: Epilogue) -> Result<Tensor> {
    let Conv2d { kernel, stride, pad_before, pad_after, upsample_to } = geometry;
    let Shape { n, h, w, c } = x.shape;
    let c_out = weight.shape.len() / (kernel * kernel * c).max(1);
    let fits = weight.shape.c == c && weight.shape.len() == c_out * kernel * kernel * c;
    expect("conv2d", "weight", fits, || {
        format!("[c_out, {kernel}, {kernel}, {c}] for x {}, got {}", x.shape, weight.shape)
    })?;
    expect("conv2d", "x", x.is_contiguous(), || "a tensor without gaps".into())?;
    expect_quads("conv2d", "x", c)?;
    expect_quads("conv2d", "weight", c_out)?;
    expect_blocks("conv2d", rec, weight, kernel * kernel * c)?;
    let (seen_h, seen_w) = upsample_to.unwrap_or((h, w));
    let padding = pad_before + pad_after;
    let large_enough = seen_h + padding >= kernel && seen_w + padding >= kernel && stride > 0;
    expect("conv2d", "x", large_enough, || {
        format!("at least {kernel}×{kernel} pixels with padding {padding}, got {seen_h}×{seen_w}")
    })?;
    let shape =
        Shape { n, h: (seen_h + padding - kernel) / stride + 1, w: (seen_w + padding - kernel) / stride + 1, c: c_out };
    let out = epilogue.tensor(rec, shape);
    let product = Product::choose(rec, "conv2d", x, weight, Extents::of(shape, kernel * kernel, c));
    let mut variant = product.variant(rec, x, weight);
    if upsample_to.is_some() {
        variant.flags.push("UPSAMPLE");
    }
    let mut reads = vec![("x", x), ("weight", weight)];
    epilogue.bind("conv2d", shape, &mut variant, &mut reads)?;
    let params = Params {
        rows: shape.rows() as u32,
        columns: c_out as u32,
        rows_per_image: (shape.h * shape.w) as u32,
        kernel: kernel as u32,
        height: h as u32,
        width: w as u32,
        channels: c as u32,
        stride: stride as u32,
        seen_height: seen_h as u32,
        seen_width: seen_w as u32,
        out_width: shape.w as u32,
        pad_before: pad_before as u32,
        image_add: epilogue.image_add_place(),
        pad: [0; 2],
    };
    // Where matrices are multiplied at once, fewer products do not repay the transforms.
    let transformed = || params.images().is_some_and(|images| winograd::pays(&images, c_out));
    if rec.caps.products == Products::Bf16 && (Bf16::detect().outdoes_transforms() || !transformed()) {
        variant.flags.push(BF16);
    }
    let flops = 2 * shape.len() as u64 * (kernel * kernel * c) as u64;
    rec.dispatch(&KERNEL, variant, &params, &reads, out, product.grid(shape.rows(), c_out), flops);
    Ok(out)
}

/// See `shaders/conv2d.wgsl`.
pub(super) const KERNEL: Kernel = Kernel { stem: "conv2d", source: include_str!("../../shaders/conv2d.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    columns: u32,
    rows_per_image: u32,
    kernel: u32,
    height: u32,
    width: u32,
    channels: u32,
    stride: u32,
    seen_height: u32,
    seen_width: u32,
    out_width: u32,
    pad_before: u32,
    /// From one image to the next, and the first.
    image_add: [u32; 2],
    pad: [u32; 2],
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let x = call.read("x");
    let epilogue = HostEpilogue::of(call, p.columns as usize, p.rows_per_image as usize, p.image_add);
    let weight = call.weight();
    let inner = (p.kernel * p.kernel * p.channels) as usize;
    assert_eq!((weight.rows(), weight.inner()), (p.columns as usize, inner), "a weight has the shape recorded");
    let finish = |row: usize, column: usize, block: &mut Block<'_>| epilogue.finish(row, column, block);
    let level = Level::detect();
    let cancel = call.cancel();
    if weight.is_paired() {
        let pack = |rows: Range<usize>, inner: Range<usize>, to: &mut [bf16]| {
            pack(&p, x, rows, inner, to, half_gemm::PITCH, narrow);
        };
        return half_gemm::product(weight, call.out(), cancel, pack, finish);
    }
    match p.images().filter(|images| winograd::pays(images, p.columns as usize)) {
        Some(images) => winograd::convolve(level, images, weight, x, call.out(), cancel, finish),
        None => {
            let pack = |rows: Range<usize>, inner: Range<usize>, to: &mut [f32]| {
                pack(&p, x, rows, inner, to, PITCH, |from, to| to.copy_from_slice(from));
            };
            gemm::product(level, weight, call.out(), cancel, pack, finish);
        }
    }
}

impl Params {
    /// The images of a 3×3 convolution that keeps their size.
    fn images(&self) -> Option<winograd::Images> {
        let whole = self.out_width == self.seen_width && self.rows_per_image == self.seen_height * self.seen_width;
        let fits = whole && (self.kernel, self.stride, self.pad_before) == (3, 1, 1);
        fits.then(|| winograd::Images {
            count: (self.rows / self.rows_per_image) as usize,
            height: self.height as usize,
            width: self.width as usize,
            channels: self.channels as usize,
            seen_height: self.seen_height as usize,
            seen_width: self.seen_width as usize,
        })
    }
}

/// Neighbouring channels under one tap of the kernel.
#[derive(Clone, Copy, Default)]
struct Segment {
    down: usize,
    right: usize,
    channel: usize,
    len: usize,
}

/// Positions `inner` of the patches `[k, k, c]` under some results, as `copy` stores them.
fn pack<T: Copy + Default>(
    p: &Params,
    x: &[f32],
    rows: Range<usize>,
    inner: Range<usize>,
    to: &mut [T],
    pitch: usize,
    copy: impl Fn(&[f32], &mut [T]),
) {
    let (channels, kernel, out_width) = (p.channels as usize, p.kernel as usize, p.out_width as usize);
    let (height, width, rows_per_image) = (p.height as usize, p.width as usize, p.rows_per_image as usize);
    let (seen_height, seen_width) = (p.seen_height as usize, p.seen_width as usize);
    let (stride, before) = (p.stride as usize, p.pad_before as usize);
    // Channels are four or more.
    let mut segments = [Segment::default(); half_gemm::DEPTH / 4 + 2];
    let mut count = 0;
    let mut at = inner.start;
    while at < inner.end {
        let (tap, channel) = (at / channels, at % channels);
        let len = (channels - channel).min(inner.end - at);
        segments[count] = Segment { down: tap / kernel, right: tap % kernel, channel, len };
        (at, count) = (at + len, count + 1);
    }
    for (row, to) in rows.zip(to.chunks_mut(pitch)) {
        let (image, pixel) = (row / rows_per_image, row % rows_per_image);
        let (top, left) = (pixel / out_width * stride, pixel % out_width * stride);
        let mut to = &mut to[..];
        for segment in &segments[..count] {
            let (out, rest) = to.split_at_mut(segment.len);
            to = rest;
            // Above or left of the input this wraps to a number that is past its end too.
            let (y, x_position) =
                ((top + segment.down).wrapping_sub(before), (left + segment.right).wrapping_sub(before));
            if y >= seen_height || x_position >= seen_width {
                out.fill(T::default());
                continue;
            }
            let y = if seen_height == height { y } else { y * height / seen_height };
            let column = if seen_width == width { x_position } else { x_position * width / seen_width };
            let start = ((image * height + y) * width + column) * channels + segment.channel;
            copy(&x[start..start + segment.len], out);
        }
    }
}
