//! What can be typed for `chiaro generate`.

use std::path::PathBuf;

use chiaro::pipeline::Upscale;
use chiaro::sampling::{BetaSchedule, RngKind, SigmaSchedule, TimestepSpacing};
use clap::{Args, ValueEnum};

use super::preset::Preset;
use super::{ControlArgs, ModelArgs, ReadingArgs, SeedArg, ShortcutArgs, ShowArg};

/// Options of `generate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GenerateArgs {
    /// What to draw; words without quotes are one prompt [default with --like: the picture's prompt]
    #[arg(value_name = "PROMPT", required_unless_present_any = ["like", "prompt"], num_args = 1..)]
    pub(crate) words: Vec<String>,
    /// What to draw, as other programs take it; the words together, when they are read
    #[arg(long, short = 'p', hide = true, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Repeat a picture from the parameters in its PNG, JPEG or WebP, where other options replace what they say: one of this program, or of
    /// AUTOMATIC1111 (Forge, SD.Next), ComfyUI, Fooocus, InvokeAI, NovelAI, stable-diffusion.cpp. What cannot be repeated is told
    #[arg(long, value_name = "FILE")]
    pub(crate) like: Option<PathBuf>,
    /// Model, size, device
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// How prompts are read
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Layers of the text encoder counted from its end, the first being 1: 2 leaves out the last layer. AUTOMATIC1111's and ComfyUI's
    /// number; diffusers' is one less. SDXL models are counted from the last layer but one [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) clip_skip: Option<u16>,
    /// What to steer away from; SDXL models tell an empty text from none
    #[arg(long, short = 'n', value_name = "TEXT")]
    pub(crate) negative: Option<String>,
    /// SDXL: what the second text encoder reads [default: the prompt]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt_2: Option<String>,
    /// SDXL: what the second text encoder reads in place of --negative [default: --negative]
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_2: Option<String>,
    /// SDXL: size that the picture is said to have had before cropping [default: its own]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = pair('x'))]
    pub(crate) original_size: Option<Pair>,
    /// SDXL: where the picture is said to have been cropped [default: 0,0]
    #[arg(long, value_name = "LEFT,TOP", value_parser = pair(','))]
    pub(crate) crop: Option<Pair>,
    /// SDXL: size that the picture is said to have after cropping [default: its own]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = pair('x'))]
    pub(crate) target_size: Option<Pair>,
    /// SDXL's refiner: aesthetic score that it is told of the picture, 0 to 10 [default: 6]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub(crate) aesthetic_score: Option<f64>,
    /// The same for the negative prompt [default: 2.5]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub(crate) negative_aesthetic_score: Option<f64>,
    /// Where --refiner takes over, as a share of the noise schedule from 0 to 1 [default: 0.8]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) refiner_start: Option<f64>,
    /// Prompt for the OMS module alone [default: the prompt]
    #[arg(long, value_name = "TEXT")]
    pub(crate) oms_prompt: Option<String>,
    /// What the OMS module steers away from, where --oms-guidance is not 1
    #[arg(long, value_name = "TEXT")]
    pub(crate) oms_negative: Option<String>,
    /// How much of the noise the OMS step draws afresh: 0 is the paper's eq. 20 with the initial noise alone, 1 its eq. 17 [default: 0]
    #[arg(long, value_name = "ETA", allow_negative_numbers = true, conflicts_with = "oms_compat")]
    pub(crate) oms_eta: Option<f64>,
    /// Do the OMS step as its authors' code does, not as the paper says
    #[arg(long)]
    pub(crate) oms_compat: bool,
    /// Schedule and guidance
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// What is left out of the UNet's work
    #[command(flatten)]
    pub(crate) shortcuts: ShortcutArgs,
    /// Noise
    #[command(flatten)]
    pub(crate) noise: NoiseArgs,
    /// Start picture and second pass
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// ControlNets
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    /// Draw each seed without and with OMS, side by side in one labelled PNG
    #[arg(long)]
    pub(crate) compare: bool,
    /// File that ends in .png, .jpg or .webp, folder that ends in "/", or - for standard output [default: a free name made from the prompt]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the output file if it exists
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Show the picture, of several the first, with the system's own program when all are there
    #[arg(long)]
    pub(crate) open: bool,
    /// Show the pictures in the terminal when they are drawn
    #[arg(long, value_enum, value_name = "HOW", default_value_t = ShowArg::Auto)]
    pub(crate) show: ShowArg,
    /// Nothing on standard error but errors and warnings
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
}

/// Options of the noise schedule and of guidance.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Schedule and guidance")]
pub(crate) struct SamplingArgs {
    /// What a distilled model was made for: sampler, spacing, steps and guidance, as far as none is typed
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) preset: Option<Preset>,
    /// Where the noise levels lie: normal, karras, exponential, sgm_uniform, simple, beta, kl_optimal, align_your_steps; `chiaro samplers`
    /// describes them [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) sigmas: Option<SigmaSchedule>,
    /// Which timesteps are visited [default: the model's own, or the sampler's]
    #[arg(long, value_name = "leading|linspace|trailing")]
    pub(crate) spacing: Option<TimestepSpacing>,
    /// The curve of beta, for experiments: a network was trained with one [default: the model's own]
    #[arg(long, value_enum, value_name = "CURVE")]
    pub(crate) betas: Option<BetasArg>,
    /// Rescale the betas so that the first step starts from noise alone (zero terminal SNR); for v-predicting models trained so, with
    /// --spacing trailing
    #[arg(long)]
    pub(crate) zero_snr: bool,
    /// Give the guided output the deviation of the unguided one, 0 (off) to 1; 0.7 goes with --zero-snr [default: 0]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub(crate) guidance_rescale: Option<f64>,
    /// Clip the predicted picture at this share of its values (dynamic thresholding), such as 0.995; for models that draw pixels
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) dynamic_thresholding: Option<f64>,
    /// How much noise a stochastic sampler adds at each step, from 0 to 1 [default: ddim 0, tcd 0.3, the others 1]
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    pub(crate) eta: Option<f64>,
}

/// Options of seeds and noise.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Seeds")]
pub(crate) struct NoiseArgs {
    /// Seed of the first picture; the i-th further one has seed + i. random (or -1) draws one, which is printed and kept in the picture
    /// [default: 0]
    #[arg(long, value_name = "N|random", allow_negative_numbers = true)]
    pub(crate) seed: Option<SeedArg>,
    /// Whose random numbers a seed gives: torch (diffusers, and AUTOMATIC1111 with source CPU), a1111 (with source GPU), comfy
    /// [default: torch]
    #[arg(long, value_name = "NAME")]
    pub(crate) rng: Option<RngKind>,
    /// Added to the seed for every draw after the first noise (AUTOMATIC1111's ENSD) [default: 0, the first generator goes on]
    #[arg(long, value_name = "N", visible_alias = "ensd")]
    pub(crate) noise_seed_delta: Option<u64>,
    /// Seed towards which the first noise goes by --variation-strength; random (or -1) draws one [default: 0]
    #[arg(long, value_name = "N|random", requires = "variation_strength", allow_negative_numbers = true)]
    pub(crate) variation_seed: Option<SeedArg>,
    /// How far, from 0 to 1
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) variation_strength: Option<f64>,
    /// Weight of an offset common to all pixels of a channel in the first noise, 0 (off) to 1 [default: 0]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub(crate) offset_noise: Option<f64>,
    /// Pictures to draw [default: 1]
    #[arg(long, short = 'c', value_name = "N")]
    pub(crate) count: Option<usize>,
    /// Pictures drawn together in one forward of the network: faster on large GPUs, takes more memory [default: 1]
    #[arg(long, short = 'b', value_name = "N")]
    pub(crate) batch: Option<usize>,
}

/// Options of the picture to start from, and of the second pass.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Start picture, repainting, second pass")]
pub(crate) struct StartArgs {
    /// Picture to start from (PNG, JPEG, WebP); cropped in the middle and scaled to the size asked for [default size: its own, or with its
    /// proportions as many pixels as the model was made for, where it has far more]
    #[arg(long, short = 'i', value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Picture that is white where --image is repainted and black where it is kept; one with transparent parts repaints where it is opaque,
    /// whatever its colours
    #[arg(long, value_name = "FILE", requires = "image")]
    pub(crate) mask: Option<PathBuf>,
    /// Put the pixels of --image back where --mask keeps them, so that they do not change in any bit [default: on; off with models that were
    /// made for inpainting]
    #[arg(long, value_name = "on|off", requires = "mask", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) paste_back: Option<bool>,
    /// How strongly --image steers a model that changes it as the prompt instructs (InstructPix2Pix), at least 1 [default: 1.5]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true, requires = "image")]
    pub(crate) image_guidance: Option<f64>,
    /// How much of --image is drawn anew: towards 0 nothing, 1 all [default: 0.75]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, requires = "image")]
    pub(crate) strength: Option<f64>,
    /// Draw the picture again, this many times as large (hires fix), such as 2
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub(crate) hires: Option<f64>,
    /// How much the second pass draws anew [default: 0.7]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) hires_strength: Option<f64>,
    /// Steps of the second pass, before --hires-strength leaves some out [default: --steps]
    #[arg(long, value_name = "N")]
    pub(crate) hires_steps: Option<usize>,
    /// What is enlarged for the second pass [default: latent]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) hires_upscale: Option<UpscaleArg>,
}

/// [`BetaSchedule`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BetasArg {
    /// Stable Diffusion's
    ScaledLinear,
    /// DDPM's
    Linear,
    /// Improved DDPM's
    Cosine,
}

impl From<BetasArg> for BetaSchedule {
    fn from(arg: BetasArg) -> Self {
        match arg {
            BetasArg::ScaledLinear => BetaSchedule::ScaledLinear,
            BetasArg::Linear => BetaSchedule::Linear,
            BetasArg::Cosine => BetaSchedule::SquaredcosCapV2,
        }
    }
}

/// [`Upscale`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpscaleArg {
    /// the latents, bilinear
    Latent,
    /// the decoded picture, Lanczos
    Image,
}

impl From<UpscaleArg> for Upscale {
    fn from(arg: UpscaleArg) -> Self {
        match arg {
            UpscaleArg::Latent => Upscale::Latent,
            UpscaleArg::Image => Upscale::Image,
        }
    }
}

/// Two numbers, across and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Width, or pixels from the left.
    pub(crate) across: usize,
    /// Height, or pixels from the top.
    pub(crate) down: usize,
}

impl Pair {
    /// In the order of diffusers: (height, width) or (top, left).
    pub(super) fn down_across(self) -> (usize, usize) {
        (self.down, self.across)
    }
}

/// Reads two numbers with `sign` between them.
pub(super) fn pair(sign: char) -> impl Fn(&str) -> Result<Pair, String> + Clone + Send + Sync + 'static {
    move |text: &str| {
        let numbers = text.split_once(sign).and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        let (across, down) = numbers.ok_or_else(|| format!("expected two numbers as in 1024{sign}768"))?;
        Ok(Pair { across, down })
    }
}
