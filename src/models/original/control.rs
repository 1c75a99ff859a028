//! A ControlNet in a single file, under the names of its training code (`cldm/cldm.py` of lllyasviel/ControlNet) or diffusers'.

use serde_json::{Map, Value};

use super::names::number;
use super::{Family, Part, Renamed, Taken, config, names, unet};
use crate::weights::TensorSet;
use crate::{Error, Result};

const PREFIXES: &[&str] = &["control_model.", ""];

/// Of the two layouts.
const MARK: &str = "input_hint_block.0.weight";
const DIFFUSERS_MARK: &str = "controlnet_cond_embedding.conv_in.weight";

/// A ControlNet that was recognised.
pub struct Control {
    /// What it was made for.
    pub family: Family,
    /// Its tensors and configuration.
    pub part: Part,
    /// Names that belong to nothing here.
    pub foreign: Vec<String>,
}

/// Relatives that work otherwise: in words, and what their tensors' names begin with or have inside.
const RELATIVES: &[(&str, &[&str])] = &[
    ("a Control-LoRA", &["lora_controlnet"]),
    ("a ControlNet-LLLite", &["lllite_"]),
    ("a T2I-Adapter", &["adapter.body.", "adapter.conv_in.", "body.0.block1.", "body.0.in_conv."]),
    ("a ControlNet of several kinds of pictures (union)", &["task_embedding", "control_add_embedding."]),
    ("a ControlNet-XS", &["ctrl_to_base", "base_to_ctrl"]),
    ("the difference of a ControlNet to its model", &["difference"]),
];

impl Control {
    /// Whether a file has a ControlNet in it.
    pub fn is_in(file: &TensorSet) -> bool {
        layout(file).is_some()
    }

    /// A relative of ControlNet that is not supported, in words.
    pub fn relative(file: &TensorSet) -> Option<&'static str> {
        let begins = |marks: &[&str]| file.tensors().keys().any(|name| marks.iter().any(|mark| name.starts_with(mark)));
        RELATIVES.iter().find(|(_, marks)| begins(marks)).map(|(words, _)| *words)
    }

    /// Recognises a file; `patch` replaces fields of what would be inferred. What shapes cannot tell (the number of heads, groups of norms)
    /// is that of the published family.
    ///
    /// # Errors
    /// When it is no ControlNet, a relative that is not supported, or blocks are missing.
    pub fn read(file: &TensorSet, patch: &Map<String, Value>) -> Result<Self> {
        let refuse = |found: &str| {
            Error::model(format!(
                "{}: expected a ControlNet (controlnet_cond_embedding.…, control_model.…), got {found}",
                file.label()
            ))
            .in_file(file.label())
        };
        if let Some(relative) = Self::relative(file) {
            return Err(refuse(&format!("{relative}, which is not supported")));
        }
        let mut taken = Taken::of(file);
        let tensors = match layout(file) {
            Some(Layout::Diffusers) => file.clone(),
            Some(Layout::Original) => taken.take(PREFIXES, &[MARK], rename)?.unwrap_or_else(|| file.clone()),
            None => return Err(refuse(&names::some(file))),
        };
        let mut fields = config::control(&tensors, patch)?;
        let family = match (fields["cross_attention_dim"].as_u64(), fields["addition_embed_type"].is_string()) {
            (_, true) => Family::Xl,
            (Some(1024), _) => Family::Sd2,
            _ if fields["use_linear_projection"] == Value::Bool(true) => Family::Sd2,
            _ => Family::Sd1,
        };
        fields.extend(patch.clone());
        // What else a file holds that was made for another program: a whole model beside its net.
        let foreign = match tensors.tensors().len() == file.tensors().len() {
            true => Vec::new(),
            false => taken.foreign(),
        };
        Ok(Control { family, part: Part { tensors, config: fields }, foreign })
    }
}

enum Layout {
    Original,
    Diffusers,
}

fn layout(file: &TensorSet) -> Option<Layout> {
    if file.contains(DIFFUSERS_MARK) {
        return Some(Layout::Diffusers);
    }
    PREFIXES.iter().any(|prefix| file.contains(&format!("{prefix}{MARK}"))).then_some(Layout::Original)
}

/// Every tensor under diffusers' name.
fn rename(tensors: &TensorSet) -> Result<Renamed> {
    // Convolutions of the picture, each with an activation behind it that has a number but no tensor.
    let hints = tensors.tensors().keys().filter_map(|name| number(name.strip_prefix("input_hint_block.")?));
    let last = hints.map(|(i, _)| i).max().unwrap_or(0);
    let own = |name: &str| {
        if let Some(rest) = name.strip_prefix("middle_block_out.0.") {
            return Some(format!("controlnet_mid_block.{rest}"));
        }
        if let Some((i, rest)) = name.strip_prefix("zero_convs.").and_then(number) {
            return Some(format!("controlnet_down_blocks.{i}.{}", rest.strip_prefix("0.")?));
        }
        let (i, rest) = number(name.strip_prefix("input_hint_block.")?)?;
        let module = match i {
            0 => "conv_in".to_owned(),
            i if i == last => "conv_out".to_owned(),
            i if i % 2 == 0 => format!("blocks.{}", i / 2 - 1),
            _ => return None,
        };
        Some(format!("controlnet_cond_embedding.{module}.{rest}"))
    };
    let trunk = unet::namer(tensors)?;
    Renamed::each(tensors, |name| own(name).or_else(|| trunk(name)))
}
