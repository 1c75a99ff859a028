//! Options that leave out a part of the UNet's work: shared by generate, plan, profile and tune.

use chiaro::pipeline::{DeepCache, Request, TokenMerging};
use clap::Args;

/// Options that leave out a part of the UNet's work.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Less work")]
pub(crate) struct ShortcutArgs {
    /// Guide only between these shares of the steps, such as 0.2,0.8; outside, a step takes half the time [default: 0,1]
    #[arg(long, value_name = "START,END", value_parser = shares)]
    pub(crate) guidance_interval: Option<Shares>,
    /// Compute the deep part of the UNet in every N-th call alone and reuse it between (DeepCache), such as 3; the first D states of the
    /// way down are always computed [default: 1, off; D: 2]
    #[arg(long, value_name = "N[:D]")]
    pub(crate) deep_cache: Option<DeepCache>,
    /// Merge this share of the pixels into others like them where pixels attend to each other (token merging), such as 0.5; in the L finest
    /// levels of the UNet that attend [default: off; L: 1]
    #[arg(long, value_name = "SHARE[:L]")]
    pub(crate) token_merging: Option<TokenMerging>,
}

impl ShortcutArgs {
    /// `base` with what was typed in its place.
    pub(super) fn apply(&self, base: Request) -> Request {
        Request {
            guidance_interval: self.guidance_interval.map_or(base.guidance_interval, |Shares(start, end)| (start, end)),
            deep_cache: self.deep_cache.or(base.deep_cache),
            token_merging: self.token_merging.or(base.token_merging),
            ..base
        }
    }
}

/// Two shares of the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares(pub(crate) f64, pub(crate) f64);

fn shares(text: &str) -> Result<Shares, String> {
    let numbers = text.split_once(',').and_then(|(a, b)| Some(Shares(a.trim().parse().ok()?, b.trim().parse().ok()?)));
    numbers.ok_or_else(|| "expected two shares of the steps as in 0.2,0.8".into())
}
