//! Chiaro: Stable Diffusion with One More Step on Vulkan, Metal, DX12, and on the host.

pub mod cli;
pub mod error;
pub mod gpu;
pub mod image;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod record;
pub mod sampling;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
