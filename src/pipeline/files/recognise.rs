//! What lies at a path: the one recognition that `inspect` reports and that loaders refuse by.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::models::original::{Checkpoint, Control, Patches};
use crate::models::other_kind;
use crate::pipeline::files::lora::LoraReport;
use crate::pipeline::files::source::{Component, DIFFUSION_STEM, TEXT_STEM};
use crate::weights::{AdapterFile, EmbeddingFile, TensorSet, WeightFile};
use crate::{Error, Place, Result};

/// What the tensors of a file are.
pub(crate) enum Found {
    Adapter(LoraReport),
    /// A ControlNet, or a relative of it, in words.
    Control(Option<&'static str>),
    Embedding(EmbeddingFile),
    /// Networks of Stable Diffusion: a whole model, or some of its parts.
    Networks(Box<Checkpoint>),
    /// Something that has no place here, in words.
    Other(String),
    /// Networks that are damaged, or nothing that is known; and some of the names.
    Nothing(Error, String),
}

impl Found {
    /// Of a file; `patches` replace fields of the configurations that follow from it.
    pub(crate) fn in_file(file: &Arc<WeightFile>, patches: &Patches) -> Self {
        let tensors = TensorSet::from(Arc::clone(file));
        let control = Control::is_in(&tensors);
        let relative = Control::relative(&tensors);
        if control || relative.is_some() {
            return Found::Control(relative);
        }
        if let Some(lora) = LoraReport::of_file(file) {
            return Found::Adapter(lora);
        }
        if let Some(embedding) = EmbeddingFile::of(&tensors) {
            return Found::Embedding(embedding);
        }
        match Checkpoint::read(&tensors, patches) {
            Ok(checkpoint) => Found::Networks(Box::new(checkpoint)),
            Err(error) => match other_kind(tensors.tensors().keys().map(String::as_str)) {
                Some(other) => Found::Other(other),
                None => Found::Nothing(error, some_names(&tensors)),
            },
        }
    }

    /// In words, and where it has its place.
    fn words(&self) -> Option<(String, Option<Place>)> {
        Some(match self {
            Found::Adapter(lora) => (lora.words(), lora.unread.is_none().then_some(Place::Adapter)),
            Found::Control(None) => ("a ControlNet".into(), Some(Place::Control)),
            Found::Control(Some(relative)) => (format!("{relative}, which is not supported"), None),
            Found::Embedding(embedding) => {
                let family = embedding.extents().map_or("", |(_, widths)| family_of_widths(&widths));
                let of = if family.starts_with("Stable") { format!(" for {family}") } else { String::new() };
                (format!("a textual inversion embedding{of}"), Some(Place::Embedding))
            }
            Found::Networks(checkpoint) => {
                let (words, place) = networks(checkpoint);
                (words, Some(place))
            }
            Found::Other(words) => (words.clone(), None),
            Found::Nothing(..) => return None,
        })
    }

    /// The refusal of what was given in another place; what is damaged says so itself.
    pub(crate) fn refusal(self, path: &Path, wanted: Place) -> Error {
        match (self.words(), self) {
            (Some((found, belongs)), _) => misplaced(path, wanted, found, belongs),
            (None, Found::Nothing(_, found)) if is_beside(wanted) => misplaced(path, wanted, found, None),
            (None, Found::Nothing(error, _)) => error,
            (None, _) => {
                Error::model(format!("{}: expected {}", path.display(), wanted.expected())).in_file(path.display())
            }
        }
    }
}

/// Whether networks have no place there.
fn is_beside(wanted: Place) -> bool {
    matches!(wanted, Place::Adapter | Place::Control | Place::Embedding)
}

/// How many tensors there are, and a few of their names.
fn some_names(tensors: &TensorSet) -> String {
    let names: Vec<&str> = tensors.tensors().keys().take(3).map(String::as_str).collect();
    match tensors.tensors().len() {
        0 => "no tensors".into(),
        count => format!("{count} tensors of nothing that is known, such as {}", names.join(", ")),
    }
}

/// The refusal of networks that were given in another place.
pub(crate) fn networks_refusal(path: &Path, wanted: Place, checkpoint: &Checkpoint) -> Error {
    let (found, belongs) = networks(checkpoint);
    misplaced(path, wanted, found, Some(belongs))
}

fn misplaced(path: &Path, wanted: Place, found: String, belongs: Option<Place>) -> Error {
    let belongs = belongs.filter(|place| *place != wanted);
    Error::Misplaced { path: path.display().to_string(), expected: wanted.expected(), found, belongs }
}

/// Networks in words, and the place of those that are no whole model.
fn networks(checkpoint: &Checkpoint) -> (String, Place) {
    let family = checkpoint.family.name();
    let names: Vec<&str> = checkpoint.parts.keys().copied().collect();
    match names[..] {
        ["vae"] => autoencoder(&checkpoint.parts["vae"].config),
        ["unet"] => (format!("a UNet alone, of {family}"), Place::Unet),
        _ if names.iter().all(|name| name.starts_with("text_encoder")) => {
            (format!("a text encoder alone, as {family} has it"), Place::TextEncoder)
        }
        _ => (format!("a model, {family} ({})", names.join(", ")), Place::Model),
    }
}

/// An autoencoder in words: whose latents it has, as far as their channels tell.
fn autoencoder(config: &serde_json::Map<String, Value>) -> (String, Place) {
    let tiny = if config.get("_class_name").is_some_and(|class| class == "AutoencoderTiny") { "tiny " } else { "" };
    let channels = config.get("latent_channels").and_then(Value::as_u64).unwrap_or(4);
    let whose = of_latents(channels as usize).map_or_else(String::new, |family| format!(", of {family}"));
    (format!("a {tiny}autoencoder for latents of {channels} channels{whose}"), Place::Vae)
}

/// Whose latents have so many channels, where they are not Stable Diffusion's.
pub(crate) fn of_latents(channels: usize) -> Option<&'static str> {
    match channels {
        16 => Some("Flux, Stable Diffusion 3 and others"),
        32 => Some("Flux.2 or Sana"),
        128 => Some("LTX-Video"),
        _ => None,
    }
}

/// What lies at a path that was refused as `wanted`: the same error, or a better one. For folders, and files of tensors.
pub(crate) fn explained(path: &Path, wanted: Place, error: Error) -> Error {
    match at(path) {
        Ok(Some((found, belongs))) if belongs != Some(wanted) => misplaced(path, wanted, found, belongs),
        _ => error,
    }
}

/// A path in words, and its place.
fn at(path: &Path) -> Result<Option<(String, Option<Place>)>> {
    if !path.is_dir() {
        let file = Arc::new(WeightFile::open(path)?);
        return Ok(Found::in_file(&file, &Patches::new()).words());
    }
    let root = Component::Folder(path.to_owned());
    if root.has("model_index.json") {
        let index: Value = root.json("model_index.json")?;
        let class = index["_class_name"].as_str().unwrap_or_default();
        return Ok(Some(match index.get("oms_module") {
            Some(_) => ("an OMS module".into(), Some(Place::Oms)),
            None if class.starts_with("StableDiffusion") || class.starts_with("LatentConsistency") => {
                ("a model's folder".into(), Some(Place::Model))
            }
            None => (format!("a model of another kind ({class}), which is not supported"), None),
        }));
    }
    if let Some(file) = AdapterFile::in_folder(path) {
        let file = Arc::new(WeightFile::open(file)?);
        return Ok(Found::in_file(&file, &Patches::new()).words());
    }
    if root.has("config.json") {
        let config: Value = root.json("config.json")?;
        let class = config["_class_name"].as_str().or(config["architectures"][0].as_str()).unwrap_or_default();
        return Ok(match class {
            "UNet2DConditionModel" => Some(("a UNet's folder".into(), Some(Place::Unet))),
            "UNet2DConditionWoCTModel" => Some(("the network of an OMS module; name the folder above it".into(), None)),
            "AutoencoderKL" | "AutoencoderTiny" => config.as_object().map(|config| {
                let (words, place) = autoencoder(config);
                (words, Some(place))
            }),
            "ControlNetModel" => Some(("a ControlNet's folder".into(), Some(Place::Control))),
            "CLIPTextModel" | "CLIPTextModelWithProjection" => {
                Some(("a text encoder's folder; name the folder above it".into(), Some(Place::TextEncoder)))
            }
            "" => None,
            other => Some((format!("a network of another kind ({other}), which is not supported"), None)),
        });
    }
    let holds = |stem: &str| root.has_weights(stem);
    if holds(DIFFUSION_STEM) || holds(TEXT_STEM) {
        return Ok(Some(("a folder with weights but without config.json; is the download complete?".into(), None)));
    }
    Ok(Some(match single_file_in(path) {
        Some(name) => (format!("a folder that has {name} in it; name the file"), None),
        None => ("a folder with nothing in it that is known (model_index.json, config.json, weights)".into(), None),
    }))
}

/// The first file of weights in a folder, by name.
fn single_file_in(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let ends = [".safetensors", ".gguf", ".ckpt", ".pt", ".bin"];
    names.into_iter().find(|name| ends.iter().any(|end| name.ends_with(end)))
}

/// The published family whose text encoders have these widths.
pub(crate) fn family_of_widths(widths: &[usize]) -> &'static str {
    match widths {
        [768] => "Stable Diffusion 1.x",
        [1024] => "Stable Diffusion 2.x",
        [768, 1280] => "Stable Diffusion XL",
        _ => "none that is published",
    }
}
