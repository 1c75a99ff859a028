//! Joins two tensors on channels: `out[row] = (a[row], b[row])`.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{WORKGROUP, expect, expect_quads, expect_view, fold_grid};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Shape, Tensor, Variant};

/// Records the tensor `[n, h, w, c_a + c_b]`; `a` is `[n, h, w, c_a]` and `b` `[n, h, w, c_b]`, each any channel view.
///
/// # Errors
/// When the operands differ in more than channels, are empty, or have channels that are not a multiple of 4.
pub fn concat(rec: &mut Recording, a: Tensor, b: Tensor) -> Result<Tensor> {
    let same = (a.shape.n, a.shape.h, a.shape.w) == (b.shape.n, b.shape.h, b.shape.w);
    expect("concat", "b", same, || format!("[{}, {}, {}, c], got {}", a.shape.n, a.shape.h, a.shape.w, b.shape))?;
    for (name, tensor) in [("a", a), ("b", b)] {
        expect_quads("concat", name, tensor.shape.c)?;
        expect_view("concat", name, tensor)?;
    }
    let out = rec.tensor_for(Shape { c: a.shape.c + b.shape.c, ..a.shape }, &[a, b]);
    let quads = out.shape.len() / 4;
    let params = Params {
        quads: quads as u32,
        columns_a: a.shape.c as u32,
        columns: out.shape.c as u32,
        a_stride: a.row_stride as u32,
        a_offset: a.channel_offset as u32,
        b_stride: b.row_stride as u32,
        b_offset: b.channel_offset as u32,
        pad: 0,
    };
    let grid = fold_grid(&rec.caps, quads.div_ceil(WORKGROUP));
    rec.dispatch(&KERNEL, Variant::default(), &params, &[("a", a), ("b", b)], out, grid, 0);
    Ok(out)
}

/// See `shaders/concat.wgsl`.
pub(super) const KERNEL: Kernel = Kernel { stem: "concat", source: include_str!("../../shaders/concat.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    quads: u32,
    columns_a: u32,
    columns: u32,
    a_stride: u32,
    a_offset: u32,
    b_stride: u32,
    b_offset: u32,
    pad: u32,
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (a, b) = (call.read("a"), call.read("b"));
    let columns_a = p.columns_a as usize;
    call.out().par_chunks_mut(p.columns as usize).enumerate().with_min_len(16).for_each(|(row, out)| {
        let (out_a, out_b) = out.split_at_mut(columns_a);
        out_a.copy_from_slice(&a[row * p.a_stride as usize + p.a_offset as usize..][..out_a.len()]);
        out_b.copy_from_slice(&b[row * p.b_stride as usize + p.b_offset as usize..][..out_b.len()]);
    });
}
