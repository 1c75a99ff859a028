//! Whether autoencoders run in bands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Whether autoencoders run in bands (other programs say tiles): less device memory, the same picture, more host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VaeTiling {
    /// Where the whole exceeds the limit of memory, or what the device can bind with every tensor in the type that is best for it, or where the device has
    /// no memory for it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: what does not fit is an error.
    Off,
}

impl FromStr for VaeTiling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(VaeTiling::Auto),
            "on" => Ok(VaeTiling::On),
            "off" => Ok(VaeTiling::Off),
            _ => Err(Error::request("device.vae_tiling", format!("expected auto, on or off, got {text:?}"))),
        }
    }
}

impl fmt::Display for VaeTiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VaeTiling::Auto => "auto",
            VaeTiling::On => "on",
            VaeTiling::Off => "off",
        })
    }
}
