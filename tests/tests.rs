//! The one integration-test binary.

mod gpu;
mod support;
