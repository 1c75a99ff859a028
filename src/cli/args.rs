//! What can be typed. Each option is one field here and one field of the request that it becomes.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::pipeline::Precision;
use crate::sampling::SolverKind;

/// Pictures from text with Stable Diffusion and One More Step, on any GPU and on none.
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
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses arguments as the process gets them. What does not begin with a command is `generate`.
    pub fn parse_implied(mut arguments: Vec<OsString>) -> Cli {
        let known = Cli::command();
        let begins_with_command = arguments.get(1).is_none_or(|first| {
            let first = first.to_string_lossy();
            matches!(&*first, "help" | "-h" | "--help" | "-V" | "--version") || known.find_subcommand(&*first).is_some()
        });
        if !begins_with_command {
            arguments.insert(1, "generate".into());
        }
        Cli::parse_from(arguments)
    }
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Draw pictures from a prompt; the command when only a prompt is given
    Generate(GenerateArgs),
    /// List the graphics adapters with their limits and features.
    Devices(DevicesArgs),
    /// Print the work and the peak memory of each stage, without running anything.
    Plan(PlanArgs),
    /// Print what noise schedules leave of a picture in the last step: Table 1 of the paper, recomputed
    Schedule(ScheduleArgs),
    /// Draw a list of prompts without and with OMS, compare the pictures' brightness, and write a report
    Study(StudyArgs),
}

/// Which model, on what, at which size: shared by generate and plan.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Folder of a Stable Diffusion model in the diffusers layout [default: the demo model in this program]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// One More Step: a module's folder, "demo", or "off" [default: demo with the demo model, else off]
    #[arg(long, value_name = "DIR|demo|off")]
    pub oms: Option<String>,
    /// Folder with the text_encoder/ and tokenizer/ that the OMS module was trained with, where its own files only point to a
    /// place that is not here
    #[arg(long, value_name = "DIR")]
    pub oms_text_encoder: Option<PathBuf>,
    /// Width in pixels, a multiple of 8 [default: the model's own]
    #[arg(long, short = 'W', value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Height in pixels, a multiple of 8 [default: the model's own]
    #[arg(long, short = 'H', value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Steps of the sampler [default: 30; 4 with lcm]
    #[arg(long, short = 's', value_name = "N")]
    pub steps: Option<usize>,
    /// How strongly the prompt steers (classifier-free guidance); 1 turns guidance off [default: 7.5]
    #[arg(long, short = 'g', value_name = "WEIGHT", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// Solver of the sampling equation: ddim, euler or lcm [default: the model's own, or ddim]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<SolverKind>,
    /// Weight of the OMS prompt; at 1 the module does not run on the empty prompt too [default: 1; 1.25 with the demo module]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub oms_guidance: Option<f64>,
    /// Where to compute: auto (discrete GPU, then integrated, then the processor), cpu, or an adapter's index or part of its name
    /// as `chiaro devices` lists them
    #[arg(long, short = 'd', value_name = "auto|cpu|NAME|INDEX", default_value = "auto")]
    pub device: String,
    /// Storage of activations; auto takes f16 where the device has it and redoes a stage in f32 if it overflows
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub precision: PrecisionArg,
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Options of `generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What to draw
    #[arg(value_name = "PROMPT")]
    pub prompt: String,
    /// Model, size, device
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to steer away from
    #[arg(long, short = 'n', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,
    /// Prompt for the OMS module alone [default: the prompt]
    #[arg(long, value_name = "TEXT")]
    pub oms_prompt: Option<String>,
    /// Do the OMS step as its authors' code does, not as the paper's eq. 20 says
    #[arg(long)]
    pub oms_compat: bool,
    /// Noise that DDIM adds at each step, from 0 (none) to 1
    #[arg(long, value_name = "ETA", default_value_t = 0.0, allow_negative_numbers = true)]
    pub eta: f64,
    /// Seed of the first picture; the i-th further one has seed + i
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Pictures to draw
    #[arg(long, short = 'c', value_name = "N", default_value_t = 1)]
    pub count: usize,
    /// Draw each seed without and with OMS, side by side in one labelled PNG
    #[arg(long)]
    pub compare: bool,
    /// PNG file, or folder ending in "/" [default: a free name made from the prompt]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the output file if it exists
    #[arg(long)]
    pub overwrite: bool,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// Options of `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Model, size, device
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Options of `devices`.
#[derive(Debug, Clone, Args)]
pub struct DevicesArgs {
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Options of `schedule`.
#[derive(Debug, Clone, Args)]
pub struct ScheduleArgs {
    /// Also the schedule of a model in the diffusers layout, or "demo"
    #[arg(long, value_name = "DIR|demo")]
    pub model: Option<PathBuf>,
    /// Draw log-SNR over the timesteps into a .png or .svg file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Replace the plot's file if it exists
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Options of `study`.
#[derive(Debug, Clone, Args)]
pub struct StudyArgs {
    /// Text file with one prompt a line; lines that begin with # are left out
    #[arg(value_name = "PROMPTS.txt")]
    pub prompts: PathBuf,
    /// Folder of the study; one that was stopped goes on where it stood
    #[arg(long, short = 'o', value_name = "DIR")]
    pub output: PathBuf,
    /// Model, size, device
    #[command(flatten)]
    pub model: ModelArgs,
    /// Pictures of each prompt, without and with OMS
    #[arg(long, short = 'c', value_name = "N", default_value_t = 1)]
    pub count: usize,
    /// Seed of the first picture; every further picture has the next one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What to steer away from
    #[arg(long, short = 'n', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub negative: String,
    /// Noise that DDIM adds at each step, from 0 (none) to 1
    #[arg(long, value_name = "ETA", default_value_t = 0.0, allow_negative_numbers = true)]
    pub eta: f64,
    /// Compare with these: a folder of PNG pictures, or a CSV file with a column mean_255
    #[arg(long, value_name = "DIR|CSV")]
    pub reference: Option<PathBuf>,
    /// Draw a grid over these prompts of the module
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub oms_prompts: Vec<String>,
    /// Draw a grid over these weights of the module's prompt
    #[arg(long, value_name = "WEIGHT", num_args = 1.., allow_negative_numbers = true)]
    pub oms_guidances: Vec<f64>,
    /// Prompts of the grids' rows [default: the first three of the file]
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub grid_prompts: Vec<String>,
    /// Only say how many pictures there are and how much work is left
    #[arg(long)]
    pub dry_run: bool,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// [`Precision`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
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
