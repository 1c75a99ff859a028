//! Checkpoints: named tensors in mapped safetensors files, and the strict accounting of who asked for which.
//!
//! [`WeightFile`] is a file (or bytes in the binary) whose header was checked. [`Weights`] walks it by the checkpoint's
//! own paths and gives [`Constant`](crate::record::Constant)s that read, convert and repack only when a backend uploads
//! them, so a model costs no host memory beyond the mapping. An [`AdapterFile`] changes tensors as they are given.

mod convert;
mod file;
mod lora;
mod tree;

pub use convert::WeightType;
pub use file::{StoredTensor, WeightFile};
pub use lora::AdapterFile;
pub(crate) use lora::Patches;
pub use tree::{Table, Weights};
