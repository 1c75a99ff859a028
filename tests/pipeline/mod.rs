//! Whole runs: prompts to pictures, against the reference pipelines.

mod memory;
mod oms_on_xl;
mod runs;
mod widening;
