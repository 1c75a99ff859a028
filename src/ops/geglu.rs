//! The gated unit of the transformer blocks' feed-forward layer: `out[row, i] = x[row, i] · gelu(x[row, c + i])`.
//!
//! Source: Shazeer, "GLU Variants Improve Transformer"; the halves are in the order of diffusers' `GEGLU`.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::simd::wide;
use super::{Activation, WORKGROUP, expect, expect_dense, fold_grid};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Shape, Tensor, Variant};

/// Records `x[.., ..c] · gelu(x[.., c..])` for `x` of `2c` channels without gaps; the result is `[n, h, w, c]`.
///
/// # Errors
/// When `x` is empty, has gaps or its channels are not a multiple of 8.
pub fn geglu(rec: &mut Recording, x: Tensor) -> Result<Tensor> {
    expect_dense("geglu", "x", x)?;
    expect("geglu", "x", x.shape.c.is_multiple_of(8), || format!("a multiple of 8 channels, got {}", x.shape.c))?;
    let out = rec.tensor(Shape { c: x.shape.c / 2, ..x.shape });
    let quads = out.shape.len() / 4;
    let params = Params { quads: quads as u32, columns: out.shape.c as u32, pad: [0; 2] };
    let grid = fold_grid(&rec.caps, quads.div_ceil(WORKGROUP));
    rec.dispatch(&KERNEL, Variant::default(), &params, &[("x", x)], out, grid, 24 * out.shape.len() as u64);
    Ok(out)
}

/// See `shaders/geglu.wgsl`.
pub(super) const KERNEL: Kernel = Kernel { stem: "geglu", source: include_str!("../../shaders/geglu.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    quads: u32,
    columns: u32,
    pad: [u32; 2],
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let x = call.read("x");
    let columns = p.columns as usize;
    call.out().par_chunks_mut(columns).zip(x.par_chunks(2 * columns)).for_each(|(out, row)| gate(row, out));
}

wide! {
    fn gate(row: &[f32], out: &mut [f32]) {
        let (value, gate) = row.split_at(out.len());
        for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
            *out = value * Activation::Gelu.apply(*gate);
        }
    }
}
