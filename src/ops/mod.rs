//! One file per kernel family: shape rule, choice of variant, host twin. The WGSL of the same stem is in `shaders/`.
//!
//! Activations are channels last (`[n, h, w, c]`), and every channel count is a multiple of 4, so that kernels move 16
//! (f32) or 8 (f16) bytes at a time; `nn` pads the few layers of a checkpoint that have 3 or 9 channels.

mod attention;
mod concat;
mod conv2d;
mod elementwise;
mod geglu;
mod gemm;
mod group_norm;
mod layer_norm;
mod matmul;

pub use attention::{Attention, attention};
pub use concat::concat;
pub use conv2d::{Conv2d, conv2d};
pub use elementwise::elementwise;
pub use geglu::geglu;
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::layer_norm;
pub use matmul::matmul;

use crate::record::{Caps, DType, Kernel, Recording, Tensor, Variant};
use crate::{Error, Result};

/// Every kernel, for tests that walk them all.
pub const KERNELS: &[&Kernel] = &[
    &attention::KERNEL,
    &concat::KERNEL,
    &conv2d::KERNEL,
    &elementwise::KERNEL,
    &geglu::KERNEL,
    &group_norm::STATISTICS,
    &group_norm::FOLD,
    &group_norm::APPLY,
    &layer_norm::KERNEL,
    &matmul::KERNEL,
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

    /// The function on the host.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::None => x,
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Relu => x.max(0.0),
            Activation::ScaledTanh => 3.0 * (x / 3.0).tanh(),
        }
    }
}

/// The error function to 1.2e-7, by the rational approximation of Numerical Recipes (section 6.2, `erfcc`), evaluated
/// in f64 because the exponent cancels in f32.
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let erfc = t * (-x * x + polynomial).exp();
    (if x >= 0.0 { 1.0 - erfc } else { erfc - 1.0 }) as f32
}

/// What a matrix product adds before it is stored: `out = activation(product + bias + image_add + residual)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue {
    /// f32 constant `[c_out]`.
    pub bias: Option<Tensor>,
    /// `[n, 1, 1, c_out]`, added to every pixel of image `n` (the time embedding).
    pub image_add: Option<Tensor>,
    /// Of the output's shape.
    pub residual: Option<Tensor>,
    /// Applied last.
    pub activation: Activation,
}

impl Epilogue {
    /// Only a bias.
    pub fn bias(bias: Option<Tensor>) -> Self {
        Epilogue { bias, ..Epilogue::default() }
    }

    /// Checks the shapes and adds the flags, constants and reads of the epilogue.
    fn bind(
        &self,
        op: &'static str,
        out: Tensor,
        variant: &mut Variant,
        reads: &mut Vec<(&'static str, Tensor)>,
    ) -> Result<()> {
        let shape = out.shape;
        variant.constants.push(("ACTIVATION", self.activation.code()));
        if let Some(bias) = self.bias {
            expect(op, "bias", bias.shape.len() == shape.c, || format!("[{}], got {}", shape.c, bias.shape))?;
            variant.flags.push("BIAS");
            reads.push(("bias", bias));
        }
        if let Some(add) = self.image_add {
            let fits =
                add.shape.n == shape.n && add.shape.c == shape.c && add.shape.rows() == shape.n && add.is_contiguous();
            expect(op, "image_add", fits, || format!("[{}, 1, 1, {}], got {}", shape.n, shape.c, add.shape))?;
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

/// The flag that makes `act4` half precision, for a recording's storage type.
fn storage_flags(caps: &Caps) -> Vec<&'static str> {
    match caps.storage {
        DType::F16 => vec!["STORAGE_F16"],
        DType::F32 => Vec::new(),
    }
}

/// The flag for a weight's element type: half-precision weights need no device feature, they are unpacked by bits
/// where shaders have no 16-bit type.
fn weight_flag(rec: &Recording, weight: Tensor) -> Option<&'static str> {
    match (rec.dtype(weight), rec.caps.shader_f16) {
        (DType::F32, _) => None,
        (DType::F16, true) => Some("WEIGHT_F16"),
        (DType::F16, false) => Some("WEIGHT_F16_PACKED"),
    }
}

/// Spreads a number of workgroups over x and y, since one dimension holds 65,535 at least. Kernels compute
/// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and leave when it is past the end.
fn fold_grid(caps: &Caps, workgroups: usize) -> [u32; 3] {
    let limit = (caps.max_workgroups as usize).min(65_535);
    let x = workgroups.min(limit).max(1);
    [x as u32, workgroups.div_ceil(x).max(1) as u32, 1]
}
