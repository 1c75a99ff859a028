//! The networks: what `config.json` says, which tensors they load, and the forward pass they record.
//!
//! Each model has a config struct that mirrors the checkpoint's `config.json` (a field that changes the mathematics is
//! read, or refused by name), a `load` that accounts for every tensor of the file, and `record` functions that give a
//! [`Recording`] for one shape. Inputs and outputs of a recording are named by constants
//! beside the model; they are f32, channels last, as [`layout`] makes them.

mod autoencoder;
mod clip;
mod config;
mod families;
pub mod layout;
mod lora_names;
pub mod original;
mod taesd;
mod unet;
mod vae;

pub use autoencoder::{Autoencoder, EncoderOutput};
pub use clip::{ClipTextConfig, ClipTextModel, HiddenAct, TextStates};
pub use config::OneOrMany;
pub use families::{other_family, other_kind};
pub use lora_names::{LayerNames, Network, network};
pub use taesd::{AutoencoderTiny, AutoencoderTinyConfig};
pub use unet::{
    ControlNet, ControlNetConfig, DownBlockType, MidBlockType, Shortcuts, TokenMerging, Unet, UnetConfig, UpBlockType,
};
pub use vae::{AutoencoderKl, AutoencoderKlConfig};

use crate::record::{Caps, Recording, Shape, Tensor};

/// An empty recording that returns every tapped result too if asked.
fn new_recording(caps: &Caps, taps: bool) -> Recording {
    let recording = Recording::new(caps);
    if taps { recording.with_taps() } else { recording }
}

/// An input of a network: f32 whatever the storage type.
fn input(rec: &mut Recording, name: &str, shape: Shape) -> Tensor {
    rec.in_f32(|rec| rec.input(name, shape))
}

/// The names of inputs and outputs of recordings.
pub mod names {
    /// UNet: latents `[n, h, w, in_channels]`, channels padded with zeros to a multiple of 4.
    pub const SAMPLE: &str = "sample";
    /// UNet: text states `[n, tokens, cross_attention_dim]`. Text encoder: the chosen layer's states
    /// `[n, tokens, hidden_size]`.
    pub const ENCODER_HIDDEN_STATES: &str = "encoder_hidden_states";
    /// UNet with time: the sinusoid of each row's timestep, cosines first, `[n, block_out_channels[0]]`.
    pub const TIME_PROJ: &str = "time_proj";
    /// UNet with `time_cond_proj_dim`: the guidance embedding `[n, time_cond_proj_dim]`.
    pub const TIMESTEP_COND: &str = "timestep_cond";
    /// UNet with `addition_embed_type = text_time`: pooled text states, then the sinusoids of the six time ids,
    /// `[n, projection_class_embeddings_input_dim]`, padded with zeros to a multiple of 4.
    pub const ADD_EMBEDS: &str = "add_embeds";
    /// UNet with more input channels than its ControlNets: the latents alone, as [`SAMPLE`].
    pub const CONTROL_SAMPLE: &str = "control_sample";

    /// ControlNet number `index`: its picture, `[1, 8h, 8w, 3]` with 0 black and 1 white, a zero behind each pixel's channels.
    pub fn control_image(index: usize) -> String {
        format!("control_image.{index}")
    }

    /// ControlNet number `index`: what each of its results is multiplied with for each row, those on the way down first, then the
    /// middle's, `[n, sites]`, padded with zeros to a multiple of 4.
    pub fn control_scales(index: usize) -> String {
        format!("control_scales.{index}")
    }

    /// Text encoder: token plus position embeddings `[n, tokens, hidden_size]`.
    pub const INPUTS_EMBEDS: &str = "inputs_embeds";
    /// Text encoder: the last layer's states after the final norm, `[n, tokens, hidden_size]`, if asked for.
    pub const LAST_HIDDEN_STATE: &str = "last_hidden_state";
    /// Autoencoders, encoding: the image as the model's `image_input` makes it.
    pub const IMAGE: &str = "image";
    /// Autoencoders, decoding: unscaled latents `[n, h, w, latent_channels]`, channels padded with zeros to a multiple
    /// of 4.
    pub const LATENTS: &str = "latents";
    /// The result of a UNet or an autoencoder.
    pub const OUT: &str = "out";
}
