//! Element types and layouts: from what a checkpoint stores to what kernels read.

use std::borrow::Cow;

use half::f16;
use rayon::prelude::*;

use super::element::StoredType;
use super::lora::{Patch, patched};
use super::set::TensorView;
use crate::record::{ConstantData, DType, from_ggml};
use crate::{Error, Result};

/// The element type of matrices and convolutions on the device. Biases and norms are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightType {
    /// As exact as stored: f32 stays f32, f16 stays f16 and fp8 becomes f16, which holds all its values; matrices of q8_0 and q4_0 stay
    /// what they are; the rest becomes f32.
    #[default]
    Keep,
    /// f16, rounded to nearest even, but matrices of q8_0 and q4_0 stay what they are; a value that f16 cannot hold is an error.
    KeepBlocks,
    /// f16, rounded to nearest even; a value that f16 cannot hold is an error.
    F16,
    /// Blocks of 32 with one scale where a weight is large and regular enough (`weights/quantize.rs`), else f16. Matrices that a file
    /// stores as q8_0 or q4_0 stay what they are.
    Q8_0,
    /// As `Q8_0`, with half-bytes, and of a file's blocks only q4_0 stays.
    Q4_0,
}

impl WeightType {
    /// Whether a file of half-precision numbers serves as well as one of single precision.
    pub fn prefers_halves(self) -> bool {
        self != WeightType::Keep
    }

    /// The type of blocks that it asks for.
    pub(super) fn block_type(self) -> Option<DType> {
        match self {
            WeightType::Keep | WeightType::KeepBlocks | WeightType::F16 => None,
            WeightType::Q8_0 => Some(DType::Q8_0),
            WeightType::Q4_0 => Some(DType::Q4_0),
        }
    }

    /// Whether blocks of this type stay as a file has them.
    fn keeps(self, blocks: DType) -> bool {
        match self {
            WeightType::Keep | WeightType::KeepBlocks | WeightType::Q8_0 => true,
            WeightType::F16 => false,
            WeightType::Q4_0 => blocks == DType::Q4_0,
        }
    }

    /// The type of blocks in which matrices go to the device as they are stored, with nothing rounded again: all of one type, which this
    /// weight type keeps, and nothing added to them.
    pub(super) fn kept_blocks(self, sources: &[Source]) -> Option<DType> {
        let blocks = |source: &Source| source.view.device_blocks().filter(|_| source.patches.is_empty());
        let first = sources.first().and_then(blocks).filter(|&first| self.keeps(first))?;
        sources.iter().all(|source| blocks(source) == Some(first)).then_some(first)
    }

    /// The device type for tensors stored as these.
    pub(super) fn device_type(self, stored: &[StoredType]) -> DType {
        match self {
            WeightType::KeepBlocks | WeightType::F16 | WeightType::Q8_0 | WeightType::Q4_0 => DType::F16,
            WeightType::Keep if stored.iter().all(|d| d.fits_f16()) => DType::F16,
            WeightType::Keep => DType::F32,
        }
    }
}

/// A tensor under its full name.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) view: TensorView,
    pub(super) name: String,
    /// What adapters add to it.
    pub(super) patches: Vec<Patch>,
}

impl Source {
    /// The elements as `to`, little-endian; borrowed from the map where nothing changes.
    fn elements(&self, to: DType) -> Result<Cow<'_, [u8]>> {
        match (self.view.dtype(), to) {
            (StoredType::F32, DType::F32) | (StoredType::F16, DType::F16)
                if !self.view.transposed && self.patches.is_empty() =>
            {
                Ok(Cow::Borrowed(self.view.bytes()))
            }
            (_, DType::F32) => Ok(Cow::Owned(bytemuck::cast_slice(&self.values()).to_vec())),
            (_, DType::F16) => self.halves().map(Cow::Owned),
            (_, DType::Q8_0 | DType::Q4_0) => unreachable!("blocks are kept whole or made of f16 or f32 values"),
        }
    }

    /// The elements as f32, with what adapters add.
    pub(super) fn values(&self) -> Vec<f32> {
        let values = self.view.values();
        if self.patches.is_empty() { values } else { patched(values, &self.patches) }
    }

    fn halves(&self) -> Result<Vec<u8>> {
        let values = self.values();
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let lost = values.iter().zip(&halves).filter(|(v, h)| v.is_finite() && h.is_infinite()).count();
        if lost > 0 {
            return Err(Error::Model(format!(
                "{}: {}: {lost} values are beyond the range of f16 (65504); keep this model's weights in f32",
                self.view.file.label(),
                self.name
            )));
        }
        Ok(bytemuck::cast_slice(&halves).to_vec())
    }
}

/// The rows of several stored tensors below each other, each row a block of `taps` × `channels` values that is stored
/// channel by channel (OIHW), given tap by tap (OHWI), with zeros up to `padded_channels` and `padded_rows`.
/// A matrix has one tap; a vector also one channel, and so rows without padding between them.
pub(super) struct Packed {
    pub(super) sources: Vec<Source>,
    pub(super) taps: usize,
    pub(super) channels: usize,
    pub(super) padded_channels: usize,
    pub(super) padded_rows: usize,
    pub(super) dtype: DType,
}

impl Packed {
    fn rearranges(&self) -> bool {
        self.padded_channels != self.channels || (self.taps > 1 && self.channels > 1)
    }
}

impl ConstantData for Packed {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let size = self.dtype.bytes(1);
        let (stored_row, row) = (self.taps * self.channels * size, self.taps * self.padded_channels * size);
        let length = self.padded_rows * row;
        if let ([source], false) = (self.sources.as_slice(), self.rearranges()) {
            let elements = source.elements(self.dtype)?;
            if elements.len() == length {
                return Ok(elements);
            }
        }
        let mut packed = vec![0; length];
        let mut rest = packed.as_mut_slice();
        for source in &self.sources {
            let elements = source.elements(self.dtype)?;
            let (part, after) = rest.split_at_mut(elements.len() / stored_row.max(1) * row);
            if self.rearranges() {
                part.par_chunks_mut(row)
                    .zip(elements.par_chunks(stored_row))
                    .for_each(|(out, stored)| self.rearrange(stored, out));
            } else {
                part.copy_from_slice(&elements);
            }
            rest = after;
        }
        Ok(Cow::Owned(packed))
    }
}

/// Matrices below each other in the blocks that a file has, with blocks of zeros below them up to `len` values.
pub(super) struct Kept {
    pub(super) sources: Vec<Source>,
    pub(super) len: usize,
    pub(super) dtype: DType,
}

impl ConstantData for Kept {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let stored: Vec<&[u8]> = self.sources.iter().map(|source| source.view.bytes()).collect();
        Ok(Cow::Owned(from_ggml(self.dtype, &stored, self.len)))
    }
}

impl Packed {
    /// One output channel: `[channels, taps]` to `[taps, padded_channels]`.
    fn rearrange(&self, stored: &[u8], out: &mut [u8]) {
        let size = self.dtype.bytes(1);
        for (index, element) in stored.chunks_exact(size).enumerate() {
            let (channel, tap) = (index / self.taps, index % self.taps);
            let at = (tap * self.padded_channels + channel) * size;
            out[at..at + size].copy_from_slice(element);
        }
    }
}
