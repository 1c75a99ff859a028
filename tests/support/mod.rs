//! What several test modules need.

pub(crate) mod adapter;
pub(crate) mod full_size;
pub(crate) mod golden;
