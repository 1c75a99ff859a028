//! Files → networks: the model as it is loaded.

pub(crate) mod adapters;
pub(crate) mod control;
pub(crate) mod embeddings;
pub(crate) mod encoders;
pub(crate) mod hashes;
pub(crate) mod kind;
pub(crate) mod load;
pub(crate) mod oms_module;
pub(crate) mod overrides;
pub(crate) mod own_size;
pub(crate) mod pipeline;
pub(crate) mod switch;
