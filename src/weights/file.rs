//! A safetensors file, mapped, with its header checked.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest, Sha256};

use super::element::StoredType;
use super::set::hex;
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

/// A safetensors file. Cheap to open: nothing but the header is read.
pub struct WeightFile {
    label: String,
    data: Data,
    tensors: BTreeMap<String, StoredTensor>,
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
    /// When the file is missing, cut short, not a safetensors file, or its header names a tensor twice or puts tensors
    /// outside the file or over each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let label = path.display().to_string();
        let refuse = |source: std::io::Error| {
            Error::Model(format!("{label}: cannot be read ({source}); check that the model's folder is complete"))
        };
        let file = File::open(path).map_err(refuse)?;
        if file.metadata().map_err(refuse)?.is_dir() {
            return Err(Error::Model(format!(
                "{label}: expected a safetensors file, found a folder; name the file in it"
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

    /// Bytes of the whole file.
    pub fn byte_len(&self) -> usize {
        self.data.bytes().len()
    }

    fn parse(label: String, data: Data) -> Result<Self> {
        let bytes = data.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| refusal(&label, bytes, &error))?;
        refuse_duplicates(&label, &bytes[8..8 + header])?;
        let start = 8 + header;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                (name, StoredTensor { dtype: info.dtype.into(), shape: info.shape.clone(), range })
            })
            .collect();
        Ok(WeightFile { label, data, tensors, sha256: OnceLock::new() })
    }

    /// The path, or the label of bytes in the program.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
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

/// Says what is wrong with a file, and what to do.
fn refusal(label: &str, bytes: &[u8], error: &SafeTensorError) -> Error {
    let known = [
        (b"PK\x03\x04".as_slice(), "a PyTorch checkpoint", "convert it to safetensors"),
        (b"\x80\x02", "a PyTorch checkpoint", "convert it to safetensors"),
        (b"GGUF", "a GGUF file", "use the safetensors form of the model"),
        (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` in its folder"),
        (b"<", "a web page", "download the file itself"),
    ];
    let kind = known.iter().find(|(magic, ..)| bytes.starts_with(magic) && bytes.get(8) != Some(&b'{'));
    if let Some((_, found, remedy)) = kind {
        return Error::Model(format!("{label}: expected a safetensors file, found {found}; {remedy}"));
    }
    Error::Model(match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => format!(
            "{label}: the header and the file's {} bytes do not agree ({error}): cut short, or not a safetensors file; download it again",
            bytes.len()
        ),
        _ => format!(
            "{label}: expected a safetensors file, the header is damaged or foreign ({error}); download it again"
        ),
    })
}

/// The parser of the header keeps the last of two tensors of one name; a file that has two is refused.
fn refuse_duplicates(label: &str, header: &[u8]) -> Result<()> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(key.clone()) {
                    twice = Some(key);
                }
            }
            Ok(twice)
        }
    }
    let twice = serde_json::Deserializer::from_slice(header)
        .deserialize_map(Keys)
        .map_err(|error| Error::Model(format!("{label}: the header is damaged ({error}); download it again")))?;
    match twice {
        None => Ok(()),
        Some(name) => {
            Err(Error::Model(format!("{label}: the header names {name} twice; the file is damaged: download it again")))
        }
    }
}
