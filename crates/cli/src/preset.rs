//! Settings that distilled models were made for.

use chiaro::sampling::{Sampler, SolverKind, TimestepSpacing};
use clap::ValueEnum;

use super::generate_args::GenerateArgs;

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

impl Preset {
    /// What the models' authors recommend: solver, spacing, steps, guidance.
    fn settings(self) -> (SolverKind, Option<TimestepSpacing>, usize, f64) {
        let trailing = Some(TimestepSpacing::Trailing);
        match self {
            Preset::Lcm => (SolverKind::Lcm, None, 4, 1.5),
            Preset::Turbo => (SolverKind::EulerAncestral, trailing, 1, 1.0),
            Preset::Lightning => (SolverKind::Euler, trailing, 4, 1.0),
            Preset::Hyper => (SolverKind::Ddim, trailing, 8, 1.0),
        }
    }

    /// The arguments, with the preset where nothing else was typed.
    pub(super) fn fill(self, args: &GenerateArgs) -> GenerateArgs {
        let (kind, spacing, steps, guidance) = self.settings();
        let mut args = args.clone();
        args.sampling.spacing = args.sampling.spacing.or(spacing.filter(|_| args.model.sampler.is_none()));
        args.model.sampler = args.model.sampler.or(Some(Sampler { kind, sigmas: None }));
        args.model.steps = args.model.steps.or(Some(steps));
        args.model.guidance = args.model.guidance.or(Some(guidance));
        args
    }
}
