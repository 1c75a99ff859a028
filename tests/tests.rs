//! The one integration-test binary.

mod gpu;
mod kernels;
mod models;
mod ops;
mod record;
mod sampling;
mod support;
mod weights;
