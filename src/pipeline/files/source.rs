//! Where the files of a model are: a folder in the diffusers layout, a single file, or the demo model inside the binary.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::models::original::Patches;
use crate::pipeline::files::demo;
use crate::pipeline::files::single_file::SingleFile;
use crate::weights::{ReadAt, TensorSet, WeightFile, WeightType, Weights, open_shards};
use crate::{Error, Place, Result, files};

/// What the weight files of UNets, ControlNets and autoencoders are called, without ending.
pub(crate) const DIFFUSION_STEM: &str = "diffusion_pytorch_model";

/// What those of text encoders are called.
pub(crate) const TEXT_STEM: &str = "model";

/// A folder of model files, on disk or embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The folder with `model_index.json`.
    Folder(PathBuf),
    /// A checkpoint in one file.
    File(Arc<SingleFile>),
    /// The demo model.
    DemoModel,
    /// The demo model's OMS module.
    DemoOms,
}

impl Source {
    /// What lies at a path: a folder, or a checkpoint in one file, which is opened.
    ///
    /// # Errors
    /// When the file is damaged or of no kind that is known.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        Self::at_as(path, Place::Model)
    }

    /// A checkpoint in one file whose bytes the program has; `label` names it in messages and in the parameters of pictures. Two sources of one
    /// reader are two models.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn from_reader(label: &str, reader: Arc<dyn ReadAt>) -> Result<Self> {
        Ok(Source::File(SingleFile::given(label, reader)?))
    }

    /// [`at`](Self::at) of what was given in this place.
    pub(crate) fn at_as(path: impl Into<PathBuf>, wanted: Place) -> Result<Self> {
        let path = path.into();
        if path.is_dir() {
            return Ok(Source::Folder(path));
        }
        Ok(Source::File(SingleFile::open_as(path, &Patches::new(), wanted)?))
    }

    /// The files of one component.
    pub(crate) fn component(&self, name: &str) -> Component {
        match self {
            Source::Folder(root) => Component::Folder(root.join(name)),
            Source::File(file) => Component::Part(Arc::clone(file), name.to_owned()),
            Source::DemoModel => Component::Embedded(format!("model/{name}")),
            Source::DemoOms => Component::Embedded(format!("oms/{name}")),
        }
    }

    /// The files at the top.
    pub(crate) fn root(&self) -> Component {
        match self {
            Source::Folder(root) => Component::Folder(root.clone()),
            Source::File(file) => Component::Part(Arc::clone(file), String::new()),
            Source::DemoModel => Component::Embedded("model".into()),
            Source::DemoOms => Component::Embedded("oms".into()),
        }
    }
}

impl Source {
    /// A name that tells the files without the place where they lie.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::Folder(root) => {
                let whole = root.canonicalize().unwrap_or_else(|_| root.clone());
                whole.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
            }
            Source::File(file) => {
                file.path().file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
            }
            Source::DemoModel | Source::DemoOms => "demo".into(),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Folder(root) => write!(f, "{}", root.display()),
            Source::File(file) => write!(f, "{}", file.path().display()),
            Source::DemoModel => f.write_str("demo"),
            Source::DemoOms => f.write_str("demo"),
        }
    }
}

/// The folder of one component: its configuration and its weights.
#[derive(Debug, Clone)]
pub(crate) enum Component {
    Folder(PathBuf),
    /// A component of a single file; an empty name is the folder itself.
    Part(Arc<SingleFile>, String),
    Embedded(String),
}

/// Configuration and vocabulary files have a megabyte at most (CLIP's vocabulary); anything much larger is not one, and what they are read
/// into takes many times their size.
const MAX_TEXT_BYTES: u64 = 8 << 20;

impl Component {
    pub(crate) fn label(&self, file: &str) -> String {
        match self {
            Component::Folder(path) => path.join(file).display().to_string(),
            Component::Part(single, name) => format!("{}: {name}/{file}", single.path().display()),
            Component::Embedded(path) => format!("demo {path}/{file}"),
        }
    }

    /// Whether the file is there.
    pub(crate) fn has(&self, file: &str) -> bool {
        match self {
            // What is there but no file is refused by name when it is read.
            Component::Folder(path) => path.join(file).exists(),
            Component::Part(single, name) => single.read(name, file).is_some(),
            Component::Embedded(path) => demo::file(&format!("{path}/{file}")).is_some(),
        }
    }

    /// The whole of a small file.
    pub(crate) fn read(&self, file: &str) -> Result<Vec<u8>> {
        match self {
            Component::Folder(path) => read_small(&path.join(file)),
            Component::Part(single, name) => single.read(name, file).ok_or_else(|| single.lacks(name)),
            Component::Embedded(path) => demo::file(&format!("{path}/{file}"))
                .map(<[u8]>::to_vec)
                .ok_or_else(|| demo::lacks(&format!("{path}/{file}"))),
        }
    }

    /// The whole of a small text file.
    pub(crate) fn text(&self, file: &str) -> Result<String> {
        String::from_utf8(self.read(file)?).map_err(|_| {
            Error::model(format!("{}: not text; the file is damaged", self.label(file))).in_file(self.label(file))
        })
    }

    /// A JSON file as `T`.
    pub(crate) fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        let bytes = self.read(file)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::model(format!("{}: not the JSON expected there: {e}", self.label(file))).in_file(self.label(file))
        })
    }

    /// The component's weights: one file or shards, plain or the `.fp16` variant, the variant first when halves are wanted; safetensors
    /// before PyTorch's `.bin`.
    pub(crate) fn weights(&self, stem: &str, prefer_f16: bool) -> Result<TensorSet> {
        match self {
            Component::Folder(path) => {
                let file = path.join(self.weight_file(stem, prefer_f16)?);
                if file.extension().is_some_and(|extension| extension == "json") {
                    return open_shards(file);
                }
                Ok(Arc::new(WeightFile::open(file)?).into())
            }
            Component::Part(single, name) => single.weights(name).cloned().ok_or_else(|| single.lacks(name)),
            Component::Embedded(path) => {
                let name = format!("{path}/{}", self.weight_file(stem, prefer_f16)?);
                let bytes = demo::file(&name).expect("has() found the file");
                Ok(Arc::new(WeightFile::from_static(bytes, format!("demo {name}"))?).into())
            }
        }
    }

    fn weight_file(&self, stem: &str, prefer_f16: bool) -> Result<String> {
        let [plain, variant, pickles, pickled_variant] = weight_files(stem);
        let order = match prefer_f16 {
            false => [plain, variant, pickles, pickled_variant],
            true => [variant, plain, pickled_variant, pickles],
        };
        let found = order.into_iter().flatten().find(|file| self.has(file));
        found.ok_or_else(|| match self {
            Component::Embedded(path) => demo::lacks(&format!("{path}/{stem}")),
            _ => Error::model(self.missing_weights(stem)),
        })
    }

    /// Whether any form of the weights is there.
    pub(crate) fn has_weights(&self, stem: &str) -> bool {
        if let Component::Part(single, name) = self {
            return single.weights(name).is_some();
        }
        weight_files(stem).iter().flatten().any(|file| self.has(file))
    }

    fn missing_weights(&self, stem: &str) -> String {
        let wanted = self.label(&format!("{stem}.safetensors"));
        let pickle = pickle(stem);
        format!("{wanted}: not found, nor its .fp16 variant or {pickle}.bin; is the download complete?")
    }
}

/// What PyTorch's files are called where others begin with `stem`: transformers has a name of its own for them.
fn pickle(stem: &str) -> &str {
    if stem == TEXT_STEM { "pytorch_model" } else { stem }
}

/// The names that weights go by: whole or sharded, plain or the half-precision variant, where diffusers and transformers put the
/// variant's name in different places of the index's; then the same from before safetensors.
fn weight_files(stem: &str) -> [Vec<String>; 4] {
    let plain = |stem: &str, ending: &str| vec![format!("{stem}.{ending}"), format!("{stem}.{ending}.index.json")];
    let variant = |stem: &str, ending: &str| {
        let [whole, index] = ["", ".index.json"].map(|index| format!("{stem}.fp16.{ending}{index}"));
        vec![whole, index, format!("{stem}.{ending}.index.fp16.json")]
    };
    let old = pickle(stem);
    [plain(stem, "safetensors"), variant(stem, "safetensors"), plain(old, "bin"), variant(old, "bin")]
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    files::read(path, MAX_TEXT_BYTES, "a file")
}

/// The tensors of a component, as `weight_type` stores them.
///
/// # Errors
/// When a file is missing or damaged.
pub(crate) fn open(files: &Component, stem: &str, model: &str, weight_type: WeightType) -> Result<Weights> {
    Ok(Weights::new(files.weights(stem, weight_type.prefers_halves())?, model, weight_type))
}
