//! Matrix product with a fused epilogue: every linear layer and every 1×1 convolution.
//!
//! `out[row, n] = activation(Σ_k x[row, k] · weight[n, k] + bias[n] + image_add[image(row), n] + residual[row, n])`

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::{Rows, multiply};
use super::product::Product;
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
    let product = Product::choose(rec, x, weight, rows, columns);
    let mut variant = product.variant(rec, x, weight);
    let mut reads = vec![("x", x), ("weight", weight)];
    epilogue.bind("matmul", out, &mut variant, &mut reads)?;
    let params = Params {
        rows: rows as u32,
        inner: inner as u32,
        columns: columns as u32,
        rows_per_image: (x.shape.h * x.shape.w) as u32,
        x_stride: x.row_stride as u32,
        x_offset: x.channel_offset as u32,
        pad: [0; 2],
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
    pad: [u32; 2],
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (rows, inner, columns) = (p.rows as usize, p.inner as usize, p.columns as usize);
    let (x, weight) = (&call.read("x")[p.x_offset as usize..], call.read("weight"));
    let epilogue = HostEpilogue::of(call, columns, p.rows_per_image as usize);
    let out = call.out();
    // Blocks of rows and columns, so that a product with few rows keeps all cores busy too.
    let threads = rayon::current_num_threads();
    let row_block = rows.div_ceil(2 * threads).clamp(1, 256);
    if rows >= 4 * threads || columns < 64 {
        out.par_chunks_mut(row_block * columns).enumerate().for_each(|(block, out)| {
            let first = block * row_block;
            let x = Rows { values: &x[first * p.x_stride as usize..], stride: p.x_stride as usize };
            multiply(out.len() / columns, columns, inner, x, Rows { values: weight, stride: inner }, out, columns);
            epilogue.apply(first, 0, out, columns);
        });
        return;
    }
    let column_block = columns.div_ceil(2 * threads).next_multiple_of(16);
    for (row, out) in out.chunks_mut(columns).enumerate() {
        let x = Rows { values: &x[row * p.x_stride as usize..], stride: p.x_stride as usize };
        out.par_chunks_mut(column_block).enumerate().for_each(|(block, out)| {
            let first = block * column_block;
            let len = out.len();
            let weight = Rows { values: &weight[first * inner..], stride: inner };
            multiply(1, len, inner, x, weight, out, len);
            epilogue.apply(row, first, out, len);
        });
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
}

impl<'a> HostEpilogue<'a> {
    pub(super) fn of(call: &HostCall<'a>, columns: usize, rows_per_image: usize) -> Self {
        let code = call.variant.constants.iter().find(|(name, _)| *name == "ACTIVATION").map_or(0, |&(_, code)| code);
        HostEpilogue {
            bias: call.try_read("bias"),
            image_add: call.try_read("image_add"),
            residual: call.try_read("residual"),
            activation: Activation::from_code(code),
            columns,
            rows_per_image,
        }
    }

    /// Finishes `block`, whose rows of `width` results start at row `first_row`, column `first_column`.
    pub(super) fn apply(&self, first_row: usize, first_column: usize, block: &mut [f32], width: usize) {
        for (i, out) in block.chunks_mut(width).enumerate() {
            let row = first_row + i;
            let mut add = |source: &[f32], start: usize| {
                for (out, v) in out.iter_mut().zip(&source[start + first_column..]) {
                    *out += v;
                }
            };
            if let Some(bias) = self.bias {
                add(bias, 0);
            }
            if let Some(image_add) = self.image_add {
                add(image_add, row / self.rows_per_image * self.columns);
            }
            if let Some(residual) = self.residual {
                add(residual, row * self.columns);
            }
            if self.activation != Activation::None {
                for out in out.iter_mut() {
                    *out = self.activation.apply(*out);
                }
            }
        }
    }
}
