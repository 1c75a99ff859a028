//! Matrix product with a fused epilogue: every linear layer and every 1×1 convolution.
//!
//! `out[row, n] = activation(Σ_k x[row, k] · weight[n, k] + bias[n] + image_add[image(row), n] + residual[row, n])`

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use half::bf16;
use rayon::prelude::*;

use super::{Activation, Epilogue, expect, expect_blocks, expect_quads};
use crate::Result;
use crate::ops::host::gemm;
use crate::ops::host::half_gemm;
use crate::ops::host::simd::Block;
use crate::ops::host::simd::Level;
use crate::ops::host::simd::PITCH;
use crate::ops::host::simd::wide;
use crate::ops::product::Product;
use crate::ops::product::class::Extents;
use crate::record::{BF16, Cancel, HostCall, HostWeight, Kernel, Products, Recording, Shape, Tensor, narrow};

/// Records `activation(x · weightᵀ + …)`.
///
/// `x` is `[n, h, w, k]` (any channel view), `weight` a constant `[c_out, k]`; the result is `[n, h, w, c_out]`, half of that if gated.
///
/// # Errors
/// When the inner extents differ, a channel count is not a multiple of 4, or an operand of the epilogue does not fit.
pub fn matmul(rec: &mut Recording, x: Tensor, weight: Tensor, epilogue: Epilogue) -> Result<Tensor> {
    let (inner, columns) = (x.shape.c, weight.shape.rows());
    expect("matmul", "weight", weight.shape.c == inner, || {
        format!("[c_out, {inner}] for x {}, got [{columns}, {}]", x.shape, weight.shape.c)
    })?;
    expect_quads("matmul", "x", inner)?;
    expect_quads("matmul", "weight", columns)?;
    expect_blocks("matmul", rec, weight, inner)?;
    let shape = Shape { c: columns, ..x.shape };
    let rows = x.shape.rows();
    let product = Product::choose(rec, "matmul", x, weight, Extents::of(shape, 1, inner));
    let mut variant = product.variant(rec, x, weight);
    variant.flags.extend((rec.caps.products == Products::Bf16).then_some(BF16));
    let mut reads = vec![("x", x), ("weight", weight)];
    epilogue.bind("matmul", shape, &mut variant, &mut reads)?;
    let out = epilogue.tensor(rec, if epilogue.gated { Shape { c: columns / 2, ..shape } } else { shape });
    let params = Params {
        rows: rows as u32,
        inner: inner as u32,
        columns: columns as u32,
        rows_per_image: (x.shape.h * x.shape.w) as u32,
        x_stride: x.row_stride as u32,
        x_offset: x.channel_offset as u32,
        image_add: epilogue.image_add_place(),
    };
    let gates = if epilogue.gated { 24 * out.shape.len() as u64 } else { 0 };
    let flops = 2 * rows as u64 * inner as u64 * columns as u64 + gates;
    rec.dispatch(&KERNEL, variant, &params, &reads, out, product.grid(rows, columns), flops);
    Ok(out)
}

/// See `shaders/matmul.wgsl`.
pub(super) const KERNEL: Kernel = Kernel { stem: "matmul", source: include_str!("../../shaders/matmul.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    inner: u32,
    columns: u32,
    rows_per_image: u32,
    x_stride: u32,
    x_offset: u32,
    /// From one image to the next, and the first.
    image_add: [u32; 2],
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (columns, per_image) = (p.columns as usize, p.rows_per_image as usize);
    let epilogue = HostEpilogue::of(call, columns, per_image, p.image_add);
    let (x, weight) = (&call.read("x")[p.x_offset as usize..], call.weight());
    assert_eq!((weight.rows(), weight.inner()), (columns, p.inner as usize), "a weight has the shape recorded");
    let part = Rows { p: &p, x, weight, epilogue: &epilogue, cancel: call.cancel() };
    if !call.variant.has("GATED") {
        return part.product(0, call.out());
    }
    let mut wide = vec![0.0; GATED_VALUES.max(columns).min(p.rows as usize * columns)];
    let rows = wide.len() / columns;
    for (block, out) in call.out().chunks_mut(rows * columns / 2).enumerate() {
        if call.cancel().is_cancelled() {
            return;
        }
        let wide = &mut wide[..2 * out.len()];
        part.product(block * rows, wide);
        out.par_chunks_mut(columns / 2).zip(wide.par_chunks(columns)).for_each(|(out, wide)| gate(wide, out));
    }
}

/// Results of a gated product before its gates, that are computed at a time.
const GATED_VALUES: usize = 1 << 20;

/// What all rows of a product have in common.
struct Rows<'a> {
    p: &'a Params,
    x: &'a [f32],
    weight: &'a HostWeight,
    epilogue: &'a HostEpilogue<'a>,
    cancel: &'a Cancel,
}

impl Rows<'_> {
    /// The rows of the product from `first` on.
    fn product(&self, first: usize, out: &mut [f32]) {
        let finish =
            |row: usize, column: usize, block: &mut Block<'_>| self.epilogue.finish(first + row, column, block);
        if self.weight.is_paired() {
            let pack = |rows: Range<usize>, inner: Range<usize>, to: &mut [bf16]| {
                self.part(first, rows, inner)
                    .zip(to.chunks_mut(half_gemm::PITCH))
                    .for_each(|(from, to)| narrow(from, &mut to[..from.len()]));
            };
            return half_gemm::product(self.weight, out, self.cancel, pack, finish);
        }
        let pack = |rows: Range<usize>, inner: Range<usize>, to: &mut [f32]| {
            self.part(first, rows, inner)
                .zip(to.chunks_mut(PITCH))
                .for_each(|(from, to)| to[..from.len()].copy_from_slice(from));
        };
        gemm::product(Level::detect(), self.weight, out, self.cancel, pack, finish);
    }

    /// Positions `inner` of some rows behind `first`.
    fn part(&self, first: usize, rows: Range<usize>, inner: Range<usize>) -> impl Iterator<Item = &[f32]> {
        let stride = self.p.x_stride as usize;
        rows.map(move |row| &self.x[(first + row) * stride..][inner.clone()])
    }
}

wide! {
    /// Two values, then their two gates.
    fn gate(wide: &[f32], out: &mut [f32]) {
        for (out, quad) in out.chunks_exact_mut(2).zip(wide.chunks_exact(4)) {
            out.copy_from_slice(&quad[2..]);
        }
        Activation::Gelu.apply_here(out);
        for (out, quad) in out.chunks_exact_mut(2).zip(wide.chunks_exact(4)) {
            out[0] *= quad[0];
            out[1] *= quad[1];
        }
    }
}

/// The epilogue on the host, for any block of the result.
pub(super) struct HostEpilogue<'a> {
    bias: Option<&'a [f32]>,
    image_add: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activation: Activation,
    columns: usize,
    rows_per_image: usize,
    image_stride: usize,
}

impl<'a> HostEpilogue<'a> {
    pub(super) fn of(
        call: &HostCall<'a>,
        columns: usize,
        rows_per_image: usize,
        [image_stride, image_offset]: [u32; 2],
    ) -> Self {
        let code = call.variant.constants.iter().find(|(name, _)| *name == "ACTIVATION").map_or(0, |&(_, code)| code);
        HostEpilogue {
            bias: call.try_read("bias"),
            image_add: call.try_read("image_add").map(|values| &values[image_offset as usize..]),
            residual: call.try_read("residual"),
            activation: Activation::from_code(code),
            columns,
            rows_per_image,
            image_stride: image_stride as usize,
        }
    }

    /// Finishes `block`, whose first result is that of `row` and `column`.
    pub(super) fn finish(&self, row: usize, column: usize, block: &mut Block<'_>) {
        finish(self, row, column, block);
    }
}

wide! {
    fn finish(epilogue: &HostEpilogue<'_>, first_row: usize, column: usize, block: &mut Block<'_>) {
        let width = block.columns();
        for i in 0..block.rows() {
            let (row, out) = (first_row + i, block.row(i));
            let mut add = |source: &[f32], start: usize| {
                for (out, v) in out.iter_mut().zip(&source[start + column..][..width]) {
                    *out += v;
                }
            };
            if let Some(bias) = epilogue.bias {
                add(bias, 0);
            }
            if let Some(image_add) = epilogue.image_add {
                add(image_add, row / epilogue.rows_per_image * epilogue.image_stride);
            }
            if let Some(residual) = epilogue.residual {
                add(residual, row * epilogue.columns);
            }
            epilogue.activation.apply_here(out);
        }
    }
}
