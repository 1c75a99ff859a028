//! What can be typed for `chiaro pull`.

use clap::{Args, ValueEnum};

/// Options of `pull`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "HF_HOME or HF_HUB_CACHE say where the cache is, HF_TOKEN opens gated models, HF_ENDPOINT names another hub.\n\
                        A download that was stopped goes on where it stood. Needs a build with the Cargo feature \"pull\"."
)]
pub struct PullArgs {
    /// The repository, such as stabilityai/stable-diffusion-2-1
    #[arg(value_name = "ORGANISATION/REPOSITORY")]
    pub repository: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub revision: String,
    /// Which weights are taken where there are two forms
    #[arg(long, value_enum, default_value_t = VariantArg::Fp16)]
    pub variant: VariantArg,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub quiet: bool,
    /// Print JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// Which form of the weights `pull` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VariantArg {
    /// half precision: half the bytes
    Fp16,
    /// as trained
    Full,
}
