//! Adds a tensor times a number of each image: `out[n, …] = x[n, …] + scale[n] · y[n, …]`.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{WORKGROUP, expect, expect_dense, fold_grid};
use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Shape, Tensor, Variant};

/// The numbers that [`add_scaled`] multiplies with.
#[derive(Debug, Clone, Copy)]
pub struct Scales {
    /// `[n, 1, 1, c]`, for each image a vector.
    pub vectors: Tensor,
    /// Which value of the vectors.
    pub at: usize,
}

/// Records `x + scale · y`, without scales `x + y`. `x` is `[n, h, w, c]`; `y` is of the same shape, or has one image, which all get.
///
/// # Errors
/// When shapes differ, an operand is empty or has gaps, or channels are not a multiple of 4.
pub fn add_scaled(rec: &mut Recording, x: Tensor, y: Tensor, scales: Option<Scales>) -> Result<Tensor> {
    expect_dense("add_scaled", "x", x)?;
    expect_dense("add_scaled", "y", y)?;
    let fits = y.shape == x.shape || y.shape == Shape { n: 1, ..x.shape };
    expect("add_scaled", "y", fits, || format!("{} or one image of it, got {}", x.shape, y.shape))?;
    let mut reads = vec![("x", x), ("y", y)];
    let mut variant = Variant::default();
    let image_quads = x.shape.len() / x.shape.n / 4;
    let mut params = Params {
        quads: (x.shape.len() / 4) as u32,
        image_quads: image_quads as u32,
        y_images: y.shape.n as u32,
        scale_stride: 0,
        scale_at: 0,
        pad: [0; 3],
    };
    if let Some(Scales { vectors, at }) = scales {
        expect_dense("add_scaled", "scale", vectors)?;
        let fits = vectors.shape.n == x.shape.n && vectors.shape.rows() == x.shape.n && at < vectors.shape.c;
        expect("add_scaled", "scale", fits, || {
            format!("[{}, 1, 1, more than {at}], got {}", x.shape.n, vectors.shape)
        })?;
        variant.flags.push("SCALED");
        reads.push(("scale", vectors));
        (params.scale_stride, params.scale_at) = (vectors.shape.c as u32, at as u32);
    }
    let out = rec.tensor_for(x.shape, &[x, y]);
    let grid = fold_grid(&rec.caps, (params.quads as usize).div_ceil(WORKGROUP));
    rec.dispatch(&KERNEL, variant, &params, &reads, out, grid, 2 * x.shape.len() as u64);
    Ok(out)
}

/// See `shaders/add_scaled.wgsl`.
pub(super) const KERNEL: Kernel =
    Kernel { stem: "add_scaled", source: include_str!("../../shaders/add_scaled.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    quads: u32,
    image_quads: u32,
    y_images: u32,
    scale_stride: u32,
    scale_at: u32,
    pad: [u32; 3],
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (x, y, scales) = (call.read("x"), call.read("y"), call.try_read("scale"));
    let image = 4 * p.image_quads as usize;
    call.out().par_chunks_mut(image).enumerate().for_each(|(n, out)| {
        let scale = scales.map_or(1.0, |scales| scales[n * p.scale_stride as usize + p.scale_at as usize]);
        let y = &y[n % p.y_images as usize * image..][..image];
        for ((out, x), y) in out.iter_mut().zip(&x[n * image..]).zip(y) {
            *out = x + scale * y;
        }
    });
}
