//! A wrong shape is an error that names op and argument, never a panic.

use chiaro::Result;
use chiaro::ops::{self, Activation, Attention, Conv2d, Epilogue, GroupNorm};
use chiaro::record::{Caps, Constant, DType, Recording, Shape, Tensor};

fn refused(expected: &str, record: impl FnOnce(&mut Recording) -> Result<Tensor>) {
    let mut rec = Recording::new(&Caps::webgpu());
    let error = record(&mut rec).expect_err(expected).to_string();
    assert!(error.starts_with(expected), "expected an error that starts with {expected:?}, got {error:?}");
    assert!(rec.dispatches.is_empty(), "{expected}: refused, but recorded");
}

fn vector(rec: &mut Recording, len: usize) -> Tensor {
    let constant = Constant::from_f32("vector", &[len], &vec![1.0; len]);
    rec.constant(&constant)
}

fn tokens(rec: &mut Recording, name: &str, n: usize, t: usize, c: usize) -> Tensor {
    rec.input(name, Shape::tokens(n, t, c))
}

#[test]
fn attention() {
    let call = |q: [usize; 3], k: [usize; 3], v: [usize; 3], heads| {
        move |rec: &mut Recording| {
            let [q, k, v] = [("q", q), ("k", k), ("v", v)].map(|(name, [n, t, c])| tokens(rec, name, n, t, c));
            ops::attention(rec, q, k, v, Attention { heads, causal: false })
        }
    };
    refused("attention: heads", call([1, 8, 64], [1, 8, 64], [1, 8, 64], 0));
    refused("attention: heads", call([1, 8, 64], [1, 8, 64], [1, 8, 64], 3));
    refused("attention: q", call([1, 8, 64], [1, 8, 64], [1, 8, 64], 32));
    refused("attention: q", call([1, 8, 1024], [1, 8, 1024], [1, 8, 1024], 1));
    refused("attention: k", call([2, 8, 64], [1, 8, 64], [1, 8, 64], 2));
    refused("attention: k", call([1, 8, 64], [1, 8, 32], [1, 8, 32], 2));
    refused("attention: v", call([1, 8, 64], [1, 9, 64], [1, 8, 64], 2));
    refused("attention: k", call([1, 8, 64], [1, 0, 64], [1, 0, 64], 2));
    refused("attention: q", call([1, 0, 64], [1, 8, 64], [1, 8, 64], 2));
    refused("attention: q", |rec| {
        let q = tokens(rec, "q", 1, 8, 66).channels(2, 64);
        ops::attention(rec, q, q, q, Attention { heads: 2, causal: false })
    });
}

#[test]
fn norms() {
    let group = |c: usize, len: usize, groups| {
        move |rec: &mut Recording| {
            let x = rec.input("x", Shape::image(1, 4, 4, c));
            let gamma = vector(rec, len);
            ops::group_norm(rec, x, gamma, gamma, GroupNorm { groups, eps: 1e-5, silu: false })
        }
    };
    refused("group_norm: x", group(6, 6, 2));
    refused("group_norm: groups", group(8, 8, 0));
    refused("group_norm: groups", group(8, 8, 3));
    refused("group_norm: gamma", group(8, 4, 2));
    let by = |c: usize, moments: Shape, len: usize| {
        move |rec: &mut Recording| {
            let x = rec.input("x", Shape::image(1, 4, 4, c));
            let (moments, beta) = (rec.scratch(moments), vector(rec, len));
            ops::group_norm_by(rec, x, moments, beta, true)
        }
    };
    refused("group_norm: x", by(6, Shape::image(1, 1, 2, 6), 6));
    refused("group_norm: moments", by(8, Shape::image(1, 2, 2, 8), 8));
    refused("group_norm: moments", by(8, Shape::image(1, 1, 2, 4), 8));
    refused("group_norm: beta", by(8, Shape::image(1, 1, 2, 8), 4));
    refused("layer_norm: x", |rec| {
        let x = rec.input("x", Shape::tokens(1, 4, 32)).channels(0, 16);
        let gamma = vector(rec, 16);
        ops::layer_norm(rec, x, gamma, gamma, 1e-5)
    });
    refused("layer_norm: beta", |rec| {
        let x = rec.input("x", Shape::tokens(1, 4, 16));
        let (gamma, beta) = (vector(rec, 16), vector(rec, 20));
        ops::layer_norm(rec, x, gamma, beta, 1e-5)
    });
    refused("layer_norm: gamma", |rec| {
        let x = rec.input("x", Shape::tokens(1, 4, 16));
        let gamma = rec.constant(&Constant::from_f32_as_f16("gamma", &[16], &[1.0; 16]));
        ops::layer_norm(rec, x, gamma, gamma, 1e-5)
    });
}

#[test]
fn flat() {
    let gated = |rows: usize, residual: bool| {
        move |rec: &mut Recording| {
            let x = rec.input("x", Shape::tokens(1, 4, 8));
            let weight = rec.constant(&Constant::from_f32("w", &[rows, 8], &vec![0.0; 8 * rows]));
            let residual = residual.then(|| rec.input("residual", Shape::tokens(1, 4, rows)));
            ops::matmul(rec, x, weight, Epilogue { residual, gated: true, ..Epilogue::default() })
        }
    };
    refused("matmul: weight", gated(12, false));
    refused("matmul: gated", gated(16, true));
    refused("elementwise: x", |rec| {
        let x = rec.input("x", Shape::tokens(1, 4, 3));
        ops::elementwise(rec, x, Activation::Silu)
    });
    refused("concat: b", |rec| {
        let (a, b) = (rec.input("a", Shape::image(1, 4, 4, 8)), rec.input("b", Shape::image(1, 4, 5, 8)));
        ops::concat(rec, a, b)
    });
    refused("concat: b", |rec| {
        let (a, b) = (rec.input("a", Shape::image(1, 4, 4, 8)), rec.input("b", Shape::image(1, 4, 4, 6)));
        ops::concat(rec, a, b)
    });
    refused("add_scaled: y", |rec| {
        let (x, y) = (rec.input("x", Shape::image(3, 4, 4, 8)), rec.input("y", Shape::image(2, 4, 4, 8)));
        ops::add_scaled(rec, x, y, None)
    });
    refused("add_scaled: scale", |rec| {
        let x = rec.input("x", Shape::image(3, 4, 4, 8));
        let y = rec.input("y", x.shape);
        let vectors = rec.input("scale", Shape::image(3, 1, 1, 4));
        ops::add_scaled(rec, x, y, Some(ops::Scales { vectors, at: 4 }))
    });
}

/// Blocks lie along the rows of a weight, so a row is a whole number of them.
#[test]
fn rows_that_are_no_whole_blocks() {
    let weight = |rec: &mut Recording, shape: &[usize]| {
        let values = vec![1.0; shape.iter().product()];
        let constant =
            Constant::from_f32_quantized("weight", shape, &values, DType::Q8_0).expect("whole blocks in all");
        rec.constant(&constant)
    };
    refused("matmul: weight: expected rows of a multiple of 32 values in q8_0, got 16", |rec| {
        let (x, weight) = (tokens(rec, "x", 1, 8, 16), weight(rec, &[32, 16]));
        ops::matmul(rec, x, weight, Epilogue::default())
    });
    refused("conv2d: weight: expected rows of a multiple of 32 values in q8_0, got 36", |rec| {
        let (x, weight) = (rec.input("x", Shape::image(1, 4, 4, 4)), weight(rec, &[32, 3, 3, 4]));
        ops::conv2d(rec, x, weight, Conv2d::SAME, Epilogue::default())
    });
}
