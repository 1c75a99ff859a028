//! Components taken from elsewhere than the model's own files.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::pipeline::files::recognise::explained;
use crate::pipeline::files::source::{Component, Source};
use crate::pipeline::model::adapters::Adapter;
use crate::pipeline::model::embeddings::Embedding;
use crate::sampling::{PredictionType, SchedulerConfig};
use crate::{Error, Place, Result};

/// What replaces parts of a model. A path is a folder in the diffusers layout (the component's own, or a whole model's) or a
/// single file that has the component.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// A UNet.
    pub unet: Option<PathBuf>,
    /// An autoencoder, also a tiny one (TAESD). One alone in a single file takes the model's own scaling of latents.
    pub vae: Option<PathBuf>,
    /// An autoencoder for previews, such as TAESD, where the model's own is too slow for them.
    pub preview_vae: Option<PathBuf>,
    /// A model whose text encoders and tokenizers are used.
    pub text_encoder: Option<PathBuf>,
    /// The text of a `scheduler_config.json`.
    pub scheduler: Option<String>,
    /// What the network predicts, where the model's files do not say or are wrong.
    pub prediction: Option<PredictionType>,
    /// A model of the same family for the last steps, such as SDXL's refiner ([`Request::refiner_start`](crate::pipeline::Request::refiner_start)).
    pub refiner: Option<PathBuf>,
    /// What changes the UNet and the text encoders. An OMS module is never changed.
    pub adapters: Vec<Adapter>,
    /// ControlNets, each a folder or a file, in the order in which a request numbers them.
    pub controls: Vec<PathBuf>,
    /// Vectors that names in prompts stand for.
    pub embeddings: Vec<Embedding>,
}

impl Overrides {
    pub(crate) fn scheduler_of(&self, model: &Source) -> Result<SchedulerConfig> {
        let mut scheduler: SchedulerConfig = match &self.scheduler {
            Some(text) => SchedulerConfig::from_json(text, "scheduler_config.json")?,
            None => model.scheduler()?,
        };
        scheduler.prediction_type = self.prediction.unwrap_or(scheduler.prediction_type);
        scheduler.check()?;
        Ok(scheduler)
    }

    /// Which parts are from elsewhere, and what lies there is called.
    pub(crate) fn parts(&self) -> Vec<(&'static str, String)> {
        let paths = [
            ("unet", &self.unet),
            ("vae", &self.vae),
            ("text_encoder", &self.text_encoder),
            ("refiner", &self.refiner),
        ];
        let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        paths.into_iter().filter_map(|(part, path)| Some((part, name(path.as_ref()?)))).collect()
    }

    pub(crate) fn texts_of(&self, model: &Source) -> Result<Source> {
        let Some(path) = &self.text_encoder else { return Ok(model.clone()) };
        let source = Source::at_as(path, Place::TextEncoder)?;
        if let Source::File(file) = &source {
            file.check_holds("text_encoder", Place::TextEncoder)?;
        }
        Ok(source)
    }

    pub(crate) fn unet_of(&self, model: &Source) -> Result<Component> {
        Ok(component(self.unet.as_deref(), "unet", Place::Unet)?.unwrap_or_else(|| model.component("unet")))
    }

    /// The autoencoder's files and its `config.json`.
    pub(crate) fn vae_of(&self, model: &Source) -> Result<(Component, String)> {
        let own = model.component("vae");
        let Some(files) = component(self.vae.as_deref(), "vae", Place::Vae)? else {
            let text = own.text("config.json")?;
            return Ok((own, text));
        };
        let text = files.text("config.json")?;
        let is_alone = matches!(&files, Component::Part(file, _) if !file.checkpoint().parts.contains_key("unet"));
        if !is_alone {
            return Ok((files, text));
        }
        let factor = match model {
            Source::File(file) => file.checkpoint().family.scaling_factor().into(),
            _ => own.json::<Value>("config.json")?["scaling_factor"].clone(),
        };
        let mut config: Value = files.json("config.json")?;
        // A tiny one gives latents as the UNet takes them.
        if factor.is_number() && config["_class_name"] == "AutoencoderKL" {
            config["scaling_factor"] = factor;
        }
        Ok((files, config.to_string()))
    }

    /// The files and `config.json` of the autoencoder of previews.
    pub(crate) fn preview_vae(&self) -> Result<Option<(Component, String)>> {
        let Some(files) = component(self.preview_vae.as_deref(), "vae", Place::Vae)? else { return Ok(None) };
        let text = files.text("config.json")?;
        Ok(Some((files, text)))
    }

    /// What the user of a model should know that its files leave open.
    pub(crate) fn assumptions(&self, model: &Source) -> Vec<String> {
        match model {
            Source::File(file) => file.notices(self.prediction.is_some() || self.scheduler.is_some()),
            _ => Vec::new(),
        }
    }
}

/// A component's files at a path.
///
/// # Errors
/// When what lies there has no such component.
fn component(path: Option<&Path>, name: &str, place: Place) -> Result<Option<Component>> {
    let Some(path) = path else { return Ok(None) };
    let own = Component::Folder(path.to_owned());
    if own.has("config.json") {
        return check_class(path, &own, place).map(|()| Some(own));
    }
    let source = Source::at_as(path, place)?;
    if let Source::File(file) = &source {
        file.check_holds(name, place)?;
    }
    let files = source.component(name);
    match files.has("config.json") {
        true => Ok(Some(files)),
        false => {
            let lacks = Error::model(format!("{}: expected {} in it, there is none", path.display(), place.expected()))
                .in_file(path.display());
            Err(explained(path, place, lacks))
        }
    }
}

/// A folder whose `config.json` is another network's.
fn check_class(path: &Path, files: &Component, place: Place) -> Result<()> {
    let config: Value = files.json("config.json")?;
    let wanted: &[&str] = match place {
        Place::Vae => &["AutoencoderKL", "AutoencoderTiny"],
        _ => &["UNet2DConditionModel"],
    };
    match config["_class_name"].as_str() {
        Some(class) if !wanted.contains(&class) => {
            let refused = Error::model(format!(
                "{}: expected {} ({}), got {class}",
                path.display(),
                place.expected(),
                wanted.join(" or ")
            ))
            .in_file(path.display());
            Err(explained(path, place, refused))
        }
        _ => Ok(()),
    }
}
