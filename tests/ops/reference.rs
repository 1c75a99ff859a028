//! Each op by its definition, in f64, one loop per sum: written apart from the host twins, and slow.

use chiaro::ops::{Activation, Conv2d};
use chiaro::record::Shape;
use rayon::prelude::*;

use super::cases::{Case, Extras, IMAGE_ADD, LAYER_NORM_EPS, Operands, View, conv2d_shape};

/// What the case's op must give.
pub fn reference(case: &Case, operands: &Operands) -> Vec<f64> {
    match *case {
        Case::Matmul { x, view, c_out, extras, .. } => {
            let (values, weight) = (seen(operands.of("x"), x, view), operands.of("weight"));
            finish(Shape { c: c_out, ..x }, extras, operands, |row, o| {
                (0..x.c).map(|k| values[row * x.c + k] * f64::from(weight[o * x.c + k])).sum()
            })
        }
        Case::Conv2d { x, c_out, geometry, extras, .. } => {
            let shape = conv2d_shape(x, c_out, geometry);
            finish(shape, extras, operands, |row, o| conv2d(x, shape, geometry, operands, row, o))
        }
        Case::Attention { n, heads, head_dim, t_q, t_k, causal, fused, .. } => {
            let c = heads * head_dim;
            let part = |name, index, tokens| {
                if fused {
                    let view = View { before: index * c, after: (2 - index) * c };
                    seen(operands.of("qkv"), Shape::tokens(n, tokens, c), view)
                } else {
                    seen(operands.of(name), Shape::tokens(n, tokens, c), View::default())
                }
            };
            let (q, k, v) = (part("q", 0, t_q), part("k", 1, t_k), part("v", 2, t_k));
            rows(n * t_q, c, |row, out| {
                let (image, position) = (row / t_q, row % t_q);
                let keys = if causal { t_k.min(position + 1) } else { t_k };
                for head in 0..heads {
                    let at = |row: usize, i: usize| row * c + head * head_dim + i;
                    let score = |j: usize| -> f64 {
                        let products = (0..head_dim).map(|i| q[at(row, i)] * k[at(image * t_k + j, i)]);
                        products.sum::<f64>() / (head_dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = (0..keys).map(score).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for (j, weight) in weights.iter().enumerate() {
                        for i in 0..head_dim {
                            out[head * head_dim + i] += weight / sum * v[at(image * t_k + j, i)];
                        }
                    }
                }
            })
        }
        Case::GroupNorm { x, norm, .. } => {
            let (values, gamma, beta) = (operands.of("x"), operands.of("gamma"), operands.of("beta"));
            let (pixels, members) = (x.h * x.w, x.c / norm.groups);
            let statistics: Vec<(f64, f64)> = (0..x.n * norm.groups)
                .into_par_iter()
                .map(|index| {
                    let (image, group) = (index / norm.groups, index % norm.groups);
                    let member = |i: usize| {
                        let (pixel, channel) = (i / members, group * members + i % members);
                        f64::from(values[(image * pixels + pixel) * x.c + channel])
                    };
                    moments(pixels * members, member)
                })
                .collect();
            rows(x.rows(), x.c, |row, out| {
                for (c, out) in out.iter_mut().enumerate() {
                    let (mean, variance) = statistics[row / pixels * norm.groups + c / members];
                    let value = (f64::from(values[row * x.c + c]) - mean) / (variance + f64::from(norm.eps)).sqrt();
                    let value = value * f64::from(gamma[c]) + f64::from(beta[c]);
                    *out = if norm.silu { activate(Activation::Silu, value) } else { value };
                }
            })
        }
        Case::LayerNorm { x, .. } => {
            let (values, gamma, beta) = (operands.of("x"), operands.of("gamma"), operands.of("beta"));
            rows(x.rows(), x.c, |row, out| {
                let value = |c: usize| f64::from(values[row * x.c + c]);
                let (mean, variance) = moments(x.c, value);
                for (c, out) in out.iter_mut().enumerate() {
                    let normal = (value(c) - mean) / (variance + f64::from(LAYER_NORM_EPS)).sqrt();
                    *out = normal * f64::from(gamma[c]) + f64::from(beta[c]);
                }
            })
        }
        Case::Geglu { x, c_out, .. } => {
            let (values, weight, bias) = (operands.of("x"), operands.of("weight"), operands.of("bias"));
            rows(x.rows(), c_out, |row, out| {
                let product = |o: usize| {
                    let term = |k: usize| f64::from(values[row * x.c + k]) * f64::from(weight[o * x.c + k]);
                    (0..x.c).map(term).sum::<f64>() + f64::from(bias[o])
                };
                for (i, out) in out.iter_mut().enumerate() {
                    // Two values, then their gates.
                    let value = i / 2 * 4 + i % 2;
                    *out = product(value) * activate(Activation::Gelu, product(value + 2));
                }
            })
        }
        Case::Elementwise { activation, .. } => {
            operands.of("x").par_iter().map(|&v| activate(activation, f64::from(v))).collect()
        }
        Case::Concat { x, a, c_b, b } => {
            let first = seen(operands.of("a"), x, a);
            let second = seen(operands.of("b"), Shape { c: c_b, ..x }, b);
            rows(x.rows(), x.c + c_b, |row, out| {
                out[..x.c].copy_from_slice(&first[row * x.c..(row + 1) * x.c]);
                out[x.c..].copy_from_slice(&second[row * c_b..(row + 1) * c_b]);
            })
        }
        Case::AddScaled { x, images, scales } => {
            let (first, second) = (operands.of("x"), operands.of("y"));
            let pixels = x.h * x.w;
            rows(x.rows(), x.c, |row, out| {
                let (image, pixel) = (row / pixels, row % pixels);
                let scale = scales.map_or(1.0, |(c, at)| f64::from(operands.of("scale")[image * c + at]));
                let other = if images == 1 { pixel } else { row };
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f64::from(first[row * x.c + i]) + scale * f64::from(second[other * x.c + i]);
                }
            })
        }
    }
}

/// A channel view's values without gaps.
fn seen(storage: &[f32], shape: Shape, view: View) -> Vec<f64> {
    let stride = view.storage(shape).c;
    let value = |i: usize| f64::from(storage[i / shape.c * stride + view.before + i % shape.c]);
    (0..shape.len()).map(value).collect()
}

/// Fills rows of `width` results, in parallel.
fn rows(count: usize, width: usize, fill: impl Fn(usize, &mut [f64]) + Sync) -> Vec<f64> {
    let mut out = vec![0.0; count * width];
    out.par_chunks_mut(width).enumerate().for_each(|(row, out)| fill(row, out));
    out
}

/// A product with everything that is added to it.
fn finish(shape: Shape, extras: Extras, operands: &Operands, product: impl Fn(usize, usize) -> f64 + Sync) -> Vec<f64> {
    let add = |used: bool, name: &str, index: usize| if used { f64::from(operands.of(name)[index]) } else { 0.0 };
    rows(shape.rows(), shape.c, |row, out| {
        for (o, out) in out.iter_mut().enumerate() {
            let image = row / (shape.h * shape.w);
            let value = product(row, o)
                + add(extras.bias, "bias", o)
                + add(extras.image_add, "image_add", image * IMAGE_ADD.storage(shape).c + IMAGE_ADD.before + o)
                + add(extras.residual, "residual", row * shape.c + o);
            *out = activate(extras.activation, value);
        }
    })
}

fn conv2d(x: Shape, shape: Shape, geometry: Conv2d, operands: &Operands, row: usize, o: usize) -> f64 {
    let (values, weight, kernel) = (operands.of("x"), operands.of("weight"), geometry.kernel);
    let (height, width) = geometry.upsample_to.unwrap_or((x.h, x.w));
    let (image, y, column) = (row / (shape.h * shape.w), row / shape.w % shape.h, row % shape.w);
    let mut sum = 0.0;
    for i in 0..kernel {
        for j in 0..kernel {
            let (y, column) = (y * geometry.stride + i, column * geometry.stride + j);
            let inside = |at: usize, extent: usize| (geometry.pad_before..geometry.pad_before + extent).contains(&at);
            if !inside(y, height) || !inside(column, width) {
                continue;
            }
            // The nearest source pixel as torch picks it: floor(out * in / out_size).
            let source = |at: usize, from: usize, to: usize| {
                ((at - geometry.pad_before) as f64 * from as f64 / to as f64 + 1e-9).floor() as usize
            };
            let pixel = (image * x.h + source(y, x.h, height)) * x.w + source(column, x.w, width);
            for c in 0..x.c {
                let weight = weight[((o * kernel + i) * kernel + j) * x.c + c];
                sum += f64::from(values[pixel * x.c + c]) * f64::from(weight);
            }
        }
    }
    sum
}

/// Mean and biased variance.
fn moments(count: usize, value: impl Fn(usize) -> f64) -> (f64, f64) {
    let mean = (0..count).map(&value).sum::<f64>() / count as f64;
    let variance = (0..count).map(|i| (value(i) - mean).powi(2)).sum::<f64>() / count as f64;
    (mean, variance)
}

fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * normal_cdf(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::ScaledTanh => 3.0 * (x / 3.0).tanh(),
    }
}

/// Φ by the Taylor series of erf, Σ (-1)^n z^(2n+1) / (n! (2n+1)); past 6 it is 0 or 1 to 1e-9.
fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 + sum / std::f64::consts::PI.sqrt()
}

#[test]
fn the_normal_distribution_is_the_tabulated_one() {
    for (x, phi) in [(0.0, 0.5), (1.0, 0.841_344_746_068_543), (-2.0, 0.022_750_131_948_179), (4.0, 0.999_968_328_758)]
    {
        assert!((normal_cdf(x) - phi).abs() < 1e-11, "Φ({x}) = {}", normal_cdf(x));
    }
}
