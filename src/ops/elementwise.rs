//! A function of each value, alone: `out[i] = activation(x[i])`.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{Activation, WORKGROUP, expect_dense, fold_grid};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Tensor, Variant};

/// Records `activation(x)`; `x` is `[n, h, w, c]` without gaps, and so is the result.
///
/// # Errors
/// When `x` is empty, has gaps or its channels are not a multiple of 4.
pub fn elementwise(rec: &mut Recording, x: Tensor, activation: Activation) -> Result<Tensor> {
    expect_dense("elementwise", "x", x)?;
    let out = rec.tensor(x.shape);
    let quads = x.shape.len() / 4;
    let variant = Variant { constants: vec![("ACTIVATION", activation.code())], ..Variant::default() };
    let params = Params { quads: quads as u32, pad: [0; 3] };
    let grid = fold_grid(&rec.caps, quads.div_ceil(WORKGROUP));
    rec.dispatch(&KERNEL, variant, &params, &[("x", x)], out, grid, 8 * x.shape.len() as u64);
    Ok(out)
}

/// See `shaders/elementwise.wgsl`.
pub(super) const KERNEL: Kernel =
    Kernel { stem: "elementwise", source: include_str!("../../shaders/elementwise.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    quads: u32,
    pad: [u32; 3],
}

/// Values that one task of the host computes.
const HOST_BLOCK: usize = 16 << 10;

fn host(call: &mut HostCall<'_>) {
    let x = call.read("x");
    let activation = Activation::of_variant(call.variant);
    call.out().par_chunks_mut(HOST_BLOCK).zip(x.par_chunks(HOST_BLOCK)).for_each(|(out, x)| {
        out.copy_from_slice(x);
        activation.apply_all(out);
    });
}
