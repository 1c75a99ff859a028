//! What `config.json` would say, from the names and shapes of diffusers and transformers.

use serde_json::{Map, Value, json};

use super::names::count;
use crate::weights::TensorSet;
use crate::{Error, Result};

/// Channels of a head in Stable Diffusion 2.x and XL, in CLIP and in OpenCLIP.
const HEAD_WIDTH: usize = 64;

/// Heads of every attention in Stable Diffusion 1.x.
const HEADS: usize = 8;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An extent of a tensor.
fn extent(tensors: &TensorSet, name: &str, axis: usize) -> Result<usize> {
    match tensors.shape(name) {
        // A tensor that has elements has extents that the file's size bounds.
        Some(shape) if shape.len() > axis && !shape.contains(&0) => Ok(shape[axis]),
        Some(shape) => Err(Error::model(format!(
            "{}: {name}: expected at least {} extents above 0, got {shape:?}; the file is damaged",
            tensors.label(),
            axis + 1
        ))
        .in_file(tensors.label())
        .of_tensor(name)),
        None => Err(Error::model(format!(
            "{}: expected {name} (its name in diffusers), the file lacks it; it is incomplete",
            tensors.label()
        ))
        .in_file(tensors.label())),
    }
}

/// The second extent of a tensor that not every file has.
fn width(tensors: &TensorSet, name: &str) -> Result<Option<usize>> {
    tensors.contains(name).then(|| extent(tensors, name, 1)).transpose()
}

/// A count that cannot be 0.
fn some(tensors: &TensorSet, prefix: &str) -> Result<usize> {
    match count(tensors, prefix)? {
        0 => Err(Error::model(format!(
            "{}: expected {prefix}0 (its name in diffusers), the file lacks it; it is incomplete",
            tensors.label()
        ))
        .in_file(tensors.label())),
        count => Ok(count),
    }
}

fn heads(tensors: &TensorSet, channels: usize) -> Result<usize> {
    if channels.is_multiple_of(HEAD_WIDTH) {
        return Ok(channels / HEAD_WIDTH);
    }
    Err(Error::model(format!(
        "{}: expected channels in multiples of {HEAD_WIDTH}, the width of a head in this family, got {channels}; it is no published \
         model, its number of heads cannot be known",
        tensors.label()
    )).in_file(tensors.label()))
}

/// Of a UNet.
pub(super) fn unet(tensors: &TensorSet, patch: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut config = trunk(tensors, patch)?;
    let levels = some(tensors, "down_blocks.")?;
    let up = |level| if attends(tensors, "up_blocks", level) { "CrossAttnUpBlock2D" } else { "UpBlock2D" };
    let has_time = tensors.contains("time_embedding.linear_1.weight");
    config.extend(object(json!({
        "_class_name": if has_time { "UNet2DConditionModel" } else { "UNet2DConditionWoCTModel" },
        "out_channels": extent(tensors, "conv_out.weight", 0)?,
        "up_block_types": (0..levels).map(up).collect::<Vec<_>>(),
        "time_cond_proj_dim": width(tensors, "time_embedding.cond_proj.weight")?,
    })));
    Ok(config)
}

/// Of a ControlNet.
pub(super) fn control(tensors: &TensorSet, patch: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut config = trunk(tensors, patch)?;
    let at = "controlnet_cond_embedding";
    let mut widths = vec![extent(tensors, &format!("{at}.conv_in.weight"), 0)?];
    for block in (1..count(tensors, &format!("{at}.blocks."))?).step_by(2) {
        widths.push(extent(tensors, &format!("{at}.blocks.{block}.weight"), 0)?);
    }
    config.extend(object(json!({
        "_class_name": "ControlNetModel",
        "conditioning_channels": extent(tensors, &format!("{at}.conv_in.weight"), 1)?,
        "conditioning_embedding_out_channels": widths,
    })));
    Ok(config)
}

fn attends(tensors: &TensorSet, list: &str, level: usize) -> bool {
    tensors.contains(&format!("{list}.{level}.attentions.0.norm.weight"))
}

/// What a UNet and a ControlNet have in common.
fn trunk(tensors: &TensorSet, patch: &Map<String, Value>) -> Result<Map<String, Value>> {
    let levels = some(tensors, "down_blocks.")?;
    let mut channels = Vec::new();
    let mut layers = Vec::new();
    let mut depths = Vec::new();
    let mid_depth = count(tensors, "mid_block.attentions.0.transformer_blocks.")?;
    for level in 0..levels {
        let at = format!("down_blocks.{level}");
        channels.push(extent(tensors, &format!("{at}.resnets.0.conv1.weight"), 0)?);
        layers.push(some(tensors, &format!("{at}.resnets."))?);
        let depth = count(tensors, &format!("{at}.attentions.0.transformer_blocks."))?;
        // Where a level has no attention the number is not used, but the middle takes the last level's.
        depths.push(match depth {
            0 if level + 1 == levels => mid_depth.max(1),
            depth => depth.max(1),
        });
    }
    let down = |level| if attends(tensors, "down_blocks", level) { "CrossAttnDownBlock2D" } else { "DownBlock2D" };
    // Distilled networks have nothing in the middle: the first transformer tells what all have in common.
    let first = (0..levels).find(|level| attends(tensors, "down_blocks", *level));
    let at = match first.filter(|_| mid_depth == 0) {
        Some(level) => format!("down_blocks.{level}.attentions.0"),
        None => "mid_block.attentions.0".into(),
    };
    let projection = tensors.shape(&format!("{at}.proj_in.weight")).unwrap_or_default();
    let linear = projection.len() == 2;
    let context = format!("{at}.transformer_blocks.0.attn2.to_k.weight");
    let mid = match (mid_depth, tensors.contains("mid_block.resnets.0.conv1.weight")) {
        (0, false) => Value::Null,
        (0, true) => "UNetMidBlock2D".into(),
        _ => "UNetMidBlock2DCrossAttn".into(),
    };
    let head_counts = match patch.get("attention_head_dim") {
        Some(given) => given.clone(),
        None if linear => channels.iter().map(|&c| heads(tensors, c)).collect::<Result<Vec<_>>>()?.into(),
        None => HEADS.into(),
    };
    let added = width(tensors, "add_embedding.linear_1.weight")?;
    Ok(object(json!({
        "in_channels": extent(tensors, "conv_in.weight", 1)?,
        "block_out_channels": channels,
        "mid_block_type": mid,
        "down_block_types": (0..levels).map(down).collect::<Vec<_>>(),
        "layers_per_block": layers,
        "transformer_layers_per_block": depths,
        "attention_head_dim": head_counts,
        "cross_attention_dim": extent(tensors, &context, 1)?,
        "use_linear_projection": linear,
        "norm_num_groups": 32,
        "addition_embed_type": added.map(|_| "text_time"),
        "projection_class_embeddings_input_dim": added,
    })))
}

/// Of an autoencoder, without the scaling of its latents.
pub(super) fn vae(tensors: &TensorSet) -> Result<Map<String, Value>> {
    let levels = some(tensors, "encoder.down_blocks.")?;
    let channels = (0..levels)
        .map(|level| extent(tensors, &format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"), 0))
        .collect::<Result<Vec<_>>>()?;
    Ok(object(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": extent(tensors, "encoder.conv_in.weight", 1)?,
        "out_channels": extent(tensors, "decoder.conv_out.weight", 0)?,
        "latent_channels": extent(tensors, "decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": some(tensors, "encoder.down_blocks.0.resnets.")?,
        "norm_num_groups": 32,
        "mid_block_add_attention": tensors.contains("decoder.mid_block.attentions.0.group_norm.weight"),
        "use_quant_conv": tensors.contains("quant_conv.weight"),
        "use_post_quant_conv": tensors.contains("post_quant_conv.weight"),
    })))
}

/// Of a text encoder.
pub(super) fn text(tensors: &TensorSet, open_clip: bool, patch: &Map<String, Value>) -> Result<Map<String, Value>> {
    let token = "text_model.embeddings.token_embedding.weight";
    let hidden = extent(tensors, token, 1)?;
    let projection = "text_projection.weight";
    let projected = tensors.contains(projection).then(|| extent(tensors, projection, 0)).transpose()?;
    let heads = match patch.get("num_attention_heads") {
        Some(given) => given.clone(),
        None => heads(tensors, hidden)?.into(),
    };
    Ok(object(json!({
        "model_type": "clip_text_model",
        "architectures": [if projected.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "vocab_size": extent(tensors, token, 0)?,
        "hidden_size": hidden,
        "intermediate_size": extent(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "num_hidden_layers": some(tensors, "text_model.encoder.layers.")?,
        "num_attention_heads": heads,
        "max_position_embeddings": extent(tensors, "text_model.embeddings.position_embedding.weight", 0)?,
        "hidden_act": if open_clip { "gelu" } else { "quick_gelu" },
        "projection_dim": projected.unwrap_or(hidden),
        "eos_token_id": 49_407,
    })))
}
