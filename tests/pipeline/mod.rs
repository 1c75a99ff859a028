//! Whole runs: prompts to pictures, against the reference pipelines.

mod adapter_files;
mod adapters;
mod budget;
mod company;
mod controls;
mod deep_cache;
mod embeddings;
mod guidance;
mod host_memory;
mod injected;
mod jobs;
mod lookup;
mod memory;
mod oms_on_xl;
mod other_formats;
mod previews;
mod prompts;
mod resident;
#[cfg(target_os = "linux")]
mod resident_size;
mod runs;
mod shared_oms;
mod single_files;
mod starts;
mod streaming;
mod tiling;
mod times;
#[cfg(feature = "demo")]
mod together;
mod token_merging;
pub(crate) mod variants;
mod widening;
