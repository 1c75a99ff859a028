//! Files → networks.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;

use super::adapters::Adapters;
use super::control::LoadedControl;
use super::embeddings::Embeddings;
use super::encoders::{TEXT_STEM, TextEncoder, joined_width, load_text_encoders};
use super::kind::{ModelIndex, Reading};
use super::source::Component;
use super::{Device, Overrides, Part, Pipeline, Places, Source};
use crate::models::{Autoencoder, Network, Unet, UnetConfig};
use crate::sampling::SchedulerConfig;
use crate::weights::{WeightType, Weights};
use crate::{Error, Result};

/// An OMS module's folder, and where its text encoder is if not beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OmsSource {
    /// The folder with `oms_module/`.
    pub module: Source,
    /// A folder with `text_encoder/` and `tokenizer/`, in place of what the module's own files point to.
    pub text_encoder: Option<PathBuf>,
}

/// An OMS module with what reads its prompt.
pub(super) struct OmsModule {
    pub(super) label: String,
    pub(super) module: Unet,
    pub(super) text_encoders: OmsText,
}

/// Which text encoders read the prompt of an OMS module.
pub(super) enum OmsText {
    /// Its own: one, or the two of SDXL.
    Own(Vec<TextEncoder>),
    /// So many of the base's, from the first.
    Base(usize),
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
        let index = ModelIndex::read(&model.root())?;
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
        let kind = index.kind(&model.to_string(), &unet, vae.latent_channels(), &text_encoders)?;
        let control = |path: &PathBuf| LoadedControl::load(path, &unet, stored(Part::Unet));
        let controls = overrides.controls.iter().map(control).collect::<Result<_>>()?;
        let mut pipeline = Pipeline {
            device,
            label: model.name(),
            parts: overrides.parts(),
            prediction: overrides.prediction,
            assumptions: overrides.assumptions(model).into_iter().chain(left_out).collect(),
            files: model_files(&texts, unet_files, vae_files, kind.reading),
            hashes: OnceLock::new(),
            text_encoders,
            kind,
            unet,
            controls,
            vae,
            scheduler,
            oms: None,
            adapters: Vec::new(),
            preview: None,
            refiner: None,
            embeddings: embedded,
        };
        if let Some(source) = oms {
            let (mut module, files) = load_oms(&pipeline, source)?;
            if let (OmsText::Base(count), true) = (&module.text_encoders, adapters.touch_text()) {
                // The module was trained with the base's encoders as they were.
                let mut own = load_text_encoders(
                    &texts,
                    kind.reading,
                    pipeline.device.weight_type(Part::Text),
                    &mut Adapters::default(),
                )?;
                embeddings.add_to(&mut own)?;
                own.truncate(*count);
                module.text_encoders = OmsText::Own(own);
            }
            pipeline.oms = Some(module);
            pipeline.files.push(("oms_module", files, DIFFUSION_STEM));
        }
        pipeline.adapters = adapters.finish(&pipeline.label)?;
        if let Some((files, config)) = overrides.preview_vae()? {
            let weights = open(&files, DIFFUSION_STEM, "preview vae", pipeline.device.weight_type(Part::Vae))?;
            let vae = Autoencoder::load(&config, &files.label("config.json"), &weights)?;
            if (vae.latent_channels(), vae.pixels_per_latent())
                != (pipeline.vae.latent_channels(), pipeline.vae.pixels_per_latent())
            {
                return Err(Error::Model(format!(
                    "{}: expected an autoencoder of {} channels and {} pixels per latent, got {} and {}",
                    files.label("config.json"),
                    pipeline.vae.latent_channels(),
                    pipeline.vae.pixels_per_latent(),
                    vae.latent_channels(),
                    vae.pixels_per_latent()
                )));
            }
            pipeline.preview = Some(vae);
        }
        if let Some(path) = &overrides.refiner {
            pipeline.refiner = Some(Box::new(pipeline.load_refiner(&Source::at(path)?)?));
        }
        Ok(pipeline)
    }
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

fn load_unet(
    files: &Component,
    model: &str,
    weight_type: WeightType,
    change: impl FnOnce(Weights) -> Result<Weights>,
) -> Result<Unet> {
    let config = UnetConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    Unet::load(config, &change(open(files, DIFFUSION_STEM, model, weight_type)?)?)
}

/// `config.json` of a component whose weights may lie elsewhere: the published modules name a repository.
#[derive(Default, Deserialize)]
struct Pointer {
    #[serde(rename = "_class_name", default)]
    class_name: String,
    #[serde(rename = "_name_or_path")]
    path: Option<String>,
    subfolder: Option<String>,
}

impl Pointer {
    /// That of a module's component; an empty one where there is no such file.
    fn read(source: &OmsSource, name: &str) -> Result<Self> {
        let here = source.module.component(name);
        if here.has("config.json") { here.json("config.json") } else { Ok(Pointer::default()) }
    }

    /// The folder that it names: from the module's own if relative, else among the models of this machine, as the published modules name
    /// repositories. Embedded files point nowhere.
    fn folder(&self, source: &OmsSource) -> Option<PathBuf> {
        let Source::Folder(root) = &source.module else {
            return None;
        };
        let named = self.path.as_ref()?;
        let beside = root.join(named);
        let place = if beside.is_dir() { beside } else { Places::from_env().find(named).unwrap_or(beside) };
        Some(place.join(self.subfolder.as_deref().unwrap_or_default()))
    }
}

/// The folder where a component of an OMS module really is: beside its config if weights lie there, else where the config points.
fn resolve(source: &OmsSource, name: &str, is_there: impl Fn(&Component) -> bool) -> Result<Component> {
    let here = source.module.component(name);
    if is_there(&here) {
        return Ok(here);
    }
    let pointer = Pointer::read(source, name)?;
    let Some(folder) = pointer.folder(source) else {
        return Err(Error::Model(format!(
            "{}: expected weights beside it or a _name_or_path that says where they are, got neither",
            here.label("config.json")
        )));
    };
    let there = Component::Folder(folder);
    if is_there(&there) {
        return Ok(there);
    }
    Err(Error::Model(format!(
        "{}: points to {:?}, which is no folder here with the files of {name}; download it and name it with {}",
        here.label("config.json"),
        pointer.path.unwrap_or_default(),
        if name == "oms_module" { "--oms" } else { "--oms-text-encoder DIR" }
    )))
}

fn load_oms(base: &Pipeline, source: &OmsSource) -> Result<(OmsModule, Component)> {
    let files = resolve(source, "oms_module", |c| c.has_weights(DIFFUSION_STEM))?;
    let module = load_unet(&files, "oms_module", base.device.weight_type(Part::Oms), Ok)?;
    if module.config().has_time() {
        return Err(Error::Model(format!(
            "{}: expected a UNet2DConditionWoCTModel, got a UNet with a time embedding; it is not an OMS module",
            files.label("config.json")
        )));
    }
    let text_encoders = load_oms_text_encoders(base, source)?;
    let width = joined_width(base.encoders_of(&text_encoders));
    let wanted = module.config().cross_attention_dim;
    if wanted != width {
        return Err(Error::Model(format!(
            "{}: the module takes text states of width {wanted}, its text encoder gives {width}; name the folder of the right one with \
             --oms-text-encoder",
            source.module
        )));
    }
    let latents = base.vae.latent_channels();
    if module.config().in_channels != latents {
        return Err(Error::Model(format!(
            "{}: the module takes {} latent channels, the model has {latents}; it was made for another latent space",
            source.module,
            module.config().in_channels
        )));
    }
    Ok((OmsModule { label: source.module.name(), module, text_encoders }, files))
}

/// What reads the module's prompt, as its index and the class of its text encoder say: its own encoder; where the index has none, the base's
/// (first) one; for a class named after SDXL, both of SDXL's, which are the base's own unless others are named or found.
fn load_oms_text_encoders(base: &Pipeline, source: &OmsSource) -> Result<OmsText> {
    let weight_type = base.device.weight_type(Part::Text);
    let mut none = Adapters::default();
    let index: serde_json::Value = source.module.root().json("model_index.json")?;
    let absent = |name: &str| index[name].as_array().is_none_or(|entry| entry.iter().all(serde_json::Value::is_null));
    let pointer = Pointer::read(source, "oms_text_encoder")?;
    let class = index["oms_text_encoder"][1].as_str().unwrap_or_default();
    let is_dual = [class, &pointer.class_name].iter().any(|class| class.contains("SDXL"));
    if let Some(folder) = &source.text_encoder {
        let reading = if is_dual { Reading::Xl } else { Reading::Clip };
        return load_text_encoders(&Source::Folder(folder.clone()), reading, weight_type, &mut none).map(OmsText::Own);
    }
    if is_dual {
        let pointed = pointer.folder(source).map(Source::Folder);
        return match pointed.filter(|folder| folder.component("text_encoder_2").has_weights(TEXT_STEM)) {
            Some(folder) => load_text_encoders(&folder, Reading::Xl, weight_type, &mut none).map(OmsText::Own),
            None if base.kind.reading == Reading::Xl => Ok(OmsText::Base(2)),
            None => Err(Error::Model(format!(
                "{}: the module reads its prompt with SDXL's two text encoders; name the folder of an SDXL model with --oms-text-encoder",
                source.module
            ))),
        };
    }
    if absent("oms_text_encoder") || absent("oms_tokenizer") {
        return Ok(OmsText::Base(1));
    }
    let encoder = resolve(source, "oms_text_encoder", |c| c.has_weights(TEXT_STEM))?;
    let tokenizer = resolve(source, "oms_tokenizer", |c| c.has("vocab.json"))?;
    Ok(OmsText::Own(vec![TextEncoder::load(&encoder, &tokenizer, "text_encoder", weight_type, &mut none)?]))
}
