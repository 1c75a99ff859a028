//! Named tensors, wherever their bytes lie.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::blocks::BlockType;
use super::element::StoredType;
use super::file::{FileFormat, StoredTensor, WeightFile};
use crate::Result;
use crate::record::{BLOCK, DType};

/// Named tensors of one file, of the shards of a model, or of a file seen under other names. Cheap to clone: bytes stay where
/// they are.
#[derive(Clone)]
pub struct TensorSet {
    label: String,
    tensors: Arc<BTreeMap<String, TensorView>>,
}

/// A tensor of a file, or a part of it, or it with its axes swapped. Nothing is read before values are asked for.
#[derive(Clone)]
pub struct TensorView {
    pub(super) file: Arc<WeightFile>,
    pub(super) stored: StoredTensor,
    /// The matrix is stored with its axes swapped.
    pub(super) transposed: bool,
}

impl TensorSet {
    /// `label` names the set in messages.
    pub fn new(label: impl Into<String>, tensors: BTreeMap<String, TensorView>) -> Self {
        TensorSet { label: label.into(), tensors: Arc::new(tensors) }
    }

    /// Where the tensors are from, in words.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorView> {
        &self.tensors
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The extents of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(TensorView::shape)
    }

    /// The tensors whose name begins with `prefix`, under the rest of their names.
    pub fn under(&self, prefix: &str) -> TensorSet {
        let from = self.tensors.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let tensors = from.map(|(name, view)| (name[prefix.len()..].to_owned(), view.clone())).collect();
        TensorSet { label: self.label.clone(), tensors: Arc::new(tensors) }
    }

    /// The files that its tensors lie in, by name.
    pub(crate) fn files(&self) -> impl Iterator<Item = &WeightFile> {
        let files: BTreeMap<&str, &Arc<WeightFile>> =
            self.tensors.values().map(|view| (view.file.label(), &view.file)).collect();
        files.into_values().map(|file| &**file)
    }

    /// SHA-256 of the file, in hexadecimal: what model sites and AUTOMATIC1111 know a file by. Of several files it is that of
    /// their hashes after each other, by name.
    ///
    /// # Errors
    /// When a file cannot be read, or has changed since it was opened.
    pub fn sha256(&self) -> Result<String> {
        let hashes = self.files().map(|file| file.sha256().map(str::to_owned)).collect::<Result<Vec<_>>>()?;
        Ok(match hashes.as_slice() {
            [one] => one.clone(),
            many => hex(&Sha256::digest(many.concat())),
        })
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl From<Arc<WeightFile>> for TensorSet {
    fn from(file: Arc<WeightFile>) -> Self {
        let view =
            |stored: &StoredTensor| TensorView { file: Arc::clone(&file), stored: stored.clone(), transposed: false };
        let tensors = file.tensors().iter().map(|(name, stored)| (name.clone(), view(stored))).collect();
        TensorSet::new(file.label(), tensors)
    }
}

impl TensorView {
    /// Element type as stored.
    pub fn dtype(&self) -> StoredType {
        self.stored.dtype
    }

    /// Extents, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    /// The type of blocks on the device that holds exactly what is stored, for a matrix whose rows are whole blocks.
    pub(super) fn device_blocks(&self) -> Option<DType> {
        let dtype = match self.stored.dtype {
            StoredType::Blocks(BlockType::Q8_0) => DType::Q8_0,
            StoredType::Blocks(BlockType::Q4_0) => DType::Q4_0,
            _ => return None,
        };
        let row: usize = self.stored.shape.iter().skip(1).product();
        (!self.transposed && self.stored.shape.len() > 1 && row.is_multiple_of(BLOCK)).then_some(dtype)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.stored.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in the file.
    pub fn byte_len(&self) -> usize {
        self.stored.range.len()
    }

    /// The same elements in another shape; `None` when their counts differ.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        let count = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))?;
        let stored = StoredTensor { shape: shape.to_vec(), ..self.stored.clone() };
        (count == self.len() && !self.transposed).then(|| TensorView { stored, ..self.clone() })
    }

    /// The same elements with the slowest extents of 1 that `shape` has: GGUF files do without them.
    pub(super) fn with_slow_ones(&self, shape: &[usize]) -> Option<Self> {
        let more = shape.len().checked_sub(self.stored.shape.len()).filter(|&more| more > 0)?;
        let same = shape[..more].iter().all(|&extent| extent == 1) && shape[more..] == self.stored.shape;
        if same && self.file.format() == FileFormat::Gguf { self.reshaped(shape) } else { None }
    }

    /// Part `index` of `parts` equal ones along the first extent; `None` when it cannot be divided so.
    pub fn part(&self, index: usize, parts: usize) -> Option<Self> {
        let mut shape = self.stored.shape.clone();
        let rows = shape.first_mut()?;
        let bytes = self.stored.range.len();
        if parts == 0 || index >= parts || self.transposed {
            return None;
        }
        if !rows.is_multiple_of(parts) || !bytes.is_multiple_of(parts) {
            return None;
        }
        *rows /= parts;
        // A cut between two blocks.
        if !shape.iter().product::<usize>().is_multiple_of(self.stored.dtype.block()) {
            return None;
        }
        let start = self.stored.range.start + bytes / parts * index;
        let stored = StoredTensor { shape, range: start..start + bytes / parts, ..self.stored.clone() };
        Some(TensorView { stored, ..self.clone() })
    }

    /// The matrix with its axes swapped; `None` for anything else.
    pub fn swapped(&self) -> Option<Self> {
        let [rows, columns] = *self.stored.shape.as_slice() else { return None };
        let stored = StoredTensor { shape: vec![columns, rows], ..self.stored.clone() };
        Some(TensorView { stored, transposed: !self.transposed, ..self.clone() })
    }

    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.file.bytes(&self.stored)
    }

    /// The bytes of some of the elements in the order of the file, whole blocks of them.
    pub(super) fn some_bytes(&self, elements: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let (bytes, len) = (self.byte_len(), self.len().max(1));
        // A product of both is beyond what a tensor's bytes could be counted in.
        let at = |element: usize| (element as u128 * bytes as u128 / len as u128) as usize;
        self.file.some_bytes(&self.stored, at(elements.start)..at(elements.end))
    }

    /// The elements as f32, in the order of the shape.
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        let values = self.stored.dtype.decode(&self.bytes()?);
        if !self.transposed {
            return Ok(values);
        }
        let (rows, columns) = (self.stored.shape[0], self.stored.shape[1]);
        Ok((0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect())
    }

    /// Row `index` of a matrix as f32.
    pub(super) fn row(&self, index: usize) -> Result<Vec<f32>> {
        let columns = self.stored.shape[1];
        let elements = index * columns..(index + 1) * columns;
        if self.transposed || !columns.is_multiple_of(self.stored.dtype.block()) {
            // The table is small where this happens (a text projection), and read once per picture.
            return Ok(self.values()?[elements].to_vec());
        }
        Ok(self.stored.dtype.decode(&self.some_bytes(elements)?))
    }
}
