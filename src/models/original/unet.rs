//! The UNet's names: two flat lists of blocks, in which a level ends where a block changes the size.

use super::Renamed;
use super::names::{count, number, replace_head};
use crate::Result;
use crate::weights::TensorSet;

pub(super) const PREFIXES: &[&str] = &["model.diffusion_model.", ""];

pub(super) const MARK: &[&str] = &["input_blocks.0.0.weight"];

const TOP: &[(&str, &str)] = &[
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("time_embed.cond_proj.", "time_embedding.cond_proj."),
    ("label_emb.0.0.", "add_embedding.linear_1."),
    ("label_emb.0.2.", "add_embedding.linear_2."),
    ("input_blocks.0.0.", "conv_in."),
    ("middle_block.1.", "mid_block.attentions.0."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
];

const RESNET: &[(&str, &str)] = &[
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("emb_layers.1.", "time_emb_proj."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("skip_connection.", "conv_shortcut."),
];

/// A block's level, and its place among the residual blocks of the level.
#[derive(Clone, Copy)]
struct Place {
    level: usize,
    index: usize,
}

/// Every tensor under diffusers' name.
///
/// # Errors
/// When a block is missing.
pub(super) fn rename(tensors: &TensorSet) -> Result<Renamed> {
    Renamed::each(tensors, namer(tensors)?)
}

/// Diffusers' name of each of the original ones.
///
/// # Errors
/// When a block is missing.
pub(super) fn namer(tensors: &TensorSet) -> Result<impl Fn(&str) -> Option<String>> {
    let (inputs, outputs) = (count(tensors, "input_blocks.")?, count(tensors, "output_blocks.")?);
    let ends_down = |i: usize| tensors.contains(&format!("input_blocks.{i}.0.op.weight"));
    let ends_up =
        |i: usize| [1, 2].iter().any(|part| tensors.contains(&format!("output_blocks.{i}.{part}.conv.weight")));
    // The first input is the convolution before all levels.
    let down = places(inputs, 1, ends_down);
    let up = places(outputs, 0, ends_up);
    Ok(move |name: &str| {
        if let Some(new) = replace_head(name, TOP) {
            return Some(new);
        }
        let (list, rest) = name.split_once('.')?;
        let (block, rest) = number(rest)?;
        match list {
            "input_blocks" => below("down_blocks", *down.get(block)?, rest),
            "output_blocks" => below("up_blocks", *up.get(block)?, rest),
            "middle_block" if block % 2 == 0 && block < 3 => {
                Some(format!("mid_block.resnets.{}.{}", block / 2, replace_head(rest, RESNET)?))
            }
            _ => None,
        }
    })
}

/// The place of each block; those before `first` have none of their own and get the first one's.
fn places(blocks: usize, first: usize, ends: impl Fn(usize) -> bool) -> Vec<Place> {
    let mut place = Place { level: 0, index: 0 };
    let mut places = vec![place; first.min(blocks)];
    for block in first..blocks {
        places.push(place);
        if ends(block) {
            place = Place { level: place.level + 1, index: 0 };
        } else {
            place.index += 1;
        }
    }
    places
}

/// A name inside a block: part 0 is a residual block or what shrinks, then an attention, then what grows.
fn below(list: &str, Place { level, index }: Place, rest: &str) -> Option<String> {
    let (part, rest) = number(rest)?;
    let inside = match part {
        0 if rest.starts_with("op.") => replace_head(rest, &[("op.", "downsamplers.0.conv.")])?,
        0 => format!("resnets.{index}.{}", replace_head(rest, RESNET)?),
        1 | 2 if rest.starts_with("conv.") => format!("upsamplers.0.{rest}"),
        1 => format!("attentions.{index}.{rest}"),
        _ => return None,
    };
    Some(format!("{list}.{level}.{inside}"))
}
