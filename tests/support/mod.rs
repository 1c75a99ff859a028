//! What several test modules need.

pub(crate) mod adapter;
pub(crate) mod allocations;
pub(crate) mod alone;
pub(crate) mod control;
pub(crate) mod files;
pub(crate) mod full_size;
pub(crate) mod gguf_file;
pub(crate) mod golden;
pub(crate) mod part;
pub(crate) mod picture_file;
pub(crate) mod single_file;
pub(crate) mod smallest;
pub(crate) mod torch_file;
pub(crate) mod xl_folder;
