//! Whole runs: prompts to pictures, against the reference pipelines.

mod adapter_files;
mod adapters;
mod memory;
mod oms_on_xl;
mod prompts;
mod runs;
mod starts;
mod widening;
