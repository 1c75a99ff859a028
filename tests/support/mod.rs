//! What several test modules need.

pub(crate) mod adapter;
pub(crate) mod allocations;
pub(crate) mod control;
pub(crate) mod full_size;
pub(crate) mod golden;
pub(crate) mod single_file;
