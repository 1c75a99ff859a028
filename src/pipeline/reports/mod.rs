//! What a user may want to see of a model, a device or a prompt.

pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod profile;
pub(crate) mod tokens;
pub(crate) mod tune;
