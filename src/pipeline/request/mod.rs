//! What a caller asks for, and whether it can be had.

pub(crate) mod control;
pub(crate) mod deep_cache;
pub(crate) mod field_kinds;
pub(crate) mod fields;
pub(crate) mod init;

use serde::{Deserialize, Serialize};

use crate::models::TokenMerging;
use crate::pipeline::request::control::ControlRequest;
use crate::pipeline::request::deep_cache::DeepCache;
use crate::pipeline::request::fields::{fits, within};
use crate::pipeline::request::init::InitImage;
use crate::sampling::{
    BetaSchedule, OmsForm, RngKind, SchedulerConfig, SigmaSchedule, Solver, SolverKind, SolverOptions, TimestepSpacing,
    Variation,
};
use crate::text::{PromptSyntax, Reading};
use crate::{Error, Result};

/// One request for pictures. [`Default`] gives what the command gives without options, but for two things: prompts are plain text here, as in
/// diffusers, and One More Step is off until [`oms`](Self::oms) has what [`OmsSource::request`](crate::pipeline::OmsSource::request) gives.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What to steer away from; used when `guidance_scale` exceeds 1. `None` is the empty prompt, except that SDXL models then take states of
    /// zeros where their `model_index.json` says so (`force_zeros_for_empty_prompt`); an empty text is always encoded.
    pub negative_prompt: Option<String>,
    /// What SDXL's second text encoder reads; the prompt when `None`.
    pub prompt_2: Option<String>,
    /// What SDXL's second text encoder reads in the negative prompt's place; that one when `None`.
    pub negative_prompt_2: Option<String>,
    /// (height, width) in pixels that SDXL is told of the picture before cropping; the picture's own when `None`.
    pub original_size: Option<(usize, usize)>,
    /// (top, left) in pixels that SDXL is told of the crop.
    pub crops_coords_top_left: (usize, usize),
    /// (height, width) in pixels that SDXL is told of the picture after cropping; the picture's own when `None`.
    pub target_size: Option<(usize, usize)>,
    /// Width in pixels, a multiple of 8; the model's own when `None`.
    pub width: Option<usize>,
    /// Height in pixels, a multiple of 8; the model's own when `None`.
    pub height: Option<usize>,
    /// The aesthetic score that SDXL's refiner is told of the picture, 0 to 10.
    pub aesthetic_score: f64,
    /// The same for the negative prompt.
    pub negative_aesthetic_score: f64,
    /// Steps of the solver, at least 1.
    pub num_inference_steps: usize,
    /// ω_θ of classifier-free guidance; at 1 or below the unconditional row is not computed.
    pub guidance_scale: f64,
    /// The shares of the steps between which guidance acts, from 0 to 1: the whole of a call must lie between them. Outside, the
    /// conditional row alone is computed, in half the time (Kynkäänniemi et al., arXiv 2404.07724, there in terms of σ).
    pub guidance_interval: (f64, f64),
    /// How strongly the picture steers a model that changes it as the prompt instructs, at least 1 (InstructPix2Pix, eq. 3).
    pub image_guidance_scale: f64,
    /// Where a refiner takes over, as a share of the noise schedule: above 0, below 1 (diffusers' `denoising_start`).
    pub refiner_start: f64,
    /// Features of the UNet that are kept over calls; off when `None`.
    pub deep_cache: Option<DeepCache>,
    /// Pixels of the UNet that attend to each other as means of several; off when `None`.
    pub token_merging: Option<TokenMerging>,
    /// The solver; the model's own when `None`.
    pub sampler: Option<SolverKind>,
    /// Where σ lie; the model's own way when `None`.
    pub sigmas: Option<SigmaSchedule>,
    /// Which timesteps are visited; the model's own way when `None`.
    pub timestep_spacing: Option<TimestepSpacing>,
    /// The curve of β; the model's own when `None`. The network was trained with one, others are for experiments.
    pub beta_schedule: Option<BetaSchedule>,
    /// Rescale β so that the first step starts without signal (Lin et al., arXiv 2305.08891, algorithm 1); for v-predicting models trained so.
    pub zero_terminal_snr: bool,
    /// Guidance rescale (the same paper, section 3.4), 0 (off) to 1.
    pub guidance_rescale: f64,
    /// Dynamic thresholding of x̃_0 at this percentile, as a fraction; off when `None`.
    pub dynamic_thresholding: Option<f64>,
    /// Weight of one more normal per channel in the initial noise (eq. 10 of the OMS paper), 0 (off) to 1.
    pub offset_noise: f64,
    /// η: how much noise a step adds, 0 to 1; the solver's own default when `None` ([`SolverKind::eta`]).
    pub eta: Option<f64>,
    /// Seed of the first picture; see [`RngKind`] for the others'.
    pub seed: u64,
    /// Whose random numbers.
    pub rng: RngKind,
    /// Added to the seed for every draw after the first noise: AUTOMATIC1111's `eta_noise_seed_delta`, "ENSD". 0 lets the first generator
    /// go on.
    pub noise_seed_delta: u64,
    /// The first noise goes part of the way towards another seed's.
    pub variation: Option<Variation>,
    /// This one picture as number i (from 0) of a batch of n: with [`RngKind::Comfy`] its draws depend on both. `count` is 1 then.
    pub place: Option<(usize, usize)>,
    /// Pictures to make, at least 1.
    pub count: usize,
    /// Pictures in one forward of the UNet, at least 1.
    pub batch: usize,
    /// A picture to start from, and what of it to repaint. Not written down.
    #[serde(skip)]
    pub image: Option<InitImage>,
    /// Whether the picture's own pixels are put back where its mask keeps them: then they do not change in any bit. `None` does so where the
    /// network was not made for inpainting (AUTOMATIC1111 always does).
    pub paste_back: Option<bool>,
    /// Pictures that ControlNets see.
    pub controls: Vec<ControlRequest>,
    /// Whether previews will be drawn ([`Generation::preview`](crate::pipeline::Generation::preview)): plans then count their decoder. Not written down.
    #[serde(skip)]
    pub previews: bool,
    /// Whether finished pictures are handed out as they lie on the device, too ([`Picture::on_device`](crate::pipeline::Picture::on_device)): a host application
    /// shows them without a way through its memory. Of GPUs alone. Not written down.
    #[serde(skip)]
    pub on_device: bool,
    /// Draw small first, then again at the final size.
    pub hires: Option<Hires>,
    /// Layers of the text encoder to leave out at the end, before its final norm (diffusers' `clip_skip`; AUTOMATIC1111's and ComfyUI's number
    /// less 1). With SDXL counted from the last layer but one. The negative prompt's layers are left out too unless the syntax is plain.
    pub clip_skip: usize,
    /// Which marks in prompts mean something.
    pub prompt_syntax: PromptSyntax,
    /// How far back a full chunk looks for a comma to end at, in tokens; 0 does not. For [`PromptSyntax::A1111`].
    pub comma_backtrack: usize,
    /// One More Step in front of the first step; `None` starts from plain noise.
    pub oms: Option<OmsRequest>,
    /// Initial noise x_T^S `[4, height/8, width/8]` in place of the seed's first draw (diffusers' `latents`). Not written down.
    #[serde(skip)]
    pub latents: Option<Vec<f32>>,
}

/// The second pass of a picture: `scale` times as large, from the enlarged first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hires {
    /// How many times as wide and high: above 1, up to 4.
    pub scale: f64,
    /// How much is drawn anew: above 0, up to 1.
    pub strength: f64,
    /// Steps of the second pass, before `strength` leaves some out; the request's when `None`.
    pub steps: Option<usize>,
    /// What is enlarged.
    pub upscale: Upscale,
}

impl Hires {
    /// Steps of the second pass that are left out.
    pub(crate) fn skip(&self, steps: usize) -> usize {
        init::skipped(self.strength, steps)
    }
}

/// What a second pass enlarges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Upscale {
    /// The latents, bilinear; wants a strength of ½ or more.
    Latent,
    /// The decoded picture, Lanczos.
    Image,
}

/// The part of a [`Request`] that One More Step reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OmsRequest {
    /// C_ψ; the prompt when `None`. Of a prompt that changes over the steps, what the first step reads.
    pub prompt: Option<String>,
    /// The unconditional text of eq. 21, used when `guidance_scale` is not 1. Its authors always take the empty one.
    pub negative_prompt: String,
    /// ω_ψ of eq. 21; 1 is the conditional output alone.
    pub guidance_scale: f64,
    /// Which form of the step.
    pub form: OmsForm,
}

impl OmsRequest {
    /// Whether the module also runs on the negative prompt: at ω_ψ = 1 eq. 21 is the conditional output alone.
    pub(crate) fn guided(&self) -> bool {
        self.guidance_scale != 1.0
    }
}

impl Default for OmsRequest {
    fn default() -> Self {
        OmsRequest { prompt: None, negative_prompt: String::new(), guidance_scale: 1.0, form: OmsForm::default() }
    }
}

impl Default for Request {
    fn default() -> Self {
        Request {
            prompt: String::new(),
            negative_prompt: None,
            prompt_2: None,
            negative_prompt_2: None,
            original_size: None,
            crops_coords_top_left: (0, 0),
            target_size: None,
            aesthetic_score: 6.0,
            negative_aesthetic_score: 2.5,
            width: None,
            height: None,
            num_inference_steps: 30,
            guidance_scale: 7.5,
            guidance_interval: (0.0, 1.0),
            image_guidance_scale: 1.5,
            refiner_start: 0.8,
            deep_cache: None,
            token_merging: None,
            sampler: None,
            sigmas: None,
            timestep_spacing: None,
            beta_schedule: None,
            zero_terminal_snr: false,
            guidance_rescale: 0.0,
            dynamic_thresholding: None,
            offset_noise: 0.0,
            eta: None,
            seed: 0,
            rng: RngKind::Torch,
            noise_seed_delta: 0,
            variation: None,
            place: None,
            count: 1,
            batch: 1,
            image: None,
            paste_back: None,
            controls: Vec::new(),
            previews: false,
            on_device: false,
            hires: None,
            clip_skip: 0,
            prompt_syntax: PromptSyntax::default(),
            comma_backtrack: 20,
            oms: None,
            latents: None,
        }
    }
}

/// Longest prompt; a hundred times what a person writes, and it bounds what brackets in brackets can cost.
const MAX_PROMPT_BYTES: usize = 32_768;

/// Most controls of a request: each takes a share of the device's memory.
const MAX_CONTROLS: usize = 16;

impl Request {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field, its range and what came.
    pub fn validate(&self) -> Result<()> {
        for (key, side) in [("width", self.width), ("height", self.height)] {
            side.map_or(Ok(()), |side| fits(key, side))?;
        }
        fits("num_inference_steps", self.num_inference_steps)?;
        fits("count", self.count)?;
        fits("batch", self.batch)?;
        self.validate_numbers()?;
        if let Some(cache) = &self.deep_cache {
            cache.validate(!self.controls.is_empty())?;
        }
        self.token_merging.map_or(Ok(()), TokenMerging::validate)?;
        if self.hires.is_some() && self.image.as_ref().is_some_and(|image| image.mask.is_some()) {
            return Err(Error::request("hires.scale", "does not go with a mask"));
        }
        if let Some(image) = &self.image {
            image.validate()?;
        }
        if self.controls.len() > MAX_CONTROLS {
            return Err(Error::request(
                "control",
                format!("expected at most {MAX_CONTROLS}, got {}", self.controls.len()),
            ));
        }
        self.controls.iter().try_for_each(ControlRequest::validate)?;
        for text in self.prompts() {
            if text.len() > MAX_PROMPT_BYTES {
                return Err(Error::request(
                    "prompt",
                    format!("expected at most {MAX_PROMPT_BYTES} bytes, got {}", text.len()),
                ));
            }
        }
        let told = [
            ("original_size", self.original_size),
            ("crops_coords_top_left", Some(self.crops_coords_top_left)),
            ("target_size", self.target_size),
        ];
        for (key, (down, across)) in told.into_iter().filter_map(|(key, pair)| Some((key, pair?))) {
            fits(key, vec![down, across])?;
        }
        if let Some((index, of)) = self.place
            && (self.count != 1 || index >= of || of > 10_000)
        {
            return Err(Error::request("place", format!("expected one picture of a batch, got {index} of {of}")));
        }
        if self.latents.is_some() && self.count != 1 {
            return Err(Error::request("latents", "given noise makes one picture, set count to 1"));
        }
        Ok(())
    }

    /// Numbers that are held against their rows' ranges, with the fields that go with them.
    fn validate_numbers(&self) -> Result<()> {
        let (start, end) = self.guidance_interval;
        let oms = self.oms.as_ref();
        let numbers = [
            ("guidance_scale", Some(self.guidance_scale)),
            ("guidance_interval", Some(start)),
            ("guidance_interval", Some(end)),
            ("image_guidance_scale", Some(self.image_guidance_scale)),
            ("aesthetic_score", Some(self.aesthetic_score)),
            ("negative_aesthetic_score", Some(self.negative_aesthetic_score)),
            ("refiner_start", Some(self.refiner_start)),
            ("guidance_rescale", Some(self.guidance_rescale)),
            ("offset_noise", Some(self.offset_noise)),
            ("dynamic_thresholding", self.dynamic_thresholding),
            ("hires.scale", self.hires.as_ref().map(|hires| hires.scale)),
            ("hires.strength", self.hires.as_ref().map(|hires| hires.strength)),
            ("eta", self.eta),
            ("oms.guidance_scale", oms.map(|oms| oms.guidance_scale)),
            ("oms.form.paper.eta", oms.and_then(|oms| oms.form.eta())),
            ("variation.strength", self.variation.as_ref().map(|variation| variation.strength)),
        ];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            within(key, number)?;
        }
        if start >= end {
            return Err(Error::request(
                "guidance_interval",
                format!("expected two shares of the steps, the first below the second, got {start} and {end}"),
            ));
        }
        Ok(())
    }

    /// All texts: prompts, negative prompts, those of One More Step.
    pub fn prompts(&self) -> impl Iterator<Item = &String> {
        self.positive_prompts().chain(self.negative_prompts())
    }

    /// What to draw, for each who reads it.
    pub(crate) fn positive_prompts(&self) -> impl Iterator<Item = &String> {
        let oms = self.oms.iter().flat_map(|oms| &oms.prompt);
        std::iter::once(&self.prompt).chain(&self.prompt_2).chain(oms)
    }

    /// What to steer away from, for each who reads it.
    pub(crate) fn negative_prompts(&self) -> impl Iterator<Item = &String> {
        let oms = self.oms.iter().map(|oms| &oms.negative_prompt);
        self.negative_prompt.iter().chain(&self.negative_prompt_2).chain(oms)
    }

    /// How prompts are read.
    pub(crate) fn reading(&self) -> Reading {
        Reading { syntax: self.prompt_syntax, comma_backtrack: self.comma_backtrack }
    }
}

impl Request {
    /// The solver: the one asked for, the model's own, or DDIM.
    pub(crate) fn solver_kind(&self, own: &SchedulerConfig) -> SolverKind {
        self.sampler.or(own.solver()).unwrap_or(SolverKind::Ddim)
    }

    /// Steps that the picture to start from leaves out.
    pub(crate) fn skip(&self) -> usize {
        self.image.as_ref().map_or(0, |image| image.skip(self.num_inference_steps))
    }

    /// A solver on a model's schedule that leaves out the first `skip` steps.
    pub(crate) fn solver(&self, own: &SchedulerConfig, is_xl: bool, skip: usize) -> Result<Solver> {
        let options = SolverOptions { eta: self.eta, skip };
        Solver::new(self.solver_kind(own), &self.schedule(own, is_xl), self.num_inference_steps, &options)
    }

    /// A model's schedule with what this request changes; `is_xl` picks between tables that were made for one family.
    pub(crate) fn schedule(&self, own: &SchedulerConfig, is_xl: bool) -> SchedulerConfig {
        let sigmas = match self.sigmas {
            Some(SigmaSchedule::AlignYourSteps) if is_xl => Some(SigmaSchedule::AlignYourStepsXl),
            other => other,
        };
        SchedulerConfig {
            sigmas,
            timestep_spacing: self.timestep_spacing.or(own.timestep_spacing),
            beta_schedule: self.beta_schedule.unwrap_or(own.beta_schedule),
            trained_betas: own.trained_betas.clone().filter(|_| self.beta_schedule.is_none()),
            rescale_betas_zero_snr: own.rescale_betas_zero_snr || self.zero_terminal_snr,
            thresholding: own.thresholding || self.dynamic_thresholding.is_some(),
            dynamic_thresholding_ratio: self.dynamic_thresholding.unwrap_or(own.dynamic_thresholding_ratio),
            ..own.clone()
        }
    }
}
