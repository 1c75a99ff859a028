//! Whole runs: prompts to pictures, against the reference pipelines.

mod adapter_files;
mod adapters;
mod budget;
mod lookup;
mod memory;
mod oms_on_xl;
mod prompts;
mod runs;
mod single_files;
mod starts;
mod streaming;
mod widening;
