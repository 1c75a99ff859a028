//! Files → networks.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::source::Component;
use super::{Device, Pipeline, Source};
use crate::models::{AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, TextStates, Unet, UnetConfig};
use crate::record::{Caps, DType, Recording};
use crate::sampling::SchedulerConfig;
use crate::text::ClipTokenizer;
use crate::weights::{WeightFile, WeightType, Weights};
use crate::{Error, Result};

/// An OMS module's folder, and where its text encoder is if not beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OmsSource {
    /// The folder with `oms_module/`.
    pub module: Source,
    /// A folder with `text_encoder/` and `tokenizer/`, in place of what the module's own files point to.
    pub text_encoder: Option<PathBuf>,
}

/// Components taken from another folder than the model's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// A folder with `config.json` and weights of a UNet.
    pub unet: Option<PathBuf>,
    /// The text of a `scheduler_config.json`.
    pub scheduler: Option<String>,
}

/// A tokenizer with its network.
pub(super) struct TextEncoder {
    pub(super) tokenizer: ClipTokenizer,
    pub(super) model: ClipTextModel,
}

impl TextEncoder {
    /// Tokens of each row.
    pub(super) fn tokens(&self) -> usize {
        self.tokenizer.max_length()
    }

    pub(super) fn record(&self, caps: &Caps, rows: usize, clip_skip: usize) -> Result<Recording> {
        let states = TextStates { skip: clip_skip, normed: true, pooled: false };
        self.model.record(caps, rows, self.tokens(), states, false)
    }
}

/// An OMS module, with its text encoder where that is not the base's.
pub(super) struct OmsModule {
    pub(super) label: String,
    pub(super) module: Unet,
    pub(super) text_encoder: Option<TextEncoder>,
}

impl Source {
    /// The scheduler's configuration alone.
    ///
    /// # Errors
    /// When the file is missing, damaged or asks for what is not supported.
    pub fn scheduler(&self) -> Result<SchedulerConfig> {
        let scheduler: SchedulerConfig = self.component("scheduler").json("scheduler_config.json")?;
        scheduler.check()?;
        Ok(scheduler)
    }
}

impl Pipeline {
    /// [`load`](Self::load), with some components from elsewhere.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(model: &Source, overrides: &Overrides, oms: Option<&OmsSource>, device: Device) -> Result<Self> {
        let root = model.root();
        check_family(&root)?;
        let weight_type = weight_type(&device);
        let scheduler: SchedulerConfig = match &overrides.scheduler {
            Some(text) => {
                serde_json::from_str(text).map_err(|e| Error::Model(format!("scheduler_config.json: {e}")))?
            }
            None => model.component("scheduler").json("scheduler_config.json")?,
        };
        scheduler.check()?;
        let text_encoder =
            load_text_encoder(&model.component("text_encoder"), &model.component("tokenizer"), weight_type)?;
        let unet_files = overrides.unet.clone().map_or_else(|| model.component("unet"), Component::Folder);
        let unet = load_unet(&unet_files, "unet", weight_type)?;
        let vae = load_vae(&model.component("vae"), weight_type)?;
        let width = text_encoder.model.config().hidden_size;
        if unet.config().cross_attention_dim != width {
            return Err(Error::Model(format!(
                "{model}: the UNet takes text states of width {}, the text encoder gives {width}; they belong to different models",
                unet.config().cross_attention_dim
            )));
        }
        if unet.config().in_channels != vae.config().latent_channels {
            return Err(Error::Model(format!(
                "{model}: the UNet takes {} channels, the latents have {}; inpainting and depth models are not supported yet",
                unet.config().in_channels,
                vae.config().latent_channels
            )));
        }
        let mut pipeline = Pipeline { device, label: model.to_string(), text_encoder, unet, vae, scheduler, oms: None };
        if let Some(source) = oms {
            pipeline.oms = Some(load_oms(&pipeline, source, weight_type)?);
        }
        Ok(pipeline)
    }
}

fn weight_type(device: &Device) -> WeightType {
    match device.storage() {
        DType::F16 => WeightType::F16,
        DType::F32 => WeightType::Keep,
    }
}

#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Only the families that the rest of the loader knows.
fn check_family(root: &Component) -> Result<()> {
    let index: ModelIndex = root.json("model_index.json")?;
    match index.class_name.as_str() {
        "StableDiffusionPipeline" | "LatentConsistencyModelPipeline" => Ok(()),
        other => Err(Error::Model(format!(
            "{}: expected StableDiffusionPipeline, got {other}; Stable Diffusion 1.x and 2.x are supported so far",
            root.label("model_index.json")
        ))),
    }
}

const DIFFUSION_STEM: &str = "diffusion_pytorch_model";
const TEXT_STEM: &str = "model";

fn open(files: &Component, stem: &str, model: &str, weight_type: WeightType) -> Result<Weights> {
    let file: WeightFile = files.weights(stem, weight_type == WeightType::F16)?;
    Ok(Weights::new(Arc::new(file), model, weight_type))
}

fn load_unet(files: &Component, model: &str, weight_type: WeightType) -> Result<Unet> {
    let config = UnetConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    Unet::load(config, &open(files, DIFFUSION_STEM, model, weight_type)?)
}

fn load_vae(files: &Component, weight_type: WeightType) -> Result<AutoencoderKl> {
    let config = AutoencoderKlConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    AutoencoderKl::load(config, &open(files, DIFFUSION_STEM, "vae", weight_type)?)
}

fn load_text_encoder(files: &Component, tokenizer: &Component, weight_type: WeightType) -> Result<TextEncoder> {
    let optional = |name: &str| if tokenizer.has(name) { tokenizer.read(name).map(Some) } else { Ok(None) };
    let special = optional("special_tokens_map.json")?;
    let settings = optional("tokenizer_config.json")?;
    let tokenizer = ClipTokenizer::from_bytes(
        &tokenizer.read("vocab.json")?,
        &tokenizer.read("merges.txt")?,
        special.as_deref(),
        settings.as_deref(),
        &tokenizer.label(""),
    )?;
    let config = ClipTextConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    let model = ClipTextModel::load(config, &open(files, TEXT_STEM, "text_encoder", weight_type)?)?;
    Ok(TextEncoder { tokenizer, model })
}

/// `config.json` of a component whose weights may lie elsewhere: the published modules name a repository.
#[derive(Deserialize)]
struct Pointer {
    #[serde(rename = "_name_or_path")]
    path: Option<String>,
    subfolder: Option<String>,
}

/// The folder where a component of an OMS module really is: beside its config if weights lie there, else where the config points.
fn resolve(source: &Source, name: &str, is_there: impl Fn(&Component) -> bool) -> Result<Component> {
    let here = source.component(name);
    if is_there(&here) {
        return Ok(here);
    }
    let Source::Folder(root) = source else {
        return Err(Error::Model(format!("{}: not part of the embedded module", here.label(""))));
    };
    let pointer: Pointer = here.json("config.json")?;
    let Some(path) = pointer.path else {
        return Err(Error::Model(format!(
            "{}: expected weights beside it or a _name_or_path that says where they are, got neither",
            here.label("config.json")
        )));
    };
    let folder = root.join(&path).join(pointer.subfolder.as_deref().unwrap_or_default());
    let there = Component::Folder(folder);
    if is_there(&there) {
        return Ok(there);
    }
    Err(Error::Model(format!(
        "{}: points to {path:?}, which is no folder here with the files of {name}; download it and name it with {}",
        here.label("config.json"),
        if name == "oms_module" { "--oms" } else { "--oms-text-encoder DIR" }
    )))
}

fn load_oms(base: &Pipeline, source: &OmsSource, weight_type: WeightType) -> Result<OmsModule> {
    let files = resolve(&source.module, "oms_module", |c| c.has_weights(DIFFUSION_STEM))?;
    let module = load_unet(&files, "oms_module", weight_type)?;
    if module.config().has_time() {
        return Err(Error::Model(format!(
            "{}: expected a UNet2DConditionWoCTModel, got a UNet with a time embedding; it is not an OMS module",
            files.label("config.json")
        )));
    }
    let text_encoder = load_oms_text_encoder(source, weight_type)?;
    let width = text_encoder.as_ref().unwrap_or(&base.text_encoder).model.config().hidden_size;
    let wanted = module.config().cross_attention_dim;
    if wanted != width {
        return Err(Error::Model(format!(
            "{}: the module takes text states of width {wanted}, its text encoder gives {width}; name the folder of the right one with \
             --oms-text-encoder",
            source.module
        )));
    }
    let latents = base.vae.config().latent_channels;
    if module.config().in_channels != latents {
        return Err(Error::Model(format!(
            "{}: the module takes {} latent channels, the model has {latents}; it was made for another latent space",
            source.module,
            module.config().in_channels
        )));
    }
    Ok(OmsModule { label: source.module.to_string(), module, text_encoder })
}

/// The module's own text encoder, or `None` where its index says that the base's serves.
fn load_oms_text_encoder(source: &OmsSource, weight_type: WeightType) -> Result<Option<TextEncoder>> {
    if let Some(folder) = &source.text_encoder {
        let named = Source::Folder(folder.clone());
        return load_text_encoder(&named.component("text_encoder"), &named.component("tokenizer"), weight_type)
            .map(Some);
    }
    let index: serde_json::Value = source.module.root().json("model_index.json")?;
    let absent = |name: &str| index[name].as_array().is_none_or(|entry| entry.iter().all(serde_json::Value::is_null));
    if absent("oms_text_encoder") || absent("oms_tokenizer") {
        return Ok(None);
    }
    let encoder = resolve(&source.module, "oms_text_encoder", |c| c.has_weights(TEXT_STEM))?;
    let tokenizer = resolve(&source.module, "oms_tokenizer", |c| c.has("vocab.json"))?;
    load_text_encoder(&encoder, &tokenizer, weight_type).map(Some)
}
