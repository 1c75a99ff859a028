//! TAESD (madebyollin/taesd): a tiny autoencoder in one file under diffusers' names, or its halves in files of their own, where layers
//! have their numbers alone and the decoder counts the clamp in front of it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Renamed;
use super::names::number;
use crate::Result;
use crate::weights::TensorSet;

pub(super) const PREFIXES: &[&str] = &["", "taesd_decoder.", "taesd_encoder.", "first_stage_model.", "vae."];

/// A first convolution; no other network's names end so.
pub(super) const MARK: &[&str] = &["decoder.layers.0.weight", "encoder.layers.0.weight", "3.conv.0.weight"];

/// Every tensor under diffusers' name.
pub(super) fn rename(tensors: &TensorSet) -> Result<Renamed> {
    // The halves alone: an encoder's first convolution is number 0, a decoder's follows its clamp.
    let half = if tensors.contains("0.weight") { "encoder" } else { "decoder" };
    let clamp = usize::from(half == "decoder");
    Renamed::each(tensors, |name| {
        if name.starts_with("encoder.layers.") || name.starts_with("decoder.layers.") {
            return Some(name.to_owned());
        }
        let (layer, rest) = number(name)?;
        Some(format!("{half}.layers.{}.{rest}", layer.checked_sub(clamp)?))
    })
}

/// Of a tiny autoencoder: blocks of each level are the runs of blocks between other layers.
pub(super) fn config(tensors: &TensorSet) -> Map<String, Value> {
    let (encoder, decoder) = (blocks(tensors, "encoder.layers."), blocks(tensors, "decoder.layers."));
    let first = |half: &str, axis: usize| {
        tensors.shape(&format!("{half}.layers.0.weight")).and_then(|shape| shape.get(axis)).copied()
    };
    // Without a half, its channels are the other's.
    let widths = [first("encoder", 0).or(first("decoder", 0)), first("decoder", 0).or(first("encoder", 0))];
    let latents = first("decoder", 1).unwrap_or(4);
    let [encoder_width, decoder_width] = widths.map(|width| width.unwrap_or(0));
    let config = json!({
        "_class_name": "AutoencoderTiny",
        "in_channels": first("encoder", 1).unwrap_or(3),
        "latent_channels": latents,
        "encoder_block_out_channels": vec![encoder_width; encoder.len()],
        "decoder_block_out_channels": vec![decoder_width; decoder.len()],
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
    });
    match config {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Blocks of each level of a half; none where it is not there.
fn blocks(tensors: &TensorSet, prefix: &str) -> Vec<usize> {
    let mut layers: BTreeMap<usize, bool> = BTreeMap::new();
    for (layer, rest) in tensors.tensors().keys().filter_map(|name| number(name.strip_prefix(prefix)?)) {
        layers.insert(layer, rest.starts_with("conv."));
    }
    // A level's first layer is a convolution, and so is the last of all.
    let mut levels: Vec<usize> = Vec::new();
    for is_block in layers.into_values() {
        match (is_block, levels.last_mut()) {
            (true, Some(blocks)) => *blocks += 1,
            (true, None) => levels.push(1),
            (false, _) => levels.push(0),
        }
    }
    levels.pop();
    levels
}
