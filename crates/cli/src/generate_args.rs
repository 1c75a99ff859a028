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
    #[arg(value_name = "PROMPT", required_unless_present_any = ["like", "prompt", "job"], num_args = 1..)]
    pub(crate) words: Vec<String>,
    /// What to draw, as other programs take it; the words together, when they are read
    #[arg(long, short = 'p', hide = true, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    #[arg(long)]
    pub(crate) like: Option<PathBuf>,
    /// Draw what a job says: a JSON file, or - for standard input; other options replace what it says. docs/OPTIONS.md has its fields
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Print what was typed as a job for --job, and draw nothing
    #[arg(long)]
    pub(crate) print_job: bool,
    /// Model, size, device
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// How prompts are read
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) clip_skip: Option<u16>,
    #[arg(long, short = 'n')]
    pub(crate) negative: Option<String>,
    #[arg(long)]
    pub(crate) prompt_2: Option<String>,
    #[arg(long)]
    pub(crate) negative_2: Option<String>,
    #[arg(long, value_parser = pair('x'))]
    pub(crate) original_size: Option<Pair>,
    #[arg(long, value_parser = pair(','))]
    pub(crate) crop: Option<Pair>,
    #[arg(long, value_parser = pair('x'))]
    pub(crate) target_size: Option<Pair>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) aesthetic_score: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) negative_aesthetic_score: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) refiner_start: Option<f64>,
    #[arg(long)]
    pub(crate) oms_prompt: Option<String>,
    #[arg(long)]
    pub(crate) oms_negative: Option<String>,
    #[arg(long, allow_negative_numbers = true, conflicts_with = "oms_compat")]
    pub(crate) oms_eta: Option<f64>,
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
    #[arg(long, value_enum)]
    pub(crate) preset: Option<Preset>,
    #[arg(long)]
    pub(crate) sigmas: Option<SigmaSchedule>,
    #[arg(long)]
    pub(crate) spacing: Option<TimestepSpacing>,
    #[arg(long, value_enum)]
    pub(crate) betas: Option<BetasArg>,
    #[arg(long)]
    pub(crate) zero_snr: bool,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) guidance_rescale: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) dynamic_thresholding: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) eta: Option<f64>,
}

/// Options of seeds and noise.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Seeds")]
pub(crate) struct NoiseArgs {
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) seed: Option<SeedArg>,
    #[arg(long)]
    pub(crate) rng: Option<RngKind>,
    #[arg(long, visible_alias = "ensd")]
    pub(crate) noise_seed_delta: Option<u64>,
    #[arg(long, requires = "variation_strength", allow_negative_numbers = true)]
    pub(crate) variation_seed: Option<SeedArg>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) variation_strength: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) offset_noise: Option<f64>,
    #[arg(long, short = 'c')]
    pub(crate) count: Option<usize>,
    #[arg(long, short = 'b')]
    pub(crate) batch: Option<usize>,
}

/// Options of the picture to start from, and of the second pass.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Start picture, repainting, second pass")]
pub(crate) struct StartArgs {
    #[arg(long, short = 'i')]
    pub(crate) image: Option<PathBuf>,
    #[arg(long, requires = "image")]
    pub(crate) mask: Option<PathBuf>,
    #[arg(long, requires = "mask", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) paste_back: Option<bool>,
    #[arg(long, allow_negative_numbers = true, requires = "image")]
    pub(crate) image_guidance: Option<f64>,
    #[arg(long, allow_negative_numbers = true, requires = "image")]
    pub(crate) strength: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) hires: Option<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) hires_strength: Option<f64>,
    #[arg(long)]
    pub(crate) hires_steps: Option<usize>,
    #[arg(long, value_enum)]
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
