//! Layers under checkpoint names. Each `load` reads its tensors, each `forward` records its dispatches.
//!
//! Activations are channels last, `[n, h, w, c]`; token sequences are `[n, 1, tokens, c]`, and a transformer sees an image
//! as the sequence of its pixels without moving anything. Channel counts of 3 or 9 are padded to a multiple of 4 inside
//! the layers: the padding channels of an input must be zero, those of a result are zero.
//!
//! # What is f32 where storage is f16
//!
//! A value in f16 is off by 2^-12 of itself, a normalised squared error of about 5e-8; what counts is how often that
//! happens on one path, and how far the layers behind magnify it. So f32 are
//!
//! - what passes by the layers: inputs, results, time embeddings, and the residual stream (what a first convolution, a
//!   sampler, a shortcut or the entry of a transformer writes, every sum with it, and joined skips), which each layer would
//!   round anew; not so the finest level of an `AutoencoderKL`'s decoder, whose stream are the largest tensors of all, with
//!   few layers behind;
//! - everything on the way down and in the middle of a UNet or an `AutoencoderKL`: norms over few, nearly equal values and
//!   sharp attention magnify an early error up to some thousand times (to 1e-4 or 1e-3 in tiny networks with random
//!   weights), a late one hardly.
//!
//! What remains is the inside of blocks on the way up and in text encoders: normed activations, queries, keys, values and
//! hidden layers, most of the traffic there. `AutoencoderTiny`, without norms, has all but input and result in f16. Layers
//! keep the stream in the type that they find; models choose it by [`Recording::in_f32`](crate::record::Recording::in_f32).

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
pub use time_embedding::{BlockTimes, TimeBlocks, TimeProjections, TimestepEmbedding};
pub use transformer::{Transformer2D, Transformer2DConfig};
