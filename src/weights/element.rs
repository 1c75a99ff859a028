//! Element types of files, and their values.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

use super::blocks::BlockType;

/// How a file stores the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, NaN where all others are set (OCP 8-bit floating point, E4M3).
    F8E4M3,
    /// The upper half of an f16 (OCP 8-bit floating point, E5M2).
    F8E5M2,
    /// Values that share scales, along the last extent (GGUF).
    Blocks(BlockType),
    /// Anything else; it can be listed, not read.
    Other(&'static str),
}

impl StoredType {
    /// Whether values can be read.
    pub fn is_readable(self) -> bool {
        !matches!(self, StoredType::Other(_))
    }

    /// The types that can be read, for messages.
    pub(super) const READABLE: &str = "F32, F16, BF16, F8_E4M3, F8_E5M2 or ggml's Q2_K to Q8_0";

    /// Values that are stored together and cannot be parted.
    pub(super) fn block(self) -> usize {
        match self {
            StoredType::Blocks(blocks) => blocks.values(),
            _ => 1,
        }
    }

    /// Whether f16 holds every value.
    pub(super) fn fits_f16(self) -> bool {
        matches!(self, StoredType::F16 | StoredType::F8E4M3 | StoredType::F8E5M2)
    }

    /// f32 values of stored elements; nothing for a type that cannot be read.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            StoredType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            StoredType::F16 => {
                let halves: Vec<f16> = pairs().map(f16::from_le_bytes).collect();
                let mut values = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut values);
                values
            }
            StoredType::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            StoredType::F8E4M3 => bytes.iter().map(|&b| e4m3(b)).collect(),
            StoredType::F8E5M2 => bytes.iter().map(|&b| f16::from_bits(u16::from(b) << 8).to_f32()).collect(),
            StoredType::Blocks(blocks) => blocks.decode(bytes),
            StoredType::Other(_) => Vec::new(),
        }
    }
}

/// The value of an E4M3 code.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(code >> 3 & 15), u32::from(code & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // Subnormals are multiples of 2^-9.
        (0, m) => m as f32 / 512.0,
        // The bias is 7 here and 127 in f32; the mantissa's three bits are the upper ones of 23.
        (e, m) => f32::from_bits((e + 120) << 23 | m << 20),
    };
    if code >> 7 == 1 { -magnitude } else { magnitude }
}

impl From<Dtype> for StoredType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::BF16,
            Dtype::F8_E4M3 => StoredType::F8E4M3,
            Dtype::F8_E5M2 => StoredType::F8E5M2,
            Dtype::F64 => StoredType::Other("F64"),
            Dtype::I64 => StoredType::Other("I64"),
            Dtype::I32 => StoredType::Other("I32"),
            Dtype::I16 => StoredType::Other("I16"),
            Dtype::I8 => StoredType::Other("I8"),
            Dtype::U64 => StoredType::Other("U64"),
            Dtype::U32 => StoredType::Other("U32"),
            Dtype::U16 => StoredType::Other("U16"),
            Dtype::U8 => StoredType::Other("U8"),
            Dtype::BOOL => StoredType::Other("BOOL"),
            _ => StoredType::Other("a rare type"),
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoredType::F32 => "F32",
            StoredType::F16 => "F16",
            StoredType::BF16 => "BF16",
            StoredType::F8E4M3 => "F8_E4M3",
            StoredType::F8E5M2 => "F8_E5M2",
            StoredType::Blocks(blocks) => blocks.name(),
            StoredType::Other(name) => name,
        })
    }
}
