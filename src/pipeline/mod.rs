//! Request → pictures: where files are, what fits, and the order of the stages.
//!
//! | file | what it does |
//! | --- | --- |
//! | `request` | what a caller asks for, and whether it can be had |
//! | `device` | where to compute, with which storage |
//! | `source`, `demo`, `single_file` | a model's files: a folder, inside the binary, or seen in a single file |
//! | `lookup` | a name → where its files are |
//! | `load`, `encoders`, `overrides`, `adapters` | files → networks; networks from elsewhere; what LoRA and its relatives change |
//! | `kind`, `refiner` | who reads the prompt, what the UNet is shown; a second model for the last steps |
//! | `embeddings` | vectors for names in prompts (textual inversion) |
//! | `control` | ControlNets and the pictures that they see |
//! | `oms_module` | the module of One More Step, for one model or several |
//! | `weight_types`, `budget` | how weights are stored; the best that fits a limit |
//! | `stage` | one network at fixed shapes: planned, compiled, run |
//! | `tiling` | autoencoders whole or in bands |
//! | `prompts`, `text`, `time_ids`, `init`, `resize` | prompts → states; pictures to start from |
//! | `preview` | how a picture stands |
//! | `pass`, `generate` | noise → pictures, step by step; request → one pass or two |
//! | `inspect`, `lora` | what lies at a path, for a user to see |
//! | `tokens` | what the tokenizer makes of a prompt, for a user to see |
//! | `parameters`, `repeat` | what goes into the PNG; a PNG → the request that made it |

mod adapters;
mod budget;
mod control;
mod demo;
mod device;
mod embeddings;
mod encoders;
mod generate;
mod init;
mod inspect;
mod kind;
mod load;
mod lookup;
mod lora;
mod oms_module;
mod overrides;
mod parameters;
mod pass;
mod preview;
mod prompts;
mod refiner;
mod repeat;
mod request;
mod resize;
mod single_file;
mod source;
mod stage;
mod text;
mod tiling;
mod time_ids;
mod tokens;
mod weight_types;

pub use adapters::{Adapter, AdapterReport};
pub use budget::{Remedy, TooLarge};
pub use control::ControlRequest;
pub use device::Device;
pub use embeddings::{Embedding, EmbeddingReport};
pub use generate::{Event, Generation};
pub use init::InitImage;
pub use inspect::{ComponentReport, EmbeddingShape, Inspection, MemoryReport, OmsReport, inspect};
pub use lookup::Places;
pub use lora::LoraReport;
pub use oms_module::{OmsModule, OmsSource};
pub use overrides::Overrides;
pub use parameters::Picture;
pub use repeat::{Recipe, RecipeAdapter, RecipeControl, RecipeEmbedding, read_recipe};
pub use request::{Hires, OmsRequest, Precision, Request, Upscale};
pub use single_file::SingleFile;
pub use source::Source;
pub use stage::StagePlan;
pub use tiling::{Bands, VaeTiling};
pub use tokens::{ChunkReport, TextReport, TokenEntry, TokenReport, token_reports};

pub use weight_types::{Part, Streaming, WeightTypes};

pub use crate::text::PromptSyntax;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use control::LoadedControl;
use embeddings::Embeddings;
use encoders::TextEncoder;
use kind::{Kind, Shown};
use oms_module::AttachedOms;
use source::Component;
use stage::Stage;

use crate::models::{Autoencoder, OneOrMany, Unet};
use crate::record::Shape;
use rayon::prelude::*;

use crate::sampling::{PredictionType, SchedulerConfig, Solver, SolverKind, embedding, oms};
use crate::{Error, Result};

/// A model, and perhaps an OMS module, on a device. Weights stay in the mapped files until a stage runs.
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
    /// Steps left out at the start.
    skip: usize,
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
        self.controls.iter().map(|control| (control.name(), control.sha256()))
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
        let hashes = self.files.par_iter().map(hash).collect::<Result<_>>()?;
        Ok(self.hashes.get_or_init(|| hashes))
    }

    /// Checks what the schedule alone decides, before anything else of a model is read: sampler, steps, strength.
    ///
    /// # Errors
    /// When the pair is impossible, or the model's `scheduler_config.json` is missing or not supported.
    pub fn check_schedule(model: &Source, overrides: &Overrides, request: &Request) -> Result<()> {
        request.validate()?;
        let skip = request.skip();
        let solver = request.solver(&overrides.scheduler_of(model)?, false, skip)?;
        if request.oms.is_some() && skip == 0 {
            oms::check_alpha_bar(solver.alpha_bar_first())?;
        }
        Ok(())
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
        let (own_height, own_width) = match self.unet.config().sample_size.as_ref() {
            Some(OneOrMany::One(side)) => (*side, *side),
            Some(OneOrMany::Many(sides)) if sides.len() == 2 => (sides[0], sides[1]),
            _ => (64, 64),
        };
        let given = request.image.as_ref();
        let width = request.width.or(given.map(|image| image.width)).unwrap_or(own_width * step);
        let height = request.height.or(given.map(|image| image.height)).unwrap_or(own_height * step);
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

    /// Work and memory of each stage of a request, without running anything.
    ///
    /// # Errors
    /// When the request is out of range or a stage exceeds the device's limits.
    pub fn plan(&self, request: &Request) -> Result<Vec<StagePlan>> {
        let plan = |stage: &Stage<'_>| stage.plan(&self.device);
        self.stages(request)?.iter().chain(&self.previews(request)?).map(plan).collect()
    }

    /// Opens each stage of a request in turn, without running it: its plan, and the bytes that the executor really allocated.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and when the device is out of memory.
    pub fn measure(&self, request: &Request) -> Result<Vec<(StagePlan, u64)>> {
        let open = |stage: Stage<'_>| Ok((stage.plan(&self.device)?, stage.allocate(&self.device)?));
        self.stages(request)?.into_iter().map(open).collect()
    }

    /// The networks of a request in the order of their runs.
    fn stages(&self, request: &Request) -> Result<Vec<Stage<'_>>> {
        let size = self.size(request)?;
        self.check(request, size)?;
        let skip = self.skip(request);
        let text = text::TextPlan::new(self, request, size)?;
        let mut stages = text.stages();
        if request.image.is_some() {
            stages.push(self.encoder_stage(request, size));
        }
        if skip == 0 {
            stages.extend(self.oms_stage(request, size, text.oms_tokens())?);
        }
        let batch = request.batch.min(request.count);
        let tokens = text.unet_tokens();
        stages.extend(self.unet_stages(request, UnetRun { size, skip, batch, tokens })?);
        stages.extend(self.refiner_stages(request, size, skip)?);
        let Some(hires) = &request.hires else {
            stages.push(self.decoder_stage(request, size));
            return Ok(stages);
        };
        let second = self.second_pass(request, hires)?;
        let larger = self.size(&second)?;
        if hires.upscale == Upscale::Image {
            stages.push(self.decoder_stage(request, size));
            stages.push(self.encoder_stage(&second, larger));
        }
        let skip = hires.skip(second.num_inference_steps);
        stages.extend(self.unet_stages(&second, UnetRun { size: larger, skip, batch, tokens })?);
        stages.extend(self.refiner_stages(&second, larger, skip)?);
        stages.push(self.decoder_stage(&second, larger));
        Ok(stages)
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

    /// Checks a request against the model.
    fn check(&self, request: &Request, (width, height): (usize, usize)) -> Result<()> {
        let skip = self.skip(request);
        let solver = self.solver(request, skip)?;
        let latents = self.latent_shape((width, height)).len();
        if let Some(given) = &request.latents
            && given.len() != latents
        {
            return Err(Error::Request(format!("latents: expected {latents} values, got {}", given.len())));
        }
        self.check_shown(request)?;
        if let Some(control) = request.controls.iter().find(|control| control.net >= self.controls.len()) {
            return Err(Error::Request(format!(
                "control: expected the number of one of {} ControlNets, got {}; load it with --control",
                self.controls.len(),
                control.net
            )));
        }
        self.check_text(request)?;
        match (&request.oms, &self.oms) {
            (Some(_), None) => Err(Error::Request("oms: no module is loaded, give one with --oms".into())),
            (Some(_), Some(_)) if skip == 0 => oms::check_alpha_bar(solver.alpha_bar_first()),
            _ => Ok(()),
        }
    }

    /// What was assumed of the model, and what has no effect in a request.
    fn notices(&self, request: &Request) -> Vec<String> {
        let mut notices = self.assumptions.clone();
        notices.extend(self.controls.iter().filter_map(LoadedControl::notice));
        if request.oms.is_some() && self.skip(request) == 0 {
            notices.extend(self.oms.as_ref().and_then(|oms| oms.module.notice()));
        }
        if request.oms.is_some() && self.skip(request) > 0 {
            notices.push("One More Step is left out: below strength 1 the picture itself sets the brightness".into());
        }
        let is_instructed = matches!(self.kind.shown, Shown::Instructed { .. });
        if is_instructed && request.image.as_ref().is_some_and(|image| image.strength != InitImage::STRENGTH) {
            notices.push(
                "strength has no effect: this model draws the whole picture anew, as the prompt instructs".into(),
            );
        }
        if request.sampler.is_none() && self.scheduler.solver().is_none() && !self.scheduler.class_name.is_empty() {
            notices.push(format!("the model's own {} is not here, ddim takes its place", self.scheduler.class_name));
        }
        let calls = self.solver(request, request.skip()).map_or(0, |solver| solver.timesteps().len());
        let acts = |i: &usize| control::sets(&request.controls, calls).iter().any(|(set, _)| set.contains(i));
        for idle in (0..request.controls.len()).filter(|i| !acts(i)) {
            notices.push(format!("control {}: it acts at none of the {calls} steps", idle + 1));
        }
        notices
    }

    fn check_text(&self, request: &Request) -> Result<()> {
        let is_xl = self.kind.is_xl();
        // SDXL counts from the last layer but one.
        let layers = self.text_encoders.iter().map(|e| e.model.config().num_hidden_layers).min().unwrap_or(0);
        let most = layers - usize::from(is_xl);
        if request.clip_skip >= most {
            return Err(Error::Request(format!(
                "clip skip: this model's text encoder can do without its last {} layers, not without {}",
                most - 1,
                request.clip_skip
            )));
        }
        let only_xl = [
            ("prompt-2", request.prompt_2.is_some()),
            ("negative-2", request.negative_prompt_2.is_some()),
            ("original-size", request.original_size.is_some()),
            ("crop", request.crops_coords_top_left != (0, 0)),
            ("target-size", request.target_size.is_some()),
        ];
        match only_xl.iter().find(|(_, given)| *given && !is_xl) {
            Some((option, _)) => {
                Err(Error::Request(format!("{option}: only SDXL models have it; {} is none", self.label)))
            }
            None => Ok(()),
        }
    }

    /// Checks what the UNet wants to be shown.
    fn check_shown(&self, request: &Request) -> Result<()> {
        let image = request.image.as_ref();
        let needs = match self.kind.shown {
            Shown::Masked if image.is_none_or(|image| image.mask.is_none()) => {
                "it is an inpainting model, give it a picture and a mask (--image, --mask)"
            }
            Shown::Instructed { .. } if image.is_none() => {
                "it changes a picture as the prompt instructs, give it one (--image)"
            }
            Shown::Instructed { .. } if image.is_some_and(|image| image.mask.is_some()) => {
                "it changes a whole picture as the prompt instructs, leave the mask out"
            }
            Shown::Instructed { .. } if request.hires.is_some() => {
                "it changes a picture as the prompt instructs, which a second pass (hires) cannot"
            }
            _ => return Ok(()),
        };
        Err(Error::Request(format!("{}: {needs}", self.label)))
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

    /// The OMS module, if asked for, for rows of `tokens` text states.
    fn oms_stage(&self, request: &Request, size: (usize, usize), tokens: usize) -> Result<Option<Stage<'_>>> {
        let (Some(asked), Some(oms)) = (&request.oms, &self.oms) else {
            return Ok(None);
        };
        let latents = self.latent_shape(size);
        let rows = if asked.guided() { 2 } else { 1 };
        Ok(Some(Stage::new("OMS module", request.count, move |caps| {
            oms.module.unet.record(caps, rows, latents.h, latents.w, tokens, false)
        })))
    }

    fn encoder_stage(&self, request: &Request, (width, height): (usize, usize)) -> Stage<'_> {
        let pictures = match &request.image {
            Some(image) => 1 + usize::from(image.mask.is_some()),
            None => request.count,
        };
        let whole = Stage::new("VAE encoder", pictures, move |caps| self.vae.record_encode(caps, 1, height, width));
        match &self.vae {
            Autoencoder::Kl(vae) => {
                whole.or_in_bands(vae.levels(), move |levels| vae.encode_chain(height, width, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
    }

    fn decoder_stage(&self, request: &Request, size: (usize, usize)) -> Stage<'_> {
        self.decoder_of(&self.vae, "VAE decoder", request.count, size)
    }

    /// The decoder of this or of another autoencoder of the same latents.
    fn decoder_of<'p>(&self, vae: &'p Autoencoder, name: &'static str, runs: usize, size: (usize, usize)) -> Stage<'p> {
        let latents = self.latent_shape(size);
        let whole = Stage::new(name, runs, move |caps| vae.record_decode(caps, 1, latents.h, latents.w));
        match vae {
            Autoencoder::Kl(vae) => {
                whole.or_in_bands(vae.levels(), move |levels| vae.decode_chain(latents.h, latents.w, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
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
