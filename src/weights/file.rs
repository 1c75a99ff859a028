//! A file of tensors with its header checked: safetensors, GGUF or PyTorch's archive, as its first bytes say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::bytes::{Bytes, ReadAt};
use super::element::StoredType;
use super::set::hex;
use super::{gguf, header, torch};
use crate::record::Cancel;
use crate::{Error, Result};

/// Where a tensor of a [`WeightFile`] lies, and what it is.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Element type as stored.
    pub dtype: StoredType,
    /// Extents as stored, slowest first.
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
}

/// A format of [`WeightFile`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// A JSON header before the tensors.
    Safetensors,
    /// ggml's, as stable-diffusion.cpp and ComfyUI-GGUF write it.
    Gguf,
    /// PyTorch's archive with a pickle, of which nothing is executed.
    Torch,
}

impl FileFormat {
    /// "safetensors", "GGUF" or "PyTorch".
    pub fn name(self) -> &'static str {
        match self {
            FileFormat::Safetensors => "safetensors",
            FileFormat::Gguf => "GGUF",
            FileFormat::Torch => "PyTorch",
        }
    }
}

/// A file of tensors. Cheap to open: nothing but the header is read.
pub struct WeightFile {
    label: String,
    data: Bytes,
    format: FileFormat,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
    sha256: OnceLock<String>,
}

impl WeightFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// When the file is missing, cut short, of none of the [formats](FileFormat), or its header names a tensor twice or puts tensors
    /// outside the file; in safetensors and GGUF also over each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let data = Bytes::open(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::InvalidInput => Error::model(format!("{label}: {source}")).in_file(&label),
            _ => Error::model(format!("{label}: cannot be read ({source}); check that the model's folder is complete"))
                .in_file(&label),
        })?;
        WeightFile::parse(label, data)
    }

    /// A file that is part of the program (`include_bytes!`); `label` names it in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(bytes: &'static [u8], label: impl Into<String>) -> Result<Self> {
        WeightFile::parse(label.into(), Bytes::Static(bytes))
    }

    /// A file's bytes in memory; `label` names them in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>, label: impl Into<String>) -> Result<Self> {
        WeightFile::parse(label.into(), Bytes::Owned(bytes))
    }

    /// A file's bytes where a program has them; `label` names them in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_reader(reader: Arc<dyn ReadAt>, label: impl Into<String>) -> Result<Self> {
        WeightFile::parse(label.into(), Bytes::Given(reader))
    }

    /// SHA-256 of the whole file, in hexadecimal, read once.
    pub(crate) fn sha256(&self) -> Result<&str> {
        self.hash(None)
    }

    /// As [`sha256`](Self::sha256), given up when `stop` asks.
    pub(crate) fn sha256_until(&self, stop: &Cancel) -> Result<&str> {
        self.hash(Some(stop))
    }

    /// Takes the hash from who knows it.
    pub(crate) fn know_sha256(&self, sha256: &str) {
        self.sha256.get_or_init(|| sha256.to_owned());
    }

    fn hash(&self, stop: Option<&Cancel>) -> Result<&str> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let hash = hex(self.data.sha256(0, stop).map_err(|e| self.unreadable(e))?.as_ref());
        Ok(self.sha256.get_or_init(|| hash))
    }

    /// SHA-256 of what follows the header of a safetensors file, of others the whole file's: how AUTOMATIC1111's program tells adapters
    /// (`modules/hashes.py`, `addnet_hash_safetensors`).
    pub(crate) fn sha256_of_data(&self) -> Result<String> {
        if self.format != FileFormat::Safetensors {
            return self.sha256().map(str::to_owned);
        }
        let head = self.data.head(8).map_err(|e| self.unreadable(e))?;
        let header = head.first_chunk().map_or(0, |length| u64::from_le_bytes(*length).saturating_add(8));
        let from = usize::try_from(header).unwrap_or(usize::MAX).min(self.byte_len());
        Ok(hex(self.data.sha256(from, None).map_err(|e| self.unreadable(e))?.as_ref()))
    }

    /// Bytes of the whole file.
    pub fn byte_len(&self) -> usize {
        self.data.len()
    }

    fn parse(label: String, data: Bytes) -> Result<Self> {
        let mut metadata = BTreeMap::new();
        let head = data.head(HEAD).map_err(|e| unreadable(&label, e))?;
        let (format, tensors) = if head.starts_with(gguf::MAGIC) && head.get(8) != Some(&b'{') {
            (FileFormat::Gguf, gguf::read(&label, &data)?)
        } else if torch::is_torch(&head) {
            (FileFormat::Torch, torch::read(&label, &data)?)
        } else {
            let (tensors, words) = header::read(&label, &data)?;
            metadata = words;
            (FileFormat::Safetensors, tensors)
        };
        drop(head);
        Ok(WeightFile { label, data, format, tensors, metadata, sha256: OnceLock::new() })
    }

    /// The path, or the label of bytes in the program.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where it is on disk, from the root; `None` of bytes that a program has.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.data.path()
    }

    /// The format that its first bytes tell.
    pub fn format(&self) -> FileFormat {
        self.format
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// The words that the header of a safetensors file keeps beside its tensors.
    pub(crate) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The bytes of a tensor, little-endian.
    ///
    /// # Errors
    /// When the file cannot be read, or has changed since it was opened.
    pub(crate) fn bytes(&self, tensor: &StoredTensor) -> Result<Cow<'_, [u8]>> {
        self.some_bytes(tensor, 0..tensor.range.len())
    }

    /// Some bytes of a tensor.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub(crate) fn some_bytes(&self, tensor: &StoredTensor, part: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let range = tensor.range.start + part.start..tensor.range.start + part.end;
        self.data.read(range).map_err(|e| self.unreadable(e))
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        unreadable(&self.label, error)
    }
}

/// As much of a file as tells its format.
const HEAD: usize = 512;

pub(super) fn unreadable(label: &str, error: std::io::Error) -> Error {
    Error::Io { path: label.to_owned(), source: error }
}

impl std::fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WeightFile({}, {} tensors)", self.label, self.tensors.len())
    }
}
