//! What can be typed. Each option is one field here and one field of the request that it becomes.

use std::path::PathBuf;

use chiaro::pipeline::{Precision, PromptSyntax, Streaming, VaeTiling, WeightTypes};
use chiaro::sampling::{PredictionType, Sampler};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::control::ControlArgs;
use super::device_args::{DevicesArgs, DoctorArgs, ProfileArgs, TuneArgs};
use super::generate_args::{GenerateArgs, Pair, pair};
use super::lora::LoraArg;
use super::memory_size::MemorySize;
use super::pages::{CompletionsArgs, ManualArgs};
use super::pull_args::PullArgs;
use super::serve_args::ServeArgs;
use super::shortcut_args::ShortcutArgs;

/// Pictures from text: Stable Diffusion with One More Step, on any GPU and on none.
///
/// Without --model, a small demo model inside this program draws simple shapes and scenes.
#[derive(Debug, Parser)]
#[command(name = "chiaro", version, arg_required_else_help = true, subcommand_required = true)]
#[command(override_usage = "chiaro [OPTIONS] <PROMPT>\n       chiaro <COMMAND> [OPTIONS]")]
#[command(
    after_help = "Examples:\n  chiaro \"a red circle on a black background\"\n  chiaro \"a solid black image\" --compare\n  \
                        chiaro \"a lighthouse at night\" --model ./stable-diffusion-v1-5 --oms ./oms_b_openclip_15_21 --device 0\n  \
                        chiaro plan --model ./stable-diffusion-v1-5 --width 512 --height 512\n\n\
                        Exit codes: 0 done, 1 failed, 2 the command line or the request was wrong."
)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw pictures from a prompt; the command when only a prompt is given
    Generate(Box<GenerateArgs>),
    /// List the samplers and the sigma schedules
    Samplers(SamplersArgs),
    /// Show which tokens of a prompt are kept, with which weight and in which chunk
    Tokens(TokensArgs),
    /// Say what a model's folder or file is: family, networks, what is missing, what memory it takes
    Inspect(InspectArgs),
    /// List the models that --model, --oms and others find by name, and what they are
    Models(ModelsArgs),
    /// List the graphics adapters with their limits and features
    Devices(DevicesArgs),
    /// Try what each graphics adapter and its driver get right, and keep that for later runs; the report can be pasted into an issue
    Doctor(DoctorArgs),
    /// Print the work and the peak memory of each stage, without running anything
    Plan(Box<PlanArgs>),
    /// Time each kernel of one stage, against what the device could reach
    Profile(Box<ProfileArgs>),
    /// Measure which tiles of the matrix kernels are fastest on a GPU, and keep that for later runs
    Tune(Box<TuneArgs>),
    /// Download a model, or one file of it, from the Hugging Face hub into its cache, from where --model finds it by name
    Pull(PullArgs),
    /// Serve pictures to other programs on this machine, as AUTOMATIC1111's and OpenAI's servers do, and a page to browsers
    Serve(Box<ServeArgs>),
    /// Print what noise schedules leave of a picture in the last step: Table 1 of the paper, recomputed
    Schedule(ScheduleArgs),
    /// Draw a list of prompts without and with OMS, compare the pictures' brightness, and write a report
    Study(Box<StudyArgs>),
    /// Print what completes this command's words in a shell
    Completions(CompletionsArgs),
    /// Print the manual's page of the program, or of a command, for `man`
    Manual(ManualArgs),
}

/// Which model, on what, at which size: shared by generate and plan.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[arg(long)]
    pub(crate) vae: Option<String>,
    #[arg(long)]
    pub(crate) unet: Option<String>,
    #[arg(long)]
    pub(crate) text_encoder: Option<String>,
    /// Write how the picture stands every N steps, to the output's name with .preview.png, until the picture is there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) preview: Option<u16>,
    #[arg(long, requires = "preview")]
    pub(crate) preview_vae: Option<String>,
    #[arg(long)]
    pub(crate) refiner: Option<String>,
    #[arg(long, value_enum)]
    pub(crate) prediction: Option<PredictionArg>,
    #[arg(long)]
    pub(crate) oms: Option<String>,
    #[arg(long)]
    pub(crate) oms_text_encoder: Option<String>,
    #[arg(long)]
    pub(crate) lora: Vec<LoraArg>,
    #[arg(long)]
    pub(crate) lora_dir: Option<PathBuf>,
    #[arg(long)]
    pub(crate) embedding: Vec<PathBuf>,
    #[arg(long, short = 'W')]
    pub(crate) width: Option<usize>,
    #[arg(long, short = 'H')]
    pub(crate) height: Option<usize>,
    /// Both, as other programs take them
    #[arg(long, hide = true, value_name = "WIDTHxHEIGHT", value_parser = pair('x'))]
    pub(crate) size: Option<Pair>,
    #[arg(long, short = 's')]
    pub(crate) steps: Option<usize>,
    #[arg(long, short = 'g', allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    #[arg(long)]
    pub(crate) sampler: Option<Sampler>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) oms_guidance: Option<f64>,
    #[arg(long, short = 'd', default_value = "auto")]
    pub(crate) device: String,
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub(crate) precision: PrecisionArg,
    #[arg(long)]
    pub(crate) weights: Option<WeightTypes>,
    #[arg(long)]
    pub(crate) vram: Option<MemorySize>,
    #[arg(long, default_value = "auto")]
    pub(crate) vae_tiling: VaeTiling,
    #[arg(long, value_enum, default_value_t = StreamingArg::Auto)]
    pub(crate) stream_weights: StreamingArg,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// How prompts are read: shared by generate and tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadingArgs {
    #[arg(long)]
    pub(crate) prompt_syntax: Option<PromptSyntax>,
    #[arg(long)]
    pub(crate) comma_backtrack: Option<usize>,
}

/// Options of `tokens`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokensArgs {
    /// What to take apart
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: String,
    /// Stable Diffusion model: a folder in the diffusers layout, a single .safetensors, .gguf or .ckpt file as AUTOMATIC1111, ComfyUI and
    /// stable-diffusion.cpp use them, or its
    /// name in the folders of CHIARO_MODELS or in the Hugging Face cache [default: the demo model in this program]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) model: Option<String>,
    /// SDXL: what the second text encoder reads [default: the prompt]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt_2: Option<String>,
    /// Textual inversion embedding (.safetensors) that its file's name, or its token, in the prompt stands for
    #[arg(long, value_name = "FILE")]
    pub(crate) embedding: Vec<PathBuf>,
    /// How the prompt is read
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Steps, for prompts that change over them [default: 30]
    #[arg(long, short = 's', value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    /// Model, size, device
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// ControlNets; their pictures are not needed
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    /// What is left out of the UNet's work
    #[command(flatten)]
    pub(crate) shortcuts: ShortcutArgs,
}

/// Options of `samplers`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SamplersArgs {
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `models`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "CHIARO_MODELS lists folders of models, ComfyUI's and AUTOMATIC1111's too; HF_HOME or HF_HUB_CACHE say where the hub's cache is."
)]
pub(crate) struct ModelsArgs {
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `inspect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// A folder in the diffusers layout, one component's folder, a .safetensors, .gguf, .ckpt, .pt or .bin file, or a model's name
    #[arg(value_name = "DIR|FILE|NAME")]
    pub(crate) name: String,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `schedule`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScheduleArgs {
    /// Also the schedule of a model in the diffusers layout, or "demo"
    #[arg(long, value_name = "DIR|NAME|demo")]
    pub(crate) model: Option<String>,
    /// Draw log-SNR over the timesteps into a .png or .svg file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Replace the plot's file if it exists
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `study`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StudyArgs {
    /// Text file with one prompt a line; lines that begin with # are left out
    #[arg(value_name = "PROMPTS.txt")]
    pub(crate) prompts: PathBuf,
    /// Folder of the study; one that was stopped goes on where it stood
    #[arg(long, short = 'o', value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Model, size, device
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Pictures of each prompt, without and with OMS
    #[arg(long, short = 'c', value_name = "N", default_value_t = 1)]
    pub(crate) count: usize,
    /// Seed of the first picture; every further picture has the next one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What to steer away from
    #[arg(long, short = 'n', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) negative: String,
    /// How much noise a stochastic sampler adds at each step, from 0 to 1 [default: ddim 0, tcd 0.3, the others 1]
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    pub(crate) eta: Option<f64>,
    /// Compare with these: a folder of PNG, JPEG or WebP pictures, or a CSV file with a column mean_255
    #[arg(long, value_name = "DIR|CSV")]
    pub(crate) reference: Option<PathBuf>,
    /// Draw a grid over these prompts of the module
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub(crate) oms_prompts: Vec<String>,
    /// Draw a grid over these weights of the module's prompt
    #[arg(long, value_name = "WEIGHT", num_args = 1.., allow_negative_numbers = true)]
    pub(crate) oms_guidances: Vec<f64>,
    /// Prompts of the grids' rows [default: the first three of the file]
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub(crate) grid_prompts: Vec<String>,
    /// Only say how many pictures there are and how much work is left
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
}

/// [`PredictionType`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PredictionArg {
    /// the noise
    Epsilon,
    /// the velocity
    V,
    /// the picture
    Sample,
}

impl From<PredictionArg> for PredictionType {
    fn from(arg: PredictionArg) -> Self {
        match arg {
            PredictionArg::Epsilon => PredictionType::Epsilon,
            PredictionArg::V => PredictionType::VPrediction,
            PredictionArg::Sample => PredictionType::Sample,
        }
    }
}

/// [`Streaming`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamingArg {
    /// where --vram asks for it
    Auto,
    /// rather than make weights smaller
    On,
    /// never
    Off,
}

impl From<StreamingArg> for Streaming {
    fn from(arg: StreamingArg) -> Self {
        match arg {
            StreamingArg::Auto => Streaming::Auto,
            StreamingArg::On => Streaming::On,
            StreamingArg::Off => Streaming::Off,
        }
    }
}

/// [`Precision`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// f16 where the device has it
    Auto,
    /// half precision (GPUs)
    F16,
    /// products of bf16 with f32 sums (processors that have them)
    Bf16,
    /// single precision
    F32,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::Auto => Precision::Auto,
            PrecisionArg::F16 => Precision::F16,
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::F32 => Precision::F32,
        }
    }
}
