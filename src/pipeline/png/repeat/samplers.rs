//! Other programs' names of solvers and of schedules of noise levels.

use super::Program;
use crate::sampling::{Sampler, SigmaSchedule, SolverKind, TimestepSpacing};

/// What a pair of names means here.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) kind: Option<SolverKind>,
    pub(super) sigmas: Option<SigmaSchedule>,
    pub(super) spacing: Option<TimestepSpacing>,
    pub(super) eta: Option<f64>,
    pub(super) unknown_sampler: Option<String>,
    pub(super) unknown_sigmas: Option<String>,
    pub(super) not_repeated: Vec<String>,
}

/// What a schedule's name means here.
enum Levels {
    /// Where the solver has them anyway.
    Own,
    At(SigmaSchedule),
    /// Every ⌊1000/N⌋-th timestep from 1 on.
    Leading,
    Unknown,
}

/// Reads a pair; `steps` are the run's.
pub(super) fn read(program: Program, sampler: &str, schedule: Option<&str>, steps: usize) -> Read {
    let mut read = Read::default();
    let sampler = sampler.trim();
    let (name, schedule) = match (program, schedule, sampler.rsplit_once(' ')) {
        // Both in one field, with a space between them that neither has.
        (Program::StableDiffusionCpp, None, Some((name, schedule))) => (name, Some(schedule)),
        _ => (sampler, schedule),
    };
    let Sampler { kind, sigmas } = match solver(program, name) {
        Some(known) => known,
        None => {
            read.unknown_sampler = Some(name.to_owned());
            // The schedule is asked for only when a solver was chosen.
            Sampler { kind: SolverKind::Euler, sigmas: None }
        }
    };
    read.kind = read.unknown_sampler.is_none().then_some(kind);
    let levels = match (schedule.map(str::trim), sigmas) {
        (Some("") | None, None) => Levels::Own,
        (Some("") | None, Some(sigmas)) => Levels::At(sigmas),
        (Some(name), _) => named(program, name, kind, steps),
    };
    // k-diffusion, which these programs take their solvers from, spreads its steps over the whole range of training, whatever the model says.
    let linspace = kind.takes_sigmas() && !matches!(program, Program::InvokeAi | Program::Chiaro);
    read.spacing = linspace.then_some(TimestepSpacing::Linspace);
    match levels {
        Levels::Own => {}
        Levels::At(sigmas) if kind.takes_sigmas() => read.sigmas = Some(sigmas),
        Levels::At(SigmaSchedule::Normal) => {}
        Levels::Leading if kind.takes_sigmas() => {
            (read.sigmas, read.spacing) = (Some(SigmaSchedule::Normal), Some(TimestepSpacing::Leading));
        }
        Levels::Leading => {}
        Levels::At(sigmas) => read.not_repeated.push(format!("schedule {sigmas} ({kind} has its own)")),
        Levels::Unknown => read.unknown_sigmas = schedule.map(|name| name.trim().to_owned()),
    }
    match (program, name) {
        (Program::StableDiffusionCpp, "ddim_trailing") => {
            (read.spacing, read.eta) = (Some(TimestepSpacing::Trailing), Some(0.0));
        }
        (Program::ComfyUi | Program::Fooocus, "uni_pc") => {
            read.not_repeated.push("B(h) of uni_pc (its first form; the second is used)".into());
        }
        _ => {}
    }
    read
}

/// A solver's name.
fn solver(program: Program, name: &str) -> Option<Sampler> {
    let alone = |kind| Some(Sampler { kind, sigmas: None });
    let karras = |kind| Some(Sampler { kind, sigmas: Some(SigmaSchedule::Karras) });
    match (program, name) {
        (Program::StableDiffusionCpp, "ddim_trailing") => alone(SolverKind::Ddim),
        // Other methods under names that begin alike.
        (Program::StableDiffusionCpp, "dpm++2mv2" | "ipndm_v" | "dpm++2m_sde_bt") => None,
        // There it is Euler's method, which DDIM is in σ.
        (Program::ComfyUi | Program::Fooocus, "ddim") => alone(SolverKind::Euler),
        (Program::InvokeAi, _) => match name.strip_suffix("_k") {
            Some(bare) => invoke(bare).and_then(karras),
            None => invoke(name).and_then(alone),
        },
        (Program::NovelAi, _) => {
            let bare = name.strip_prefix("k_").unwrap_or(name);
            bare.parse::<Sampler>().ok()
        }
        _ => name.parse().ok(),
    }
}

/// InvokeAI's names, which shorten those of diffusers (`invokeai/backend/stable_diffusion/schedulers/schedulers.py`).
fn invoke(name: &str) -> Option<SolverKind> {
    let plain = match name {
        "kdpm_2_a" => "kdpm_2_ancestral",
        "kdpm_2" | "ddim" | "ddpm" | "deis" | "lms" | "pndm" | "heun" | "euler" | "dpmpp_2m" | "dpmpp_2m_sde"
        | "dpmpp_sde" | "unipc" | "lcm" | "tcd" => name,
        "euler_a" => "euler_ancestral",
        _ => return None,
    };
    plain.parse::<Sampler>().ok().map(|sampler| sampler.kind)
}

/// A schedule's name.
fn named(program: Program, name: &str, kind: SolverKind, steps: usize) -> Levels {
    let plain: String = name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let own_timesteps = matches!(kind, SolverKind::Lcm | SolverKind::Tcd);
    match plain.as_str() {
        "automatic" | "native" | "usedefault" => Levels::Own,
        "discrete" | "normal" | "uniform" => Levels::At(SigmaSchedule::Normal),
        "ddimuniform" | "ddim" if kind == SolverKind::Ddim || steps > 0 && 1000 % steps == 0 => Levels::Leading,
        "ddimuniform" | "ddim" => Levels::Unknown,
        // Made for these solvers, whose own timesteps they are.
        "lcm" | "tcd" if own_timesteps => Levels::Own,
        _ if program == Program::NovelAi && plain == "polyexponential" => Levels::At(SigmaSchedule::Exponential),
        _ => name.parse().map_or(Levels::Unknown, Levels::At),
    }
}
