//! A file of tensors, mapped, with its header checked: safetensors, GGUF or PyTorch's archive, as its first bytes say.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::element::StoredType;
use super::set::hex;
use super::{gguf, header, torch};
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
    data: Data,
    format: FileFormat,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
    sha256: OnceLock<String>,
}

enum Data {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl WeightFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// When the file is missing, cut short, of none of the [formats](FileFormat), or its header names a tensor twice or puts tensors
    /// outside the file; in safetensors and GGUF also over each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let refuse = |source: std::io::Error| {
            Error::Model(format!("{label}: cannot be read ({source}); check that the model's folder is complete"))
        };
        let file = File::open(path).map_err(refuse)?;
        if file.metadata().map_err(refuse)?.is_dir() {
            return Err(Error::Model(format!(
                "{label}: expected a file of weights, found a folder; name the file in it"
            )));
        }
        // SAFETY: the mapping is read-only and private to this process. Another program that changes the file while it
        // is open changes what is read; every mapped-weights program lives with that, and no invariant depends on it.
        let map = unsafe { Mmap::map(&file) }.map_err(refuse)?;
        WeightFile::parse(label, Data::Mapped(map))
    }

    /// A file that is part of the program (`include_bytes!`); `label` names it in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(bytes: &'static [u8], label: impl Into<String>) -> Result<Self> {
        WeightFile::parse(label.into(), Data::Static(bytes))
    }

    /// A file's bytes in memory; `label` names them in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>, label: impl Into<String>) -> Result<Self> {
        WeightFile::parse(label.into(), Data::Owned(bytes))
    }

    /// SHA-256 of the whole file, in hexadecimal, read once.
    pub(crate) fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| hex(&Sha256::digest(self.data.bytes())))
    }

    /// SHA-256 of what follows the header of a safetensors file, of others the whole file's: how AUTOMATIC1111's program tells adapters
    /// (`modules/hashes.py`, `addnet_hash_safetensors`).
    pub(crate) fn sha256_of_data(&self) -> String {
        let bytes = self.data.bytes();
        let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length).saturating_add(8));
        let data = usize::try_from(header).ok().and_then(|from| bytes.get(from..));
        match data.filter(|_| self.format == FileFormat::Safetensors) {
            Some(data) => hex(&Sha256::digest(data)),
            None => self.sha256().to_owned(),
        }
    }

    /// Bytes of the whole file.
    pub fn byte_len(&self) -> usize {
        self.data.bytes().len()
    }

    fn parse(label: String, data: Data) -> Result<Self> {
        let bytes = data.bytes();
        let mut metadata = BTreeMap::new();
        let (format, tensors) = if bytes.starts_with(gguf::MAGIC) && bytes.get(8) != Some(&b'{') {
            (FileFormat::Gguf, gguf::read(&label, bytes)?)
        } else if torch::is_torch(bytes) {
            (FileFormat::Torch, torch::read(&label, bytes)?)
        } else {
            let (tensors, words) = header::read(&label, bytes)?;
            metadata = words;
            (FileFormat::Safetensors, tensors)
        };
        Ok(WeightFile { label, data, format, tensors, metadata, sha256: OnceLock::new() })
    }

    /// The path, or the label of bytes in the program.
    pub fn label(&self) -> &str {
        &self.label
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
    pub(crate) fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.data.bytes()[tensor.range.clone()]
    }
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(map) => map,
            Data::Static(bytes) => bytes,
            Data::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WeightFile({}, {} tensors)", self.label, self.tensors.len())
    }
}
