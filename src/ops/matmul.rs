//! Matrix product with a fused epilogue: every linear layer and every 1×1 convolution.
//!
//! `out[row, n] = activation(Σ_k x[row, k] · weight[n, k] + bias[n] + image_add[image(row), n] + residual[row, n])`

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::gemm;
use super::product::Product;
use super::simd::{Block, Level, PITCH, wide};
use super::{Activation, Epilogue, expect, expect_blocks, expect_quads};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Shape, Tensor};

/// Records `activation(x · weightᵀ + …)`.
///
/// `x` is `[n, h, w, k]` (any channel view), `weight` a constant `[c_out, k]`; the result is `[n, h, w, c_out]`.
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
    let out = epilogue.tensor(rec, Shape { c: columns, ..x.shape });
    let rows = x.shape.rows();
    let product = Product::choose(&rec.caps, rows, columns);
    let mut variant = product.variant(rec, weight);
    let mut reads = vec![("x", x), ("weight", weight)];
    epilogue.bind("matmul", out, &mut variant, &mut reads)?;
    let params = Params {
        rows: rows as u32,
        inner: inner as u32,
        columns: columns as u32,
        rows_per_image: (x.shape.h * x.shape.w) as u32,
        x_stride: x.row_stride as u32,
        x_offset: x.channel_offset as u32,
        image_add: epilogue.image_add_place(),
    };
    let flops = 2 * rows as u64 * inner as u64 * columns as u64;
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
    let (x, stride) = (&call.read("x")[p.x_offset as usize..], p.x_stride as usize);
    let epilogue = HostEpilogue::of(call, p.columns as usize, p.rows_per_image as usize, p.image_add);
    let pack = |rows: Range<usize>, inner: Range<usize>, to: &mut [f32]| {
        for (row, to) in rows.zip(to.chunks_mut(PITCH)) {
            to[..inner.len()].copy_from_slice(&x[row * stride + inner.start..row * stride + inner.end]);
        }
    };
    let weight = call.weight();
    assert_eq!(
        (weight.rows(), weight.inner()),
        (p.columns as usize, p.inner as usize),
        "a weight has the shape recorded"
    );
    gemm::product(Level::detect(), weight, call.out(), pack, |row, column, block| epilogue.finish(row, column, block));
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
