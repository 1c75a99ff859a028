//! Checkpoints: named tensors in mapped safetensors files, and the strict accounting of who asked for which.
//!
//! [`WeightFile`] is a file (or bytes in the binary) whose header was checked. [`Weights`] walks it by the checkpoint's
//! own paths and gives [`Constant`](crate::record::Constant)s that read, convert and repack only when a backend uploads
//! them, so a model costs no host memory beyond the mapping.

mod convert;
mod file;
mod quantize;
mod tree;

pub use convert::WeightType;
pub use file::{StoredTensor, WeightFile};
pub use tree::{Table, Weights};
