//! Sampling mathematics on the host: schedules, solvers, guidance, One More Step, and other programs' random numbers.
//!
//! Pure functions over f64 coefficients and `&[f32]` latents. Latents at every public boundary are variance-preserving (VP):
//! `x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·ε`. A sigma-scaled value is called `scaled_latents` and never leaves its solver.

pub mod analysis;
mod config;
pub mod embedding;
mod guidance;
pub mod oms;
mod prediction;
pub mod rng;
mod schedule;
mod sigma_tables;
mod sigmas;
mod solvers;
mod timesteps;

pub use config::{FinalSigma, SchedulerConfig};
pub use guidance::{guide, guide_by_picture, rescale_guidance};
pub use oms::OmsForm;
pub use prediction::PredictionType;
pub use rng::{Draw, PictureNoise, RngKind, TorchRng, Variation};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use sigmas::SigmaSchedule;
pub use solvers::{Sampler, Solver, SolverKind, SolverOptions};
pub use timesteps::TimestepSpacing;
