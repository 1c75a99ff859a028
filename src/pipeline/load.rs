//! Files → networks.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::adapters::Adapters;
use super::control::LoadedControl;
use super::embeddings::Embeddings;
use super::encoders::{TEXT_STEM, load_text_encoders};
use super::kind::{ModelIndex, Reading};
use super::oms_module::{OmsModule, OmsSource};
use super::recognise::of_latents;
use super::source::Component;
use super::{Device, Overrides, Part, Pipeline, Source};
use crate::models::{Autoencoder, Network, Unet, UnetConfig};
use crate::sampling::SchedulerConfig;
use crate::weights::{WeightType, Weights};
use crate::{Error, Place, Result};

impl Source {
    /// The scheduler's configuration alone.
    ///
    /// # Errors
    /// When the file is missing, damaged or asks for what is not supported.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn scheduler(&self) -> Result<SchedulerConfig> {
        // What is no model says what it is, rather than that it has no scheduler.
        ModelIndex::read(&self.root())?;
        let files = self.component("scheduler");
        SchedulerConfig::from_json(&files.text("scheduler_config.json")?, &files.label("scheduler_config.json"))
    }
}

impl Pipeline {
    /// [`load`](Self::load), with some components from elsewhere.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(model: &Source, overrides: &Overrides, oms: Option<&OmsSource>, device: Device) -> Result<Self> {
        let index = ModelIndex::read(&model.root())?;
        if let (Source::File(file), None) = (model, &overrides.unet) {
            file.check_holds("unet", Place::Model)?;
        }
        let stored = |part| device.weight_type(part);
        let scheduler = overrides.scheduler_of(model)?;
        let texts = overrides.texts_of(model)?;
        let unet_files = overrides.unet_of(model)?;
        let mut adapters = Adapters::open(&overrides.adapters)?;
        let unet = load_unet(&unet_files, "unet", stored(Part::Unet), |w| adapters.patch(Network::Unet, w))?;
        let mut text_encoders = load_text_encoders(&texts, index.reading(), stored(Part::Text), &mut adapters)?;
        let embeddings = Embeddings::open(&overrides.embeddings)?;
        let (embedded, left_out) = embeddings.add_to(&mut text_encoders)?;
        let (vae_files, vae_config) = overrides.vae_of(model)?;
        let vae_weights = open(&vae_files, DIFFUSION_STEM, "vae", stored(Part::Vae))?;
        let vae = Autoencoder::load(&vae_config, &vae_files.label("config.json"), &vae_weights)?;
        check_latents(&vae_files.label("config.json"), &unet, &vae)?;
        let kind = index.kind(&model.to_string(), &unet, vae.latent_channels(), &text_encoders)?;
        let control = |path: &PathBuf| LoadedControl::load(path, &unet, stored(Part::Unet));
        let controls = overrides.controls.iter().map(control).collect::<Result<_>>()?;
        let files = model_files(&texts, unet_files, vae_files, kind.reading);
        let zeros = match model {
            Source::DemoModel => Vec::new(),
            _ => remarks_on_zeros(&files)?,
        };
        let mut pipeline = Pipeline {
            device,
            label: model.name(),
            parts: overrides.parts(),
            prediction: overrides.prediction,
            assumptions: overrides.assumptions(model).into_iter().chain(left_out).chain(zeros).collect(),
            files,
            hashes: OnceLock::new(),
            text_encoders,
            kind,
            unet,
            controls,
            vae,
            scheduler,
            oms: None,
            preview: None,
            refiner: None,
            // An OMS module was trained with the base's encoders as they were.
            plain_texts: adapters.touch_text().then_some((texts, embeddings)),
            adapters: adapters.finish(&model.name())?,
            embeddings: embedded,
        };
        if let Some(source) = oms {
            let module = OmsModule::load(source, &pipeline.device)?;
            pipeline.attach_oms(Arc::new(module))?;
        }
        pipeline.preview = overrides.load_preview(&pipeline)?;
        if let Some(path) = &overrides.refiner {
            pipeline.refiner = Some(Box::new(pipeline.load_refiner(&Source::at(path)?, overrides)?));
        }
        Ok(pipeline)
    }
}

/// The UNet denoises latents as the autoencoder has them.
fn check_latents(label: &str, unet: &Unet, vae: &Autoencoder) -> Result<()> {
    let (wanted, got) = (unet.config().out_channels, vae.latent_channels());
    if wanted == got {
        return Ok(());
    }
    let whose = of_latents(got).map_or_else(String::new, |family| format!(", as {family} have them"));
    Err(Error::Model(format!(
        "{label}: expected an autoencoder for the UNet's latents of {wanted} channels, got one for {got}{whose}; it is of another family"
    )))
}

/// Networks that are zeros, in whole or to a good part.
fn remarks_on_zeros(files: &[(&'static str, Component, &'static str)]) -> Result<Vec<String>> {
    let remark = |(name, files, stem): &(&'static str, Component, &'static str)| {
        files.weights(stem, false).and_then(|tensors| tensors.zeros_remark(name)).transpose()
    };
    files.iter().filter_map(remark).collect()
}

/// The weight files of a base model, by component.
fn model_files(
    texts: &Source,
    unet: Component,
    vae: Component,
    reading: Reading,
) -> Vec<(&'static str, Component, &'static str)> {
    let mut files = vec![("unet", unet, DIFFUSION_STEM), ("vae", vae, DIFFUSION_STEM)];
    if reading != Reading::XlRefiner {
        files.push(("text_encoder", texts.component("text_encoder"), TEXT_STEM));
    }
    if reading != Reading::Clip {
        files.push(("text_encoder_2", texts.component("text_encoder_2"), TEXT_STEM));
    }
    files
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
