//! The solvers by name.

use std::fmt;
use std::str::FromStr;

use super::super::{SchedulerConfig, SigmaSchedule};
use super::{Plan, Rule, ddim, ddpm, deis, dpm2, dpmpp_2m, dpmpp_2s_ancestral, dpmpp_3m_sde, dpmpp_sde, euler};
use super::{heun, ipndm, lcm, lms, pndm, tcd, unipc};
use crate::{Error, Remedy, Result};

/// Which solver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SolverKind {
    /// Denoising diffusion implicit models, any η.
    Ddim,
    /// Denoising diffusion probabilistic models.
    Ddpm,
    /// Pseudo numerical methods; PLMS without its Runge-Kutta steps.
    Pndm,
    /// Euler's method on the probability-flow ODE in σ.
    Euler,
    /// Euler's method with noise added after every step.
    EulerAncestral,
    /// Heun's second-order method.
    Heun,
    /// The midpoint method in ln σ.
    Dpm2,
    /// The midpoint method with noise added after every step.
    Dpm2Ancestral,
    /// Linear multistep with exact Adams-Bashforth coefficients.
    Lms,
    /// DPM-Solver++, multistep.
    DpmPp2m,
    /// DPM-Solver++, multistep, for the SDE.
    DpmPp2mSde,
    /// The same with Heun's form of the second-order term.
    DpmPp2mSdeHeun,
    /// DPM-Solver++, single step, for the SDE.
    DpmPpSde,
    /// DPM-Solver++, single step, ancestral.
    DpmPp2sAncestral,
    /// DPM-Solver++, third-order multistep, for the SDE.
    DpmPp3mSde,
    /// Unified predictor-corrector.
    UniPc,
    /// Exponential integrator, multistep.
    Deis,
    /// Improved PNDM: Adams-Bashforth with fixed coefficients.
    Ipndm,
    /// Multistep latent-consistency sampling.
    Lcm,
    /// Trajectory-consistency sampling.
    Tcd,
}

/// A solver's entry in the list.
struct Entry {
    kind: SolverKind,
    /// The name that is printed.
    name: &'static str,
    /// AUTOMATIC1111's name.
    label: &'static str,
    /// One line for the list.
    about: &'static str,
    /// What other programs call it, letters and digits only, with `pp` for `++`.
    aliases: &'static [&'static str],
}

const fn entry(
    kind: SolverKind,
    name: &'static str,
    label: &'static str,
    about: &'static str,
    aliases: &'static [&'static str],
) -> Entry {
    Entry { kind, name, label, about, aliases }
}

const ENTRIES: &[Entry] = &[
    entry(SolverKind::Ddim, "ddim", "DDIM", "deterministic at eta 0; the reference for the others", &["ddim"]),
    entry(SolverKind::Ddpm, "ddpm", "DDPM", "the original stochastic sampler; wants many steps", &["ddpm"]),
    entry(
        SolverKind::Pndm,
        "pndm",
        "PLMS",
        "PLMS, the first choice of SD 1.x checkpoints; one step more than asked",
        &["pndm", "plms"],
    ),
    entry(SolverKind::Euler, "euler", "Euler", "first order; simple and robust", &["euler", "eulerdiscrete"]),
    entry(
        SolverKind::EulerAncestral,
        "euler_ancestral",
        "Euler a",
        "euler with fresh noise at each step; varied pictures, never settles",
        &["eulera", "eulerancestral", "eulerancestraldiscrete"],
    ),
    entry(SolverKind::Heun, "heun", "Heun", "second order; two evaluations a step", &["heun", "heundiscrete"]),
    entry(
        SolverKind::Dpm2,
        "dpm_2",
        "DPM2",
        "second order, midpoint; two evaluations a step",
        &["dpm2", "kdpm2", "kdpm2discrete"],
    ),
    entry(
        SolverKind::Dpm2Ancestral,
        "dpm_2_ancestral",
        "DPM2 a",
        "dpm_2 with fresh noise at each step",
        &["dpm2a", "dpm2ancestral", "kdpm2ancestral", "kdpm2ancestraldiscrete"],
    ),
    entry(SolverKind::Lms, "lms", "LMS", "fourth-order linear multistep", &["lms", "lmsdiscrete", "klms"]),
    entry(
        SolverKind::DpmPp2m,
        "dpmpp_2m",
        "DPM++ 2M",
        "second-order multistep; good from 15 steps on",
        &["dpmpp2m", "dpmsolvermultistep", "dpmsolverpp", "dpmpp"],
    ),
    entry(
        SolverKind::DpmPp2mSde,
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        "dpmpp_2m with fresh noise; fine detail from 20 steps on",
        &["dpmpp2msde", "sdedpmsolverpp"],
    ),
    entry(
        SolverKind::DpmPp2mSdeHeun,
        "dpmpp_2m_sde_heun",
        "DPM++ 2M SDE Heun",
        "dpmpp_2m_sde in Heun's form",
        &["dpmpp2msdeheun"],
    ),
    entry(
        SolverKind::DpmPpSde,
        "dpmpp_sde",
        "DPM++ SDE",
        "single-step, stochastic; two evaluations a step, good from 8 steps on",
        &["dpmppsde", "dpmsolversde"],
    ),
    entry(
        SolverKind::DpmPp2sAncestral,
        "dpmpp_2s_ancestral",
        "DPM++ 2S a",
        "single-step, ancestral; two evaluations a step",
        &["dpmpp2sa", "dpmpp2sancestral"],
    ),
    entry(
        SolverKind::DpmPp3mSde,
        "dpmpp_3m_sde",
        "DPM++ 3M SDE",
        "third-order multistep, stochastic; wants 30 steps or more",
        &["dpmpp3msde"],
    ),
    entry(
        SolverKind::UniPc,
        "uni_pc",
        "UniPC",
        "predictor and corrector in one evaluation; good from 8 steps on",
        &["unipc", "unipcmultistep", "unipcbh2"],
    ),
    entry(SolverKind::Deis, "deis", "DEIS", "exponential multistep in log rho", &["deis", "deismultistep"]),
    entry(SolverKind::Ipndm, "ipndm", "IPNDM", "fourth-order multistep with fixed coefficients", &["ipndm"]),
    entry(SolverKind::Lcm, "lcm", "LCM", "for LCM models and LCM-LoRA: 1 to 8 steps, guidance 1 to 2", &["lcm"]),
    entry(SolverKind::Tcd, "tcd", "TCD", "for TCD and Hyper models: 1 to 8 steps; eta is its gamma", &["tcd"]),
];

/// Endings that name a σ schedule, as AUTOMATIC1111 and ComfyUI users write them.
const SCHEDULE_ENDINGS: &[(&str, Option<SigmaSchedule>)] = &[
    ("karras", Some(SigmaSchedule::Karras)),
    ("exponential", Some(SigmaSchedule::Exponential)),
    ("sgmuniform", Some(SigmaSchedule::SgmUniform)),
    ("simple", Some(SigmaSchedule::Simple)),
    ("beta", Some(SigmaSchedule::Beta)),
    ("kloptimal", Some(SigmaSchedule::KlOptimal)),
    ("alignyourstepsxl", Some(SigmaSchedule::AlignYourStepsXl)),
    ("alignyoursteps", Some(SigmaSchedule::AlignYourSteps)),
    ("ays", Some(SigmaSchedule::AlignYourSteps)),
    ("normal", Some(SigmaSchedule::Normal)),
    ("uniform", Some(SigmaSchedule::Normal)),
    ("automatic", None),
    ("gpu", None),
    ("scheduler", None),
];

/// A solver and, where the name says so, a σ schedule: "DPM++ 2M Karras".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// The solver.
    pub kind: SolverKind,
    /// The σ schedule, where the name has one.
    pub sigmas: Option<SigmaSchedule>,
}

impl SolverKind {
    /// Every solver: the name that is printed, and one line.
    pub fn all() -> impl Iterator<Item = (SolverKind, &'static str, &'static str)> {
        ENTRIES.iter().map(|e| (e.kind, e.name, e.about))
    }

    /// The name that AUTOMATIC1111 users know.
    pub fn label(self) -> &'static str {
        self.entry().label
    }

    /// What η means and its default: `None` where the solver adds no noise by choice.
    pub fn eta(self) -> Option<f64> {
        match self {
            SolverKind::Ddim => Some(0.0),
            SolverKind::Tcd => Some(0.3),
            SolverKind::EulerAncestral
            | SolverKind::Dpm2Ancestral
            | SolverKind::DpmPpSde
            | SolverKind::DpmPp2sAncestral
            | SolverKind::DpmPp3mSde => Some(1.0),
            _ => None,
        }
    }

    /// Whether σ may lie elsewhere than at the timesteps of the spacing.
    pub fn takes_sigmas(self) -> bool {
        !matches!(self, SolverKind::Ddim | SolverKind::Ddpm | SolverKind::Pndm | SolverKind::Lcm | SolverKind::Tcd)
    }

    /// What the solver reads of a configuration: diffusers' ancestral Euler has no flags of σ schedules, though files copied from others do.
    pub(super) fn reads(self, config: &SchedulerConfig) -> SchedulerConfig {
        let mut own = config.clone();
        if self == SolverKind::EulerAncestral {
            (own.use_karras_sigmas, own.use_exponential_sigmas, own.use_beta_sigmas) = (None, None, None);
        }
        own
    }

    /// Steps of an ordinary run: few for distilled models.
    pub fn default_steps(self) -> usize {
        match self {
            SolverKind::Lcm | SolverKind::Tcd => 4,
            _ => 30,
        }
    }

    pub(super) fn check_eta(self, eta: Option<f64>) -> Result<()> {
        match (eta, self.eta()) {
            (None, _) => Ok(()),
            (Some(eta), _) if !(0.0..=1.0).contains(&eta) => {
                Err(Error::request("eta", format!("expected a number from 0 to 1, got {eta}")))
            }
            (Some(eta), None) if eta != 0.0 => {
                let with: Vec<&str> = ENTRIES.iter().filter(|e| e.kind.eta().is_some()).map(|e| e.name).collect();
                Err(Error::request("eta", format!("{self} has none; samplers that do: {}", with.join(", "))))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn rule(self, plan: &Plan<'_>) -> Result<Box<dyn Rule>> {
        let eta = plan.eta.or(self.eta()).unwrap_or(0.0);
        Ok(match self {
            SolverKind::Ddim => Box::new(ddim::Ddim::new(plan, eta)),
            SolverKind::Ddpm => Box::new(ddpm::Ddpm::new(plan)?),
            SolverKind::Pndm => Box::new(pndm::Pndm::new(plan)?),
            SolverKind::Euler => Box::new(euler::Euler::new(plan, None)?),
            SolverKind::EulerAncestral => Box::new(euler::Euler::new(plan, Some(eta))?),
            SolverKind::Heun => Box::new(heun::Heun::new(plan)?),
            SolverKind::Dpm2 => Box::new(dpm2::Dpm2::new(plan, 0.0)?),
            SolverKind::Dpm2Ancestral => Box::new(dpm2::Dpm2::new(plan, eta)?),
            SolverKind::Lms => Box::new(lms::Lms::new(plan)?),
            SolverKind::DpmPp2m => Box::new(dpmpp_2m::DpmPp2m::new(plan, dpmpp_2m::Form::Ode)?),
            SolverKind::DpmPp2mSde => Box::new(dpmpp_2m::DpmPp2m::new(plan, dpmpp_2m::Form::Sde)?),
            SolverKind::DpmPp2mSdeHeun => Box::new(dpmpp_2m::DpmPp2m::new(plan, dpmpp_2m::Form::SdeHeun)?),
            SolverKind::DpmPpSde => Box::new(dpmpp_sde::DpmPpSde::new(plan, eta)?),
            SolverKind::DpmPp2sAncestral => Box::new(dpmpp_2s_ancestral::DpmPp2sAncestral::new(plan, eta)?),
            SolverKind::DpmPp3mSde => Box::new(dpmpp_3m_sde::DpmPp3mSde::new(plan, eta)?),
            SolverKind::UniPc => Box::new(unipc::UniPc::new(plan)?),
            SolverKind::Deis => Box::new(deis::Deis::new(plan)?),
            SolverKind::Ipndm => Box::new(ipndm::Ipndm::new(plan)?),
            SolverKind::Lcm => Box::new(lcm::Lcm::new(plan)),
            SolverKind::Tcd => Box::new(tcd::Tcd::new(plan, eta)),
        })
    }

    fn entry(self) -> &'static Entry {
        ENTRIES.iter().find(|e| e.kind == self).expect("every solver has its entry")
    }
}

impl fmt::Display for SolverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().name)
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sigmas {
            Some(sigmas) if sigmas != SigmaSchedule::Normal => write!(f, "{} {sigmas}", self.kind),
            _ => write!(f, "{}", self.kind),
        }
    }
}

/// Letters and digits in lower case, `++` as `pp`.
fn plain(name: &str) -> String {
    let name = name.to_lowercase().replace("++", "pp");
    name.chars().filter(|c| c.is_alphanumeric()).collect()
}

impl FromStr for Sampler {
    type Err = Error;

    /// Names as diffusers, ComfyUI and AUTOMATIC1111 users write them: "dpmpp_2m", "DPM++ 2M Karras", "EulerAncestralDiscreteScheduler".
    fn from_str(name: &str) -> Result<Self> {
        let mut rest = plain(name);
        let mut sigmas = None;
        loop {
            if let Some(entry) = ENTRIES.iter().find(|e| e.aliases.contains(&rest.as_str())) {
                return Ok(Sampler { kind: entry.kind, sigmas });
            }
            let ending = SCHEDULE_ENDINGS.iter().find(|(ending, _)| rest.ends_with(ending));
            let Some((ending, schedule)) = ending else { break };
            rest.truncate(rest.len() - ending.len());
            sigmas = sigmas.or(*schedule);
        }
        let near = nearest(&rest, ENTRIES.iter().flat_map(|e| e.aliases.iter().map(move |a| (*a, e.name))));
        Err(Error::refused(format!("unknown sampler {name:?}; did you mean {}?", near.join(" or ")))
            .advise([Remedy::Samplers]))
    }
}

impl FromStr for SolverKind {
    type Err = Error;

    /// As [`Sampler`]'s, without a σ schedule.
    fn from_str(name: &str) -> Result<Self> {
        match name.parse()? {
            Sampler { kind, sigmas: None } => Ok(kind),
            Sampler { kind, .. } => {
                Err(Error::refused(format!("sampler {name:?}: expected a solver alone, such as {kind}")))
            }
        }
    }
}

serde_by_name!(SolverKind, SigmaSchedule);

impl FromStr for SigmaSchedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let wanted = plain(name);
        let known = SCHEDULE_ENDINGS.iter().filter_map(|(ending, schedule)| schedule.map(|s| (*ending, s)));
        if let Some((_, schedule)) = known.clone().find(|(ending, _)| *ending == wanted) {
            return Ok(schedule);
        }
        let names = SigmaSchedule::ALL.iter().map(|(name, ..)| (*name, *name));
        let near = nearest(&wanted, names);
        Err(Error::refused(format!("unknown sigma schedule {name:?}; did you mean {}?", near.join(" or ")))
            .advise([Remedy::Samplers]))
    }
}

/// The one or two names whose spelling is nearest.
fn nearest<'a>(wanted: &str, known: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> =
        known.map(|(alias, name)| (strsim::jaro_winkler(wanted, &plain(alias)), name)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut names: Vec<&str> = Vec::new();
    for (_, name) in scored {
        if names.len() < 2 && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
