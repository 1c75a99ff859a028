//! A picture → the request that made it.
//!
//! | file | what it reads |
//! | --- | --- |
//! | `infotext` | AUTOMATIC1111's text, which Forge, SD.Next, stable-diffusion.cpp and others write too |
//! | `comfy`, `comfy_links`, `workflow` | ComfyUI's graph, as it ran and as it was drawn |
//! | `fooocus`, `invokeai`, `novelai` | these programs' JSON |
//! | `samplers` | how all of them name solvers and schedules |
//! | `weights` | weights in prompts that are written otherwise |
//! | `fields` | named values, each read or told |
//!
//! `docs/LIKE.md` has a table of it. What a program says and this one cannot do is in [`Recipe::not_repeated`], or an error that names the
//! program.

mod comfy;
mod comfy_links;
mod fields;
mod fooocus;
mod infotext;
mod invokeai;
mod novelai;
mod samplers;
mod weights;
mod workflow;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::image::{Metadata, XMP, metadata_in, read_metadata};
use crate::pipeline::png::RECORD;
use crate::pipeline::request::{OmsRequest, Request};
use crate::sampling::PredictionType;
use crate::{Error, Result};

/// Which program's parameters were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Program {
    /// This one.
    #[default]
    Chiaro,
    /// AUTOMATIC1111's stable-diffusion-webui, or one that writes the same text.
    Automatic1111,
    /// stable-diffusion.cpp.
    StableDiffusionCpp,
    /// ComfyUI.
    ComfyUi,
    /// Fooocus.
    Fooocus,
    /// InvokeAI.
    InvokeAi,
    /// NovelAI.
    NovelAi,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Chiaro => "chiaro",
            Program::Automatic1111 => "AUTOMATIC1111",
            Program::StableDiffusionCpp => "stable-diffusion.cpp",
            Program::ComfyUi => "ComfyUI",
            Program::Fooocus => "Fooocus",
            Program::InvokeAi => "InvokeAI",
            Program::NovelAi => "NovelAI",
        })
    }
}

/// What a picture says of its making.
#[derive(Debug, Clone, Default, Deserialize)]
#[non_exhaustive]
pub struct Recipe {
    /// The request that draws it again; without the picture that it started from.
    pub request: Request,
    /// Who wrote it.
    #[serde(skip)]
    pub program: Program,
    /// What changed the picture and is not repeated: names of fields with their values.
    #[serde(skip)]
    pub not_repeated: Vec<String>,
    /// The sampler's name, where it is none of ours.
    #[serde(skip)]
    pub unknown_sampler: Option<String>,
    /// The name of the schedule of noise levels, where it is none of ours.
    #[serde(skip)]
    pub unknown_sigmas: Option<String>,
    /// The model's name: "demo", or its folder's or file's.
    #[serde(default)]
    pub model: Option<String>,
    /// The beginning of the SHA-256 of the model's file.
    #[serde(skip)]
    pub model_hash: Option<String>,
    /// SHA-256 of the weight files by component.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
    /// Parts that were not the model's own, and what their files were called.
    #[serde(default)]
    pub parts: BTreeMap<String, String>,
    /// What the network was said to predict, where the model's files were overruled.
    #[serde(default)]
    pub prediction: Option<PredictionType>,
    /// The OMS module's name, where there was one.
    #[serde(default)]
    pub oms_module: Option<String>,
    /// The device that drew it.
    #[serde(default)]
    pub device: Option<String>,
    /// How activations were stored there: "f16" or "f32".
    #[serde(default)]
    pub storage: Option<String>,
    /// How weights were stored there, as [`WeightTypes`](crate::pipeline::WeightTypes) are written.
    #[serde(default)]
    pub weights: Option<String>,
    /// The adapters that changed the model, beside those that tags in the prompt name.
    #[serde(default)]
    pub adapters: Vec<RecipeAdapter>,
    /// AUTOMATIC1111's hashes of adapters by name, those of tags too: the beginning of the SHA-256 of their tensors' data.
    #[serde(skip)]
    pub adapter_hashes: BTreeMap<String, String>,
    /// The picture that it started from.
    #[serde(default)]
    pub image: Option<RecipeImage>,
    /// The embeddings whose names are in its prompts.
    #[serde(default)]
    pub embeddings: Vec<RecipeEmbedding>,
    /// The ControlNets that acted, one for each of the request's.
    #[serde(default)]
    pub controls: Vec<RecipeControl>,
}

/// What is known of an embedding.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeEmbedding {
    /// The file's name without ending.
    pub name: String,
    /// SHA-256 of the file, or its beginning.
    pub sha256: String,
}

/// What is known of a ControlNet.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeControl {
    /// The folder's name, or the file's without ending.
    pub name: String,
    /// SHA-256 of the weights' file, where it is said.
    #[serde(default)]
    pub sha256: Option<String>,
    /// SHA-256 of the picture that it saw ([`crate::pipeline::ControlRequest::image_sha256`]).
    #[serde(default)]
    pub image_sha256: Option<String>,
}

/// What is known of an adapter.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeAdapter {
    /// The file's name without ending.
    pub name: String,
    /// SHA-256 of the file, where it is said.
    #[serde(default)]
    pub sha256: Option<String>,
    /// How strongly it was applied.
    pub weight: f64,
    /// How strongly to text encoders, where that was another number.
    #[serde(default)]
    pub text_encoder_weight: Option<f64>,
}

/// What is known of a start picture.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeImage {
    /// SHA-256 of its pixels and mask ([`crate::pipeline::InitImage::sha256`]), where it is said.
    #[serde(default)]
    pub sha256: Option<String>,
    /// How much was drawn anew.
    pub strength: f64,
    /// Whether it had a mask.
    pub mask: bool,
}

/// The keyword under which this program keeps its parameters in a PNG, and what they begin with in an EXIF text.
const OWN: &str = "chiaro";

/// EXIF's ImageDescription, Model and Make.
const DESCRIPTION: u16 = 0x010e;
const MODEL: u16 = 0x0110;
const MAKE: u16 = 0x010f;

/// Reads what a PNG, JPEG or WebP file of this program or one of [`Program`] says of its making.
///
/// # Errors
/// When the file is no picture, says nothing, what it says cannot be understood, or it says what cannot be repeated.
pub fn read_recipe(path: &Path) -> Result<Recipe> {
    recipe_of(path, &read_metadata(path)?)
}

/// As [`read_recipe`], of a file's bytes; `path` is what messages call it.
///
/// # Errors
/// As [`read_recipe`].
pub fn recipe_in(path: &Path, bytes: &[u8]) -> Result<Recipe> {
    recipe_of(path, &metadata_in(path, bytes)?)
}

fn recipe_of(path: &Path, said: &Metadata) -> Result<Recipe> {
    let at = |e: Error| match e {
        error @ Error::Request { .. } => Error::refused(format!("{}: {error}", path.display())),
        other => other,
    };
    recipe(said).map_err(at)?.ok_or_else(|| {
        Error::refused(format!("{}: holds no parameters; was it saved by another program?", path.display()))
    })
}

/// A picture's recipe, if there is one.
pub(super) fn recipe(said: &Metadata) -> Result<Option<Recipe>> {
    let exif = |tag: u16, prefix: &str| {
        let texts = said.exif.iter().flat_map(|exif| &exif.texts);
        texts.filter(|(own, _)| *own == tag).find_map(|(_, text)| text.strip_prefix(prefix)?.strip_prefix(':'))
    };
    if let Some(json) = said.text(OWN).or_else(|| exif(DESCRIPTION, OWN)) {
        return own(json).map(Some);
    }
    if let Some(json) = said.text("invokeai_metadata") {
        return invokeai::read(json).map(Some);
    }
    for old in ["sd-metadata", "Dream", "dream"] {
        if said.text(old).is_some() {
            let why = "its version is older than 3, whose parameters are not read; type them";
            return Err(cannot(Program::InvokeAi, why));
        }
    }
    if let (Some(json), true) = (said.text("Comment"), said.text("Software").is_some_and(|name| name == "NovelAI")) {
        return novelai::read(json, said.text("Source"), said.text("Description")).map(Some);
    }
    let comment = said.exif.as_ref().and_then(|exif| exif.user_comment.as_deref()).filter(|text| !text.is_empty());
    let packet = said.text(XMP).and_then(infotext::in_xmp);
    let text = said.text("parameters").map(str::to_owned).or_else(|| comment.map(str::to_owned)).or(packet);
    let graph = said.text("prompt").or_else(|| exif(MODEL, "prompt"));
    let drawn = said.text("workflow").or_else(|| exif(MAKE, "workflow"));
    if let Some(text) = text {
        return match json(&text) {
            Some(Value::Object(map)) if map.contains_key("sui_image_params") => Err(Error::refused(
                "SwarmUI's parameters are not read; type them (it can save the graph of ComfyUI, which is)",
            )),
            Some(Value::Object(map)) => fooocus::read(map).map(Some),
            // Nodes that write AUTOMATIC1111's text beside the graph may write it badly.
            _ => match (infotext::read(&text), graph) {
                (Err(_), Some(graph)) => comfy::read(graph).map(Some),
                (read, _) => read.map(Some),
            },
        };
    }
    match (graph, drawn) {
        (Some(graph), _) => comfy::read(graph).map(Some),
        (None, Some(drawn)) => comfy::read_drawn(drawn).map(Some),
        (None, None) => Ok(None),
    }
}

/// This program's own record, of any form up to [`RECORD`].
fn own(json: &str) -> Result<Recipe> {
    #[derive(Deserialize)]
    struct Head {
        record: Option<Value>,
        version: Option<String>,
    }
    let refused = |e: serde_json::Error| Error::refused(format!("its parameters cannot be read: {e}"));
    let Head { record, version } = serde_json::from_str(json).map_err(refused)?;
    if let Some(other) = record.filter(|form| !form.as_u64().is_some_and(|form| (1..=RECORD).contains(&form))) {
        let writer = version.map_or_else(|| "another version".to_owned(), |version| format!("chiaro {version}"));
        return Err(Error::refused(format!(
            "its record is of form {other}, this program reads up to {RECORD}; it was written by {writer}, repeat it with that"
        )));
    }
    serde_json::from_str(json).map_err(refused)
}

/// JSON as Python writes it, where numbers may be `NaN` or `Infinity`; nothing where it is none.
fn json(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&finite(text)).ok())
}

/// The text with `null` for what JSON has no number for, outside strings.
fn finite(text: &str) -> String {
    let (mut out, mut rest, mut quoted) = (String::with_capacity(text.len()), text, false);
    while let Some(sign) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !quoted && rest.starts_with(word));
        let taken = match (word, sign) {
            (Some(word), _) => {
                out += "null";
                word.len()
            }
            (None, '\\') if quoted => {
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out += &rest[..length];
                length
            }
            (None, _) => {
                quoted ^= sign == '"';
                out.push(sign);
                sign.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Says that a program's picture cannot be repeated.
fn cannot(program: Program, why: impl fmt::Display) -> Error {
    Error::refused(format!("{program}'s picture cannot be repeated: {why}"))
}

/// A file's name without folders and ending, as this program calls models and adapters.
fn stem(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name).trim();
    let known = [".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"];
    let bare = known.iter().find_map(|ending| file.strip_suffix(ending)).unwrap_or(file);
    bare.to_owned()
}

impl Recipe {
    /// Takes a sampler and a schedule of noise levels as a program names them.
    fn take_sampler(&mut self, sampler: &str, schedule: Option<&str>) {
        let read = samplers::read(self.program, sampler, schedule, self.request.num_inference_steps);
        self.request.sampler = read.kind;
        self.request.sigmas = read.sigmas;
        self.request.timestep_spacing = read.spacing;
        self.request.eta = read.eta.or(self.request.eta);
        self.unknown_sampler = read.unknown_sampler;
        self.unknown_sigmas = read.unknown_sigmas;
        self.not_repeated.extend(read.not_repeated);
    }

    /// Takes the numbers of AUTOMATIC1111's or this program's "One More Step" fields.
    fn take_oms(&mut self, module: Option<String>, scale: Option<f64>) {
        if let Some(module) = module {
            self.oms_module = Some(module);
            self.request.oms = Some(OmsRequest { guidance_scale: scale.unwrap_or(1.0), ..OmsRequest::default() });
        }
    }
}

#[cfg(test)]
mod comfy_tests;
#[cfg(test)]
mod tests;
