//! Of `support`, what needs no runtime.

pub(crate) mod allocations;
pub(crate) mod picture_file;
