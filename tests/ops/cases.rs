//! The table of cases that every backend must compute alike. Benchmarks reuse it.

use std::sync::Arc;

use chiaro::Result;
use chiaro::ops::{self, Activation, Attention, Conv2d, Epilogue, GroupNorm};
use chiaro::record::{BLOCK, Caps, Constant, DType, Recording, Shape, Tensor};

/// One call of one op: shapes and switches. Operands are made from a seed.
#[derive(Debug, Clone, Copy)]
pub enum Case {
    Matmul {
        x: Shape,
        view: View,
        c_out: usize,
        stored: DType,
        extras: Extras,
    },
    Conv2d {
        x: Shape,
        c_out: usize,
        geometry: Conv2d,
        stored: DType,
        extras: Extras,
    },
    Attention {
        n: usize,
        heads: usize,
        head_dim: usize,
        t_q: usize,
        t_k: usize,
        causal: bool,
        fused: bool,
        spread: f32,
    },
    GroupNorm {
        x: Shape,
        norm: GroupNorm,
        mean: f32,
    },
    LayerNorm {
        x: Shape,
        mean: f32,
    },
    /// A gated product with `c_out` results.
    Geglu {
        x: Shape,
        c_out: usize,
        stored: DType,
    },
    Elementwise {
        x: Shape,
        activation: Activation,
    },
    Concat {
        x: Shape,
        a: View,
        c_b: usize,
        b: View,
    },
    AddScaled {
        x: Shape,
        /// Images of y.
        images: usize,
        /// Length of the vectors of scales, and which value is taken.
        scales: Option<(usize, usize)>,
    },
}

/// Channels of the storage before and after those that are used.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    pub before: usize,
    pub after: usize,
}

impl View {
    /// The tensor that is seen: a channel range of a larger input.
    fn input(self, rec: &mut Recording, wide: Wide, name: &str, shape: Shape) -> Tensor {
        wide.input(rec, name, self.storage(shape)).channels(self.before, shape.c)
    }

    pub fn storage(self, shape: Shape) -> Shape {
        Shape { c: self.before + shape.c + self.after, ..shape }
    }
}

/// Names of the activations, `out` among them, that are f32 where the others are of the storage type.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wide(pub &'static [&'static str]);

impl Wide {
    fn input(self, rec: &mut Recording, name: &str, shape: Shape) -> Tensor {
        self.made(rec, name, |rec| rec.input(name, shape))
    }

    fn made<T>(self, rec: &mut Recording, name: &str, body: impl FnOnce(&mut Recording) -> T) -> T {
        if self.0.contains(&name) { rec.in_f32(body) } else { body(rec) }
    }
}

/// What a product adds before it is stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    pub bias: bool,
    pub image_add: bool,
    pub residual: bool,
    pub activation: Activation,
}

/// The values of a case, by the names under which it records them. All are exact in half precision, so that a backend's
/// storage type does not change the question.
#[derive(Clone)]
pub struct Operands(pub Vec<(&'static str, Vec<f32>)>);

impl Operands {
    pub fn of(&self, name: &str) -> &[f32] {
        &self.0.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("the case has an operand {name}")).1
    }

    /// The same but for a part of `name`'s values that half precision does not hold.
    pub fn finer(&self, name: &str) -> Self {
        let mut operands = self.clone();
        let values = &mut operands.0.iter_mut().find(|(n, _)| *n == name).expect("the case has the operand").1;
        for (i, value) in values.iter_mut().enumerate() {
            *value *= 1.0 + (i % 7) as f32 * 1e-4;
        }
        operands
    }

    fn constant(&self, rec: &mut Recording, name: &str, shape: &[usize], stored: DType) -> Tensor {
        let constant = constant(name, shape, self.of(name), stored);
        rec.constant(&constant)
    }
}

/// What quantised storage keeps of values: quantising that again changes nothing.
fn kept(values: Vec<f32>, stored: DType) -> Vec<f32> {
    if !stored.is_quantized() {
        return values;
    }
    let constant = constant("weight", &[values.len()], &values, stored);
    constant.values().expect("of the right length")
}

fn constant(name: &str, shape: &[usize], values: &[f32], stored: DType) -> Arc<Constant> {
    match stored {
        DType::F32 => Constant::from_f32(name, shape, values),
        DType::F16 => Constant::from_f32_as_f16(name, shape, values),
        blocks => Constant::from_f32_quantized(name, shape, values, blocks).expect("whole blocks of usual values"),
    }
}

impl Case {
    /// The same product of weights in blocks, if its sums are whole blocks long.
    pub fn in_blocks(self, stored: DType) -> Option<Case> {
        match self {
            Case::Matmul { x, view, c_out, extras, .. } if x.c.is_multiple_of(BLOCK) => {
                Some(Case::Matmul { x, view, c_out, stored, extras })
            }
            Case::Conv2d { x, c_out, geometry, extras, .. }
                if (geometry.kernel * geometry.kernel * x.c).is_multiple_of(BLOCK) =>
            {
                Some(Case::Conv2d { x, c_out, geometry, stored, extras })
            }
            _ => None,
        }
    }

    /// Values for all operands, the same at each call.
    pub fn operands(&self) -> Operands {
        let mut seed = 0x0123_4567_89ab_cdef_u64;
        let mut normal = |len: usize, mean: f32, spread: f32| {
            seed = seed.wrapping_add(1);
            normal_values(seed, len, mean, spread)
        };
        let mut operands = Vec::new();
        match *self {
            Case::Matmul { x, view, c_out, stored, extras } => {
                operands.push(("x", normal(view.storage(x).len(), 0.0, 1.0)));
                let weight = normal(c_out * x.c, 0.0, (x.c as f32).sqrt().recip());
                operands.push(("weight", kept(weight, stored)));
                extras.operands(&mut operands, &mut normal, Shape { c: c_out, ..x });
            }
            Case::Conv2d { x, c_out, geometry, stored, extras } => {
                let inner = geometry.kernel * geometry.kernel * x.c;
                operands.push(("x", normal(x.len(), 0.0, 1.0)));
                let weight = normal(c_out * inner, 0.0, (inner as f32).sqrt().recip());
                operands.push(("weight", kept(weight, stored)));
                extras.operands(&mut operands, &mut normal, conv2d_shape(x, c_out, geometry));
            }
            Case::Attention { n, heads, head_dim, t_q, t_k, fused, spread, .. } => {
                let c = heads * head_dim;
                if fused {
                    operands.push(("qkv", normal(n * t_q * 3 * c, 0.0, spread)));
                } else {
                    operands.push(("q", normal(n * t_q * c, 0.0, spread)));
                    operands.push(("k", normal(n * t_k * c, 0.0, spread)));
                    operands.push(("v", normal(n * t_k * c, 0.0, 1.0)));
                }
            }
            Case::GroupNorm { x, mean, .. } | Case::LayerNorm { x, mean } => {
                operands.push(("x", normal(x.len(), mean, 1.0)));
                operands.push(("gamma", normal(x.c, 1.0, 0.3)));
                operands.push(("beta", normal(x.c, 0.0, 0.3)));
            }
            Case::Geglu { x, c_out, stored } => {
                operands.push(("x", normal(x.len(), 0.0, 1.0)));
                let weight = normal(2 * c_out * x.c, 0.0, 2.0 / (x.c as f32).sqrt());
                operands.push(("weight", kept(weight, stored)));
                operands.push(("bias", normal(2 * c_out, 0.0, 1.0)));
            }
            Case::Elementwise { x, .. } => operands.push(("x", normal(x.len(), 0.0, 3.0))),
            Case::Concat { x, a, c_b, b } => {
                operands.push(("a", normal(a.storage(x).len(), 0.0, 1.0)));
                operands.push(("b", normal(b.storage(Shape { c: c_b, ..x }).len(), 0.0, 1.0)));
            }
            Case::AddScaled { x, images, scales } => {
                operands.push(("x", normal(x.len(), 0.0, 1.0)));
                operands.push(("y", normal(x.len() / x.n * images, 0.0, 1.0)));
                operands.extend(scales.map(|(c, _)| ("scale", normal(x.n * c, 0.0, 1.0))));
            }
        }
        Operands(operands)
    }

    /// The recording, with its result named `out`. Operands that are not constants are its inputs.
    ///
    /// # Errors
    /// Those of the op.
    pub fn record(&self, caps: &Caps, operands: &Operands, wide: Wide) -> Result<Recording> {
        let mut rec = Recording::new(caps);
        let out = self.record_op(&mut rec, operands, wide)?;
        rec.output("out", out);
        Ok(rec)
    }

    fn record_op(&self, rec: &mut Recording, operands: &Operands, wide: Wide) -> Result<Tensor> {
        match *self {
            Case::Matmul { x, view, c_out, stored, extras } => {
                let seen = view.input(rec, wide, "x", x);
                let weight = operands.constant(rec, "weight", &[c_out, x.c], stored);
                let epilogue = extras.epilogue(rec, operands, wide, Shape { c: c_out, ..x });
                wide.made(rec, "out", |rec| ops::matmul(rec, seen, weight, epilogue))
            }
            Case::Conv2d { x, c_out, geometry, stored, extras } => {
                let input = wide.input(rec, "x", x);
                let kernel = geometry.kernel;
                let weight = operands.constant(rec, "weight", &[c_out, kernel, kernel, x.c], stored);
                let epilogue = extras.epilogue(rec, operands, wide, conv2d_shape(x, c_out, geometry));
                wide.made(rec, "out", |rec| ops::conv2d(rec, input, weight, geometry, epilogue))
            }
            Case::Attention { n, heads, head_dim, t_q, t_k, causal, fused, .. } => {
                let c = heads * head_dim;
                let (q, k, v) = if fused {
                    let qkv = wide.input(rec, "qkv", Shape::tokens(n, t_q, 3 * c));
                    (qkv.channels(0, c), qkv.channels(c, c), qkv.channels(2 * c, c))
                } else {
                    let (queries, keys) = (Shape::tokens(n, t_q, c), Shape::tokens(n, t_k, c));
                    (wide.input(rec, "q", queries), wide.input(rec, "k", keys), wide.input(rec, "v", keys))
                };
                wide.made(rec, "out", |rec| ops::attention(rec, q, k, v, Attention { heads, causal }))
            }
            Case::GroupNorm { x, norm, .. } => {
                let input = wide.input(rec, "x", x);
                let gamma = operands.constant(rec, "gamma", &[x.c], DType::F32);
                let beta = operands.constant(rec, "beta", &[x.c], DType::F32);
                wide.made(rec, "out", |rec| ops::group_norm(rec, input, gamma, beta, norm))
            }
            Case::LayerNorm { x, .. } => {
                let input = wide.input(rec, "x", x);
                let gamma = operands.constant(rec, "gamma", &[x.c], DType::F32);
                let beta = operands.constant(rec, "beta", &[x.c], DType::F32);
                wide.made(rec, "out", |rec| ops::layer_norm(rec, input, gamma, beta, LAYER_NORM_EPS))
            }
            Case::Geglu { x, c_out, stored } => {
                let input = wide.input(rec, "x", x);
                let weight = operands.constant(rec, "weight", &[2 * c_out, x.c], stored);
                let bias = Some(operands.constant(rec, "bias", &[2 * c_out], DType::F32));
                let epilogue = Epilogue { bias, gated: true, ..Epilogue::default() };
                wide.made(rec, "out", |rec| ops::matmul(rec, input, weight, epilogue))
            }
            Case::Elementwise { x, activation } => {
                let input = wide.input(rec, "x", x);
                wide.made(rec, "out", |rec| ops::elementwise(rec, input, activation))
            }
            Case::Concat { x, a, c_b, b } => {
                let first = a.input(rec, wide, "a", x);
                let second = b.input(rec, wide, "b", Shape { c: c_b, ..x });
                wide.made(rec, "out", |rec| ops::concat(rec, first, second))
            }
            Case::AddScaled { x, images, scales } => {
                let first = wide.input(rec, "x", x);
                let second = wide.input(rec, "y", Shape { n: images, ..x });
                let scales = scales
                    .map(|(c, at)| ops::Scales { vectors: wide.input(rec, "scale", Shape::image(x.n, 1, 1, c)), at });
                wide.made(rec, "out", |rec| ops::add_scaled(rec, first, second, scales))
            }
        }
    }

    /// The largest error in f32, relative to the largest value, that rounding explains. Sums grow it with the square root
    /// of their length; a mean far from zero, and scores far apart, magnify the rounding of the operands' differences.
    pub fn tolerance(&self) -> f64 {
        let sum = |len: usize| 1e-6 + 4e-8 * (len as f64).sqrt();
        match *self {
            Case::Matmul { x, .. } => sum(x.c),
            Case::Conv2d { x, geometry, .. } => sum(geometry.kernel * geometry.kernel * x.c),
            Case::Attention { head_dim, t_k, spread, .. } => {
                sum(t_k) * f64::from(1.0 + spread * spread) + sum(head_dim)
            }
            Case::GroupNorm { mean, .. } | Case::LayerNorm { mean, .. } => 2e-6 + 2e-7 * f64::from(mean.abs()),
            // Both factors are products.
            Case::Geglu { x, .. } => 3.0 * sum(x.c),
            Case::Elementwise { .. } | Case::AddScaled { .. } => 1e-6,
            Case::Concat { .. } => 0.0,
        }
    }
}

pub const LAYER_NORM_EPS: f32 = 1e-5;

impl Extras {
    fn operands(
        self,
        operands: &mut Vec<(&'static str, Vec<f32>)>,
        normal: &mut impl FnMut(usize, f32, f32) -> Vec<f32>,
        out: Shape,
    ) {
        if self.bias {
            operands.push(("bias", normal(out.c, 0.0, 1.0)));
        }
        if self.image_add {
            let wide = IMAGE_ADD.storage(Shape::image(out.n, 1, 1, out.c));
            operands.push(("image_add", normal(wide.len(), 0.0, 1.0)));
        }
        if self.residual {
            operands.push(("residual", normal(out.len(), 0.0, 1.0)));
        }
    }

    fn epilogue(self, rec: &mut Recording, operands: &Operands, wide: Wide, out: Shape) -> Epilogue {
        Epilogue {
            bias: self.bias.then(|| operands.constant(rec, "bias", &[out.c], DType::F32)),
            image_add: self
                .image_add
                .then(|| IMAGE_ADD.input(rec, wide, "image_add", Shape::image(out.n, 1, 1, out.c))),
            residual: self.residual.then(|| wide.input(rec, "residual", out)),
            activation: self.activation,
            gated: false,
        }
    }
}

/// The result's shape, worked out apart from the op that is tested.
pub fn conv2d_shape(x: Shape, c_out: usize, geometry: Conv2d) -> Shape {
    let (h, w) = geometry.upsample_to.unwrap_or((x.h, x.w));
    let along = |extent: usize| {
        let last = extent + geometry.pad_before + geometry.pad_after - geometry.kernel;
        (0..=last).step_by(geometry.stride).count()
    };
    Shape { n: x.n, h: along(h), w: along(w), c: c_out }
}

/// Roughly normal values (the sum of four uniform ones), rounded to half precision.
pub fn normal_values(seed: u64, len: usize, mean: f32, spread: f32) -> Vec<f32> {
    let mut state = seed;
    let value = |_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
        // Four uniform values of variance 1/12 each.
        let unit = (sum as f32 / 65_536.0 - 2.0) * 3.0f32.sqrt();
        half::f16::from_f32(mean + spread * unit).to_f32()
    };
    (0..len).map(value).collect()
}

/// What is added to an image is a part of what all layers add.
pub const IMAGE_ADD: View = View { before: 8, after: 12 };

const PLAIN: Extras = Extras { bias: false, image_add: false, residual: false, activation: Activation::None };
const BIAS: Extras = Extras { bias: true, ..PLAIN };
const EVERYTHING: Extras = Extras { bias: true, image_add: true, residual: true, activation: Activation::Silu };
const WHOLE: View = View { before: 0, after: 0 };

/// Real shapes of Stable Diffusion (1.x, 2.x, its VAE and text encoders), and odd ones.
pub fn table() -> Vec<Case> {
    [matmul(), conv2d(), attention(), group_norm(), layer_norm(), flat()].concat()
}

fn stored(half: bool) -> DType {
    if half { DType::F16 } else { DType::F32 }
}

fn matmul() -> Vec<Case> {
    let case = |x, c_out, half, extras| Case::Matmul { x, view: WHOLE, c_out, stored: stored(half), extras };
    let activations =
        [Activation::Gelu, Activation::QuickGelu, Activation::Relu, Activation::ScaledTanh, Activation::Silu];
    let mut cases = vec![
        // Projections of the UNet's levels, cross-attention's keys, the time embedding, a feed-forward layer.
        case(Shape::tokens(1, 600, 320), 320, true, Extras { residual: true, ..BIAS }),
        case(Shape::tokens(2, 64, 640), 640, true, PLAIN),
        case(Shape::tokens(2, 77, 768), 320, true, PLAIN),
        case(Shape::tokens(2, 16, 1280), 1280, true, BIAS),
        case(Shape::image(2, 1, 1, 320), 1280, true, Extras { activation: Activation::Silu, ..BIAS }),
        case(Shape::tokens(1, 77, 768), 1536, false, Extras { activation: Activation::QuickGelu, ..BIAS }),
        case(Shape::image(2, 8, 12, 640), 320, false, EVERYTHING),
        case(Shape::image(3, 5, 7, 36), 100, true, EVERYTHING),
        // Results for 256 large tiles, the last of them in part.
        case(Shape::tokens(1, 1100, 20), 964, true, BIAS),
        // The least, and one row or column past a tile.
        case(Shape::tokens(1, 1, 4), 4, false, PLAIN),
        case(Shape::tokens(1, 65, 20), 68, false, BIAS),
        case(Shape::tokens(1, 33, 4), 36, true, BIAS),
        Case::Matmul {
            x: Shape::tokens(2, 35, 64),
            view: View { before: 64, after: 128 },
            c_out: 40,
            stored: DType::F32,
            extras: BIAS,
        },
    ];
    cases
        .extend(activations.map(|activation| {
            case(Shape::tokens(1, 31, 32), 48, false, Extras { residual: true, activation, ..BIAS })
        }));
    cases
}

fn conv2d() -> Vec<Case> {
    let case = |x, c_out, geometry, half, extras| Case::Conv2d { x, c_out, geometry, stored: stored(half), extras };
    let same = Conv2d::SAME;
    let point = Conv2d { kernel: 1, pad_before: 0, pad_after: 0, ..same };
    let downsample = Conv2d { stride: 2, ..same };
    let upsample = |h, w| Conv2d { upsample_to: Some((h, w)), ..same };
    vec![
        // conv_in and conv_out, padded to 4 channels; a resnet's convolutions.
        case(Shape::image(2, 32, 32, 4), 320, same, true, BIAS),
        case(Shape::image(2, 16, 24, 320), 4, same, true, BIAS),
        case(Shape::image(1, 8, 12, 320), 320, same, true, Extras { image_add: true, ..BIAS }),
        case(Shape::image(2, 4, 6, 640), 320, same, true, Extras { residual: true, ..BIAS }),
        case(Shape::image(2, 2, 3, 1280), 320, same, false, BIAS),
        case(Shape::image(1, 20, 20, 128), 128, same, false, Extras { residual: true, ..BIAS }),
        case(Shape::image(2, 12, 8, 320), 640, point, true, BIAS),
        // The UNet's way down, the VAE's (padded only after), odd sizes of both.
        case(Shape::image(1, 16, 16, 64), 64, downsample, true, BIAS),
        case(Shape::image(2, 9, 13, 32), 32, downsample, false, BIAS),
        case(Shape::image(1, 16, 16, 64), 64, Conv2d { pad_before: 0, ..downsample }, false, BIAS),
        case(Shape::image(2, 7, 10, 32), 32, Conv2d { pad_before: 0, ..downsample }, true, BIAS),
        // The way up: twice, and to the odd size of a skip.
        case(Shape::image(2, 8, 8, 64), 64, upsample(16, 16), true, BIAS),
        case(Shape::image(1, 5, 7, 32), 48, upsample(9, 13), false, BIAS),
        case(Shape::image(2, 3, 4, 16), 16, upsample(5, 8), true, EVERYTHING),
        // What the host transforms (Winograd): cut tiles, panels and parts.
        case(Shape::image(2, 9, 13, 132), 140, same, true, EVERYTHING),
        case(Shape::image(1, 5, 7, 128), 160, upsample(9, 13), false, BIAS),
        // Results for 256 large tiles, whose steps end with each tap.
        case(Shape::image(2, 33, 33, 20), 484, same, true, BIAS),
        // Everything at once; the least; a 5×5 and a 3×3 without padding; TAESD's ReLU.
        case(Shape::image(3, 5, 7, 20), 36, same, true, EVERYTHING),
        case(Shape::image(1, 1, 1, 4), 4, same, false, PLAIN),
        case(Shape::image(1, 1, 1, 4), 4, point, true, PLAIN),
        case(Shape::image(1, 9, 6, 8), 12, Conv2d { kernel: 5, pad_before: 2, pad_after: 2, ..same }, false, BIAS),
        case(Shape::image(1, 6, 9, 8), 12, Conv2d { pad_before: 0, pad_after: 0, ..same }, false, BIAS),
        case(Shape::image(1, 24, 24, 64), 64, same, false, Extras { activation: Activation::Relu, ..BIAS }),
    ]
}

fn attention() -> Vec<Case> {
    let case = |n, heads, head_dim, t_q, t_k| Case::Attention {
        n,
        heads,
        head_dim,
        t_q,
        t_k,
        causal: false,
        fused: false,
        spread: 1.0,
    };
    let fused = |n, heads, head_dim, t, causal| Case::Attention {
        n,
        heads,
        head_dim,
        t_q: t,
        t_k: t,
        causal,
        fused: true,
        spread: 1.0,
    };
    let mut cases = vec![
        // Self-attention of SD1.5's levels, of SD2's and of the VAE, with fewer heads or queries where there are many.
        case(1, 1, 40, 70, 4096),
        fused(1, 2, 40, 256, false),
        fused(2, 1, 80, 256, false),
        fused(2, 2, 160, 64, false),
        fused(1, 1, 64, 576, false),
        case(1, 1, 512, 40, 1024),
        // Cross-attention, with odd numbers of latents too.
        case(1, 1, 40, 4096, 77),
        case(2, 2, 80, 96, 77),
        case(2, 2, 160, 60, 77),
        case(1, 10, 64, 117, 154),
        // The text encoders.
        fused(2, 12, 64, 77, true),
        fused(1, 2, 40, 333, true),
        // Small and odd.
        case(1, 1, 4, 1, 1),
        case(3, 2, 8, 1, 5),
        case(1, 4, 16, 33, 1),
        case(2, 3, 32, 65, 129),
        case(1, 2, 36, 70, 41),
        case(1, 2, 100, 37, 83),
        case(1, 2, 128, 130, 67),
        case(1, 1, 508, 9, 130),
        fused(1, 1, 512, 70, true),
        fused(2, 2, 12, 19, true),
        // Causal with more and with fewer keys than queries.
        Case::Attention { n: 1, heads: 2, head_dim: 64, t_q: 100, t_k: 150, causal: true, fused: false, spread: 1.0 },
        Case::Attention { n: 1, heads: 2, head_dim: 64, t_q: 150, t_k: 100, causal: true, fused: false, spread: 1.0 },
    ];
    // Scores in the thousands: only the subtracted maximum keeps the weights finite.
    for causal in [false, true] {
        cases.push(Case::Attention {
            n: 1,
            heads: 2,
            head_dim: 64,
            t_q: 90,
            t_k: 90,
            causal,
            fused: false,
            spread: 16.0,
        });
    }
    cases
}

fn group_norm() -> Vec<Case> {
    let case = |x, groups, silu| Case::GroupNorm { x, norm: GroupNorm { groups, eps: 1e-5, silu }, mean: 0.0 };
    vec![
        case(Shape::image(2, 64, 48, 320), 32, true),
        case(Shape::image(2, 32, 32, 960), 32, true),
        case(Shape::image(2, 16, 16, 1280), 32, false),
        case(Shape::image(2, 8, 8, 2560), 32, true),
        case(Shape::image(1, 24, 40, 640), 32, false),
        // The VAE's; TAESD-like and demo sizes.
        case(Shape::image(1, 160, 128, 128), 32, true),
        case(Shape::image(1, 64, 64, 512), 32, true),
        case(Shape::image(3, 8, 8, 32), 8, true),
        case(Shape::image(1, 9, 7, 64), 32, false),
        // One pixel, one group, one channel per group, groups of odd size across vectors.
        case(Shape::image(1, 1, 1, 32), 32, true),
        case(Shape::image(2, 1, 1, 32), 4, false),
        case(Shape::image(2, 3, 5, 12), 1, false),
        case(Shape::image(1, 13, 11, 12), 4, true),
        case(Shape::image(1, 17, 31, 100), 20, false),
        case(Shape::image(1, 31, 33, 4), 4, false),
        // Far from zero: a difference of squares would lose everything.
        Case::GroupNorm {
            x: Shape::image(1, 48, 48, 64),
            norm: GroupNorm { groups: 32, eps: 1e-6, silu: false },
            mean: 200.0,
        },
    ]
}

fn layer_norm() -> Vec<Case> {
    let case = |x| Case::LayerNorm { x, mean: 0.0 };
    vec![
        case(Shape::tokens(2, 1024, 320)),
        case(Shape::tokens(1, 256, 640)),
        case(Shape::tokens(2, 64, 1280)),
        case(Shape::tokens(2, 77, 768)),
        case(Shape::tokens(1, 77, 1024)),
        case(Shape::tokens(1, 77, 2048)),
        case(Shape::tokens(1, 5, 5120)),
        case(Shape::tokens(1, 1, 4)),
        case(Shape::tokens(3, 11, 36)),
        case(Shape::tokens(1, 129, 64)),
        Case::LayerNorm { x: Shape::tokens(1, 100, 320), mean: 200.0 },
    ]
}

/// Ops on each value alone.
fn flat() -> Vec<Case> {
    let mut cases = vec![
        Case::Geglu { x: Shape::tokens(2, 128, 320), c_out: 1280, stored: DType::F16 },
        Case::Geglu { x: Shape::tokens(1, 16, 640), c_out: 2560, stored: DType::F16 },
        Case::Geglu { x: Shape::tokens(2, 65, 32), c_out: 36, stored: DType::Q8_0 },
        Case::Geglu { x: Shape::tokens(3, 7, 8), c_out: 4, stored: DType::F32 },
        Case::Geglu { x: Shape::tokens(1, 1, 24), c_out: 132, stored: DType::F32 },
        Case::Concat { x: Shape::image(2, 16, 16, 640), a: WHOLE, c_b: 320, b: WHOLE },
        Case::Concat { x: Shape::image(1, 5, 7, 4), a: WHOLE, c_b: 12, b: WHOLE },
        Case::Concat {
            x: Shape::image(2, 3, 3, 8),
            a: View { before: 4, after: 8 },
            c_b: 16,
            b: View { before: 0, after: 4 },
        },
        Case::Elementwise { x: Shape::image(1, 128, 128, 64), activation: Activation::Silu },
        // A ControlNet's picture onto all images, and its results onto a UNet's: the second number of each vector.
        Case::AddScaled { x: Shape::image(2, 32, 48, 320), images: 1, scales: None },
        Case::AddScaled { x: Shape::image(4, 16, 24, 640), images: 4, scales: Some((16, 13)) },
        Case::AddScaled { x: Shape::image(3, 5, 7, 20), images: 1, scales: Some((4, 1)) },
        Case::AddScaled { x: Shape::image(3, 5, 7, 20), images: 3, scales: None },
    ];
    let activations = [
        Activation::None,
        Activation::Silu,
        Activation::Gelu,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::ScaledTanh,
    ];
    cases.extend(activations.map(|activation| Case::Elementwise { x: Shape::image(2, 9, 11, 60), activation }));
    cases
}
