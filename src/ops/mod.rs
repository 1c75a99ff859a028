//! One file per kernel family: shape rule, choice of variant, host twin. The WGSL of the same stem is in `shaders/`.
//!
//! Activations are channels last (`[n, h, w, c]`), and every channel count is a multiple of 4, so that kernels move 16
//! (f32) or 8 (f16) bytes at a time; `nn` pads the few layers of a checkpoint that have 3 or 9 channels. Each operand has
//! its own element type; a result has the recording's ([`Recording::in_f32`] changes it), or f32 where it adds or copies
//! f32 values: a sum is not kept in less than its residual.

mod add_scaled;
mod attention;
mod attention_coop;
mod concat;
mod conv2d;
mod elementwise;
mod group_norm;
mod host;
mod layer_norm;
mod matmul;
mod product;
mod token_merging;

pub use add_scaled::{Scales, add_scaled};
pub use attention::{Attention, attention};
pub use concat::concat;
pub use conv2d::{Conv2d, conv2d};
pub use elementwise::elementwise;
pub use group_norm::{GroupNorm, group_moments, group_norm, group_norm_by};
pub use layer_norm::layer_norm;
pub use matmul::matmul;
pub use product::tuning::Trial;
pub use token_merging::{MergedTokens, match_tokens, merge_tokens, unmerge_tokens};

use crate::record::{BLOCK, Caps, DType, Kernel, Recording, Shape, Tensor, Variant};
use crate::{Error, Result};

/// Every kernel, for tests that walk them all.
pub const KERNELS: &[&Kernel] = &[
    &add_scaled::KERNEL,
    &attention::KERNEL,
    &attention::DIRECT,
    &attention::COOP,
    &concat::KERNEL,
    &conv2d::KERNEL,
    &elementwise::KERNEL,
    &group_norm::STATISTICS,
    &group_norm::APPLY,
    &layer_norm::KERNEL,
    &matmul::KERNEL,
    &token_merging::MATCH,
    &token_merging::MERGE,
    &token_merging::SLOTS,
    &token_merging::UNMERGE,
];

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// x · sigmoid(x)
    Silu,
    /// x · Φ(x), the exact form with erf
    Gelu,
    /// x · sigmoid(1.702 x), as OpenAI's CLIP has it
    QuickGelu,
    /// max(x, 0)
    Relu,
    /// 3 · tanh(x / 3), the soft clamp at the entry of TAESD's decoder
    ScaledTanh,
}

impl Activation {
    /// The value of `ACTIVATION` in `shaders/shared/activation.wgsl`.
    const fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::Silu => 1,
            Activation::Gelu => 2,
            Activation::QuickGelu => 3,
            Activation::Relu => 4,
            Activation::ScaledTanh => 5,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            1 => Activation::Silu,
            2 => Activation::Gelu,
            3 => Activation::QuickGelu,
            4 => Activation::Relu,
            5 => Activation::ScaledTanh,
            _ => Activation::None,
        }
    }

    fn of_variant(variant: &Variant) -> Self {
        let code = variant.constants.iter().find(|(name, _)| *name == "ACTIVATION").map_or(0, |&(_, code)| code);
        Activation::from_code(code)
    }

    /// The function on the host, in place.
    fn apply_all(self, values: &mut [f32]) {
        apply_all(self, values);
    }

    /// [`apply_all`](Self::apply_all) inside a function that is compiled for each level.
    #[inline(always)]
    fn apply_here(self, values: &mut [f32]) {
        // One loop per function: each becomes vector arithmetic. No closures, which are functions of their own, of the narrowest level.
        macro_rules! each {
            ($activation:expr) => {
                for value in values {
                    *value = $activation.apply(*value);
                }
            };
        }
        match self {
            Activation::None => {}
            Activation::Silu => each!(Activation::Silu),
            Activation::Gelu => each!(Activation::Gelu),
            Activation::QuickGelu => each!(Activation::QuickGelu),
            Activation::Relu | Activation::ScaledTanh => each!(self),
        }
    }

    /// The function on the host.
    #[inline(always)]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Silu => x / (1.0 + exp(-x)),
            Activation::Gelu => x * normal_cdf(x),
            Activation::QuickGelu => x / (1.0 + exp(-1.702 * x)),
            Activation::Relu => x.max(0.0),
            Activation::ScaledTanh => 3.0 * (x / 3.0).tanh(),
        }
    }
}

host::simd::wide! {
    fn apply_all(activation: Activation, values: &mut [f32]) {
        activation.apply_here(values);
    }
}

/// e^x for finite x to 1e-7, without branches or calls, so that loops over it become vector arithmetic; 0 below -87 and
/// the largest power in range above 88.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the polynomial is Cephes' `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let value = (p * r * r + r + 1.0) * power;
    if x < -87.3 { 0.0 } else { value }
}

/// The normal distribution function Φ, to a relative 3e-7: half of `erfc(-x / √2)` by the rational approximation of
/// Numerical Recipes (section 6.2, `erfcc`), whose exponent is split so that no large terms cancel.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = 0.170_872_77;
    p = p * t - 0.822_152_2;
    p = p * t + 1.488_515_9;
    p = p * t - 1.135_204;
    p = p * t + 0.278_868_08;
    p = p * t - 0.186_288_06;
    p = p * t + 0.096_784_18;
    p = p * t + 0.374_091_96;
    p = p * t + 1.000_023_7;
    p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(-z * z) * exp(p);
    if x >= 0.0 { 1.0 - tail } else { tail }
}

/// What a matrix product adds before it is stored: `out = activation(product + bias + image_add + residual)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue {
    /// f32 constant `[c_out]`.
    pub bias: Option<Tensor>,
    /// `[n, 1, 1, c_out]`, any channel view, added to every pixel of image `n` (the time embedding).
    pub image_add: Option<Tensor>,
    /// Of the output's shape.
    pub residual: Option<Tensor>,
    /// Applied last.
    pub activation: Activation,
    /// Of `matmul` alone: columns are two values, their two gates, two values and so on; the result has half as many channels,
    /// `value · gelu(gate)` (Shazeer, "GLU Variants Improve Transformer"). Nothing but a bias goes with it.
    pub gated: bool,
}

impl Epilogue {
    /// Only a bias.
    pub fn bias(bias: Option<Tensor>) -> Self {
        Epilogue { bias, ..Epilogue::default() }
    }

    /// The tensor for the product: f32 where the residual is.
    fn tensor(&self, rec: &mut Recording, shape: Shape) -> Tensor {
        rec.tensor_for(shape, self.residual.as_slice())
    }

    /// Where `image_add` lies in its storage: from one image to the next, and its first channel.
    fn image_add_place(&self) -> [u32; 2] {
        self.image_add.map_or([0; 2], |add| [add.row_stride as u32, add.channel_offset as u32])
    }

    /// Checks the shapes and adds the flags, constants and reads of the epilogue.
    fn bind(
        &self,
        op: &'static str,
        shape: Shape,
        variant: &mut Variant,
        reads: &mut Vec<(&'static str, Tensor)>,
    ) -> Result<()> {
        if self.gated {
            let alone = self.image_add.is_none() && self.residual.is_none() && self.activation == Activation::None;
            expect(op, "gated", alone && op == "matmul", || "a product with nothing but a bias".into())?;
            expect(op, "weight", shape.c.is_multiple_of(8), || {
                format!("a multiple of 8 gated channels, got {}", shape.c)
            })?;
            variant.flags.push("GATED");
        }
        variant.constants.push(("ACTIVATION", self.activation.code()));
        if let Some(bias) = self.bias {
            expect(op, "bias", bias.shape.len() == shape.c, || format!("[{}], got {}", shape.c, bias.shape))?;
            variant.flags.push("BIAS");
            reads.push(("bias", bias));
        }
        if let Some(add) = self.image_add {
            let fits = add.shape.n == shape.n && add.shape.c == shape.c && add.shape.rows() == shape.n;
            expect(op, "image_add", fits, || format!("[{}, 1, 1, {}], got {}", shape.n, shape.c, add.shape))?;
            expect_view(op, "image_add", add)?;
            variant.flags.push("IMAGE_ADD");
            reads.push(("image_add", add));
        }
        if let Some(residual) = self.residual {
            expect(op, "residual", residual.shape == shape && residual.is_contiguous(), || {
                format!("{shape} without gaps, got {}", residual.shape)
            })?;
            variant.flags.push("RESIDUAL");
            reads.push(("residual", residual));
        }
        Ok(())
    }
}

/// An error naming the argument unless the condition holds.
fn expect(op: &'static str, argument: &str, holds: bool, expected: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::shape(op, format!("{argument}: expected {}", expected()))) }
}

/// An error unless the channels are a multiple of 4.
fn expect_quads(op: &'static str, argument: &str, channels: usize) -> Result<()> {
    expect(op, argument, channels.is_multiple_of(4) && channels > 0, || {
        format!("a multiple of 4 channels, got {channels}")
    })
}

/// An error unless a quantised weight has whole blocks in each of its rows, `inner` values long.
fn expect_blocks(op: &'static str, rec: &Recording, weight: Tensor, inner: usize) -> Result<()> {
    let whole = !rec.dtype(weight).is_quantized() || inner.is_multiple_of(BLOCK);
    expect(op, "weight", whole, || {
        format!("rows of a multiple of {BLOCK} values in {}, got {inner}", rec.dtype(weight).name())
    })
}

/// An error unless the tensor has values, in rows that kernels can read four channels at a time.
fn expect_view(op: &'static str, argument: &str, tensor: Tensor) -> Result<()> {
    let aligned = tensor.row_stride.is_multiple_of(4) && tensor.channel_offset.is_multiple_of(4);
    expect(op, argument, aligned && !tensor.shape.is_empty(), || {
        format!(
            "values at a multiple of 4 channels, got {} from channel {} of {}",
            tensor.shape, tensor.channel_offset, tensor.row_stride
        )
    })
}

/// An error unless the tensor has values, no gaps, and a multiple of 4 channels.
fn expect_dense(op: &'static str, argument: &str, tensor: Tensor) -> Result<()> {
    expect_quads(op, argument, tensor.shape.c)?;
    expect(op, argument, tensor.is_contiguous() && !tensor.shape.is_empty(), || {
        format!("values without gaps, got {} in rows of {}", tensor.shape, tensor.row_stride)
    })
}

/// An error unless the tensor is an f32 vector of that length.
fn expect_vector(op: &'static str, argument: &str, rec: &Recording, tensor: Tensor, len: usize) -> Result<()> {
    let fits = tensor.shape.len() == len && tensor.is_contiguous() && rec.dtype(tensor) == DType::F32;
    expect(op, argument, fits, || format!("[{len}] in f32, got {} in {:?}", tensor.shape, rec.dtype(tensor)))
}

/// Invocations per workgroup of the kernels that treat each vector of four channels alone: `WORKGROUP` in WGSL.
const WORKGROUP: usize = 256;

/// Spreads a number of workgroups over x and y, since one dimension holds 65,535 at least. Kernels compute
/// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and leave when it is past the end.
fn fold_grid(caps: &Caps, workgroups: usize) -> [u32; 3] {
    let limit = (caps.max_workgroups as usize).min(65_535);
    let x = workgroups.min(limit).max(1);
    [x as u32, workgroups.div_ceil(x).max(1) as u32, 1]
}
