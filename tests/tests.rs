//! The one integration-test binary.

mod gpu;
mod kernels;
mod ops;
mod support;
