//! Text encoders: OpenAI's CLIP as transformers saves it, and OpenCLIP, which joins the three projections of an attention and
//! stores its last projection the other way round.

use std::collections::BTreeMap;

use serde_json::Map;

use super::config;
use super::names::{count, number, replace_head};
use super::{Family, Part, Patches, Renamed, Taken};
use crate::weights::{TensorSet, TensorView};
use crate::{Error, Result};

const CLIP_MARK: &[&str] = &["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"];

const OPEN_CLIP_MARK: &[&str] = &["token_embedding.weight"];

/// How an encoder is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// OpenAI's CLIP.
    Clip,
    /// OpenCLIP.
    OpenClip,
    /// OpenCLIP to the last layer but one: Stable Diffusion 2.x listens to that, and so diffusers leaves the last one out.
    Penultimate,
    /// OpenCLIP under the names of transformers (stable-diffusion.cpp).
    Converted,
    /// The same to the last layer but one.
    ConvertedPenultimate,
}

/// Where a family keeps an encoder.
struct Place {
    family: Family,
    prefix: &'static str,
    component: &'static str,
    kind: Kind,
    /// Whether an encoder there tells the family.
    tells: bool,
}

const fn place(family: Family, prefix: &'static str, component: &'static str, kind: Kind) -> Place {
    Place { family, prefix, component, kind, tells: true }
}

/// An encoder that other families keep at the same place.
const fn shared(prefix: &'static str) -> Place {
    Place { family: Family::Xl, prefix, component: "text_encoder", kind: Kind::Clip, tells: false }
}

/// A file's family is that of the first of these that it has and that tells it. The first six are those of the original files; the others
/// are where stable-diffusion.cpp puts encoders when it converts a file with their names changed, a diffusers folder (`te.`), or files of single
/// encoders (`text_encoders.`).
const PLACES: &[Place] = &[
    place(Family::Xl, "conditioner.embedders.0.transformer.", "text_encoder", Kind::Clip),
    place(Family::Xl, "conditioner.embedders.1.model.", "text_encoder_2", Kind::OpenClip),
    place(Family::XlRefiner, "conditioner.embedders.0.model.", "text_encoder_2", Kind::OpenClip),
    place(Family::Sd2, "cond_stage_model.model.", "text_encoder", Kind::Penultimate),
    place(Family::Xl, "cond_stage_model.1.transformer.", "text_encoder_2", Kind::Converted),
    place(Family::Xl, "te.1.", "text_encoder_2", Kind::Converted),
    place(Family::Xl, "text_encoders.clip_g.transformer.", "text_encoder_2", Kind::Converted),
    shared("cond_stage_model.transformer."),
    shared("te."),
    shared("text_encoders.clip_l.transformer."),
    place(Family::Sd2, "cond_stage_model.transformer.", "text_encoder", Kind::ConvertedPenultimate),
    place(Family::Sd2, "te.", "text_encoder", Kind::ConvertedPenultimate),
    place(Family::Sd1, "cond_stage_model.transformer.", "text_encoder", Kind::Clip),
    place(Family::Sd1, "te.", "text_encoder", Kind::Clip),
    place(Family::Sd1, "text_encoders.clip_l.transformer.", "text_encoder", Kind::Clip),
];

/// Width and layers of OpenCLIP's ViT-H, which Stable Diffusion 2.x reads with.
const VIT_H: (usize, usize) = (1024, 24);

impl Kind {
    fn mark(self) -> &'static [&'static str] {
        match self {
            Kind::OpenClip | Kind::Penultimate => OPEN_CLIP_MARK,
            Kind::Clip | Kind::Converted | Kind::ConvertedPenultimate => CLIP_MARK,
        }
    }

    fn rename(self) -> fn(&TensorSet) -> Result<Renamed> {
        match self {
            Kind::Clip => rename_clip,
            Kind::OpenClip => rename_open_clip,
            Kind::Penultimate => rename_penultimate,
            Kind::Converted => rename_converted,
            Kind::ConvertedPenultimate => rename_converted_penultimate,
        }
    }
}

impl Place {
    fn is_in(&self, file: &TensorSet) -> bool {
        let shape = self.kind.mark().iter().find_map(|mark| file.shape(&format!("{}{mark}", self.prefix)));
        // Under transformers' names only its width tells OpenCLIP from CLIP.
        shape.is_some_and(|shape| self.kind != Kind::ConvertedPenultimate || shape.get(1) == Some(&VIT_H.0))
    }
}

/// The family whose text encoder is in a file.
pub(super) fn family(file: &TensorSet) -> Option<Family> {
    PLACES.iter().find(|place| place.tells && place.is_in(file)).map(|place| place.family)
}

/// The text encoders of a file.
pub(super) fn read(taken: &mut Taken<'_>, patches: &Patches) -> Result<BTreeMap<&'static str, Part>> {
    let nothing = Map::new();
    let Some(family) = family(taken.file) else { return Ok(BTreeMap::new()) };
    let mut parts = BTreeMap::new();
    for place in PLACES.iter().filter(|place| place.family == family && place.is_in(taken.file)) {
        if parts.contains_key(place.component) {
            continue;
        }
        if let Some(tensors) = taken.take(&[place.prefix], place.kind.mark(), place.kind.rename())? {
            let patch = patches.get(place.component).unwrap_or(&nothing);
            let config = config::text(&tensors, place.kind != Kind::Clip, patch)?;
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

const CONVERTED_LAYERS: &str = "text_model.encoder.layers.";

fn rename_converted(tensors: &TensorSet) -> Result<Renamed> {
    converted_layers(tensors, usize::MAX)
}

/// A file made of diffusers' has only the layers that are read.
fn rename_converted_penultimate(tensors: &TensorSet) -> Result<Renamed> {
    converted_layers(tensors, if count(tensors, CONVERTED_LAYERS)? == VIT_H.1 { VIT_H.1 - 1 } else { usize::MAX })
}

/// The first `layers` of OpenCLIP as stable-diffusion.cpp renames them (`name_conversion.cpp`): transformers' names, but the three
/// projections of an attention may be joined, and the last projection may lie there as OpenCLIP has it.
fn converted_layers(tensors: &TensorSet, layers: usize) -> Result<Renamed> {
    let label = tensors.label();
    let mut renamed = Renamed::default();
    for (name, view) in tensors.tensors() {
        let layer = name.strip_prefix(CONVERTED_LAYERS).and_then(number);
        match layer {
            Some((layer, _)) if layer >= layers => renamed.taken.push(name.clone()),
            Some((layer, rest)) if rest.starts_with("self_attn.in_proj.") => {
                split(&mut renamed, label, name, view, layer, &rest["self_attn.in_proj.".len()..])?;
            }
            None if name == "text_model.text_projection" => swap(&mut renamed, label, name, view)?,
            None if name.ends_with("position_ids") => {}
            _ if name.starts_with("text_model.") || name == "text_projection.weight" => {
                renamed.put(label, name, name.clone(), view.clone())?;
            }
            _ => {}
        }
    }
    Ok(renamed)
}

/// The three projections of an attention, joined as `q`, `k`, `v`.
fn split(renamed: &mut Renamed, label: &str, name: &str, view: &TensorView, layer: usize, kind: &str) -> Result<()> {
    for (index, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        let Some(part) = view.part(index, 3) else {
            return Err(Error::model(format!(
                "{label}: {name}: expected rows of three projections, got {:?}; the file is damaged",
                view.shape()
            ))
            .in_file(label)
            .of_tensor(name));
        };
        let new = format!("{CONVERTED_LAYERS}{layer}.self_attn.{projection}.{kind}");
        renamed.put(label, name, new, part)?;
    }
    Ok(())
}

/// OpenCLIP's last projection as a matrix of transformers.
fn swap(renamed: &mut Renamed, label: &str, name: &str, view: &TensorView) -> Result<()> {
    let Some(swapped) = view.swapped() else {
        return Err(Error::model(format!(
            "{label}: {name}: expected a matrix, got {:?}; the file is damaged",
            view.shape()
        ))
        .in_file(label)
        .of_tensor(name));
    };
    renamed.put(label, name, "text_projection.weight".into(), swapped)
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
                split(&mut renamed, label, name, view, layer, kind)?;
            }
            None if name == "text_projection" && projected => swap(&mut renamed, label, name, view)?,
            None if name.starts_with("text_projection") => renamed.taken.push(name.clone()),
            None => {}
        }
    }
    Ok(renamed)
}
