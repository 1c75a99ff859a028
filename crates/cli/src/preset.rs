//! Settings that distilled models were made for.

use chiaro::order;
use clap::ValueEnum;

/// A kind of distilled model, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// LCM-LoRA: 4 steps of lcm at guidance 1.5
    Lcm,
    /// SD-Turbo and SDXL-Turbo: 1 step of euler_a, trailing, no guidance (up to 4 steps)
    Turbo,
    /// SDXL-Lightning of 4 steps: euler, trailing, no guidance (--steps 2 or 8 for the others)
    Lightning,
    /// Hyper-SD of 8 steps: ddim, trailing, no guidance (--steps 2 or 4 for the others)
    Hyper,
}

impl From<Preset> for order::Preset {
    fn from(typed: Preset) -> Self {
        match typed {
            Preset::Lcm => order::Preset::Lcm,
            Preset::Turbo => order::Preset::Turbo,
            Preset::Lightning => order::Preset::Lightning,
            Preset::Hyper => order::Preset::Hyper,
        }
    }
}
