//! What goes into a PNG, and a PNG (of this program or another) → the request that made it.

pub(crate) mod parameters;
pub(crate) mod repeat;
