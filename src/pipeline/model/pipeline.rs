//! The model as it is loaded.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::models::{Autoencoder, Unet};
use crate::pipeline::device::Device;
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::device::weight_types::Part;
use crate::pipeline::files::source::{Component, Source};
use crate::pipeline::model::adapters::AdapterReport;
use crate::pipeline::model::control::Control;
use crate::pipeline::model::embeddings::{EmbeddingReport, Embeddings};
use crate::pipeline::model::encoders::Encoder;
use crate::pipeline::model::hashes::{Hashes, Named};
use crate::pipeline::model::kind::{Kind, Shown};
use crate::pipeline::model::oms_module::{AttachedOms, OmsSource};
use crate::pipeline::model::overrides::Overrides;
use crate::pipeline::model::own_size;
use crate::pipeline::model::switch::Plain;
use crate::pipeline::request::Request;
use crate::pipeline::request::control::is_between;
use crate::record::Shape;
use crate::sampling::{PredictionType, SchedulerConfig, Solver, SolverKind};
use crate::{Error, Result};

/// A model, and perhaps an OMS module, on a device. Weights stay in their files until a stage runs.
///
/// Clones share all that was loaded. A [`Generation`](crate::pipeline::Generation) keeps one, so that it can outlive the pipeline that it was asked of.
#[derive(Clone)]
pub struct Pipeline(Arc<Loaded>);

/// What was loaded. Networks are shared between clones.
#[derive(Clone)]
pub struct Loaded {
    pub(crate) device: Device,
    pub(crate) label: String,
    /// Parts that are not the model's own, and what they are called.
    pub(crate) parts: Vec<(&'static str, String)>,
    /// What the network was said to predict, where that replaces what the model's files say.
    pub(crate) prediction: Option<PredictionType>,
    /// What the model's files leave open, and what was assumed.
    pub(crate) assumptions: Vec<String>,
    /// Component, folder and stem of each weight file.
    pub(crate) files: Vec<(&'static str, Component, &'static str)>,
    pub(crate) hashes: Arc<Hashes>,
    pub(crate) kind: Kind,
    /// One, or the two of SDXL.
    pub(crate) text_encoders: Vec<Encoder>,
    pub(crate) unet: Arc<Numbered<Unet>>,
    pub(crate) controls: Vec<Control>,
    pub(crate) vae: Arc<Numbered<Autoencoder>>,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) oms: Option<AttachedOms>,
    /// The text encoders' files, where adapters changed what was loaded from them.
    pub(crate) plain_texts: Option<(Source, Arc<Embeddings>)>,
    /// From which networks are loaded again, with other adapters.
    pub(crate) plain: Arc<Plain>,
    pub(crate) adapters: Vec<AdapterReport>,
    /// The autoencoder of previews, where it is not the model's own.
    pub(crate) preview: Option<Arc<Numbered<Autoencoder>>>,
    /// The model of the last steps.
    pub(crate) refiner: Option<Pipeline>,
    pub(crate) embeddings: Vec<EmbeddingReport>,
}

impl From<Loaded> for Pipeline {
    fn from(loaded: Loaded) -> Self {
        Pipeline(Arc::new(loaded))
    }
}

impl Deref for Pipeline {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.0
    }
}

impl DerefMut for Pipeline {
    /// Of a pipeline that has clones, what is changed is its own from then on.
    fn deref_mut(&mut self) -> &mut Loaded {
        Arc::make_mut(&mut self.0)
    }
}

impl Pipeline {
    /// Opens a model, and an OMS module if one is given.
    ///
    /// # Errors
    /// When a file is missing, damaged, of another model or of a kind that is not supported, or the module does not fit the model.
    pub fn load(model: &Source, oms: Option<&OmsSource>, device: Device) -> Result<Self> {
        Self::load_with(model, &Overrides::default(), oms, device)
    }

    /// Where the pipeline computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model's name, for the parameters of a picture.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Parts that are not the model's own (`unet`, `vae`, `text_encoder`, `refiner`), and what their files are called.
    pub fn parts(&self) -> &[(&'static str, String)] {
        &self.parts
    }

    /// The adapters that were loaded, and what became of them.
    pub fn adapters(&self) -> &[AdapterReport] {
        &self.adapters
    }

    /// The name and the file's SHA-256 of each ControlNet, read on first use, in the order in which requests number them.
    pub fn controls(&self) -> impl Iterator<Item = (&str, String)> {
        self.controls.iter().map(|control| (control.name(), control.sha256().to_owned()))
    }

    /// The embeddings that names in prompts stand for.
    pub fn embeddings(&self) -> &[EmbeddingReport] {
        &self.embeddings
    }

    /// SHA-256 of each weight file by component. They are computed on a thread from when a request starts; this waits for them.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub fn hashes(&self) -> Result<&BTreeMap<&'static str, String>> {
        self.hashes.wait()
    }

    /// Hashes of the files that it has now, none of them computed.
    pub(crate) fn renew_hashes(&mut self) {
        let named = |(name, files, stem): &(&'static str, Component, &'static str)| -> Named {
            (name, files.clone(), stem, self.device.weight_type(Part::of(name)).prefers_halves())
        };
        self.hashes = Hashes::new(self.files.iter().map(named).collect(), self.device.hash_file().cloned());
    }

    /// Whether an OMS module is there.
    pub fn has_oms(&self) -> bool {
        self.oms.is_some()
    }

    /// The OMS module's name.
    pub fn oms_label(&self) -> Option<&str> {
        self.oms.as_ref().map(|oms| oms.module.label())
    }

    /// (width, height) in pixels of a request's pictures.
    ///
    /// # Errors
    /// When the request is out of range.
    pub fn size(&self, request: &Request) -> Result<(usize, usize)> {
        request.validate()?;
        let step = self.vae.pixels_per_latent();
        let (own_width, own_height) = own_size::of(self.unet.config(), step);
        let given = request.image.as_ref();
        let width = request.width.or(given.map(|image| image.width)).unwrap_or(own_width);
        let height = request.height.or(given.map(|image| image.height)).unwrap_or(own_height);
        if let Some(image) = given
            && (image.width, image.height) != (width, height)
        {
            return Err(Error::request(
                "image",
                format!("expected the request's size {width}x{height}, got {}x{}", image.width, image.height),
            ));
        }
        for (name, side) in [("width", width), ("height", height)] {
            if !side.is_multiple_of(step) {
                return Err(Error::request(name, format!("expected a multiple of {step} for this model, got {side}")));
            }
        }
        Ok((width, height))
    }

    /// The solver of a request.
    pub(crate) fn sampler(&self, request: &Request) -> SolverKind {
        request.solver_kind(&self.scheduler)
    }

    /// A solver that leaves out the first `skip` steps.
    pub(crate) fn solver(&self, request: &Request, skip: usize) -> Result<Solver> {
        request.solver(&self.scheduler, self.kind.is_xl(), skip)
    }

    /// The model's schedule with what the request changes.
    pub(crate) fn schedule_of(&self, request: &Request) -> SchedulerConfig {
        request.schedule(&self.scheduler, self.kind.is_xl())
    }

    /// Steps that a request leaves out at the start. What is changed by instruction is drawn from noise.
    pub(crate) fn skip(&self, request: &Request) -> usize {
        match self.kind.shown {
            Shown::Instructed { .. } => 0,
            Shown::Nothing | Shown::Masked => request.skip(),
        }
    }

    pub(crate) fn text_encoders(&self) -> &[Encoder] {
        &self.text_encoders
    }

    /// The encoder whose pooled row SDXL's UNet is told.
    pub(crate) fn pooling_encoder(&self) -> Option<&Encoder> {
        self.text_encoders.last().filter(|_| self.kind.is_xl())
    }

    /// The OMS module's text encoders: its own, or the base's.
    pub(crate) fn oms_text_encoders(&self) -> &[Encoder] {
        self.oms.as_ref().map_or(&self.text_encoders, |oms| oms.text_encoders(&self.text_encoders))
    }

    /// Rows of the UNet's batch for each picture at call `call` of `of`: outside of the guidance's interval the conditional one alone.
    pub(crate) fn rows_at(&self, request: &Request, call: usize, of: usize) -> usize {
        if is_between(request.guidance_interval, call, of) { self.guidance_rows(request) } else { 1 }
    }

    /// Rows of the UNet's batch under guidance: `[unconditional, conditional]`, or with a picture as guide `[neither, picture, both]`. A
    /// model with a guidance embedding (LCM) takes one.
    pub(crate) fn guidance_rows(&self, request: &Request) -> usize {
        let guided = request.guidance_scale > 1.0 && self.unet.config().time_cond_proj_dim.is_none();
        match self.kind.shown {
            _ if !guided => 1,
            Shown::Instructed { .. } => 3,
            Shown::Nothing | Shown::Masked => 2,
        }
    }

    pub(crate) fn latent_shape(&self, (width, height): (usize, usize)) -> Shape {
        let step = self.vae.pixels_per_latent();
        Shape::image(1, height / step, width / step, self.vae.latent_channels())
    }
}
