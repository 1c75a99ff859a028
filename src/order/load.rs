//! What to load, and whether two orders can share it.

use std::path::{Path, PathBuf};

use crate::order::job::{DeviceJob, Job, ModelJob};
use crate::pipeline::{
    Adapter, Device, Embedding, OmsSource, Overrides, Pipeline, Places, Precision, Request, Source, Streaming,
    TooLarge, VaeTiling,
};
use crate::{Error, Result};

/// The name of the model, and of the module, inside the program.
const DEMO: &str = "demo";
/// What leaves a module out.
const OFF: &str = "off";

/// A model with its parts and what changes it, and where it goes.
#[derive(Debug, Clone)]
pub struct Load {
    /// The model's files.
    pub model: Source,
    /// What replaces its parts, or is added.
    pub overrides: Overrides,
    /// The OMS module's files, or none.
    pub oms: Option<OmsSource>,
    /// Where, and how stored.
    pub device: DeviceJob,
    /// Where hashes of weight files are kept ([`Device::with_hash_file`]); nowhere unless a front door says so.
    pub hash_file: Option<PathBuf>,
}

/// What two orders have in common that can share a loaded model. Files are told apart by their paths: one that was replaced meanwhile is the
/// reader's to notice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoadKey {
    model: Option<PathBuf>,
    parts: [Option<PathBuf>; 5],
    prediction: Option<&'static str>,
    scheduler: Option<String>,
    /// With the bits of their weights.
    adapters: Vec<(PathBuf, u64, Option<u64>)>,
    controls: Vec<PathBuf>,
    embeddings: Vec<(PathBuf, bool)>,
    /// The module, if not the demo's, and its text encoder.
    oms: Option<(Option<PathBuf>, Option<PathBuf>)>,
    device: String,
    precision: Precision,
    weights: String,
    vram: Option<u64>,
    vae_tiling: VaeTiling,
    stream_weights: Streaming,
}

impl Load {
    /// What has to be equal for another order to run on the same loaded model. With a limit of memory (`device.vram`) the types of its weights
    /// were chosen for one request: whether another fits is its plan's to say.
    pub fn key(&self) -> LoadKey {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let source = |source: &Source| match source {
            Source::Folder(path) => Some(whole(path)),
            Source::File(file) => Some(whole(file.path())),
            Source::DemoModel | Source::DemoOms => None,
        };
        let own = &self.overrides;
        let parts = [&own.unet, &own.vae, &own.preview_vae, &own.text_encoder, &own.refiner];
        LoadKey {
            model: source(&self.model),
            parts: parts.map(|part| part.as_deref().map(whole)),
            prediction: own.prediction.map(|prediction| match prediction {
                crate::sampling::PredictionType::Epsilon => "epsilon",
                crate::sampling::PredictionType::VPrediction => "v",
                crate::sampling::PredictionType::Sample => "sample",
            }),
            scheduler: own.scheduler.clone(),
            adapters: own
                .adapters
                .iter()
                .map(|a| (whole(&a.path), a.weight.to_bits(), a.text_encoder_weight.map(f64::to_bits)))
                .collect(),
            controls: own.controls.iter().map(|path| whole(path)).collect(),
            embeddings: own.embeddings.iter().map(|one| (whole(&one.path), one.is_found)).collect(),
            oms: self.oms.as_ref().map(|oms| (source(&oms.module), oms.text_encoder.as_deref().map(whole))),
            device: self.device.name.to_lowercase(),
            precision: self.device.precision,
            weights: self.device.weights.unwrap_or_default().to_string(),
            vram: self.device.vram,
            vae_tiling: self.device.vae_tiling,
            stream_weights: self.device.stream_weights,
        }
    }

    /// The device and the model on it, within the limit of memory for a request, whose kernels are compiled; and what that limit had to give up.
    ///
    /// # Errors
    /// As [`Device::first_that`], [`Pipeline::load_within`] and [`Pipeline::prepare`].
    pub fn open(&self, request: &Request) -> Result<(Pipeline, Vec<TooLarge>)> {
        self.open_if(request, |pipeline| pipeline.prepare(request))
    }

    /// As [`open`](Self::open), but no kernel is compiled before it runs.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_lazily(&self, request: &Request) -> Result<(Pipeline, Vec<TooLarge>)> {
        self.open_if(request, |_| Ok(()))
    }

    fn open_if(&self, request: &Request, check: impl Fn(&Pipeline) -> Result<()>) -> Result<(Pipeline, Vec<TooLarge>)> {
        let Load { model, overrides, oms, device: asked, hash_file } = self;
        Device::first_that(&asked.name, asked.precision, |device| {
            let device = device
                .with_weights(asked.weights.unwrap_or_default())
                .with_vae_tiling(asked.vae_tiling)
                .with_streaming(asked.stream_weights)?;
            let device = match hash_file {
                Some(path) => device.with_hash_file(path.clone()),
                None => device,
            };
            let (pipeline, too_large) = match asked.vram {
                Some(bytes) => Pipeline::load_within(model, overrides, oms.as_ref(), device, request, bytes)?,
                None => (Pipeline::load_with(model, overrides, oms.as_ref(), device)?, Vec::new()),
            };
            check(&pipeline)?;
            Ok((pipeline, too_large))
        })
    }
}

/// The files that a model's name means; the demo model's without one.
///
/// # Errors
/// As [`Places::find`] and [`Source::at`].
pub fn source(name: Option<&str>, places: &Places) -> Result<Source> {
    match name {
        None | Some(DEMO) => Ok(Source::DemoModel),
        Some(name) => Source::at(places.find(name)?),
    }
}

/// Embeddings that are named, and those of other names that were found in the places.
pub fn embeddings(named: &[PathBuf], found: &[PathBuf]) -> Vec<Embedding> {
    let is_named = |path: &&PathBuf| named.iter().any(|other| other.file_stem() == path.file_stem());
    let one = |is_found| move |path: &PathBuf| Embedding { path: path.clone(), is_found };
    named.iter().map(one(false)).chain(found.iter().filter(|path| !is_named(path)).map(one(true))).collect()
}

impl ModelJob {
    /// The OMS module's files, or none.
    pub(super) fn oms(&self, places: &Places) -> Result<Option<OmsSource>> {
        let source = match self.oms.as_deref() {
            Some(OFF) => None,
            Some(DEMO) => Some(Source::DemoOms),
            Some("") => return Err(Error::request("model.oms", "expected a folder, demo or off, got nothing")),
            Some(name) => Some(Source::Folder(places.find(name)?)),
            None if self.is_demo() => Some(Source::DemoOms),
            None => None,
        };
        if source.is_none() && self.oms_text_encoder.is_some() {
            return Err(Error::request("model.oms_text_encoder", "has no meaning without `model.oms`"));
        }
        // The demo module has its own.
        let named = self.oms_text_encoder.as_deref().filter(|_| source != Some(Source::DemoOms));
        let text_encoder = named.map(|name| places.find(name)).transpose()?;
        Ok(source.map(|module| OmsSource { module, text_encoder, places: places.clone() }))
    }

    fn is_demo(&self) -> bool {
        self.name.as_deref().is_none_or(|name| name == DEMO)
    }
}

impl Job {
    /// What to load, with these nets; `given` is a model that is at hand.
    pub(super) fn load(
        &self,
        given: Option<&Source>,
        oms: Option<OmsSource>,
        controls: Vec<PathBuf>,
        places: &Places,
    ) -> Result<Load> {
        let find = |name: &Option<String>| name.as_deref().map(|name| places.find(name)).transpose();
        let model = &self.model;
        let adapter = |own: &crate::order::AdapterJob| Adapter {
            path: own.file.clone(),
            weight: own.weight.unwrap_or(1.0),
            text_encoder_weight: own.text_encoder_weight,
        };
        let overrides = Overrides {
            unet: find(&model.unet)?,
            vae: find(&model.vae)?,
            text_encoder: find(&model.text_encoder)?,
            preview_vae: find(&model.preview_vae)?,
            refiner: find(&model.refiner)?,
            prediction: model.prediction,
            scheduler: None,
            adapters: self.adapters.iter().map(adapter).collect(),
            controls,
            embeddings: embeddings(&self.embeddings, &[]),
        };
        Ok(Load {
            model: given.map_or_else(|| source(model.name.as_deref(), places), |given| Ok(given.clone()))?,
            overrides,
            oms,
            device: self.device.clone(),
            hash_file: None,
        })
    }
}
