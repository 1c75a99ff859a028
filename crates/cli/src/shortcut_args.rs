//! Options that leave out a part of the UNet's work: shared by generate, plan, profile and tune.

use chiaro::pipeline::{DeepCache, TokenMerging};
use clap::Args;

/// Options that leave out a part of the UNet's work.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Less work")]
pub(crate) struct ShortcutArgs {
    #[arg(long, value_parser = shares)]
    pub(crate) guidance_interval: Option<Shares>,
    #[arg(long)]
    pub(crate) deep_cache: Option<DeepCache>,
    #[arg(long)]
    pub(crate) token_merging: Option<TokenMerging>,
}

/// Two shares of the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares(pub(crate) f64, pub(crate) f64);

fn shares(text: &str) -> Result<Shares, String> {
    let numbers = text.split_once(',').and_then(|(a, b)| Some(Shares(a.trim().parse().ok()?, b.trim().parse().ok()?)));
    numbers.ok_or_else(|| "expected two shares of the steps as in 0.2,0.8".into())
}
