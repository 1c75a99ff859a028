//! What several test modules need.

pub(crate) mod adapter;
pub(crate) mod golden;
