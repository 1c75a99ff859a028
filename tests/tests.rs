//! The one integration-test binary.

mod api;
#[cfg(all(feature = "demo", feature = "unstable"))]
mod doctor;
#[cfg(feature = "unstable")]
mod gpu;
mod image;
#[cfg(feature = "unstable")]
mod kernels;
#[cfg(feature = "unstable")]
mod models;
#[cfg(feature = "unstable")]
mod mutations;
#[cfg(feature = "unstable")]
mod ops;
#[cfg(all(feature = "demo", feature = "unstable"))]
mod order;
mod pages;
#[cfg(all(feature = "demo", feature = "unstable"))]
mod pipeline;
#[cfg(feature = "unstable")]
mod record;
#[cfg(feature = "unstable")]
mod sampling;
#[cfg(all(feature = "demo", feature = "study", feature = "unstable"))]
mod study;
#[cfg(feature = "unstable")]
#[cfg_attr(not(feature = "demo"), allow(dead_code, reason = "tests of pictures use the rest"))]
mod support;
#[cfg(not(feature = "unstable"))]
#[path = "support/stable.rs"]
#[allow(dead_code, reason = "tests of the runtime use the rest")]
mod support;
#[cfg(feature = "unstable")]
mod text;
#[cfg(feature = "unstable")]
mod weights;

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
