//! The command: parses, asks the pipeline, prints. No maths here.

mod aliases;
mod args;
mod config;
mod control;
mod device_args;
mod devices;
#[cfg(test)]
mod docs;
mod doctor;
mod generate;
mod generate_args;
mod help;
mod inspect;
mod interrupt;
mod job;
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
#[cfg(feature = "serve")]
mod serve;
mod serve_args;
mod shortcut_args;
mod show;
mod shown;
mod study;
mod tokens;
mod tune;
mod typed;
mod unused;
mod viewer;

use std::process::ExitCode;

use chiaro::pipeline::Pipeline;
use chiaro::{Error, ErrorCode, Result};

use args::{
    Cli, Command, InspectArgs, ModelArgs, ModelsArgs, PlanArgs, PrecisionArg, ReadingArgs, SamplersArgs, ScheduleArgs,
    StudyArgs, TokensArgs,
};
use control::ControlArgs;
use device_args::{DevicesArgs, DoctorArgs, ProfileArgs, TuneArgs};
use generate_args::GenerateArgs;
use pull_args::PullArgs;
use seed::SeedArg;
use serve_args::ServeArgs;
use shortcut_args::ShortcutArgs;
use show::ShowArg;

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
        Command::Serve(args) => serve(&args),
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

#[cfg(feature = "serve")]
fn serve(args: &ServeArgs) -> Result<()> {
    serve::run(args)
}

#[cfg(not(feature = "serve"))]
fn serve(_args: &ServeArgs) -> Result<()> {
    Err(Error::refused(
        "serve: this program was built without a server; `cargo install --path crates/cli --features serve` builds it with one",
    ))
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
