//! Adapters (LoRA and its relatives): which files, with which weights, what of them was applied.
//!
//! A network that adapters change is loaded as any other; its tensors come with the changes added (`weights::lora`). Left out, they come as
//! they lie in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::models::{LayerNames, Network, network};
use crate::pipeline::files::lora::LoraReport;
use crate::pipeline::files::recognise::{Found, explained};
use crate::weights::{AdapterFile, Patches, Pool, WeightFile, Weights};
use crate::{Error, Place, Result};

/// An adapter to load, and how strongly.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The file, or a folder as PEFT and diffusers write it.
    pub path: PathBuf,
    /// What its changes are multiplied with; 1 is as trained, 0 none.
    pub weight: f64,
    /// The same for text encoders; `weight` when `None`.
    pub text_encoder_weight: Option<f64>,
}

/// What became of an adapter.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The adapter.
    pub adapter: Adapter,
    /// Formats and ranks: "LoRA rank 4".
    pub kinds: String,
    /// What its metadata or its shapes say that it was made for.
    pub made_for: Option<String>,
    /// The tensors that it changes, by network.
    pub applied: BTreeMap<Network, Vec<String>>,
    /// Layers or tensors of the file that were not used, with the reason.
    pub skipped: Vec<(String, String)>,
    sha256: String,
    sha256_of_data: String,
}

/// How many skipped layers a line lists before it counts the rest.
const LISTED: usize = 3;

impl AdapterReport {
    /// The file's name without folder and ending: what `<lora:name:1>` calls it.
    pub fn name(&self) -> String {
        self.adapter.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// SHA-256 of the tensors' data alone, in hexadecimal, as AUTOMATIC1111's program and Civitai know it.
    pub fn sha256_of_data(&self) -> &str {
        &self.sha256_of_data
    }

    /// The hash that AUTOMATIC1111's program writes.
    pub(crate) fn short_hash(&self) -> &str {
        &self.sha256_of_data[..12]
    }

    /// `<lora:name:0.8>`, with the text encoder's weight before the UNet's where they differ, as AUTOMATIC1111 reads it.
    pub(crate) fn tag(&self) -> String {
        match self.adapter.text_encoder_weight {
            Some(text) => format!("<lora:{}:{text}:{}>", self.name(), self.adapter.weight),
            None => format!("<lora:{}:{}>", self.name(), self.adapter.weight),
        }
    }

    /// One line for a user.
    pub fn summary(&self) -> String {
        let applied: Vec<String> = self
            .applied
            .iter()
            .map(|(network, tensors)| format!("{} tensors of the {network}", tensors.len()))
            .collect();
        let mut line = format!("lora {} × {}: {}, {}", self.name(), self.weights(), self.kinds, applied.join(", "));
        if !self.skipped.is_empty() {
            line += &format!("; {} skipped: {}", self.skipped.len(), listed(&self.skipped));
        }
        line
    }

    fn weights(&self) -> String {
        match self.adapter.text_encoder_weight {
            Some(text) => format!("{} (text encoder {text})", self.adapter.weight),
            None => self.adapter.weight.to_string(),
        }
    }

    /// Everything, for programs.
    pub fn to_json(&self) -> Value {
        let applied: serde_json::Map<String, Value> =
            self.applied.iter().map(|(network, tensors)| (network.to_string(), json!(tensors))).collect();
        let skipped = self.skipped.iter().map(|(name, reason)| json!({ "name": name, "reason": reason }));
        json!({
            "file": self.adapter.path, "sha256": self.sha256(), "weight": self.adapter.weight,
            "text_encoder_weight": self.adapter.text_encoder_weight, "kinds": self.kinds, "made_for": self.made_for,
            "applied": applied, "skipped": skipped.collect::<Vec<_>>(),
        })
    }

    /// What a picture's parameters say: enough to ask for the same file.
    pub(crate) fn parameters(&self) -> Value {
        json!({
            "name": self.name(), "sha256": self.sha256(), "weight": self.adapter.weight,
            "text_encoder_weight": self.adapter.text_encoder_weight,
        })
    }
}

fn listed(skipped: &[(String, String)]) -> String {
    let some: Vec<String> = skipped.iter().take(LISTED).map(|(name, reason)| format!("{name} ({reason})")).collect();
    let more = if skipped.len() > LISTED { ", …" } else { "" };
    some.join(", ") + more
}

/// An adapter that is read.
///
/// # Errors
/// As [`AdapterFile::open`]; when the file is no adapter, or one for other models, saying which.
fn open_file(path: &Path) -> Result<AdapterFile> {
    if path.is_dir() && AdapterFile::in_folder(path).is_none() {
        let nothing = Error::model(format!("{}: expected a LoRA, got a folder without one", path.display()))
            .in_file(path.display());
        return Err(explained(path, Place::Adapter, nothing));
    }
    let found = |file: &Arc<WeightFile>| Found::in_file(file, &BTreeMap::new());
    let file = match AdapterFile::open(path) {
        Ok(file) if file.style().is_some() => file,
        Ok(file) => return Err(found(file.file()).refusal(path, Place::Adapter)),
        Err(error) => return Err(error),
    };
    match LoraReport::of(&file) {
        Some(LoraReport { unread: None, .. }) => Ok(file),
        _ => Err(found(file.file()).refusal(path, Place::Adapter)),
    }
}

/// Open adapter files on the way into the networks of a model.
#[derive(Default)]
pub(crate) struct Adapters {
    /// What networks have in common however they are changed.
    pool: Pool,
    open: Vec<Open>,
    seen: Vec<Network>,
}

struct Open {
    adapter: Adapter,
    file: AdapterFile,
    /// Layers of the file that are used, or known not to be.
    settled: BTreeMap<String, Option<String>>,
    applied: BTreeMap<Network, Vec<String>>,
}

impl Adapters {
    /// No adapters, for networks that take their constants from this pool.
    pub(crate) fn none(pool: &Pool) -> Self {
        Adapters { pool: pool.clone(), ..Adapters::default() }
    }

    pub(crate) fn open(adapters: &[Adapter], pool: &Pool) -> Result<Self> {
        let open = |adapter: &Adapter| {
            for weight in [Some(adapter.weight), adapter.text_encoder_weight].into_iter().flatten() {
                if !weight.is_finite() {
                    return Err(Error::request(
                        "lora",
                        format!("{}: expected a finite weight, got {weight}", adapter.path.display()),
                    ));
                }
            }
            let file = open_file(&adapter.path)?;
            let adapter = adapter.clone();
            Ok(Open { adapter, file, settled: BTreeMap::new(), applied: BTreeMap::new() })
        };
        Ok(Adapters { open: adapters.iter().map(open).collect::<Result<_>>()?, ..Adapters::none(pool) })
    }

    /// A network's weights with the changes for it.
    pub(crate) fn patch(&mut self, which: Network, weights: Weights) -> Result<Weights> {
        let weights = weights.sharing(&self.pool);
        if self.open.is_empty() {
            return Ok(weights);
        }
        self.seen.push(which);
        let shapes: BTreeMap<&str, &[usize]> = weights.tensors().collect();
        let layers = shapes.keys().filter_map(|name| name.strip_suffix(".weight"));
        let names = match which {
            Network::Unet => LayerNames::unet(layers),
            Network::TextEncoder(_) => LayerNames::text_encoder(layers),
        };
        let mut patches = Patches::default();
        for open in &mut self.open {
            open.patch(which, &names, &shapes, &mut patches)?;
        }
        drop(shapes);
        Ok(weights.with_patches(patches))
    }

    /// Whether anything changes this network.
    pub(crate) fn touch(&self, network: Network) -> bool {
        self.open.iter().any(|open| open.applied.contains_key(&network))
    }

    /// Whether anything changes a text encoder.
    pub(crate) fn touch_text(&self) -> bool {
        self.open.iter().any(|open| open.applied.keys().any(|network| *network != Network::Unet))
    }

    /// What became of each adapter, when all networks are loaded.
    ///
    /// # Errors
    /// When nothing of an adapter was applied.
    pub(crate) fn finish(self, model: &str) -> Result<Vec<AdapterReport>> {
        let Adapters { open, seen, .. } = self;
        open.into_iter().map(|open| open.finish(&seen, model)).collect()
    }
}

impl Open {
    fn patch(
        &mut self,
        which: Network,
        names: &LayerNames,
        shapes: &BTreeMap<&str, &[usize]>,
        patches: &mut Patches,
    ) -> Result<()> {
        let weight = match which {
            Network::Unet => self.adapter.weight,
            Network::TextEncoder(_) => self.adapter.text_encoder_weight.unwrap_or(self.adapter.weight),
        };
        let mut layers: BTreeMap<&str, &str> = BTreeMap::new();
        for module in self.file.modules() {
            let (said, rest) = network(module);
            // A name without network (PEFT's of a single one) is tried on the UNet, then on the text encoders.
            if said.is_some_and(|said| said != which) || self.settled.contains_key(module) {
                continue;
            }
            let Some(layer) = names.find(rest) else { continue };
            if layer.contains("embedding") && which != Network::Unet {
                self.settled.insert(module.into(), Some("changes of embedding tables are not supported".into()));
                continue;
            }
            if let Some(other) = layers.insert(layer, module) {
                return Err(Error::model(format!(
                    "{}: {module}: expected one change of {layer}, {other} is another; the file is damaged",
                    self.file.file().label()
                ))
                .in_file(self.file.file().label()));
            }
            let applied = self.apply(module, layer, weight, shapes, patches).map_err(|error| self.explained(error))?;
            let reason = if applied.is_empty() { Some("changes nothing that the layer has".to_owned()) } else { None };
            self.settled.insert(module.into(), reason);
            if !applied.is_empty() {
                self.applied.entry(which).or_default().extend(applied);
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        module: &str,
        layer: &str,
        weight: f64,
        shapes: &BTreeMap<&str, &[usize]>,
        patches: &mut Patches,
    ) -> Result<Vec<String>> {
        let (weights, biases) = self.file.touches(module);
        let mut applied = Vec::new();
        for (leaf, touched) in [("weight", weights), ("bias", biases)] {
            let tensor = format!("{layer}.{leaf}");
            let Some(shape) = shapes.get(tensor.as_str()).filter(|_| touched) else { continue };
            let change = match leaf {
                "weight" => self.file.weight_change(module, shape)?,
                _ => self.file.bias_change(module, shape)?,
            };
            if let Some(change) = change {
                patches.add(&tensor, weight, change);
                applied.push(tensor);
            }
        }
        Ok(applied)
    }

    /// A refusal, with what the adapter looks made for.
    fn explained(&self, error: Error) -> Error {
        match (error, self.made_for()) {
            (Error::Model { file, tensor, message }, Some(made_for)) => {
                Error::Model { file, tensor, message: format!("{message} (it looks made for {made_for})") }
            }
            (error, _) => error,
        }
    }

    fn made_for(&self) -> Option<String> {
        LoraReport::of(&self.file)?.made_for
    }

    fn finish(self, seen: &[Network], model: &str) -> Result<AdapterReport> {
        let mut skipped = Vec::new();
        for module in self.file.modules() {
            let reason = match (self.settled.get(module), network(module).0) {
                (Some(None), _) => continue,
                (Some(Some(reason)), _) => reason.clone(),
                (None, Some(said)) if !seen.contains(&said) => format!("the model has no {said}"),
                (None, Some(said)) => format!("no such layer in the {said}"),
                (None, None) => "no such layer".into(),
            };
            skipped.push((module.to_owned(), reason));
        }
        let foreign = self.file.foreign().iter();
        skipped.extend(foreign.map(|name| (name.clone(), "a format that is not read".to_owned())));
        let made_for = self.made_for();
        if self.applied.is_empty() {
            let looks = match &made_for {
                Some(made_for) => format!("it looks made for {made_for}"),
                None => "it is of another model".into(),
            };
            let rest = if skipped.is_empty() { "it is empty".into() } else { listed(&skipped) };
            return Err(Error::model(format!(
                "{}: expected changes of layers of {model}, nothing fits: {rest}; {looks}",
                self.file.file().label()
            ))
            .in_file(self.file.file().label()));
        }
        Ok(AdapterReport {
            kinds: self.file.describe(),
            made_for,
            applied: self.applied,
            skipped,
            // A picture's parameters name it, whatever becomes of the file.
            sha256: self.file.file().sha256()?.to_owned(),
            sha256_of_data: self.file.file().sha256_of_data()?.to_owned(),
            adapter: self.adapter,
        })
    }
}
