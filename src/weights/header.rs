//! The header of a safetensors file, checked.

use std::collections::{BTreeMap, HashSet};

use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::file::StoredTensor;
use crate::{Error, Result};

/// Headers of the largest checkpoints have less than a megabyte; what they are read into takes many times their size.
const MAX_HEADER: u64 = 16 << 20;

/// The tensors of a file, and the words that the header keeps beside them.
pub(super) fn read(label: &str, bytes: &[u8]) -> Result<(BTreeMap<String, StoredTensor>, BTreeMap<String, String>)> {
    if let Some(stated) = bytes.first_chunk().map(|length| u64::from_le_bytes(*length))
        && stated > MAX_HEADER
        && stated <= bytes.len() as u64
    {
        return Err(Error::Model(format!(
            "{label}: a header of {stated} bytes, at most {MAX_HEADER} are read; the file is hostile or damaged"
        )));
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| refusal(label, bytes, &error))?;
    refuse_duplicates(label, &bytes[8..8 + header])?;
    let start = 8 + header;
    let tensors = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            (name, StoredTensor { dtype: info.dtype.into(), shape: info.shape.clone(), range })
        })
        .collect();
    let words = metadata.metadata().clone().map(BTreeMap::from_iter).unwrap_or_default();
    Ok((tensors, words))
}

/// Says what is wrong with a file, and what to do.
fn refusal(label: &str, bytes: &[u8], error: &SafeTensorError) -> Error {
    let known = [
        (b"version https://git-lfs".as_slice(), "a Git LFS pointer", "run `git lfs pull` in its folder"),
        (b"<", "a web page", "download the file itself"),
    ];
    let kind = known.iter().find(|(magic, ..)| bytes.starts_with(magic) && bytes.get(8) != Some(&b'{'));
    if let Some((_, found, remedy)) = kind {
        return Error::Model(format!("{label}: expected a safetensors, GGUF or PyTorch file, found {found}; {remedy}"));
    }
    Error::Model(match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => format!(
            "{label}: the header and the file's {} bytes do not agree ({error}): cut short, or no safetensors, GGUF or PyTorch file; download it again",
            bytes.len()
        ),
        _ => format!(
            "{label}: expected a safetensors, GGUF or PyTorch file, the header is damaged or foreign ({error}); download it again"
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
