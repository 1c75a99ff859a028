//! Element types and layouts: from what a checkpoint stores to what kernels read.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::element::StoredType;
use super::lora::{Patch, Patcher, patched};
use super::set::TensorView;
use crate::record::{ConstantData, DType, PieceSink, from_ggml, transpose};
use crate::{Error, Result};

/// The element type of matrices and convolutions on the device. Biases and norms are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
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
    /// The elements as f32, with what adapters add.
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        let values = self.view.values()?;
        if self.patches.is_empty() { Ok(values) } else { patched(values, &self.patches) }
    }

    fn lost(&self, count: usize) -> Error {
        Error::model(format!(
            "{}: {}: {count} values are beyond the range of f16 (65504); keep this model's weights in f32",
            self.view.file.label(),
            self.name
        ))
        .in_file(self.view.file.label())
        .of_tensor(&self.name)
    }
}

/// Values that are converted at a time.
const PIECE: usize = 1 << 20;

/// Rows that pieces come in, where there are so many: as many as those who put them into panels take together.
const TOGETHER: usize = 32;

/// Values that adapters change at a time: products of a few rows leave cores idle.
const CHANGED_PIECE: usize = 1 << 22;

/// Values that one thread converts at a time, where rows need not be told apart.
const RUN: usize = 1 << 15;

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

impl ConstantData for Packed {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        if let Some(view) = self.as_stored() {
            return view.bytes();
        }
        let mut packed = vec![0; self.padded_rows * self.row_bytes()];
        self.convert(&mut |offset, piece| {
            packed[offset..offset + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        Ok(Cow::Owned(packed))
    }

    fn pieces(&self, sink: &mut PieceSink<'_>) -> Result<()> {
        let Some(view) = self.as_stored() else { return self.convert(sink) };
        // Pieces end with rows where they can, and with whole words, whatever the elements are.
        let row = self.taps * self.padded_channels;
        let step = row * (PIECE / row.max(1) / TOGETHER * TOGETHER);
        let step = if step > 0 { step } else { PIECE };
        for first in (0..view.len()).step_by(step) {
            let bytes = view.some_bytes(first..view.len().min(first + step))?;
            sink(self.dtype.bytes(first), &bytes)?;
        }
        Ok(())
    }
}

impl Packed {
    fn rearranges(&self) -> bool {
        self.padded_channels != self.channels || (self.taps > 1 && self.channels > 1)
    }

    fn row_bytes(&self) -> usize {
        self.dtype.bytes(self.taps * self.padded_channels)
    }

    /// What is stored, where its bytes are what is wanted.
    fn as_stored(&self) -> Option<&TensorView> {
        let [source] = self.sources.as_slice() else { return None };
        let view = &source.view;
        let whole = view.byte_len() == self.padded_rows * self.row_bytes();
        let plain = !view.transposed && source.patches.is_empty() && !self.rearranges();
        (whole && plain && is_same(view.dtype(), self.dtype)).then_some(view)
    }

    /// Some rows at a time: the last piece aside, pieces end with whole words.
    fn convert(&self, sink: &mut PieceSink<'_>) -> Result<()> {
        let (row_len, row) = (self.taps * self.channels, self.row_bytes());
        let values = if self.sources.iter().all(|source| source.patches.is_empty()) { PIECE } else { CHANGED_PIECE };
        let step = (values / row_len.max(1)).max(1).next_multiple_of(TOGETHER);
        let mut piece = vec![0; step.min(self.padded_rows) * row];
        let mut sources = self.sources.iter();
        let mut open: Option<Rows<'_>> = None;
        for first in (0..self.padded_rows).step_by(step) {
            let out = &mut piece[..step.min(self.padded_rows - first) * row];
            let mut at = 0;
            while at < out.len() {
                let Some(rows) = open.as_mut().filter(|rows| rows.next < rows.count) else {
                    if let Some(rows) = open.take() {
                        rows.finish()?;
                    }
                    let Some(source) = sources.next() else { break };
                    open = Some(Rows::of(source, row_len)?);
                    continue;
                };
                let count = (rows.count - rows.next).min((out.len() - at) / row);
                self.fill(rows, row_len, &mut out[at..at + count * row])?;
                rows.next += count;
                at += count * row;
            }
            out[at..].fill(0);
            sink(first * row, out)?;
        }
        open.map_or(Ok(()), Rows::finish)
    }

    /// The next rows of a source.
    fn fill(&self, rows: &mut Rows<'_>, row_len: usize, out: &mut [u8]) -> Result<()> {
        let row = self.row_bytes();
        let together = if self.rearranges() { 1 } else { (RUN / row_len.max(1)).max(1) };
        let piece = rows.piece(rows.next..rows.next + out.len() / row, row_len)?;
        let lost: usize = out
            .par_chunks_mut(together * row)
            .enumerate()
            .map(|(i, out)| {
                let first = i * together;
                let range = first * row_len..(first + out.len() / row) * row_len;
                match &piece {
                    Piece::Stored(stored, len, bytes) => {
                        let bytes = some(bytes, *len, range);
                        match is_same(*stored, self.dtype) {
                            true => self.place(bytes, out),
                            false => self.round(&stored.decode(bytes), out),
                        }
                    }
                    Piece::Values(values) => self.round(&values[range], out),
                }
            })
            .sum();
        rows.lost += lost;
        Ok(())
    }

    /// Values as the constant's type; gives how many are beyond its range.
    fn round(&self, values: &[f32], out: &mut [u8]) -> usize {
        if self.dtype == DType::F32 {
            return self.place(bytemuck::cast_slice(values), out);
        }
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        self.place(bytemuck::cast_slice(&halves), out);
        values.iter().zip(&halves).filter(|(v, h)| v.is_finite() && h.is_infinite()).count()
    }

    /// Elements of the constant's type, in their order. None is lost.
    fn place(&self, stored: &[u8], out: &mut [u8]) -> usize {
        match (self.rearranges(), self.dtype) {
            (false, _) => out.copy_from_slice(stored),
            (true, DType::F32) => self.rearrange::<4>(stored, out),
            (true, _) => self.rearrange::<2>(stored, out),
        }
        0
    }

    /// One output channel: `[channels, taps]` to `[taps, padded_channels]`.
    fn rearrange<const SIZE: usize>(&self, stored: &[u8], out: &mut [u8]) {
        let stored = stored.as_chunks::<SIZE>().0;
        let out = out.as_chunks_mut::<SIZE>().0;
        transpose((stored, self.taps), (out, self.padded_channels), self.channels, self.taps);
        for out in out.chunks_exact_mut(self.padded_channels) {
            out[self.channels..].fill([0; SIZE]);
        }
    }
}

/// The rows of one source, as far as they are not given yet.
struct Rows<'a> {
    source: &'a Source,
    elements: Elements,
    /// What adapters add to `elements`.
    patcher: Option<Patcher<'a>>,
    count: usize,
    next: usize,
    /// Values that f16 cannot hold.
    lost: usize,
}

/// Where the elements of a source come from.
enum Elements {
    /// The file, some rows at a time. A row is whole blocks.
    Stored,
    /// Memory: few and small ones.
    Values(Vec<f32>),
}

impl Elements {
    fn values(&self, view: &TensorView, range: Range<usize>) -> Result<Vec<f32>> {
        match self {
            Elements::Stored => Ok(view.dtype().decode(&view.some_bytes(range)?)),
            Elements::Values(values) => Ok(values[range].to_vec()),
        }
    }
}

/// The elements of some rows.
enum Piece<'a> {
    /// So many, as in the file.
    Stored(StoredType, usize, Cow<'a, [u8]>),
    Values(Vec<f32>),
}

impl<'a> Rows<'a> {
    fn of(source: &'a Source, row_len: usize) -> Result<Self> {
        let view = &source.view;
        let count = view.len() / row_len.max(1);
        let elements = match !view.transposed && row_len.is_multiple_of(view.dtype().block()) {
            true => Elements::Stored,
            // Few and small: some text projections.
            false => Elements::Values(view.values()?),
        };
        let base = |rows: Range<usize>| elements.values(view, rows.start * row_len..rows.end * row_len);
        let patcher = match source.patches.is_empty() {
            true => None,
            false => Some(Patcher::new(&source.patches, [count, row_len], &base)?),
        };
        Ok(Rows { source, elements, patcher, count, next: 0, lost: 0 })
    }

    /// Some rows, with what adapters add.
    fn piece(&self, rows: Range<usize>, row_len: usize) -> Result<Piece<'a>> {
        let (view, range) = (&self.source.view, rows.start * row_len..rows.end * row_len);
        let Some(patcher) = &self.patcher else {
            return Ok(match &self.elements {
                Elements::Stored => Piece::Stored(view.dtype(), range.len(), view.some_bytes(range)?),
                Elements::Values(values) => Piece::Values(values[range].to_vec()),
            });
        };
        let mut values = self.elements.values(view, range)?;
        patcher.patch(rows.start, &mut values);
        Ok(Piece::Values(values))
    }

    fn finish(self) -> Result<()> {
        if self.lost > 0 { Err(self.source.lost(self.lost)) } else { Ok(()) }
    }
}

/// The bytes of some of `len` elements, whole blocks of them.
fn some(bytes: &[u8], len: usize, range: Range<usize>) -> &[u8] {
    let at = |element: usize| element * bytes.len() / len.max(1);
    &bytes[at(range.start)..at(range.end)]
}

/// Matrices below each other in the blocks that a file has, with blocks of zeros below them up to `len` values.
pub(super) struct Kept {
    pub(super) sources: Vec<Source>,
    pub(super) len: usize,
    pub(super) dtype: DType,
}

impl ConstantData for Kept {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let stored = self.sources.iter().map(|source| source.view.bytes()).collect::<Result<Vec<_>>>()?;
        let stored: Vec<&[u8]> = stored.iter().map(AsRef::as_ref).collect();
        Ok(Cow::Owned(from_ggml(self.dtype, &stored, self.len)))
    }
}

fn is_same(stored: StoredType, dtype: DType) -> bool {
    matches!((stored, dtype), (StoredType::F32, DType::F32) | (StoredType::F16, DType::F16))
}
