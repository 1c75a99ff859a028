//! A model in several files, with the index that says which tensor is in which: `*.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserializer, MapAccess, Visitor};

use super::file::WeightFile;
use super::set::TensorSet;
use crate::{Error, Result, files};

/// An index lists names, a megabyte of them at most; anything much larger is not one, and takes many times its size when it is read.
const MAX_INDEX_BYTES: u64 = 8 << 20;

/// Opens every shard that an index names and joins them.
///
/// # Errors
/// When the index or a shard is missing or damaged, a tensor is named twice or lies in two shards, the index names a tensor that
/// its shard lacks, or a shard has one that the index does not name.
pub fn open_shards(index: impl AsRef<Path>) -> Result<TensorSet> {
    let index = index.as_ref();
    let label = index.display().to_string();
    let bytes = files::read(index, MAX_INDEX_BYTES, "an index")?;
    let folder = index.parent().unwrap_or(Path::new(""));
    join_shards(&label, &bytes, |name| {
        let path = folder.join(name);
        path.exists().then(|| WeightFile::open(path)).transpose()
    })
}

/// [`open_shards`] for an index in memory: `open` gives the shard of a name, or nothing where there is none.
///
/// # Errors
/// As [`open_shards`].
pub fn join_shards(
    label: &str,
    index: &[u8],
    mut open: impl FnMut(&str) -> Result<Option<WeightFile>>,
) -> Result<TensorSet> {
    let map = parse_index(label, index)?;
    let names: BTreeSet<&String> = map.values().collect();
    let mut joined = BTreeMap::new();
    for name in names {
        let Some(shard) = open(name)? else {
            return Err(Error::model(format!(
                "{label}: expected the shard {name} beside it, there is none; download the missing file"
            ))
            .in_file(label));
        };
        for (tensor, view) in TensorSet::from(Arc::new(shard)).tensors() {
            match map.get(tensor) {
                Some(home) if home == name => {}
                Some(home) => {
                    return Err(Error::model(format!(
                        "{label}: {tensor} is in {name} and, as the index says, in {home}; the shards belong to different models"
                    )).in_file(label));
                }
                None => {
                    return Err(Error::model(format!(
                        "{label}: {name} holds {tensor}, which the index does not name; they belong to different models"
                    ))
                    .in_file(label));
                }
            }
            joined.insert(tensor.clone(), view.clone());
        }
    }
    if let Some((tensor, home)) = map.iter().find(|(tensor, _)| !joined.contains_key(*tensor)) {
        return Err(Error::model(format!(
            "{label}: expected {tensor} in {home}, which has no such tensor; download both again"
        ))
        .in_file(label));
    }
    Ok(TensorSet::new(label, joined))
}

/// Tensor → shard of an index.
fn parse_index(label: &str, bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        #[serde(deserialize_with = "pairs")]
        weight_map: Vec<(String, String)>,
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|error| {
        Error::model(format!("{label}: expected an index with a weight_map, got {error}; download it again"))
            .in_file(label)
    })?;
    let mut map = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        let plain = !shard.is_empty() && !shard.contains(['/', '\\', ':']) && shard != "." && shard != "..";
        if !plain {
            return Err(Error::model(format!(
                "{label}: {tensor}: expected the name of a file beside the index, got {shard:?}; the index is damaged"
            ))
            .in_file(label)
            .of_tensor(tensor));
        }
        if map.insert(tensor.clone(), shard).is_some() {
            return Err(Error::model(format!("{label}: {tensor} is named twice; the index is damaged")).in_file(label));
        }
    }
    if map.is_empty() {
        return Err(Error::model(format!("{label}: expected tensors in weight_map, got none; download it again"))
            .in_file(label));
    }
    Ok(map)
}

/// A map with its repeated keys.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<(String, String)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map from tensors to files")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}
