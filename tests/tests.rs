//! The one integration-test binary.

mod cli;
mod gpu;
mod kernels;
mod ops;
mod record;
mod sampling;
mod support;
