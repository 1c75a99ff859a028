//! Checkpoints: named tensors in files (safetensors, GGUF, PyTorch's archives), and the strict accounting of who asked for which.
//!
//! [`WeightFile`] is a file (or bytes in the binary) whose header was checked. [`TensorSet`] is the tensors of one, of
//! several shards ([`open_shards`]), or of one under other names. [`Weights`] walks a set by the checkpoint's own paths and gives [`Constant`](crate::record::Constant)s that read, convert and repack only when a backend uploads
//! them, so a model costs no host memory before. An [`AdapterFile`] changes tensors as they are given; an [`EmbeddingFile`]
//! holds vectors for names in prompts.

mod blocks;
mod bytes;
mod convert;
mod cursor;
mod element;
mod embedding;
mod file;
mod gguf;
mod header;
mod instead;
mod lora;
mod pool;
mod quantize;
mod set;
mod shards;
mod torch;
mod tree;
mod zeros;

pub use blocks::BlockType;
pub use bytes::ReadAt;
pub use convert::WeightType;
pub use element::StoredType;
pub use embedding::EmbeddingFile;
pub use file::{FileFormat, StoredTensor, WeightFile};
pub use lora::AdapterFile;
pub(crate) use lora::Patches;
pub(crate) use pool::Pool;
pub(crate) use set::hex;
pub use set::{TensorSet, TensorView};
pub use shards::{join_shards, open_shards};
pub use tree::{Table, Weights};
