//! Two-dimensional convolution as an implicit matrix product, with the epilogue of `matmul`.
//!
//! `out[n, y, x, o] = activation(Σ_{i,j,c} x[n, s·y + i - top, s·x + j - left, c] · weight[o, i, j, c] + …)`, zero outside.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Rows, multiply};
use super::matmul::HostEpilogue;
use super::product::Product;
use super::{Epilogue, expect, expect_blocks, expect_quads};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Shape, Tensor};

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
    let product = Product::choose(rec, x, weight, shape.rows(), c_out);
    let mut variant = product.variant(rec, x, weight);
    if upsample_to.is_some() {
        variant.flags.push("UPSAMPLE");
    }
    let mut reads = vec![("x", x), ("weight", weight)];
    epilogue.bind("conv2d", out, &mut variant, &mut reads)?;
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
    };
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
}

/// Rows of patches unfolded at a time: few enough to stay in a core's cache beside the weights' panel.
const HOST_BLOCK: usize = 64;

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (x, weight) = (call.read("x"), call.read("weight"));
    let columns = p.columns as usize;
    let inner = (p.kernel * p.kernel * p.channels) as usize;
    let epilogue = HostEpilogue::of(call, columns, p.rows_per_image as usize);
    let rows_of_block = (p.rows as usize).div_ceil(2 * rayon::current_num_threads()).clamp(1, HOST_BLOCK);
    call.out().par_chunks_mut(rows_of_block * columns).enumerate().for_each_init(Vec::new, |patches, (block, out)| {
        let rows = out.len() / columns;
        let first = block * rows_of_block;
        if p.kernel == 1 && p.stride == 1 && p.seen_width == p.width && p.seen_height == p.height {
            let x = Rows { values: &x[first * inner..], stride: inner };
            multiply(rows, columns, inner, x, Rows { values: weight, stride: inner }, out, columns);
        } else {
            patches.resize(rows_of_block * inner, 0.0);
            for row in 0..rows {
                unfold(&p, x, first + row, &mut patches[row * inner..(row + 1) * inner]);
            }
            let x = Rows { values: patches, stride: inner };
            multiply(rows, columns, inner, x, Rows { values: weight, stride: inner }, out, columns);
        }
        epilogue.apply(first, 0, out, columns);
    });
}

/// The input patch `[k, k, c]` under result number `row`.
fn unfold(p: &Params, x: &[f32], row: usize, patch: &mut [f32]) {
    let row = row as u32;
    let (image, pixel) = (row / p.rows_per_image, row % p.rows_per_image);
    let (top, left) = (pixel / p.out_width * p.stride, pixel % p.out_width * p.stride);
    let channels = p.channels as usize;
    for (tap, out) in patch.chunks_mut(channels).enumerate() {
        let y = top + tap as u32 / p.kernel;
        let x_position = left + tap as u32 % p.kernel;
        let inside = y >= p.pad_before
            && x_position >= p.pad_before
            && y - p.pad_before < p.seen_height
            && x_position - p.pad_before < p.seen_width;
        if inside {
            let y = (y - p.pad_before) as usize * p.height as usize / p.seen_height as usize;
            let column = (x_position - p.pad_before) as usize * p.width as usize / p.seen_width as usize;
            let start = ((image as usize * p.height as usize + y) * p.width as usize + column) * channels;
            out.copy_from_slice(&x[start..start + channels]);
        } else {
            out.fill(0.0);
        }
    }
}
