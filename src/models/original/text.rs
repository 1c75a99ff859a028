//! Text encoders: OpenAI's CLIP as transformers saves it, and OpenCLIP, which joins the three projections of an attention and
//! stores its last projection the other way round.

use std::collections::BTreeMap;

use serde_json::Map;

use super::config;
use super::names::{count, number, replace_head};
use super::{Family, Part, Patches, Renamed, Taken};
use crate::weights::TensorSet;
use crate::{Error, Result};

const CLIP_MARK: &[&str] = &["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"];

const OPEN_CLIP_MARK: &[&str] = &["token_embedding.weight"];

/// Where a family keeps an encoder.
struct Place {
    family: Family,
    prefix: &'static str,
    component: &'static str,
    rename: fn(&TensorSet) -> Result<Renamed>,
    mark: &'static [&'static str],
}

/// Stable Diffusion 2.x listens to the last layer but one, and so diffusers leaves the last one out.
const PLACES: &[Place] = &[
    clip(Family::Xl, "conditioner.embedders.0.transformer.", "text_encoder"),
    open_clip(Family::Xl, "conditioner.embedders.1.model.", "text_encoder_2"),
    open_clip(Family::XlRefiner, "conditioner.embedders.0.model.", "text_encoder_2"),
    clip(Family::Sd1, "cond_stage_model.transformer.", "text_encoder"),
    Place {
        family: Family::Sd2,
        prefix: "cond_stage_model.model.",
        component: "text_encoder",
        rename: rename_penultimate,
        mark: OPEN_CLIP_MARK,
    },
];

const fn clip(family: Family, prefix: &'static str, component: &'static str) -> Place {
    Place { family, prefix, component, rename: rename_clip, mark: CLIP_MARK }
}

const fn open_clip(family: Family, prefix: &'static str, component: &'static str) -> Place {
    Place { family, prefix, component, rename: rename_open_clip, mark: OPEN_CLIP_MARK }
}

impl Place {
    fn is_in(&self, file: &TensorSet) -> bool {
        self.mark.iter().any(|mark| file.contains(&format!("{}{mark}", self.prefix)))
    }
}

/// The family whose text encoder is in a file.
pub(super) fn family(file: &TensorSet) -> Option<Family> {
    PLACES.iter().find(|place| place.is_in(file)).map(|place| place.family)
}

/// The text encoders of a file.
pub(super) fn read(taken: &mut Taken<'_>, patches: &Patches) -> Result<BTreeMap<&'static str, Part>> {
    let nothing = Map::new();
    let Some(family) = family(taken.file) else { return Ok(BTreeMap::new()) };
    let mut parts = BTreeMap::new();
    for place in PLACES.iter().filter(|place| place.family == family) {
        if let Some(tensors) = taken.take(&[place.prefix], place.mark, place.rename)? {
            let patch = patches.get(place.component).unwrap_or(&nothing);
            let is_open_clip = place.mark == OPEN_CLIP_MARK;
            let config = config::text(&tensors, is_open_clip, patch)?;
            parts.insert(place.component, Part { tensors, config });
        }
    }
    Ok(parts)
}

/// What is saved beside an encoder and never read.
pub(super) fn is_buffer(name: &str) -> bool {
    let leaf = name.rsplit('.').next().unwrap_or_default();
    let below = PLACES.iter().any(|place| name.starts_with(place.prefix)) || name.starts_with("cond_stage_model.");
    below && matches!(leaf, "position_ids" | "attn_mask" | "logit_scale")
}

fn rename_clip(tensors: &TensorSet) -> Result<Renamed> {
    Renamed::each(tensors, |name| {
        if name.ends_with("position_ids") {
            return None;
        }
        let whole = name.starts_with("text_model.");
        let bare = ["embeddings.", "encoder.", "final_layer_norm."].iter().any(|head| name.starts_with(head));
        whole.then(|| name.to_owned()).or_else(|| bare.then(|| format!("text_model.{name}")))
    })
}

const TOP: &[(&str, &str)] =
    &[("token_embedding.", "text_model.embeddings.token_embedding."), ("ln_final.", "text_model.final_layer_norm.")];

const LAYER: &[(&str, &str)] = &[
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

const LAYERS: &str = "transformer.resblocks.";

fn rename_open_clip(tensors: &TensorSet) -> Result<Renamed> {
    open_clip_layers(tensors, count(tensors, LAYERS)?, true)
}

fn rename_penultimate(tensors: &TensorSet) -> Result<Renamed> {
    open_clip_layers(tensors, count(tensors, LAYERS)?.saturating_sub(1), false)
}

/// The first `layers` of OpenCLIP under the names of transformers; what lies behind them counts as known.
fn open_clip_layers(tensors: &TensorSet, layers: usize, projected: bool) -> Result<Renamed> {
    let label = tensors.label();
    let mut renamed = Renamed::each(tensors, |name| {
        if name == "positional_embedding" {
            return Some("text_model.embeddings.position_embedding.weight".into());
        }
        if name == "text_projection.weight" && projected {
            return Some(name.into());
        }
        let (layer, rest) = name.strip_prefix(LAYERS).and_then(number).unzip();
        match layer.zip(rest) {
            Some((layer, rest)) if layer < layers => {
                Some(format!("text_model.encoder.layers.{layer}.{}", replace_head(rest, LAYER)?))
            }
            Some(_) => None,
            None => replace_head(name, TOP),
        }
    })?;
    for (name, view) in tensors.tensors() {
        let layer = name.strip_prefix(LAYERS).and_then(number);
        match layer {
            Some((layer, _)) if layer >= layers => renamed.taken.push(name.clone()),
            Some((layer, rest)) => {
                let Some(kind) = rest.strip_prefix("attn.in_proj_") else { continue };
                for (index, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                    let Some(part) = view.part(index, 3) else {
                        return Err(Error::Model(format!(
                            "{label}: {name}: expected rows of three projections, got {:?}; the file is damaged",
                            view.shape()
                        )));
                    };
                    let new = format!("text_model.encoder.layers.{layer}.self_attn.{projection}.{kind}");
                    renamed.put(label, name, new, part)?;
                }
            }
            None if name == "text_projection" && projected => {
                let Some(swapped) = view.swapped() else {
                    return Err(Error::Model(format!(
                        "{label}: {name}: expected a matrix, got {:?}; the file is damaged",
                        view.shape()
                    )));
                };
                renamed.put(label, name, "text_projection.weight".into(), swapped)?;
            }
            None if name.starts_with("text_projection") => renamed.taken.push(name.clone()),
            None => {}
        }
    }
    Ok(renamed)
}
