//! What lies at a path. No GPU is needed, and no weight is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::models::UnetConfig;
use crate::models::original::{Checkpoint, Control, Family, Patches};
use crate::pipeline::device::Device;
use crate::pipeline::files::lora::LoraReport;
use crate::pipeline::files::recognise::{Found, explained, family_of_widths, of_latents};
use crate::pipeline::files::single_file::SingleFile;
use crate::pipeline::files::source::{Component, DIFFUSION_STEM, Source, TEXT_STEM};
use crate::pipeline::model::control;
use crate::pipeline::model::kind::{ModelIndex, Reading, Shown, family, family_of};
use crate::pipeline::model::oms_module::{LatentSpace, OmsSource};
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::init::InitImage;
use crate::pipeline::request::{OmsRequest, Request};
use crate::record::DType;
use crate::sampling::PredictionType;
use crate::weights::{AdapterFile, EmbeddingFile, TensorSet, WeightFile};
use crate::{Error, Place, Result};

/// Sides of the square pictures whose memory is planned.
const SIDES: [usize; 3] = [512, 768, 1024];

/// What was found.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// `model folder`, `component folder`, `OMS module`, `single file`, `autoencoder`, `tiny autoencoder`, `LoRA`,
    /// `ControlNet`, `embedding` or `tensors`.
    pub kind: &'static str,
    /// `safetensors`, `GGUF` or `PyTorch`, of a file.
    pub format: Option<&'static str>,
    /// The family, as far as it is known.
    pub family: Option<&'static str>,
    /// `epsilon`, `v` or `sample`.
    pub prediction: Option<&'static str>,
    /// Whether that stands in the files rather than being the usual case.
    pub prediction_is_known: bool,
    /// Channels of the latents that the UNet takes: 4, 9 for inpainting.
    pub in_channels: Option<usize>,
    /// Networks.
    pub components: Vec<ComponentReport>,
    /// Averaged twins of tensors, which are not used.
    pub ema_tensors: usize,
    /// Tensors of no network that is known here.
    pub foreign: Vec<String>,
    /// Networks that a picture needs and that are not there.
    pub missing: Vec<&'static str>,
    /// Why the model cannot be used as it is.
    pub problems: Vec<String>,
    /// What an OMS module was made for.
    pub oms: Option<OmsReport>,
    /// Adapters for other models.
    pub lora: Option<LoraReport>,
    /// What a textual inversion embedding holds.
    pub embedding: Option<EmbeddingShape>,
    /// Peak memory of one picture by size.
    pub memory: Vec<MemoryReport>,
}

/// A network's tensors.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct ComponentReport {
    /// Its name in a diffusers folder.
    pub name: String,
    /// Tensors.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Parameters by element type.
    pub types: BTreeMap<String, u64>,
    /// That they are zeros, in whole or to a good part.
    pub zeros: Option<String>,
}

/// What an OMS module works on.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct OmsReport {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Width of the text states that it takes.
    pub text_width: usize,
    /// Whose latents: what its own files say; its shapes do not tell.
    pub latent_space: &'static str,
    /// Where its text encoder is to be found, if elsewhere.
    pub text_encoder: Option<String>,
}

/// What an embedding holds.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct EmbeddingShape {
    /// Vectors: places of tokens that its name takes.
    pub vectors: usize,
    /// Their width, for each text encoder.
    pub widths: Vec<usize>,
    /// The token that diffusers keeps in the file.
    pub token: Option<String>,
}

/// Memory for one picture.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// Pixels of each side.
    pub side: usize,
    /// Element type of weights and activations, `f16` or `f32`.
    pub storage: &'static str,
    /// Bytes at the highest, which one stage of the request needs.
    pub peak_bytes: u64,
    /// That stage.
    pub stage: &'static str,
}

/// Looks at a folder or a file.
///
/// # Errors
/// When there is nothing at the path, or a file's header is damaged.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if !path.is_dir() {
        return inspect_file(path);
    }
    let root = Component::Folder(path.to_owned());
    if root.has("model_index.json") {
        return inspect_folder(path, &root);
    }
    if let Some(file) = AdapterFile::in_folder(path) {
        return inspect_file(&file);
    }
    let stem = [DIFFUSION_STEM, TEXT_STEM].into_iter().find(|stem| root.has_weights(stem));
    let Some(stem) = stem else {
        let refused = Error::model(format!(
            "{}: expected a model: a folder with model_index.json or with a component's weights, or a .safetensors, .gguf or .ckpt file",
            path.display()
        )).in_file(path.display());
        return Err(explained(path, Place::Model, refused));
    };
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let tensors = root.weights(stem, false)?;
    if Control::is_in(&tensors) || Control::relative(&tensors).is_some() {
        return Ok(inspect_control(path, &tensors));
    }
    let components = vec![report(&name, &tensors)];
    Ok(Inspection { kind: "component folder", components, ..Inspection::default() })
}

fn inspect_file(path: &Path) -> Result<Inspection> {
    let file = Arc::new(WeightFile::open(path)?);
    let format = Some(file.format().name());
    let tensors = TensorSet::from(Arc::clone(&file));
    let unknown = |problem: String| {
        let components = vec![report("tensors", &tensors)];
        Ok(Inspection { kind: "tensors", format, components, problems: vec![problem], ..Inspection::default() })
    };
    let checkpoint = match Found::in_file(&file, &Patches::new()) {
        Found::Adapter(lora) => {
            let components = vec![report("lora", &tensors)];
            return Ok(Inspection { kind: "LoRA", format, lora: Some(lora), components, ..Inspection::default() });
        }
        Found::Control(_) => return Ok(Inspection { format, ..inspect_control(path, &tensors) }),
        Found::Embedding(embedding) => return Ok(Inspection { format, ..inspect_embedding(&embedding, &tensors) }),
        Found::Networks(checkpoint) => *checkpoint,
        Found::Other(words) => return unknown(format!("{}: {words}", path.display())),
        Found::Nothing(error, _) => return unknown(error.to_string()),
    };
    let single = SingleFile::of(path.to_owned(), checkpoint);
    let Checkpoint { family, parts, predicts_v, prediction_is_known, ema, foreign, .. } = single.checkpoint();
    let has_unet = parts.contains_key("unet");
    let needs: &[&str] = match family {
        Family::Xl => &["text_encoder", "text_encoder_2", "unet", "vae"],
        Family::XlRefiner => &["text_encoder_2", "unet", "vae"],
        Family::Sd1 | Family::Sd2 => &["text_encoder", "unet", "vae"],
    };
    let is_tiny = parts.get("vae").is_some_and(|vae| vae.config["_class_name"] == "AutoencoderTiny");
    let only = |name: &str| parts.len() == 1 && parts.contains_key(name);
    let kind = match () {
        () if only("vae") && is_tiny => "tiny autoencoder",
        () if only("vae") => "autoencoder",
        () => "single file",
    };
    // What replaces one part misses none.
    let needs = if only("vae") { &[] } else { needs };
    let mut found = Inspection {
        kind,
        format,
        // An autoencoder alone may be any family's, but for the channels of its latents.
        family: match parts.get("vae").filter(|_| only("vae")) {
            Some(vae) => vae.config["latent_channels"].as_u64().and_then(|channels| of_latents(channels as usize)),
            None => Some(family.name()),
        },
        prediction: has_unet.then_some(if *predicts_v { "v" } else { "epsilon" }),
        prediction_is_known: *prediction_is_known,
        in_channels: single.checkpoint().in_channels().map(|n| n as usize),
        components: parts.iter().map(|(name, part)| report(name, &part.tensors)).collect(),
        ema_tensors: *ema,
        foreign: foreign.clone(),
        missing: needs.iter().copied().filter(|name| !parts.contains_key(name)).collect(),
        ..Inspection::default()
    };
    if found.missing.is_empty() && has_unet {
        found.plan(&Source::File(single), None);
    }
    Ok(found)
}

fn inspect_embedding(embedding: &EmbeddingFile, tensors: &TensorSet) -> Inspection {
    let components = vec![report("embedding", tensors)];
    let mut found = Inspection { kind: "embedding", components, ..Inspection::default() };
    match embedding.extents() {
        Ok((vectors, widths)) => {
            found.family = Some(family_of_widths(&widths));
            found.embedding = Some(EmbeddingShape { vectors, widths, token: embedding.token().map(str::to_owned) });
        }
        Err(error) => found.problems.push(error.to_string()),
    }
    found
}

fn inspect_control(path: &Path, tensors: &TensorSet) -> Inspection {
    let components = vec![report("controlnet", tensors)];
    let mut found = Inspection { kind: "ControlNet", components, ..Inspection::default() };
    match control::read(path, None, false) {
        Ok(files) => {
            found.family = Some(family_of(&files.config.unet).name());
            found.foreign = files.foreign;
        }
        Err(error) => found.problems.push(error.to_string()),
    }
    found
}

fn inspect_folder(path: &Path, root: &Component) -> Result<Inspection> {
    let index: serde_json::Value = root.json("model_index.json")?;
    let source = Source::Folder(path.to_owned());
    if index.get("oms_module").is_some() {
        return inspect_oms(&source, &index);
    }
    let reading = ModelIndex::read(root)?.reading();
    let mut found = Inspection { kind: "model folder", prediction_is_known: true, ..Inspection::default() };
    for (name, stem, needed) in [
        ("text_encoder", TEXT_STEM, reading != Reading::XlRefiner),
        ("text_encoder_2", TEXT_STEM, reading != Reading::Clip),
        ("unet", DIFFUSION_STEM, true),
        ("vae", DIFFUSION_STEM, true),
    ] {
        let files = source.component(name);
        match files.has_weights(stem) {
            true => match files.weights(stem, false) {
                Ok(tensors) => found.components.push(report(name, &tensors)),
                Err(error) => found.problems.push(error.to_string()),
            },
            false if needed => found.missing.push(name),
            false => {}
        }
    }
    match unet_config(&source.component("unet")) {
        Ok(unet) => {
            found.in_channels = Some(unet.in_channels);
            found.family = Some(family(&unet, reading).name());
        }
        Err(error) => found.problems.push(error.to_string()),
    }
    match source.scheduler() {
        Ok(scheduler) => found.prediction = Some(prediction(scheduler.prediction_type)),
        Err(error) => found.problems.push(error.to_string()),
    }
    if found.missing.is_empty() && found.problems.is_empty() {
        found.plan(&source, None);
    }
    Ok(found)
}

fn inspect_oms(source: &Source, index: &serde_json::Value) -> Result<Inspection> {
    let files = source.component("oms_module");
    let unet = unet_config(&files)?;
    let mut found = Inspection {
        kind: "OMS module",
        prediction: Some("v"),
        prediction_is_known: true,
        in_channels: Some(unet.in_channels),
        ..Inspection::default()
    };
    match files.has_weights(DIFFUSION_STEM) {
        true => found.components.push(report("oms_module", &files.weights(DIFFUSION_STEM, false)?)),
        false => found.missing.push("oms_module"),
    }
    let pointer = |name: &str| -> Option<String> {
        let files = source.component(name);
        let config: serde_json::Value = files.has("config.json").then(|| files.json("config.json").ok())??;
        config["_name_or_path"].as_str().map(str::to_owned)
    };
    let text_class = index["oms_text_encoder"][1].as_str().unwrap_or_default();
    let latent_space = match LatentSpace::of(source) {
        Some(space) => space.name(),
        None if text_class.contains("SDXL") => LatentSpace::Xl.name(),
        None => "not said in its files",
    };
    found.oms = Some(OmsReport {
        latent_channels: unet.in_channels,
        text_width: unet.cross_attention_dim,
        latent_space,
        text_encoder: pointer("oms_text_encoder"),
    });
    Ok(found)
}

fn unet_config(files: &Component) -> Result<UnetConfig> {
    UnetConfig::from_json(&files.text("config.json")?, &files.label("config.json"))
}

fn prediction(kind: PredictionType) -> &'static str {
    match kind {
        PredictionType::Epsilon => "epsilon",
        PredictionType::VPrediction => "v",
        PredictionType::Sample => "sample",
    }
}

fn report(name: &str, tensors: &TensorSet) -> ComponentReport {
    let mut types = BTreeMap::new();
    for view in tensors.tensors().values() {
        *types.entry(view.dtype().to_string()).or_default() += view.len() as u64;
    }
    ComponentReport {
        name: name.to_owned(),
        tensors: tensors.tensors().len(),
        parameters: types.values().sum(),
        bytes: tensors.tensors().values().map(|view| view.byte_len() as u64).sum(),
        types,
        // A file that cannot be read says so where it is used.
        zeros: tensors.zeros_remark(name).ok().flatten(),
    }
}

impl Inspection {
    /// Opens the model as a request would, and plans pictures of each size in both element types.
    fn plan(&mut self, source: &Source, oms: Option<&OmsSource>) {
        for storage in [DType::F16, DType::F32] {
            let pipeline = match Pipeline::load(source, oms, Device::for_plans(storage)) {
                Ok(pipeline) => pipeline,
                Err(error) => {
                    self.problems.push(error.to_string());
                    return;
                }
            };
            for side in SIDES {
                let request = Request {
                    width: Some(side),
                    height: Some(side),
                    oms: oms.map(|_| OmsRequest::default()),
                    image: pipeline.example(side),
                    ..Request::default()
                };
                let Ok(stages) = pipeline.plan(&request) else { continue };
                let Some(largest) = stages.iter().max_by_key(|stage| stage.peak_bytes()) else { continue };
                let storage = pipeline.device().storage_name();
                let (peak_bytes, stage) = (largest.peak_bytes(), largest.name);
                self.memory.push(MemoryReport { side, storage, peak_bytes, stage });
            }
        }
    }
}

impl Pipeline {
    /// A grey picture of what the UNet must be shown, for plans.
    fn example(&self, side: usize) -> Option<InitImage> {
        let pixels = side * side;
        let mask = match self.kind.shown {
            Shown::Nothing => return None,
            Shown::Masked => Some(vec![1.0; pixels]),
            Shown::Instructed { .. } => None,
        };
        Some(InitImage { width: side, height: side, rgb: vec![0.5; 3 * pixels], strength: 1.0, mask })
    }
}
