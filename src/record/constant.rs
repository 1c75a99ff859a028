//! Weights as a recording sees them: a label, a shape, and bytes that are fetched when a backend uploads them.

use std::borrow::Cow;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use super::DType;
use super::quant::{dequantize, quantize};
use crate::{Error, Result};

/// Takes bytes that belong at an offset of a constant, a multiple of 4. Every piece but the one that ends the constant has a multiple of 4 bytes.
pub type PieceSink<'a> = dyn FnMut(usize, &[u8]) -> Result<()> + 'a;

/// Where a constant's bytes come from: a file, or a repacked copy made on demand.
pub trait ConstantData: Send + Sync {
    /// The elements in little-endian order, in the layout and type of the [`Constant`] (quantised ones as
    /// [`quantize`](super::quantize) gives them). Made anew at each call, so that no second copy of a model stays in host memory.
    ///
    /// # Errors
    /// When the source cannot be read or converted.
    fn bytes(&self) -> Result<Cow<'_, [u8]>>;

    /// The same bytes piece by piece, each part of them once: what an upload reads. A source that converts does so a piece at a time, so that a
    /// large tensor costs no more host memory than a small one. Pieces end between elements.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and what `sink` reports.
    fn pieces(&self, sink: &mut PieceSink<'_>) -> Result<()> {
        sink(0, &self.bytes()?)
    }
}

impl ConstantData for Vec<u8> {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self))
    }
}

/// A tensor that never changes. Backends share the uploaded copy between recordings that use the same `Arc`.
pub struct Constant {
    /// The checkpoint's name, for messages.
    pub label: String,
    /// Extents, slowest first. Matrices are `[out, in]`, convolutions `[out, kh, kw, in]`, vectors `[len]`.
    pub shape: Vec<usize>,
    /// Type of the elements as [`ConstantData::bytes`] gives them.
    pub dtype: DType,
    /// The source of the elements.
    pub data: Box<dyn ConstantData>,
}

impl Constant {
    /// A constant of f32 values, as many as its shape has. That is checked where it is read: another number is an error of whoever
    /// [`compile`](super::Backend::compile)s a recording with it.
    pub fn from_f32(label: impl Into<String>, shape: &[usize], values: &[f32]) -> Arc<Self> {
        Arc::new(Constant {
            label: label.into(),
            shape: shape.to_vec(),
            dtype: DType::F32,
            data: Box::new(bytemuck::cast_slice::<f32, u8>(values).to_vec()),
        })
    }

    /// A constant of half-precision values, rounded to nearest even; their number is checked as by [`from_f32`](Self::from_f32).
    pub fn from_f32_as_f16(label: impl Into<String>, shape: &[usize], values: &[f32]) -> Arc<Self> {
        let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
        Arc::new(Constant {
            label: label.into(),
            shape: shape.to_vec(),
            dtype: DType::F16,
            data: Box::new(bytemuck::cast_slice::<half::f16, u8>(&halves).to_vec()),
        })
    }

    /// A constant of quantised values.
    ///
    /// # Errors
    /// As [`quantize`](super::quantize).
    pub fn from_f32_quantized(
        label: impl Into<String>,
        shape: &[usize],
        values: &[f32],
        dtype: DType,
    ) -> Result<Arc<Self>> {
        let data = Box::new(quantize(dtype, values)?);
        Ok(Arc::new(Constant { label: label.into(), shape: shape.to_vec(), dtype, data }))
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the constant has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes as stored.
    pub fn byte_len(&self) -> usize {
        self.dtype.bytes(self.len())
    }

    /// The elements as a backend uploads them, of the length that the type asks for.
    ///
    /// # Errors
    /// When the source cannot be read or converted, or gives another number of bytes.
    pub fn checked_bytes(&self) -> Result<Cow<'_, [u8]>> {
        let bytes = self.data.bytes()?;
        if bytes.len() == self.byte_len() { Ok(bytes) } else { Err(self.mismatch(&bytes.len().to_string())) }
    }

    /// [`checked_bytes`](Self::checked_bytes) piece by piece, as an upload takes them.
    ///
    /// # Errors
    /// As [`checked_bytes`](Self::checked_bytes), and what `sink` reports.
    pub fn checked_pieces(&self, sink: &mut PieceSink<'_>) -> Result<()> {
        let (expected, mut given) = (self.byte_len(), 0);
        self.data.pieces(&mut |offset, bytes| {
            given += bytes.len();
            if offset + bytes.len() > expected || given > expected || !offset.is_multiple_of(4) {
                return Err(self.mismatch(&format!("{} at {offset}", bytes.len())));
            }
            sink(offset, bytes)
        })?;
        if given == expected { Ok(()) } else { Err(self.mismatch(&given.to_string())) }
    }

    fn mismatch(&self, given: &str) -> Error {
        Error::model(format!(
            "{}: expected {} bytes for {:?}, the source gave {given}",
            self.label,
            self.byte_len(),
            self.shape
        ))
    }

    /// The elements as f32: of quantised ones, what kernels unpack.
    ///
    /// # Errors
    /// As [`checked_bytes`](Self::checked_bytes).
    pub fn values(&self) -> Result<Vec<f32>> {
        Ok(decoded(self.dtype, &self.checked_bytes()?, self.len()))
    }
}

/// `len` elements as f32.
pub(crate) fn decoded(dtype: DType, bytes: &[u8], len: usize) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes),
        DType::F16 => {
            let halves = bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes);
            let mut values = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut values);
            values
        }
        DType::Q8_0 | DType::Q4_0 => dequantize(dtype, bytes, len),
    }
}

impl std::fmt::Debug for Constant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constant({} {:?} {:?})", self.label, self.dtype, self.shape)
    }
}
