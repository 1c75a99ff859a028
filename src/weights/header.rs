//! The header of a safetensors file, checked.

use std::collections::{BTreeMap, HashSet};

use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::bytes::Bytes;
use super::file::{StoredTensor, unreadable};
use super::instead;
use crate::{Error, Result};

/// As much of a file as tells what it is instead.
const HEAD: usize = 512;
/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// Headers of the largest checkpoints have less than a megabyte; what they are read into takes many times their size.
const MAX_HEADER: u64 = 16 << 20;
/// Bytes of the header's length.
const LENGTH: usize = 8;

/// The tensors of a file, and the words that the header keeps beside them.
pub(super) fn read(label: &str, bytes: &Bytes) -> Result<(BTreeMap<String, StoredTensor>, BTreeMap<String, String>)> {
    let head = bytes.head(HEAD).map_err(|e| unreadable(label, e))?;
    let refused = |error: SafeTensorError| refusal(label, &head, bytes.len(), &error);
    let Some(&length) = head.first_chunk::<LENGTH>() else {
        return Err(refused(SafeTensorError::HeaderTooSmall));
    };
    let length = match u64::from_le_bytes(length) {
        length if length > LONGEST_HEADER => return Err(refused(SafeTensorError::HeaderTooLarge)),
        length if length > MAX_HEADER && length <= bytes.len() as u64 => {
            return Err(Error::model(format!(
                "{label}: a header of {length} bytes, at most {MAX_HEADER} are read; the file is hostile or damaged"
            ))
            .in_file(label));
        }
        length => length as usize,
    };
    let start = LENGTH + length;
    if start > bytes.len() {
        return Err(refused(SafeTensorError::InvalidHeaderLength));
    }
    let header = bytes.read(LENGTH..start).map_err(|e| unreadable(label, e))?;
    let text = std::str::from_utf8(&header).map_err(|e| refused(SafeTensorError::InvalidHeader(e)))?;
    let metadata: Metadata =
        serde_json::from_str(text).map_err(|e| refused(SafeTensorError::InvalidHeaderDeserialization(e)))?;
    let end = check_places(&metadata).map_err(refused)?;
    if start.checked_add(end) != Some(bytes.len()) {
        return Err(refused(SafeTensorError::MetadataIncompleteBuffer));
    }
    refuse_duplicates(label, &header)?;
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

/// That the tensors lie behind each other without gaps, each as long as its shape says; where the last ends. The crate checks so in
/// [`SafeTensors::read_metadata`](safetensors::SafeTensors::read_metadata), which wants the whole file in memory.
fn check_places(metadata: &Metadata) -> std::result::Result<usize, SafeTensorError> {
    let mut places: Vec<(String, &TensorInfo)> = metadata.tensors().into_iter().collect();
    places.sort_by_key(|(_, info)| info.data_offsets);
    let mut start = 0;
    for (name, info) in places {
        let (from, to) = info.data_offsets;
        if from != start || to < from {
            return Err(SafeTensorError::InvalidOffset(name));
        }
        start = to;
        let count = info.shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
        let bits =
            count.and_then(|n| n.checked_mul(info.dtype.bitsize())).ok_or(SafeTensorError::ValidationOverflow)?;
        if !bits.is_multiple_of(8) {
            return Err(SafeTensorError::MisalignedSlice);
        }
        if to - from != bits / 8 {
            return Err(SafeTensorError::TensorInvalidInfo);
        }
    }
    Ok(start)
}

/// Says what is wrong with a file, and what to do.
fn refusal(label: &str, head: &[u8], size: usize, error: &SafeTensorError) -> Error {
    if let Some((found, remedy)) = instead::what(head) {
        return Error::model(format!("{label}: expected a safetensors, GGUF or PyTorch file, found {found}; {remedy}"))
            .in_file(label);
    }
    Error::model(match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => format!(
            "{label}: the header and the file's {size} bytes do not agree ({error}): cut short, or no safetensors, GGUF or PyTorch file; \
             download it again"
        ),
        _ => format!(
            "{label}: expected a safetensors, GGUF or PyTorch file, the header is damaged or foreign ({error}); download it again"
        ),
    })
    .in_file(label)
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
    let twice = serde_json::Deserializer::from_slice(header).deserialize_map(Keys).map_err(|error| {
        Error::model(format!("{label}: the header is damaged ({error}); download it again")).in_file(label)
    })?;
    match twice {
        None => Ok(()),
        Some(name) => {
            Err(Error::model(format!("{label}: the header names {name} twice; the file is damaged: download it again"))
                .in_file(label))
        }
    }
}
