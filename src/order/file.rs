//! A file of a job: its path, or its bytes.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::image::{Photo, decode_photo, open_photo};
use crate::order::base64;
use crate::pipeline::{Recipe, read_recipe, recipe_in};

/// A picture: where it lies, or what it is. In JSON a path is a text, bytes are `{"bytes": "base64"}`. Weights have paths and names alone:
/// they are read at positions and shared, not held.
#[derive(Clone, PartialEq, Eq)]
pub enum File {
    /// A file's path.
    Path(PathBuf),
    /// A file's bytes.
    Bytes(Vec<u8>),
}

/// What messages call bytes.
const BYTES: &str = "bytes";

impl File {
    /// What messages call it.
    pub(super) fn name(&self) -> &Path {
        match self {
            File::Path(path) => path,
            File::Bytes(_) => Path::new(BYTES),
        }
    }

    pub(super) fn photo(&self) -> Result<Photo> {
        match self {
            File::Path(path) => open_photo(path),
            File::Bytes(bytes) => decode_photo(self.name(), bytes),
        }
    }

    /// What the picture says of its making.
    ///
    /// # Errors
    /// As [`read_recipe`].
    pub fn recipe(&self) -> Result<Recipe> {
        match self {
            File::Path(path) => read_recipe(path),
            File::Bytes(bytes) => recipe_in(self.name(), bytes),
        }
    }
}

/// Bytes are counted, not shown.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            File::Path(path) => f.debug_tuple("Path").field(path).finish(),
            File::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
        }
    }
}

impl From<PathBuf> for File {
    fn from(path: PathBuf) -> Self {
        File::Path(path)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inline {
    bytes: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Path(PathBuf),
    Inline(Inline),
}

impl Serialize for File {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            File::Path(path) => Written::Path(path.clone()),
            File::Bytes(bytes) => Written::Inline(Inline { bytes: base64::encode(bytes) }),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Path(path) => File::Path(path),
            Written::Inline(Inline { bytes }) => File::Bytes(base64::decode(&bytes).map_err(D::Error::custom)?),
        })
    }
}
