//! The one integration-test binary.

mod gpu;
mod kernels;
mod record;
mod sampling;
mod support;
