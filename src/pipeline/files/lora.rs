//! What an adapter's file is: LoRA and its relatives, whose names they have, and which models they are for. `inspect` reports it, and
//! `adapters` refuses by it what it would not apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::models::{Network, network, other_family};
use crate::weights::{AdapterFile, WeightFile};

/// What an adapter file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LoraReport {
    /// `LoRA`, `DoRA`, `LoHa`, `LoKr`, `full differences`, or a kind that is not read: `OFT`, `GLoRA`, `IA3`.
    pub kind: &'static str,
    /// Whose names: `kohya`, `diffusers`, `PEFT` or `cloneofsimo`.
    pub names: &'static str,
    /// Layers that it changes, by network.
    pub layers: BTreeMap<&'static str, usize>,
    /// Ranks that occur.
    pub ranks: Vec<usize>,
    /// Which models it was made for, as far as its names, its metadata and its shapes tell.
    pub made_for: Option<String>,
    /// Why it is not read; `None` for one that is applied to the models that it was made for.
    pub unread: Option<String>,
}

/// Kinds of adapters that are not read, and what their tensors' names end with.
const UNREAD: &[(&str, &[&str])] = &[
    ("OFT", &[".oft_blocks", ".oft_diag", ".oft_R.weight"]),
    ("GLoRA", &[".a1.weight", ".b1.weight"]),
    ("IA3", &[".on_input"]),
    ("VeRA", &[".vera_lambda_b"]),
];

/// What metadata call the families that are read: at their beginning.
const READ: &[&str] =
    &["stable-diffusion-v1", "stable-diffusion-v2", "stable-diffusion-xl", "sd_v", "sdxl", "sd1", "sd2"];

/// What they call others: anywhere, with the name for a user.
const OTHERS: &[(&str, &str)] = &[
    ("flux", "Flux"),
    ("stable-diffusion-3", "Stable Diffusion 3"),
    ("stable-diffusion-v3", "Stable Diffusion 3"),
    ("sd3", "Stable Diffusion 3"),
    ("qwen", "Qwen-Image"),
    ("hunyuan", "Hunyuan"),
    ("chroma", "Chroma"),
    ("lumina", "Lumina"),
    ("z-image", "Z-Image"),
    ("zimage", "Z-Image"),
    ("auraflow", "AuraFlow"),
    ("pixart", "PixArt"),
    ("cascade", "Stable Cascade"),
    ("kolors", "Kolors"),
    ("hidream", "HiDream"),
    ("cosmos", "Cosmos"),
    ("ltx", "LTX-Video"),
    ("wan", "Wan"),
];

impl LoraReport {
    /// Of a file; `None` for anything else.
    pub(crate) fn of_file(file: &Arc<WeightFile>) -> Option<Self> {
        if let Some(numbered) = cloneofsimo(file) {
            return Some(numbered);
        }
        if let Some(unread) = unread_kind(file) {
            return Some(unread);
        }
        match AdapterFile::of(Arc::clone(file)) {
            Ok(adapter) => Self::of(&adapter),
            // Its names are an adapter's, its types or its parts are not in order.
            Err(error) => Some(LoraReport {
                kind: "LoRA",
                names: "kohya",
                layers: BTreeMap::new(),
                ranks: Vec::new(),
                made_for: None,
                unread: Some(error.to_string()),
            }),
        }
    }

    /// Of an adapter; `None` where it changes no layer.
    pub(crate) fn of(file: &AdapterFile) -> Option<Self> {
        let names = file.style()?;
        let mut layers: BTreeMap<&'static str, usize> = BTreeMap::new();
        for module in file.modules() {
            *layers.entry(network_of(module)).or_default() += 1;
        }
        let other = other_family(file.modules()).map(str::to_owned).or_else(|| said_other(file));
        Some(LoraReport {
            kind: file.kind(),
            names,
            layers,
            ranks: file.ranks().into_iter().collect(),
            unread: other.as_ref().map(|family| format!("made for {family}, which is not read here")),
            made_for: other.or_else(|| made_for(file)),
        })
    }

    /// In words: `a LoRA (kohya's names, rank 4) made for Flux, which is not read here`.
    pub(crate) fn words(&self) -> String {
        let article = if self.kind.starts_with(['O', 'I']) { "an" } else { "a" };
        let of = match self.unread.as_deref().or(self.made_for.as_deref()) {
            Some(reason) if self.unread.is_some() => format!(", {reason}"),
            Some(family) => format!(", made for {family}"),
            None => String::new(),
        };
        format!("{article} {} under {}'s names{}{of}", self.kind, self.names, self.only())
    }

    /// That it changes text encoders alone, which the layers of others do not say.
    fn only(&self) -> &'static str {
        let texts = !self.layers.is_empty() && self.layers.keys().all(|network| network.starts_with("text_encoder"));
        if texts { " that changes the text encoder alone" } else { "" }
    }
}

/// The network that a layer's name says.
fn network_of(module: &str) -> &'static str {
    let inside = || ["down_blocks", "up_blocks", "mid_block"].iter().any(|part| module.contains(part));
    match network(module).0 {
        Some(Network::Unet) => "unet",
        Some(Network::TextEncoder(0)) => "text_encoder",
        Some(Network::TextEncoder(_)) => "text_encoder_2",
        None if inside() => "unet",
        None if module.starts_with("transformer.") || module.starts_with("lora_transformer_") => "transformer",
        None => "other",
    }
}

/// Another family, from the metadata.
fn said_other(file: &AdapterFile) -> Option<String> {
    let said = file.said()?.to_lowercase();
    if READ.iter().any(|head| said.starts_with(head)) && !said.starts_with("sd_v3") {
        return None;
    }
    OTHERS.iter().find(|(part, _)| said.contains(part)).map(|(_, family)| (*family).to_owned())
}

/// A family that is read, or what the file says of it; by the metadata, or the width of the text states that its layers take.
fn made_for(file: &AdapterFile) -> Option<String> {
    if let Some(said) = file.said() {
        return Some(said.to_owned());
    }
    let has = |start: &str| file.modules().any(|name| name.starts_with(start));
    match file.inputs(&["attn2.to_k", "attn2_to_k"]).next() {
        Some(768) => Some("Stable Diffusion 1.x".into()),
        Some(1024) => Some("Stable Diffusion 2.x".into()),
        Some(2048) => Some("Stable Diffusion XL".into()),
        _ if has("lora_te2_") || has("text_encoder_2.") => Some("Stable Diffusion XL".into()),
        _ => None,
    }
}

/// The first form of all (cloneofsimo/lora, `lora_diffusion/safe_open.py`): pairs of factors with a number each, in the order in which
/// the trainer met the layers; which those are stands nowhere in the file.
fn cloneofsimo(file: &WeightFile) -> Option<LoraReport> {
    let mut layers: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut ranks = Vec::new();
    for (name, tensor) in file.tensors() {
        let (network, number, factor) = match name.split(':').collect::<Vec<_>>()[..] {
            [network, number, factor] => (network, number, factor),
            _ => continue,
        };
        if number.parse::<usize>().is_err() || !["up", "down"].contains(&factor) {
            continue;
        }
        if factor == "down" {
            *layers.entry(if network == "unet" { "unet" } else { "text_encoder" }).or_default() += 1;
            ranks.extend(tensor.shape.first());
        }
    }
    ranks.sort_unstable();
    ranks.dedup();
    (!layers.is_empty()).then(|| LoraReport {
        kind: "LoRA",
        names: "cloneofsimo",
        layers,
        ranks,
        made_for: None,
        unread: Some("whose layers have numbers in place of names; convert it with its own program".into()),
    })
}

/// A kind of adapter that is not read.
fn unread_kind(file: &WeightFile) -> Option<LoraReport> {
    let ends = |ends: &[&str]| file.tensors().keys().filter(|name| ends.iter().any(|end| name.ends_with(end))).count();
    let (kind, _) = UNREAD.iter().find(|(_, marks)| ends(marks) > 0)?;
    let mut layers: BTreeMap<&'static str, usize> = BTreeMap::new();
    for name in file.tensors().keys() {
        let layer = UNREAD.iter().flat_map(|(_, ends)| ends.iter()).find_map(|end| name.strip_suffix(end));
        if let Some(layer) = layer {
            *layers.entry(network_of(layer)).or_default() += 1;
        }
    }
    // Names of whole networks may end so by chance.
    layers.keys().any(|network| *network != "other").then(|| LoraReport {
        kind,
        names: "kohya",
        layers,
        ranks: Vec::new(),
        made_for: None,
        unread: Some(format!("{kind} is not read here; LoRA, DoRA, LoHa and LoKr are")),
    })
}
