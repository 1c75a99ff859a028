//! Small recordings that between them use every kernel, as networks do. Their inputs are exact in half precision, so that what differs is
//! arithmetic.

use crate::Result;
use crate::ops::{
    Activation, Attention, Conv2d, Epilogue, GroupNorm, Scales, add_scaled, attention, concat, conv2d, elementwise,
    group_norm, group_norm_by, layer_norm, match_tokens, matmul, merge_tokens, unmerge_tokens,
};
use crate::record::{Caps, Constant, DType, Recording, Shape, Tensor};

/// One network of a few operations.
pub(super) struct Case {
    /// What a report calls it.
    pub(super) name: &'static str,
    body: fn(&mut Recording) -> Result<Tensor>,
}

impl Case {
    /// The case for a device; its result is called `out`.
    pub(super) fn record(&self, caps: &Caps) -> Result<Recording> {
        let mut rec = Recording::new(caps);
        let out = (self.body)(&mut rec)?;
        rec.output("out", out);
        Ok(rec)
    }

    /// Values for the inputs of a recording of it, the same at each call.
    pub(super) fn inputs(recording: &Recording) -> Vec<(String, Vec<f32>)> {
        recording.inputs().map(|(name, len)| (name.to_owned(), values(name, len, 2.0))).collect()
    }
}

/// Multiples of 1/64 from `-most` to `most`: exact in half precision. A name stands for its own values (FNV-1a, then a linear
/// congruential generator).
fn values(name: &str, len: usize, most: f32) -> Vec<f32> {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (unit * most * 64.0).round() / 64.0
    };
    (0..len).map(|_| next()).collect()
}

fn weight(rec: &mut Recording, shape: &[usize], stored: DType) -> Result<Tensor> {
    let len: usize = shape.iter().product();
    // Results keep the size of their operands.
    let scale = ((len / shape[0]) as f32).sqrt().recip();
    let values: Vec<f32> = values("weight", len, 1.0).iter().map(|v| v * scale).collect();
    let constant = match stored {
        DType::F32 => Constant::from_f32("weight", shape, &values),
        DType::F16 => Constant::from_f32_as_f16("weight", shape, &values),
        blocks => Constant::from_f32_quantized("weight", shape, &values, blocks)?,
    };
    Ok(rec.constant(&constant))
}

fn vector(rec: &mut Recording, name: &str, len: usize) -> Tensor {
    rec.constant(&Constant::from_f32(name, &[len], &values(name, len, 1.0)))
}

/// A product as a transformer has it: bias and residual.
fn product(rec: &mut Recording, [rows, inner, columns]: [usize; 3], stored: DType) -> Result<Tensor> {
    let x = rec.input("x", Shape::tokens(1, rows, inner));
    let residual = rec.input("residual", Shape::tokens(1, rows, columns));
    let bias = Some(vector(rec, "bias", columns));
    let weight = weight(rec, &[columns, inner], stored)?;
    matmul(rec, x, weight, Epilogue { residual: Some(residual), ..Epilogue::bias(bias) })
}

fn convolution(rec: &mut Recording, x: Shape, columns: usize, geometry: Conv2d, stored: DType) -> Result<Tensor> {
    let x = rec.input("x", x);
    let bias = Some(vector(rec, "bias", columns));
    let weight = weight(rec, &[columns, geometry.kernel, geometry.kernel, x.shape.c], stored)?;
    conv2d(rec, x, weight, geometry, Epilogue::bias(bias))
}

fn attend(rec: &mut Recording, heads: usize, head: usize, [queries, keys]: [usize; 2], causal: bool) -> Result<Tensor> {
    let [q, k, v] = [("q", queries), ("k", keys), ("v", keys)]
        .map(|(name, tokens)| rec.input(name, Shape::tokens(1, tokens, heads * head)));
    attention(rec, q, k, v, Attention { heads, causal })
}

fn activate(rec: &mut Recording, activation: Activation) -> Result<Tensor> {
    let x = rec.input("x", Shape::tokens(2, 33, 40));
    elementwise(rec, x, activation)
}

/// Cases whose kernels others have too, with other constants: left out where the host's cores compile, which takes 4 s for each.
pub(super) const OTHER_SIZES: &[&str] = &["attention, head 80, text", "attention, head 160", "attention, head 512"];

/// All cases: every kernel, and every way of storing weights.
pub(super) const CASES: &[Case] = &[
    Case { name: "matmul, f32 weights", body: |rec| product(rec, [77, 320, 640], DType::F32) },
    Case { name: "matmul, f16 weights", body: |rec| product(rec, [154, 768, 320], DType::F16) },
    Case { name: "matmul of one row", body: |rec| product(rec, [1, 320, 1280], DType::F16) },
    Case { name: "matmul, q8_0 weights", body: |rec| product(rec, [77, 320, 320], DType::Q8_0) },
    Case { name: "matmul, q4_0 weights", body: |rec| product(rec, [77, 320, 320], DType::Q4_0) },
    Case {
        name: "gated matmul",
        body: |rec| {
            let x = rec.input("x", Shape::tokens(1, 64, 320));
            let (weight, bias) = (weight(rec, &[1280, 320], DType::F16)?, vector(rec, "bias", 1280));
            matmul(rec, x, weight, Epilogue { gated: true, ..Epilogue::bias(Some(bias)) })
        },
    },
    Case {
        name: "matmul, quick-GELU",
        body: |rec| {
            let x = rec.input("x", Shape::tokens(1, 77, 64));
            let weight = weight(rec, &[128, 64], DType::F16)?;
            matmul(rec, x, weight, Epilogue { activation: Activation::QuickGelu, ..Epilogue::default() })
        },
    },
    Case { name: "conv2d", body: |rec| convolution(rec, Shape::image(1, 24, 20, 64), 96, Conv2d::SAME, DType::F16) },
    Case {
        name: "conv2d with time embedding",
        body: |rec| {
            let x = rec.input("x", Shape::image(2, 9, 9, 32));
            let image_add = Some(rec.input("time", Shape::image(2, 1, 1, 64)));
            let residual = Some(rec.input("residual", Shape::image(2, 9, 9, 64)));
            let weight = weight(rec, &[64, 3, 3, 32], DType::F32)?;
            conv2d(rec, x, weight, Conv2d::SAME, Epilogue { image_add, residual, ..Epilogue::default() })
        },
    },
    Case {
        name: "conv2d with stride 2",
        body: |rec| {
            convolution(rec, Shape::image(1, 17, 16, 32), 64, Conv2d { stride: 2, ..Conv2d::SAME }, DType::Q8_0)
        },
    },
    Case {
        name: "conv2d, enlarged",
        body: |rec| {
            let twice = Conv2d { upsample_to: Some((16, 16)), ..Conv2d::SAME };
            convolution(rec, Shape::image(1, 8, 8, 64), 64, twice, DType::F16)
        },
    },
    Case {
        name: "conv2d to 4 channels",
        body: |rec| convolution(rec, Shape::image(1, 16, 16, 128), 4, Conv2d::SAME, DType::F16),
    },
    Case { name: "attention, head 40", body: |rec| attend(rec, 4, 40, [300, 300], false) },
    Case { name: "attention, head 64, causal", body: |rec| attend(rec, 2, 64, [77, 77], true) },
    Case { name: "attention, head 80, text", body: |rec| attend(rec, 2, 80, [144, 77], false) },
    Case { name: "attention, head 160", body: |rec| attend(rec, 1, 160, [64, 64], false) },
    Case { name: "attention, head 512", body: |rec| attend(rec, 1, 512, [48, 48], false) },
    Case { name: "group norm", body: |rec| normed(rec, Shape::image(2, 9, 9, 64), 32, true) },
    Case { name: "group norm in parts", body: |rec| normed(rec, Shape::image(1, 48, 48, 32), 8, false) },
    Case {
        name: "group norm by moments",
        body: |rec| {
            let x = rec.input("x", Shape::image(1, 7, 8, 32));
            let moments = rec.in_type(DType::F32, |rec| rec.input("moments", Shape::image(1, 1, 2, 32)));
            let beta = vector(rec, "beta", 32);
            group_norm_by(rec, x, moments, beta, true)
        },
    },
    Case {
        name: "layer norm",
        body: |rec| {
            let x = rec.input("x", Shape::tokens(2, 77, 320));
            let (gamma, beta) = (vector(rec, "gamma", 320), vector(rec, "beta", 320));
            layer_norm(rec, x, gamma, beta, 1e-5)
        },
    },
    Case { name: "SiLU", body: |rec| activate(rec, Activation::Silu) },
    Case { name: "GELU", body: |rec| activate(rec, Activation::Gelu) },
    Case { name: "ReLU", body: |rec| activate(rec, Activation::Relu) },
    Case { name: "scaled tanh", body: |rec| activate(rec, Activation::ScaledTanh) },
    Case {
        name: "concat",
        body: |rec| {
            let (a, b) = (rec.input("a", Shape::image(2, 5, 5, 40)), rec.input("b", Shape::image(2, 5, 5, 24)));
            concat(rec, a, b)
        },
    },
    Case {
        name: "scaled sum",
        body: |rec| {
            let (x, y) = (rec.input("a", Shape::image(2, 5, 5, 40)), rec.input("b", Shape::image(2, 5, 5, 40)));
            let vectors = rec.input("scales", Shape::image(2, 1, 1, 16));
            add_scaled(rec, x, y, Some(Scales { vectors, at: 3 }))
        },
    },
    Case {
        name: "token merging",
        body: |rec| {
            let tokens = rec.input("x", Shape::image(1, 10, 6, 40));
            let Some(by) = match_tokens(rec, tokens, 20, 1)? else { return Ok(tokens) };
            let merged = merge_tokens(rec, tokens, &by)?;
            unmerge_tokens(rec, tokens, merged, &by)
        },
    },
];

fn normed(rec: &mut Recording, x: Shape, groups: usize, silu: bool) -> Result<Tensor> {
    let x = rec.input("x", x);
    let (gamma, beta) = (vector(rec, "gamma", x.shape.c), vector(rec, "beta", x.shape.c));
    group_norm(rec, x, gamma, beta, GroupNorm { groups, eps: 1e-5, silu })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ops::KERNELS;
    use crate::record::{AdapterKind, MatrixShape};

    /// A kernel that no case records is one that the doctor never looks at.
    #[test]
    fn every_kernel_is_looked_at() {
        let gpu = Caps { kind: AdapterKind::Discrete, shader_f16: true, subgroups: true, ..Caps::webgpu() };
        let matrices = Caps {
            subgroup_size: (32, 32),
            matrices: vec![MatrixShape::square(16)],
            storage: DType::F16,
            max_workgroup_bytes: 32 << 10,
            ..gpu.clone()
        };
        let software = Caps { kind: AdapterKind::Software, subgroup_size: (8, 8), ..gpu.clone() };
        let mut seen = BTreeSet::new();
        for caps in [gpu, matrices, software] {
            let on_software = |case: &&Case| caps.kind != AdapterKind::Software || !OTHER_SIZES.contains(&case.name);
            for case in CASES.iter().filter(on_software) {
                let recording = case.record(&caps).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                assert!(!Case::inputs(&recording).is_empty(), "{}", case.name);
                seen.extend(recording.dispatches.iter().map(|dispatch| dispatch.kernel.stem));
            }
        }
        let written: BTreeSet<&str> = KERNELS.iter().filter(|k| !k.source.is_empty()).map(|k| k.stem).collect();
        assert_eq!(seen, written);
    }

    #[test]
    fn cases_that_are_left_out_have_kernels_of_others() {
        let software = Caps { kind: AdapterKind::Software, subgroups: true, subgroup_size: (8, 8), ..Caps::webgpu() };
        let stems = |cases: &mut dyn Iterator<Item = &Case>| {
            let of = |case: &Case| case.record(&software).expect("it is recorded").dispatches;
            cases.flat_map(of).map(|dispatch| dispatch.kernel.stem).collect::<BTreeSet<_>>()
        };
        let (left_out, tried): (Vec<&Case>, Vec<&Case>) =
            CASES.iter().partition(|case| OTHER_SIZES.contains(&case.name));
        assert_eq!(left_out.len(), OTHER_SIZES.len());
        assert!(stems(&mut left_out.into_iter()).is_subset(&stems(&mut tried.into_iter())));
    }

    #[test]
    fn values_are_exact_in_half_precision() {
        let values = values("x", 1000, 2.0);
        assert!(values.iter().all(|&v| half::f16::from_f32(v).to_f32() == v && v.abs() <= 2.0));
        assert!(values.iter().any(|&v| v > 1.9) && values.iter().any(|&v| v < -1.9));
    }
}
