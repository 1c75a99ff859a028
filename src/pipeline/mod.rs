//! Request → pictures: where files are, what fits, and the order of the stages.
//!
//! | file | what it does |
//! | --- | --- |
//! | `request` | what a caller asks for, and whether it can be had |
//! | `device`, `choice` | where to compute, with which storage; what comes next where a device is of no use |
//! | `source`, `demo`, `single_file` | a model's files: a folder, inside the binary, or seen in a single file |
//! | `lookup` | a name → where its files are |
//! | `load`, `encoders`, `overrides`, `adapters` | files → networks; networks from elsewhere; what LoRA and its relatives change |
//! | `kind`, `refiner` | who reads the prompt, what the UNet is shown; a second model for the last steps |
//! | `embeddings` | vectors for names in prompts (textual inversion) |
//! | `control` | ControlNets and the pictures that they see |
//! | `oms_module` | the module of One More Step, for one model or several |
//! | `weight_types`, `budget` | how weights are stored; the best that fits a limit |
//! | `stage`, `stages` | one network at fixed shapes: planned, compiled, run; those of a request |
//! | `checks` | whether a request can be had of a model |
//! | `tiling` | autoencoders whole or in bands |
//! | `prompts`, `text`, `time_ids`, `init`, `resize` | prompts → states; pictures to start from |
//! | `own_size` | the size that a model was made for |
//! | `preview` | how a picture stands |
//! | `pass`, `generate` | noise → pictures, step by step; request → one pass or two |
//! | `profile` | where the time of a stage goes |
//! | `tune`, `tuning_file` | which tiles are fastest on a device; where that is kept |
//! | `findings`, `kept` | what was found right and wrong of a driver; files that are kept of an adapter |
//! | `inspect`, `lora` | what lies at a path, for a user to see |
//! | `tokens` | what the tokenizer makes of a prompt, for a user to see |
//! | `parameters`, `repeat` | what goes into the PNG; a picture, of this program or another → the request that made it |

mod adapters;
mod budget;
mod checks;
mod choice;
mod control;
mod deep_cache;
mod demo;
mod device;
mod embeddings;
mod encoders;
mod findings;
mod generate;
mod host_memory;
mod init;
mod inspect;
mod kept;
mod kind;
mod load;
mod lookup;
mod lora;
mod oms_module;
mod overrides;
mod own_size;
mod parameters;
mod pass;
mod preview;
mod profile;
mod prompts;
mod recognise;
mod refiner;
mod repeat;
mod request;
mod resize;
mod single_file;
mod source;
mod stage;
mod stages;
mod text;
mod tiling;
mod time_ids;
mod tokens;
mod tune;
mod tuning_file;
mod weight_types;

pub use adapters::{Adapter, AdapterReport};
pub use budget::{Remedy, TooLarge};
pub use control::ControlRequest;
pub use deep_cache::DeepCache;
pub use device::Device;
pub use embeddings::{Embedding, EmbeddingReport};
pub use findings::{Findings, check_findings_place, findings_path, load_findings, save_findings};
pub use generate::{Event, Generation};
pub use init::InitImage;
pub use inspect::{ComponentReport, EmbeddingShape, Inspection, MemoryReport, OmsReport, inspect};
pub use lookup::{Listed, Places, successor};
pub use lora::LoraReport;
pub use oms_module::{OmsModule, OmsPart, OmsSource, oms_parts};
pub use overrides::Overrides;
pub use parameters::Picture;
pub use profile::{DispatchProfile, Peaks, StageProfile};
pub use repeat::{Program, Recipe, RecipeAdapter, RecipeControl, RecipeEmbedding, RecipeImage, read_recipe};
pub use request::{Hires, OmsRequest, Precision, Request, Upscale};
pub use single_file::SingleFile;
pub use source::Source;
pub use stage::StagePlan;
pub use tiling::{Bands, VaeTiling};
pub use tokens::{ChunkReport, TextReport, TokenEntry, TokenReport, token_reports};

pub use tune::{TuneReport, TunedClass};
pub use tuning_file::{check_tuning_place, load_tuning, save_tuning, tuning_path};
pub use weight_types::{Part, Streaming, WeightTypes};

pub use crate::models::TokenMerging;
pub use crate::text::{Network, PromptSyntax, split_networks};

use std::collections::BTreeMap;
use std::sync::OnceLock;

use control::LoadedControl;
use embeddings::Embeddings;
use encoders::TextEncoder;
use kind::{Kind, Shown};
use oms_module::AttachedOms;
use source::Component;

use crate::models::{Autoencoder, Unet};
use crate::record::Shape;
use rayon::prelude::*;

use crate::sampling::{PredictionType, SchedulerConfig, Solver, SolverKind, embedding};
use crate::{Error, Result};

/// A model, and perhaps an OMS module, on a device. Weights stay in their files until a stage runs.
pub struct Pipeline {
    device: Device,
    label: String,
    /// Parts that are not the model's own, and what they are called.
    parts: Vec<(&'static str, String)>,
    /// What the network was said to predict, where that replaces what the model's files say.
    prediction: Option<PredictionType>,
    /// What the model's files leave open, and what was assumed.
    assumptions: Vec<String>,
    /// Component, folder and stem of each weight file.
    files: Vec<(&'static str, Component, &'static str)>,
    hashes: OnceLock<BTreeMap<&'static str, String>>,
    kind: Kind,
    /// One, or the two of SDXL.
    text_encoders: Vec<TextEncoder>,
    unet: Unet,
    controls: Vec<LoadedControl>,
    vae: Autoencoder,
    scheduler: SchedulerConfig,
    oms: Option<AttachedOms>,
    /// The text encoders' files, where adapters changed what was loaded from them.
    plain_texts: Option<(Source, Embeddings)>,
    adapters: Vec<AdapterReport>,
    /// The autoencoder of previews, where it is not the model's own.
    preview: Option<Autoencoder>,
    /// The model of the last steps.
    refiner: Option<Box<Pipeline>>,
    embeddings: Vec<EmbeddingReport>,
}

/// The shapes of a UNet's run.
#[derive(Clone, Copy)]
struct UnetRun {
    /// (width, height) in pixels.
    size: (usize, usize),
    /// Pictures in one forward.
    batch: usize,
    /// Text states of a row.
    tokens: usize,
}

/// What tells the UNet the time.
struct TimeInputs {
    projection: Vec<f32>,
    guidance: Option<Vec<f32>>,
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

    /// SHA-256 of each weight file by component, read on first use.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub fn hashes(&self) -> Result<&BTreeMap<&'static str, String>> {
        if let Some(known) = self.hashes.get() {
            return Ok(known);
        }
        let hash = |(name, files, stem): &(&'static str, Component, &str)| {
            let prefer_f16 = self.device.weight_type(Part::of(name)).prefers_halves();
            Ok((*name, files.hash(stem, prefer_f16)?))
        };
        let hashes = self.device.backend().install(|| self.files.par_iter().map(hash).collect::<Result<_>>())?;
        Ok(self.hashes.get_or_init(|| hashes))
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
            return Err(Error::Request(format!(
                "image: expected the request's size {width}x{height}, got {}x{}",
                image.width, image.height
            )));
        }
        for (name, side) in [("width", width), ("height", height)] {
            if !side.is_multiple_of(step) {
                return Err(Error::Request(format!(
                    "{name}: expected a multiple of {step} for this model, got {side}"
                )));
            }
        }
        Ok((width, height))
    }

    /// The solver of a request.
    fn sampler(&self, request: &Request) -> SolverKind {
        request.solver_kind(&self.scheduler)
    }

    /// A solver that leaves out the first `skip` steps.
    fn solver(&self, request: &Request, skip: usize) -> Result<Solver> {
        request.solver(&self.scheduler, self.kind.is_xl(), skip)
    }

    /// The model's schedule with what the request changes.
    fn schedule_of(&self, request: &Request) -> SchedulerConfig {
        request.schedule(&self.scheduler, self.kind.is_xl())
    }

    /// Steps that a request leaves out at the start. What is changed by instruction is drawn from noise.
    fn skip(&self, request: &Request) -> usize {
        match self.kind.shown {
            Shown::Instructed { .. } => 0,
            Shown::Nothing | Shown::Masked => request.skip(),
        }
    }

    fn text_encoders(&self) -> &[TextEncoder] {
        &self.text_encoders
    }

    /// The encoder whose pooled row SDXL's UNet is told.
    fn pooling_encoder(&self) -> Option<&TextEncoder> {
        self.text_encoders.last().filter(|_| self.kind.is_xl())
    }

    /// The OMS module's text encoders: its own, or the base's.
    fn oms_text_encoders(&self) -> &[TextEncoder] {
        self.oms.as_ref().map_or(&self.text_encoders, |oms| oms.text_encoders(&self.text_encoders))
    }

    /// Rows of the UNet's batch for each picture at call `call` of `of`: outside of the guidance's interval the conditional one alone.
    fn rows_at(&self, request: &Request, call: usize, of: usize) -> usize {
        if is_between(request.guidance_interval, call, of) { self.guidance_rows(request) } else { 1 }
    }

    /// Rows of the UNet's batch under guidance: `[unconditional, conditional]`, or with a picture as guide `[neither, picture, both]`. A
    /// model with a guidance embedding (LCM) takes one.
    fn guidance_rows(&self, request: &Request) -> usize {
        let guided = request.guidance_scale > 1.0 && self.unet.config().time_cond_proj_dim.is_none();
        match self.kind.shown {
            _ if !guided => 1,
            Shown::Instructed { .. } => 3,
            Shown::Nothing | Shown::Masked => 2,
        }
    }

    fn latent_shape(&self, (width, height): (usize, usize)) -> Shape {
        let step = self.vae.pixels_per_latent();
        Shape::image(1, height / step, width / step, self.vae.latent_channels())
    }

    /// The time embedding's sinusoids for each row, and the guidance embedding of models that have one.
    fn time_inputs(&self, timestep: f64, rows: usize, request: &Request) -> TimeInputs {
        let config = self.unet.config();
        let one = embedding::timestep_embedding(
            timestep,
            config.block_out_channels[0],
            // The UNet's configuration refuses other values of flip_sin_to_cos and freq_shift.
            true,
            0.0,
        );
        let guidance = config
            .time_cond_proj_dim
            .map(|dim| embedding::guidance_scale_embedding(request.guidance_scale, dim).repeat(rows));
        TimeInputs { projection: one.repeat(rows), guidance }
    }
}

/// Whether call `call` of `of` lies between two shares of them, whole (`controlnet_keep` of diffusers' pipelines).
fn is_between((start, end): (f64, f64), call: usize, of: usize) -> bool {
    call as f64 / of as f64 >= start && (call + 1) as f64 / of as f64 <= end
}
