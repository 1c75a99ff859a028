//! Whole runs: prompts to pictures, against the reference pipelines.

mod memory;
mod runs;
mod widening;
