//! Files → networks.

use std::path::PathBuf;
use std::sync::Arc;

use crate::models::{Autoencoder, Network, Unet, UnetConfig};
use crate::pipeline::device::Device;
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::device::weight_types::Part;
use crate::pipeline::files::recognise::of_latents;
use crate::pipeline::files::source::{Component, DIFFUSION_STEM, Source, TEXT_STEM, open};
use crate::pipeline::model::adapters::Adapters;
use crate::pipeline::model::control::LoadedControl;
use crate::pipeline::model::embeddings::Embeddings;
use crate::pipeline::model::encoders::load_text_encoders;
use crate::pipeline::model::hashes::Hashes;
use crate::pipeline::model::kind::{ModelIndex, Reading};
use crate::pipeline::model::oms_module::{OmsModule, OmsSource};
use crate::pipeline::model::overrides::Overrides;
use crate::pipeline::model::pipeline::{Loaded, Pipeline};
use crate::pipeline::model::switch::Plain;
use crate::sampling::SchedulerConfig;
use crate::weights::{Pool, WeightType, Weights};
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
        Self::load_told(model, overrides, oms, device, &mut |_| Ok(()))
    }

    /// [`load_with`](Self::load_with), with every part told before it is loaded.
    ///
    /// # Errors
    /// As [`load`](Self::load); the one that `told` gives, which ends the loading there.
    pub fn load_told(
        model: &Source,
        overrides: &Overrides,
        oms: Option<&OmsSource>,
        device: Device,
        told: &mut dyn FnMut(Loading) -> Result<()>,
    ) -> Result<Self> {
        let mut told = Teller::new(overrides, oms, told);
        told.next("text_encoder")?;
        let index = ModelIndex::read(&model.root())?;
        if let (Source::File(file), None) = (model, &overrides.unet) {
            file.check_holds("unet", Place::Model)?;
        }
        let stored = |part| device.weight_type(part);
        let scheduler = overrides.scheduler_of(model)?;
        let texts = overrides.texts_of(model)?;
        let unet_files = overrides.unet_of(model)?;
        let pool = Pool::default();
        let mut adapters = Adapters::open(&overrides.adapters, &pool)?;
        told.next("unet")?;
        let unet = load_unet(&unet_files, "unet", stored(Part::Unet), |w| adapters.patch(Network::Unet, w))?;
        let mut text_encoders = load_text_encoders(&texts, index.reading(), stored(Part::Text), &mut adapters)?;
        let embeddings = Arc::new(Embeddings::open(&overrides.embeddings)?);
        let (embedded, left_out) = embeddings.add_to(&mut text_encoders)?;
        told.next("vae")?;
        let (vae_files, vae_config) = overrides.vae_of(model)?;
        let vae_weights = open(&vae_files, DIFFUSION_STEM, "vae", stored(Part::Vae))?;
        let vae = Autoencoder::load(&vae_config, &vae_files.label("config.json"), &vae_weights)?;
        check_latents(&vae_files.label("config.json"), &unet, &vae)?;
        let kind = index.kind(&model.to_string(), &unet, vae.latent_channels(), &text_encoders)?;
        let mut control = |path: &PathBuf| {
            told.next("control")?;
            Ok(Numbered::new(LoadedControl::load(path, &unet, stored(Part::Unet))?, &device))
        };
        let controls = overrides.controls.iter().map(&mut control).collect::<Result<_>>()?;
        let files = model_files(&texts, unet_files.clone(), vae_files, kind.reading);
        let zeros = match model {
            Source::DemoModel => Vec::new(),
            _ => remarks_on_zeros(&files)?,
        };
        let share = |encoder| Numbered::new(encoder, &device);
        let text_encoders = text_encoders.into_iter().map(share).collect();
        let (unet, vae) = (Numbered::new(unet, &device), Numbered::new(vae, &device));
        let mut pipeline = Pipeline::from(Loaded {
            device,
            label: model.name(),
            parts: overrides.parts(),
            prediction: overrides.prediction,
            assumptions: overrides.assumptions(model).into_iter().chain(left_out).chain(zeros).collect(),
            files,
            hashes: Hashes::new(Vec::new(), None),
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
            plain_texts: adapters.touch_text().then(|| (texts.clone(), Arc::clone(&embeddings))),
            plain: Arc::new(Plain { texts, embeddings, unet_files, pool }),
            adapters: adapters.finish(&model.name())?,
            embeddings: embedded,
        });
        pipeline.renew_hashes();
        if let Some(source) = oms {
            told.next("oms_module")?;
            let module = OmsModule::load(source, &pipeline.device)?;
            pipeline.attach_oms(Arc::new(module))?;
        }
        if overrides.preview_vae.is_some() {
            told.next("preview_vae")?;
        }
        pipeline.preview = overrides.load_preview(&pipeline)?.map(|vae| Numbered::new(vae, &pipeline.device));
        if let Some(path) = &overrides.refiner {
            told.next("refiner")?;
            pipeline.refiner = Some(pipeline.load_refiner(&Source::at(path)?, overrides)?);
        }
        Ok(pipeline)
    }

    /// Adds the model of the last steps.
    ///
    /// # Errors
    /// When its files are wrong, or it is of another kind than the base.
    pub(crate) fn load_refiner(&self, source: &Source, overrides: &Overrides) -> Result<Pipeline> {
        let mut refiner = Pipeline::load(source, None, self.device.clone())?;
        let latents = |pipeline: &Pipeline| pipeline.vae.latent_channels();
        if refiner.kind.is_xl() != self.kind.is_xl() || latents(&refiner) != latents(self) {
            return Err(Error::model(format!(
                "{source}: expected a refiner of the latent space of {}; SDXL's goes with SDXL models alone",
                self.label
            )));
        }
        if refiner.kind.shown != crate::pipeline::model::kind::Shown::Nothing {
            return Err(Error::model(format!("{source}: expected a refiner, got an inpainting or instruction model")));
        }
        // Both walk down one schedule.
        let prediction_type = refiner.scheduler.prediction_type;
        refiner.scheduler = SchedulerConfig { prediction_type, ..self.scheduler.clone() };
        // What its UNet leaves room for.
        refiner.preview = overrides.load_preview(&refiner)?.map(|vae| Numbered::new(vae, &refiner.device));
        Ok(refiner)
    }
}

/// A part that is about to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loading {
    /// Which: a component's name.
    pub part: &'static str,
    /// Parts before it.
    pub done: usize,
    /// Parts in all.
    pub of: usize,
}

/// Counts the parts while they are loaded.
struct Teller<'a> {
    done: usize,
    of: usize,
    told: &'a mut dyn FnMut(Loading) -> Result<()>,
}

impl<'a> Teller<'a> {
    fn new(overrides: &Overrides, oms: Option<&OmsSource>, told: &'a mut dyn FnMut(Loading) -> Result<()>) -> Self {
        let more = [oms.is_some(), overrides.preview_vae.is_some(), overrides.refiner.is_some()];
        let of = 3 + overrides.controls.len() + more.iter().filter(|is_there| **is_there).count();
        Teller { done: 0, of, told }
    }

    fn next(&mut self, part: &'static str) -> Result<()> {
        let loading = Loading { part, done: self.done, of: self.of };
        self.done += 1;
        (self.told)(loading)
    }
}

impl Overrides {
    /// The autoencoder of previews for a pipeline.
    pub(crate) fn load_preview(&self, pipeline: &Pipeline) -> Result<Option<Autoencoder>> {
        let Some((files, config)) = self.preview_vae()? else { return Ok(None) };
        let weights = open(&files, DIFFUSION_STEM, "preview vae", pipeline.device.weight_type(Part::Vae))?;
        let vae = Autoencoder::load(&config, &files.label("config.json"), &weights)?;
        let shape = |vae: &Autoencoder| (vae.latent_channels(), vae.pixels_per_latent());
        let ((channels, pixels), wanted) = (shape(&vae), shape(&pipeline.vae));
        if (channels, pixels) == wanted {
            return Ok(Some(vae));
        }
        Err(Error::model(format!(
            "{}: expected an autoencoder of {} channels and {} pixels per latent, got {channels} and {pixels}",
            files.label("config.json"),
            wanted.0,
            wanted.1
        ))
        .in_file(files.label("config.json")))
    }
}

/// The UNet denoises latents as the autoencoder has them.
fn check_latents(label: &str, unet: &Unet, vae: &Autoencoder) -> Result<()> {
    let (wanted, got) = (unet.config().out_channels, vae.latent_channels());
    if wanted == got {
        return Ok(());
    }
    let whose = of_latents(got).map_or_else(String::new, |family| format!(", as {family} have them"));
    Err(Error::model(format!(
        "{label}: expected an autoencoder for the UNet's latents of {wanted} channels, got one for {got}{whose}; it is of another family"
    )).in_file(label))
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

pub(crate) fn load_unet(
    files: &Component,
    model: &str,
    weight_type: WeightType,
    change: impl FnOnce(Weights) -> Result<Weights>,
) -> Result<Unet> {
    let config = UnetConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
    Unet::load(config, &change(open(files, DIFFUSION_STEM, model, weight_type)?)?)
}
