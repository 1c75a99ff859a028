//! Files → networks.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use super::adapters::Adapters;
use super::encoders::{TEXT_STEM, TextEncoder, joined_width, load_text_encoders};
use super::oms_module::{OmsModule, OmsSource};
use super::source::Component;
use super::{Device, Overrides, Part, Pipeline, Source, time_ids};
use crate::models::{AutoencoderKl, AutoencoderKlConfig, Network, Unet, UnetConfig};
use crate::sampling::SchedulerConfig;
use crate::weights::{WeightType, Weights};
use crate::{Error, Result};

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
        let index = ModelIndex::read(&model.root())?;
        let stored = |part| device.weight_type(part);
        let scheduler = overrides.scheduler_of(model)?;
        let texts = overrides.texts_of(model)?;
        let unet_files = overrides.unet_of(model)?;
        let mut adapters = Adapters::open(&overrides.adapters)?;
        let unet = load_unet(&unet_files, "unet", stored(Part::Unet), |w| adapters.patch(Network::Unet, w))?;
        let text_encoders = load_text_encoders(&texts, index.is_xl(), stored(Part::Text), &mut adapters)?;
        let (vae_files, vae_config) = overrides.vae_of(model)?;
        let vae_config = AutoencoderKlConfig::from_json(&vae_config, &vae_files.label("config.json"))?;
        let vae = AutoencoderKl::load(vae_config, &open(&vae_files, DIFFUSION_STEM, "vae", stored(Part::Vae))?)?;
        check_unet(model, &unet, &text_encoders)?;
        // An inpainting UNet is shown the mask and the picture without what is repainted, too.
        let (takes, latents) = (unet.config().in_channels, vae.config().latent_channels);
        if ![latents, 2 * latents + 1].contains(&takes) {
            return Err(Error::Model(format!(
                "{model}: expected a UNet of {latents} channels, or {} for inpainting, got {takes}; depth and instruction models are not \
                 supported yet",
                2 * latents + 1
            )));
        }
        let mut pipeline = Pipeline {
            device,
            label: model.name(),
            assumptions: overrides.assumptions(model),
            files: model_files(&texts, unet_files, vae_files, index.is_xl()),
            hashes: OnceLock::new(),
            text_encoders,
            zeros_for_no_negative: index.is_xl() && index.force_zeros_for_empty_prompt,
            unet,
            vae,
            scheduler,
            oms: None,
            // An OMS module was trained with the base's encoders as they were.
            plain_texts: adapters.touch_text().then_some(texts),
            adapters: adapters.finish(&model.name())?,
        };
        if let Some(source) = oms {
            let module = OmsModule::load(source, &pipeline.device)?;
            pipeline.attach_oms(Arc::new(module))?;
        }
        Ok(pipeline)
    }
}

/// The weight files of a base model, by component.
fn model_files(
    texts: &Source,
    unet: Component,
    vae: Component,
    dual: bool,
) -> Vec<(&'static str, Component, &'static str)> {
    let mut files = vec![
        ("text_encoder", texts.component("text_encoder"), TEXT_STEM),
        ("unet", unet, DIFFUSION_STEM),
        ("vae", vae, DIFFUSION_STEM),
    ];
    if dual {
        files.push(("text_encoder_2", texts.component("text_encoder_2"), TEXT_STEM));
    }
    files
}

/// What `model_index.json` says that matters here.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    /// Whether no negative prompt means states of zeros (SDXL).
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
}

fn yes() -> bool {
    true
}

const XL: &str = "StableDiffusionXLPipeline";
const XL_INPAINT: &str = "StableDiffusionXLInpaintPipeline";

impl ModelIndex {
    /// Only the families that the rest of the loader knows.
    fn read(root: &Component) -> Result<Self> {
        let index: ModelIndex = root.json("model_index.json")?;
        match index.class_name.as_str() {
            "StableDiffusionPipeline"
            | "LatentConsistencyModelPipeline"
            | "StableDiffusionInpaintPipeline"
            | XL
            | XL_INPAINT => Ok(index),
            other => Err(Error::Model(format!(
                "{}: expected StableDiffusionPipeline or {XL}, got {other}; Stable Diffusion 1.x, 2.x and XL are supported",
                root.label("model_index.json")
            ))),
        }
    }

    fn is_xl(&self) -> bool {
        [XL, XL_INPAINT].contains(&self.class_name.as_str())
    }
}

/// The UNet takes what the text encoders give: states of their joined width, and with SDXL the pooled row and six sizes.
fn check_unet(model: &Source, unet: &Unet, text_encoders: &[TextEncoder]) -> Result<()> {
    let (config, width) = (unet.config(), joined_width(text_encoders));
    if config.cross_attention_dim != width {
        return Err(Error::Model(format!(
            "{model}: the UNet takes text states of width {}, the text encoder gives {width}; they belong to different models",
            config.cross_attention_dim
        )));
    }
    let takes = config.addition_embed_type.as_ref().and(config.projection_class_embeddings_input_dim);
    let gives = text_encoders.get(1).map(|second| {
        second.model.config().projection_dim + time_ids::COUNT * config.addition_time_embed_dim.unwrap_or(0)
    });
    if takes != gives {
        let words = |dim: Option<usize>| dim.map_or("nothing".into(), |dim| format!("{dim} values"));
        return Err(Error::Model(format!(
            "{model}: beside the time the UNet takes {}, pooled text and sizes give {}; they belong to different models",
            words(takes),
            words(gives)
        )));
    }
    Ok(())
}

pub(super) const DIFFUSION_STEM: &str = "diffusion_pytorch_model";

pub(super) fn open(files: &Component, stem: &str, model: &str, weight_type: WeightType) -> Result<Weights> {
    Ok(Weights::new(files.weights(stem, weight_type.prefers_halves())?, model, weight_type))
}

pub(super) fn load_unet(
    files: &Component,
    model: &str,
    weight_type: WeightType,
    change: impl FnOnce(Weights) -> Result<Weights>,
) -> Result<Unet> {
    let config = UnetConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    Unet::load(config, &change(open(files, DIFFUSION_STEM, model, weight_type)?)?)
}
