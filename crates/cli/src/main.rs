//! The command: parses, asks the pipeline, prints. No maths here.

mod aliases;
mod args;
mod compose;
mod config;
mod control;
mod device_args;
mod devices;
mod doctor;
mod generate;
mod generate_args;
mod help;
mod inspect;
mod interrupt;
mod lora;
mod memory_size;
mod mesa;
mod models;
mod output;
mod pages;
mod plan;
mod preset;
mod preview;
mod profile;
mod progress;
#[cfg(feature = "pull")]
mod pull;
mod pull_args;
mod refusal;
mod remedies;
mod report;
mod samplers;
mod schedule;
mod seed;
mod shortcut_args;
mod show;
mod shown;
mod start;
mod study;
mod tokens;
mod tune;
mod typed;
mod unused;
mod viewer;

use std::path::PathBuf;
use std::process::ExitCode;

use chiaro::pipeline::{
    Device, Embedding, OmsRequest, OmsSource, Overrides, Pipeline, Request, Source, TooLarge, hash_file,
};
use chiaro::{Error, ErrorCode, Result};

use args::{
    Cli, Command, InspectArgs, ModelArgs, ModelsArgs, PlanArgs, PrecisionArg, ReadingArgs, SamplersArgs, ScheduleArgs,
    StudyArgs, TokensArgs,
};
use control::ControlArgs;
use device_args::{DevicesArgs, DoctorArgs, ProfileArgs, TuneArgs};
use generate_args::GenerateArgs;
use lora::LoraArg;
use memory_size::MemorySize;
use pull_args::PullArgs;
use seed::SeedArg;
use shortcut_args::ShortcutArgs;
use show::ShowArg;

/// The name of the model, and of the module, inside the program.
const DEMO: &str = "demo";

/// Parses the process's arguments, does what they say and gives the exit code. For the beginning of a program: it may change the environment.
fn main() -> ExitCode {
    mesa::hush();
    let cli = match typed::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(answer) => return answer.tell(),
    };
    let done = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Samplers(args) => samplers::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Completions(args) => pages::completions(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Manual(args) => pages::manual(&args),
        Command::Models(args) => models::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Pull(args) => pull(&args),
        Command::Schedule(args) => schedule::run(&args),
        Command::Study(args) => study::run(&args),
        Command::Tune(args) => tune::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has gone: nothing is left to say, and no one to say it to.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            progress::tell(&format!("chiaro: {}", remedies::told(&error)));
            if error.code() == ErrorCode::Request { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(feature = "pull")]
fn pull(args: &PullArgs) -> Result<()> {
    pull::run(args)
}

#[cfg(not(feature = "pull"))]
fn pull(_args: &PullArgs) -> Result<()> {
    Err(Error::refused(
        "pull: this program was built without network code; `cargo install --path crates/cli --features pull` builds it with it",
    ))
}

impl ModelArgs {
    /// The model's files.
    fn source(&self) -> Result<Source> {
        model_source(self.model.as_deref())
    }

    /// What replaces parts of the model.
    fn overrides(&self) -> Result<Overrides> {
        let find = |name: &Option<String>| name.as_deref().map(models::find).transpose();
        Ok(Overrides {
            unet: find(&self.unet)?,
            vae: find(&self.vae)?,
            text_encoder: find(&self.text_encoder)?,
            preview_vae: find(&self.preview_vae)?,
            refiner: find(&self.refiner)?,
            prediction: self.prediction.map(Into::into),
            scheduler: None,
            adapters: self.lora.iter().map(LoraArg::adapter).collect(),
            controls: self.controls.clone(),
            embeddings: embeddings(&self.embedding, &self.found_embeddings),
        })
    }

    /// The OMS module's files, or none.
    fn oms_source(&self) -> Result<Option<OmsSource>> {
        let source = match self.oms.as_deref() {
            Some("off") => None,
            Some(DEMO) => Some(Source::DemoOms),
            Some("") => return Err(Error::refused("--oms: expected a folder, demo or off, got nothing")),
            Some(name) => Some(Source::Folder(models::find(name)?)),
            None if self.source_is_demo() => Some(Source::DemoOms),
            None => None,
        };
        if source.is_none() && self.oms_text_encoder.is_some() {
            return Err(Error::refused("--oms-text-encoder: has no meaning without --oms DIR"));
        }
        // The demo module has its own.
        let named = self.oms_text_encoder.as_deref().filter(|_| source != Some(Source::DemoOms));
        let text_encoder = named.map(models::find).transpose()?;
        Ok(source.map(|module| OmsSource { module, text_encoder }))
    }

    fn source_is_demo(&self) -> bool {
        self.model.as_deref().is_none_or(|name| name == DEMO)
    }

    /// ω_ψ: what is typed, or what the module is meant for.
    fn oms_guidance(&self) -> Result<f64> {
        let own = self.oms_source()?.map_or_else(OmsRequest::default, |oms| oms.request());
        Ok(self.oms_guidance.unwrap_or(own.guidance_scale))
    }

    /// The device and the model on it, within --vram for a request, whose kernels are compiled; and what --vram had to give up.
    fn open(&self, request: &Request) -> Result<(Pipeline, Vec<TooLarge>)> {
        self.open_if(request, |pipeline| pipeline.prepare(request))
    }

    /// As [`open`](Self::open), but no kernel is compiled before it runs.
    fn open_lazily(&self, request: &Request) -> Result<(Pipeline, Vec<TooLarge>)> {
        self.open_if(request, |_| Ok(()))
    }

    fn open_if(&self, request: &Request, check: impl Fn(&Pipeline) -> Result<()>) -> Result<(Pipeline, Vec<TooLarge>)> {
        let (model, oms) = (self.source()?, self.oms_source()?);
        let overrides = self.overrides()?;
        Device::first_that(&self.device, self.precision.into(), |device| {
            let device = device
                .with_weights(self.weights.unwrap_or_default())
                .with_vae_tiling(self.vae_tiling)
                .with_streaming(self.stream_weights.into())?;
            let device = match hash_file() {
                Some(path) => device.with_hash_file(path),
                None => device,
            };
            let (pipeline, too_large) = match self.vram {
                Some(MemorySize(bytes)) => {
                    Pipeline::load_within(&model, &overrides, oms.as_ref(), device, request, bytes)?
                }
                None => (Pipeline::load_with(&model, &overrides, oms.as_ref(), device)?, Vec::new()),
            };
            check(&pipeline)?;
            Ok((pipeline, too_large))
        })
    }

    /// The fields of a request that these options set.
    fn request(&self) -> Request {
        let default = Request::default();
        Request {
            width: self.width,
            height: self.height,
            previews: self.preview.is_some(),
            num_inference_steps: self
                .steps
                .unwrap_or(self.sampler.map_or(default.num_inference_steps, |s| s.kind.default_steps())),
            guidance_scale: self.guidance.unwrap_or(default.guidance_scale),
            sampler: self.sampler.map(|s| s.kind),
            sigmas: self.sampler.and_then(|s| s.sigmas),
            ..default
        }
    }
}

/// Embeddings that were typed, and those of other names that were found.
fn embeddings(typed: &[PathBuf], found: &[PathBuf]) -> Vec<Embedding> {
    let is_typed = |path: &&PathBuf| typed.iter().any(|other| other.file_stem() == path.file_stem());
    let one = |is_found| move |path: &PathBuf| Embedding { path: path.clone(), is_found };
    typed.iter().map(one(false)).chain(found.iter().filter(|path| !is_typed(path)).map(one(true))).collect()
}

/// The files that a name means; the demo model's without one.
fn model_source(name: Option<&str>) -> Result<Source> {
    match name {
        None | Some(DEMO) => Ok(Source::DemoModel),
        Some(name) => Source::at(models::find(name)?),
    }
}

/// Says on standard error which devices were passed over.
fn tell_remarks(pipeline: &Pipeline) {
    for remark in pipeline.device().remarks() {
        progress::tell(remark);
    }
}

/// Prints a JSON value on standard output.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print_text(&format!("{}\n", shown::shown_json(&format!("{value:#}"))))
}

/// Prints a line on standard output; a closed pipe is an error, not a panic.
fn print_line(line: &str) -> Result<()> {
    print_text(&format!("{}\n", shown::shown(line)))
}

/// Prints lines of our own making, each as [`print_line`] does.
fn print_lines(lines: &str) -> Result<()> {
    lines.split('\n').try_for_each(print_line)
}

/// Prints a text that is fit to be shown, as it is.
fn print_text(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    /// A pipe without its reader, where Windows' shells made a named one.
    const PIPE_NOT_CONNECTED: i32 = 233;
    let gone = |e: &std::io::Error| cfg!(windows) && e.raw_os_error() == Some(PIPE_NOT_CONNECTED);
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|e| Error::io("standard output", if gone(&e) { ErrorKind::BrokenPipe.into() } else { e }))
}
