//! Layers under checkpoint names. Each `load` reads its tensors, each `forward` records its dispatches.
//!
//! Activations are channels last, `[n, h, w, c]`; token sequences are `[n, 1, tokens, c]`, and a transformer sees an image
//! as the sequence of its pixels without moving anything. Channel counts of 3 or 9 are padded to a multiple of 4 inside
//! the layers: the padding channels of an input must be zero, those of a result are zero.

mod attention;
mod conv;
mod heads;
mod linear;
mod norm;
mod resnet;
mod time_embedding;
mod transformer;

pub use attention::{CrossAttention, ProjectionNames, SelfAttention};
pub use conv::{Conv2d, Downsample2D, Upsample2D};
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use resnet::{ResnetBlock2D, ResnetConfig};
pub use time_embedding::TimestepEmbedding;
pub use transformer::{Transformer2D, Transformer2DConfig};
