//! The one integration-test binary.

mod doctor;
mod gpu;
mod image;
mod kernels;
mod models;
mod mutations;
mod ops;
mod pipeline;
mod record;
mod sampling;
mod study;
mod support;
mod text;
mod weights;

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
