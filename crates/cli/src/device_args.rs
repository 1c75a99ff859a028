//! What can be typed for the commands that look at devices: `devices`, `doctor`, `profile` and `tune`.

use std::path::PathBuf;

use chiaro::Tier;
use chiaro::gpu::DriverFault;
use clap::Args;

use super::{ControlArgs, ModelArgs, ShortcutArgs};

/// Options of `devices`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DevicesArgs {
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Only this adapter: its index, a part of its name, or vulkan, metal or dx12 [default: every adapter]
    #[arg(long, short = 'd', value_name = "NAME|INDEX")]
    pub(crate) device: Option<String>,
    /// Only forget what was found before
    #[arg(long)]
    pub(crate) forget: bool,
    /// Make the driver have a fault, and keep nothing of what is found: for tests
    #[arg(long, hide = true, value_name = "FAULT")]
    pub(crate) pretend: Option<DriverFault>,
    /// Examine the adapter with this index, and print each result as a line of JSON: for the process that asked
    #[arg(long, hide = true, value_name = "INDEX")]
    pub(crate) examine: Option<usize>,
    /// With --examine: leave a tier out
    #[arg(long, hide = true, value_name = "TIER")]
    pub(crate) without: Vec<Tier>,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `profile`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProfileArgs {
    /// Model, size, device
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// ControlNets; their pictures are not needed
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    /// What is left out of the UNet's work
    #[command(flatten)]
    pub(crate) shortcuts: ShortcutArgs,
    /// Which network: the beginning of a name that `chiaro plan` lists
    #[arg(long, value_name = "NAME", default_value = "UNet")]
    pub(crate) stage: String,
    /// Runs, of whose times the medians are told; one more warms up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) runs: u16,
    /// How many parts of a layer's path are told apart
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub(crate) depth: u16,
    /// Also write the dispatches as a trace that Chrome (about:tracing) and Perfetto show
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Replace the trace's file if it exists
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Options of `tune`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TuneArgs {
    /// Model, size, device: the products of these networks at this size are measured
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// What is left out of the UNet's work
    #[command(flatten)]
    pub(crate) shortcuts: ShortcutArgs,
    /// Stop after so many seconds; products with the most work come first
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) budget: u64,
    /// Forget what was measured before on this device
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Only forget what was measured on this device, and measure nothing
    #[arg(long, conflicts_with_all = ["fresh", "budget"])]
    pub(crate) clear: bool,
}
