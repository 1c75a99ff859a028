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
    /// Stable Diffusion model: a folder in the diffusers layout, a single .safetensors, .gguf or .ckpt file as AUTOMATIC1111, ComfyUI and
    /// stable-diffusion.cpp use them, or its
    /// name in the folders of CHIARO_MODELS or in the Hugging Face cache [default: the demo model in this program]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) model: Option<String>,
    /// Another autoencoder: a folder, or a single file that has one; also a tiny one (TAESD, TAESDXL)
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) vae: Option<String>,
    /// Another UNet: a folder, or a single file that has one
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) unet: Option<String>,
    /// The text encoders and tokenizers of another model: a folder, or a single file
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) text_encoder: Option<String>,
    /// Write how the picture stands every N steps, to the output's name with .preview.png, until the picture is there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) preview: Option<u16>,
    /// Autoencoder of --preview, such as TAESD: a folder, or a single file [default: the model's own, which is slower and larger]
    #[arg(long, value_name = "DIR|FILE|NAME", requires = "preview")]
    pub(crate) preview_vae: Option<String>,
    /// A model of the same family that draws the last steps, such as SDXL's refiner: a folder, or a single file
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) refiner: Option<String>,
    /// What the network predicts, where a single file of Stable Diffusion 2.x does not say [default: the model's own; v for 2.x files]
    #[arg(long, value_enum)]
    pub(crate) prediction: Option<PredictionArg>,
    /// One More Step: a module's folder or name, "demo", or "off" [default: demo with the demo model, else off]
    #[arg(long, value_name = "DIR|NAME|demo|off")]
    pub(crate) oms: Option<String>,
    /// Folder, or a model's name, with the text_encoder/ and tokenizer/ that the OMS module was trained with, where its own files only point
    /// to a place that is not here
    #[arg(long, value_name = "DIR|NAME")]
    pub(crate) oms_text_encoder: Option<String>,
    /// LoRA (also LoCon, LoHa, LoKr, DoRA) that changes the model, with its weight; may be given several times [default weight: 1]
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub(crate) lora: Vec<LoraArg>,
    /// Folder where <lora:NAME:WEIGHT> in a prompt finds NAME.safetensors (or .pt, .ckpt, .gguf)
    #[arg(long, value_name = "DIR")]
    pub(crate) lora_dir: Option<PathBuf>,
    /// Textual inversion embedding (.safetensors) that its file's name, or its token, in a prompt stands for; may be given several times. Those
    /// in the folder embeddings/ of CHIARO_MODELS are found by their names
    #[arg(long, value_name = "FILE")]
    pub(crate) embedding: Vec<PathBuf>,
    /// Embeddings whose names are in the prompts
    #[arg(skip)]
    pub(crate) found_embeddings: Vec<PathBuf>,
    /// ControlNets, which have options of their own where a command takes them
    #[arg(skip)]
    pub(crate) controls: Vec<PathBuf>,
    /// Width in pixels, a multiple of 8 [default: the model's own]
    #[arg(long, short = 'W', value_name = "PIXELS")]
    pub(crate) width: Option<usize>,
    /// Height in pixels, a multiple of 8 [default: the model's own]
    #[arg(long, short = 'H', value_name = "PIXELS")]
    pub(crate) height: Option<usize>,
    /// Both, as other programs take them
    #[arg(long, hide = true, value_name = "WIDTHxHEIGHT", value_parser = pair('x'))]
    pub(crate) size: Option<Pair>,
    /// Steps of the sampler [default: 30; 4 with lcm and tcd]
    #[arg(long, short = 's', value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// How strongly the prompt steers (classifier-free guidance); 1 turns guidance off [default: 7.5]
    #[arg(long, short = 'g', value_name = "WEIGHT", allow_negative_numbers = true)]
    pub(crate) guidance: Option<f64>,
    /// Solver of the sampling equation, as diffusers, ComfyUI or AUTOMATIC1111 name it: "dpmpp_2m", "DPM++ 2M Karras"; `chiaro samplers`
    /// lists them [default: the model's own, or ddim]
    #[arg(long, value_name = "NAME")]
    pub(crate) sampler: Option<Sampler>,
    /// Weight of the OMS prompt; at 1 the module does not run on its negative prompt too [default: 1; 1.25 with the demo module]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub(crate) oms_guidance: Option<f64>,
    /// Where to compute: auto (discrete GPU, then integrated, then the processor; what does not open, or was found wrong by `chiaro doctor`, is
    /// passed over), cpu, vulkan, metal or dx12 (the best GPU by that way), or an adapter's index or part of its name as `chiaro devices` lists
    /// them
    #[arg(long, short = 'd', value_name = "auto|cpu|vulkan|metal|dx12|NAME|INDEX", default_value = "auto")]
    pub(crate) device: String,
    /// Storage of activations; auto takes f16 where the device has it and redoes a stage in f32 if it overflows
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub(crate) precision: PrecisionArg,
    /// How weights are stored on the device: auto (as activations are), f16, or blocks of 32 with one scale, made while loading: q8_0
    /// (half of f16) and q4_0 (a quarter); parts by themselves as in text=f16,unet=q4_0,oms=q8_0 [default: auto]
    #[arg(long, value_name = "TYPE")]
    pub(crate) weights: Option<WeightTypes>,
    /// The most device memory that a stage may take, as 4GB or 1500MiB: chooses the best weights that fit, where --weights does not, and streams
    /// what does not fit (--stream-weights)
    #[arg(long, value_name = "SIZE")]
    pub(crate) vram: Option<MemorySize>,
    /// Decode and encode pictures in bands (other programs say tiles): less device memory, the same picture without seams, more time and
    /// main memory; auto does so where the whole does not fit --vram or the device
    #[arg(long, value_name = "auto|on|off", default_value = "auto")]
    pub(crate) vae_tiling: VaeTiling,
    /// Move weights of UNet, OMS module and text encoders to the device in every step, block by block, instead of keeping them there: auto (where
    /// --vram asks for it, before weights become q4_0), on (rather than make weights smaller; without --vram all of them), off. The picture
    /// is the same, only slower
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = StreamingArg::Auto)]
    pub(crate) stream_weights: StreamingArg,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Brackets in a doc comment would be links.
const SYNTAX_HELP: &str = "Which marks in prompts mean something. a1111: (a) (a:1.2) [b] BREAK [from:to:when] [a|b], escapes, chunks of 75 \
                           tokens. comfy: (a) (a:1.2), escapes, chunks. plain: none, cut after 75 tokens, as in diffusers [default: a1111]";

/// How prompts are read: shared by generate and tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReadingArgs {
    /// Which marks in prompts mean something.
    #[arg(long, value_name = "a1111|comfy|plain", help = SYNTAX_HELP)]
    pub(crate) prompt_syntax: Option<PromptSyntax>,
    /// a1111: a full chunk ends at a comma if there is one among its last N tokens; 0 fills every chunk [default: 20]
    #[arg(long, value_name = "N")]
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

impl From<PredictionType> for PredictionArg {
    fn from(prediction: PredictionType) -> Self {
        match prediction {
            PredictionType::Epsilon => PredictionArg::Epsilon,
            PredictionType::VPrediction => PredictionArg::V,
            PredictionType::Sample => PredictionArg::Sample,
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
    /// half precision
    F16,
    /// single precision
    F32,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::Auto => Precision::Auto,
            PrecisionArg::F16 => Precision::F16,
            PrecisionArg::F32 => Precision::F32,
        }
    }
}
