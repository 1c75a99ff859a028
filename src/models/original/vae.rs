//! The autoencoder's names. The decoder counts its levels from the finest, diffusers from the coarsest.

use super::names::{count, number, replace_head};
use super::{Naming, Renamed};
use crate::Result;
use crate::weights::TensorSet;

const PREFIXES: &[&str] = &["first_stage_model.", "vae.", ""];

pub(super) const ORIGINAL: Naming = Naming { prefixes: PREFIXES, mark: &["decoder.mid.block_1.conv1.weight"], rename };

/// As diffusers' folders have them.
pub(super) const DIFFUSERS: Naming =
    Naming { prefixes: PREFIXES, mark: &["decoder.mid_block.resnets.0.conv1.weight"], rename: rename_same };

const HEADS: &[&str] = &["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];

const HALF: &[(&str, &str)] = &[
    ("conv_in.", "conv_in."),
    ("conv_out.", "conv_out."),
    ("norm_out.", "conv_norm_out."),
    ("mid.block_1.nin_shortcut.", "mid_block.resnets.0.conv_shortcut."),
    ("mid.block_2.nin_shortcut.", "mid_block.resnets.1.conv_shortcut."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("mid.attn_1.to_", "mid_block.attentions.0.to_"),
];

/// Every tensor under diffusers' name. The attention's 1×1 convolutions are matrices there.
///
/// # Errors
/// When a level is missing.
fn rename(tensors: &TensorSet) -> Result<Renamed> {
    let levels = count(tensors, "decoder.up.")?;
    let mut renamed = Renamed::each(tensors, |name| {
        if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
            return Some(name.to_owned());
        }
        let (half, rest) = name.split_once('.')?;
        let inside = match half {
            "encoder" => level(rest, "down", Some),
            "decoder" => level(rest, "up", |level| levels.checked_sub(level + 1)),
            _ => return None,
        };
        Some(format!("{half}.{}", inside.or_else(|| replace_head(rest, HALF))?))
    })?;
    flatten(&mut renamed);
    Ok(renamed)
}

fn rename_same(tensors: &TensorSet) -> Result<Renamed> {
    let mut renamed = Renamed::same(tensors, HEADS)?;
    flatten(&mut renamed);
    Ok(renamed)
}

/// The attention's projections as matrices.
fn flatten(renamed: &mut Renamed) {
    for (name, view) in &mut renamed.tensors {
        if let (true, [out, inner, 1, 1]) = (name.contains(".attentions.0."), view.shape())
            && let Some(matrix) = view.reshaped(&[*out, *inner])
        {
            *view = matrix;
        }
    }
}

/// `down.0.block.1.conv1.weight` → `down_blocks.0.resnets.1.conv1.weight`.
fn level(name: &str, which: &str, place: impl Fn(usize) -> Option<usize>) -> Option<String> {
    let (level, rest) = number(name.strip_prefix(which)?.strip_prefix('.')?)?;
    let inside = if let Some(rest) = rest.strip_prefix("block.") {
        let (block, rest) = number(rest)?;
        let rest = replace_head(rest, &[("nin_shortcut.", "conv_shortcut.")]).unwrap_or_else(|| rest.to_owned());
        format!("resnets.{block}.{rest}")
    } else {
        replace_head(rest, &[("downsample.", "downsamplers.0."), ("upsample.", "upsamplers.0.")])?
    };
    Some(format!("{which}_blocks.{}.{inside}", place(level)?))
}
