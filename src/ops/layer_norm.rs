//! Layer norm: `out[row] = (x[row] - mean) / √(var + eps) · gamma + beta`, mean and (biased) variance over the row's
//! channels.

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::{expect_dense, expect_vector, fold_grid};
use crate::Result;
use crate::ops::host::simd::wide;
use crate::record::{HostCall, Kernel, Recording, Tensor, Variant};

/// Records `(x - mean) / sqrt(var + eps) · gamma + beta` over channels; `x` is `[n, h, w, c]` without gaps, gamma and
/// beta are f32 constants `[c]`.
///
/// # Errors
/// When `x` is empty, has gaps or its channels are not a multiple of 4, or gamma or beta does not fit.
pub fn layer_norm(rec: &mut Recording, x: Tensor, gamma: Tensor, beta: Tensor, eps: f32) -> Result<Tensor> {
    expect_dense("layer_norm", "x", x)?;
    expect_vector("layer_norm", "gamma", rec, gamma, x.shape.c)?;
    expect_vector("layer_norm", "beta", rec, beta, x.shape.c)?;
    let out = rec.tensor(x.shape);
    let rows = x.shape.rows();
    let share = choose(x.shape.c);
    let variant = Variant { constants: share.constants(), ..Variant::default() };
    let params = Params { rows: rows as u32, columns: x.shape.c as u32, eps, pad: 0 };
    let reads = [("x", x), ("gamma", gamma), ("beta", beta)];
    let grid = fold_grid(&rec.caps, rows.div_ceil(share.rows as usize));
    rec.dispatch(&KERNEL, variant, &params, &reads, out, grid, 8 * x.shape.len() as u64);
    Ok(out)
}

/// See `shaders/layer_norm.wgsl`.
pub(super) const KERNEL: Kernel =
    Kernel { stem: "layer_norm", source: include_str!("../../shaders/layer_norm.wgsl"), host };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    columns: u32,
    eps: f32,
    pad: u32,
}

/// How a workgroup divides its rows: `lanes` invocations per row, each of which keeps `quads` vectors in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    rows: u32,
    lanes: u32,
    quads: u32,
}

impl Share {
    fn constants(self) -> Vec<(&'static str, u32)> {
        vec![("ROWS", self.rows), ("LANES", self.lanes), ("LANE_QUADS", self.quads)]
    }
}

/// Three or four vectors per lane: enough loads in flight, few steps of reduction; 128 invocations or one row.
fn choose(columns: usize) -> Share {
    let quads = columns as u32 / 4;
    let lanes = quads.div_ceil(4).next_power_of_two().clamp(1, 256);
    Share { rows: (128 / lanes).max(1), lanes, quads: quads.div_ceil(lanes) }
}

fn host(call: &mut HostCall<'_>) {
    let p: Params = call.params();
    let (x, gamma, beta) = (call.read("x"), call.read("gamma"), call.read("beta"));
    let columns = p.columns as usize;
    let rows = call.out().par_chunks_mut(columns).zip(x.par_chunks(columns));
    rows.with_min_len(16).for_each(|(out, x)| normalize(x, gamma, beta, p.eps, out));
}

wide! {
    fn normalize(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) {
        let mean = sum(x, |v| v) / x.len() as f64;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / x.len() as f64;
        let scale = (variance + f64::from(eps)).sqrt().recip() as f32;
        let mean = mean as f32;
        for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
            *out = (x - mean) * scale * gamma + beta;
        }
    }
}

/// `Σ f(v)` in eight interleaved parts, which the compiler turns into vector arithmetic.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let (head, tail) = values.as_chunks::<8>();
    let mut parts = [0.0; 8];
    for chunk in head {
        for (part, &v) in parts.iter_mut().zip(chunk) {
            *part += f(f64::from(v));
        }
    }
    parts.iter().sum::<f64>() + tail.iter().map(|&v| f(f64::from(v))).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_every_width() {
        for columns in (4..=8192).step_by(4) {
            let share = choose(columns);
            assert!(share.lanes * share.quads * 4 >= columns as u32, "{columns}: {share:?}");
            assert!(share.rows * share.lanes <= 256, "{columns}: {share:?}");
        }
    }
}
