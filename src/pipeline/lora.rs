//! Recognising adapters: LoRA and its relatives, for a report. `adapters` applies them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::weights::TensorSet;

/// What an adapter file holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LoraReport {
    /// `LoRA`, `DoRA`, `LoHa` or `LoKr`.
    pub kind: &'static str,
    /// Whose names: `kohya`, `diffusers` or `PEFT`.
    pub names: &'static str,
    /// Layers that it changes, by network.
    pub layers: BTreeMap<&'static str, usize>,
    /// Ranks that occur.
    pub ranks: Vec<usize>,
}

/// What a name ends with behind its layer's; the axis of the rank; the kind and the naming.
type Ending = (&'static str, Option<usize>, &'static str, &'static str);

/// Layer's first factor in each convention: kohya-ss/sd-scripts, diffusers (`lora.down`), PEFT (`lora_A`), LyCORIS (`hada`, `lokr`).
const ENDINGS: &[Ending] = &[
    (".lora_down.weight", Some(0), "LoRA", "kohya"),
    (".lora.down.weight", Some(0), "LoRA", "diffusers"),
    (".lora_A.weight", Some(0), "LoRA", "PEFT"),
    (".lora_A.default.weight", Some(0), "LoRA", "PEFT"),
    (".hada_w1_b", Some(0), "LoHa", "kohya"),
    (".lokr_w1", None, "LoKr", "kohya"),
    (".lokr_w1_b", Some(0), "LoKr", "kohya"),
];

/// The report of an adapter's file; `None` for anything else.
pub(super) fn lora(tensors: &TensorSet) -> Option<LoraReport> {
    let mut layers: BTreeMap<&'static str, BTreeSet<&str>> = BTreeMap::new();
    let mut ranks = BTreeSet::new();
    let mut found = None;
    for (name, view) in tensors.tensors() {
        let ending = ENDINGS.iter().find_map(|ending| Some((name.strip_suffix(ending.0)?, ending)));
        let Some((layer, (_, axis, kind, names))) = ending else { continue };
        found.get_or_insert((*kind, *names));
        ranks.extend(axis.and_then(|axis| view.shape().get(axis)));
        layers.entry(network(layer)).or_default().insert(layer);
    }
    let (kind, names) = found?;
    let is_dora = tensors.tensors().keys().any(|name| name.ends_with("dora_scale") || name.contains("lora_magnitude"));
    Some(LoraReport {
        kind: if is_dora && kind == "LoRA" { "DoRA" } else { kind },
        names,
        layers: layers.into_iter().map(|(network, layers)| (network, layers.len())).collect(),
        ranks: ranks.into_iter().collect(),
    })
}

/// The network that a layer's name begins with.
fn network(layer: &str) -> &'static str {
    let heads = [
        ("lora_te2_", "text_encoder_2"),
        ("text_encoder_2.", "text_encoder_2"),
        ("lora_te", "text_encoder"),
        ("text_encoder.", "text_encoder"),
        ("lora_unet_", "unet"),
        ("unet.", "unet"),
    ];
    let known = heads.iter().find(|(head, _)| layer.starts_with(head)).map(|(_, network)| *network);
    let inside = ["down_blocks", "up_blocks", "mid_block"].iter().any(|part| layer.contains(part));
    known.unwrap_or(if inside { "unet" } else { "other" })
}
