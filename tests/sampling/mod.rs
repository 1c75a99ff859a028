//! Sampling against the reference implementation's tables and trajectories, and against its own laws.

mod analysis;
mod convergence;
mod noise;
mod oms;
mod properties;
mod rng;
mod schedulers;
