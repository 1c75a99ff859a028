//! Adapter files: LoRA, LoCon, LoHa, LoKr, DoRA and full differences, as kohya's scripts, LyCORIS, diffusers and PEFT write them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `keys` | names → layer and part |
//! | `build` | parts → a change, shapes checked |
//! | `delta`, `product` | the change of one tensor; matrix products |
//! | `patches` | which tensors of a network are served with changes |
//!
//! Nothing here knows a network's layers: who asks for a layer's change names it as the file does and gives its tensors' shapes.

mod build;
mod delta;
mod keys;
mod patches;
mod product;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use self::build::{Kind, Parts, Scale};
use self::delta::Part;
use self::keys::Leaf;
pub(crate) use self::patches::{Change, Patch, Patcher, Patches, patched};
use super::{StoredType, WeightFile};
use crate::{Error, Result};

/// An adapter's file with its tensors sorted by layer. Nothing but the header and PEFT's settings is read.
pub struct AdapterFile {
    file: Arc<WeightFile>,
    modules: BTreeMap<String, Parts>,
    foreign: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// PEFT's settings of the whole file (`adapter_config.json`), or by component (diffusers' metadata).
    settings: Vec<(String, Value)>,
}

/// What PEFT calls its files in a folder, the weights also as it did before safetensors.
const PEFT_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const PEFT_CONFIG: &str = "adapter_config.json";
/// diffusers' names of a folder's LoRA.
const DIFFUSERS_WEIGHTS: [&str; 2] = ["pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"];

/// Settings list the names of layers at most.
const MAX_CONFIG: u64 = 1 << 20;

fn read_config(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    if size > MAX_CONFIG {
        return Err(Error::Model(format!(
            "{}: {size} bytes, expected settings of at most {MAX_CONFIG}",
            path.display()
        )));
    }
    std::fs::read(path).map_err(|e| Error::io(path, e))
}

impl AdapterFile {
    /// Opens a file, or what PEFT or diffusers put into a folder.
    ///
    /// # Errors
    /// As [`WeightFile::open`], when a tensor that would be read is of no type that is read, or when two tensors are the same part of a layer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let [peft, old_peft] = PEFT_WEIGHTS;
        let [diffusers, old_diffusers] = DIFFUSERS_WEIGHTS;
        let names = [peft, diffusers, old_peft, old_diffusers];
        let named = names.map(|name| path.join(name)).into_iter().find(|p| p.is_file());
        let path = named.as_deref().unwrap_or(path);
        let file = WeightFile::open(path)?;
        let config = path.with_file_name(PEFT_CONFIG);
        let is_peft =
            path.file_name().is_some_and(|name| PEFT_WEIGHTS.iter().any(|peft| name == *peft)) && config.is_file();
        let config = is_peft.then(|| read_config(&config)).transpose()?;
        Self::sort(Arc::new(file), config.as_deref())
    }

    fn sort(file: Arc<WeightFile>, config: Option<&[u8]>) -> Result<Self> {
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        let mut foreign = Vec::new();
        for (name, tensor) in file.tensors() {
            let Some((module, leaf)) = keys::parse(name) else {
                foreign.push(name.clone());
                continue;
            };
            if !tensor.dtype.is_readable() {
                return Err(Error::Model(format!(
                    "{}: {name}: expected {}, file has {}; convert the file to one of them",
                    file.label(),
                    StoredType::READABLE,
                    tensor.dtype
                )));
            }
            let part = Part { file: Arc::clone(&file), name: name.clone(), tensor: tensor.clone() };
            if let Some(other) = modules.entry(module).or_default().insert(leaf, part) {
                return Err(Error::Model(format!(
                    "{}: {name}: expected one such tensor, {} is the same part of the same layer; the file is damaged",
                    file.label(),
                    other.name
                )));
            }
        }
        let metadata = file.metadata().clone();
        let mut settings = Vec::new();
        let mut add = |text: &[u8], origin: &str| -> Result<()> {
            let value = serde_json::from_slice(text)
                .map_err(|e| Error::Model(format!("{}: {origin}: {e}; the file is damaged", file.label())))?;
            settings.push((String::new(), value));
            Ok(())
        };
        if let Some(config) = config {
            add(config, PEFT_CONFIG)?;
        }
        if let Some(text) = metadata.get("lora_adapter_metadata") {
            add(text.as_bytes(), "lora_adapter_metadata")?;
            // diffusers writes one flat object: "unet.r", "unet.lora_alpha", "text_encoder.lora_alpha", …
            if let Some((_, Value::Object(flat))) = settings.pop() {
                let mut by_component: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
                for (key, value) in flat {
                    let (component, key) = key.split_once('.').unwrap_or(("", &key));
                    by_component.entry(component.to_owned()).or_default().insert(key.to_owned(), value);
                }
                settings.extend(by_component.into_iter().map(|(name, of)| (name, Value::Object(of))));
            }
        }
        Ok(AdapterFile { file, modules, foreign, metadata, settings })
    }

    /// The layers that the file changes, as it names them.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Tensors of formats that are not read.
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }

    /// The file.
    pub fn file(&self) -> &Arc<WeightFile> {
        &self.file
    }

    /// Whether a layer's `weight`, and whether its `bias`, is changed.
    pub(crate) fn touches(&self, module: &str) -> (bool, bool) {
        let Some(parts) = self.modules.get(module) else { return (false, false) };
        let bias = |leaf: &Leaf| matches!(leaf, Leaf::DiffBias | Leaf::NormBias);
        (parts.keys().any(|leaf| !bias(leaf) && *leaf != Leaf::Alpha), parts.keys().any(bias))
    }

    /// The change of a layer's `weight` of this shape.
    ///
    /// # Errors
    /// Naming the tensor: parts that are missing, of another rank, of rank 0, or made for another shape.
    pub(crate) fn weight_change(&self, module: &str, shape: &[usize]) -> Result<Option<Change>> {
        let Some(parts) = self.modules.get(module) else { return Ok(None) };
        build::weight_change(parts, shape, self.scale(module)?)
    }

    /// The change of a layer's `bias` of this shape.
    ///
    /// # Errors
    /// When it has another shape.
    pub(crate) fn bias_change(&self, module: &str, shape: &[usize]) -> Result<Option<Change>> {
        self.modules.get(module).map_or(Ok(None), |parts| build::bias_change(parts, shape))
    }

    /// α as PEFT keeps it, outside the tensors.
    fn scale(&self, module: &str) -> Result<Option<Scale>> {
        let of = |(component, value)| {
            let inside = |component: &str| module.strip_prefix(component).is_some_and(|rest| rest.starts_with('.'));
            (String::is_empty(component) || inside(component)).then_some(value)
        };
        let Some(settings) = self.settings.iter().find_map(|(component, value)| of((component, value))) else {
            return Ok(None);
        };
        // A pattern is the end of a layer's name, or a regular expression, which is not read.
        let patterns = settings["alpha_pattern"].as_object();
        let is_end =
            |pattern: &str| module.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let own = patterns.and_then(|all| all.iter().find(|(pattern, _)| is_end(pattern)).map(|(_, alpha)| alpha));
        let Some(alpha) = own.unwrap_or(&settings["lora_alpha"]).as_f64() else { return Ok(None) };
        if !alpha.is_finite() {
            return Err(Error::Model(format!("{}: lora_alpha: expected a number, got {alpha}", self.file.label())));
        }
        Ok(Some(Scale { alpha, by_root: settings["use_rslora"].as_bool().unwrap_or(false) }))
    }

    /// What the layers hold, in words: `LoRA rank 4 to 8, DoRA`.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        for (kind, name) in
            [(Kind::Lora, "LoRA"), (Kind::Loha, "LoHa"), (Kind::Lokr, "LoKr"), (Kind::Full, "full differences")]
        {
            let of_kind: Vec<&Parts> = self.modules.values().filter(|parts| build::kind(parts) == kind).collect();
            if of_kind.is_empty() {
                continue;
            }
            let rank = |parts: &&Parts| {
                let leaf = [Leaf::Down, Leaf::HadaW1B, Leaf::LokrW2B, Leaf::LokrW1B];
                leaf.iter().find_map(|leaf| parts.get(leaf)).map(|part| part.extents()[0])
            };
            let ranks: Vec<usize> = of_kind.iter().filter_map(rank).collect();
            words.push(match (ranks.iter().min(), ranks.iter().max()) {
                (Some(low), Some(high)) if low == high => format!("{name} rank {low}"),
                (Some(low), Some(high)) => format!("{name} rank {low} to {high}"),
                _ => name.to_owned(),
            });
        }
        let is_dora = |parts: &Parts| parts.contains_key(&Leaf::DoraScale) || parts.contains_key(&Leaf::Magnitude);
        if self.modules.values().any(is_dora) {
            words.push("DoRA".into());
        }
        words.join(", ")
    }

    /// Which models the adapter looks made for: what its metadata says, or the width of the text states that its layers take.
    pub fn made_for(&self) -> Option<String> {
        for key in ["modelspec.architecture", "ss_base_model_version"] {
            if let Some(said) = self.metadata.get(key).filter(|said| !said.is_empty()) {
                return Some(said.clone());
            }
        }
        let to_k = self.modules.iter().find(|(name, _)| name.ends_with("attn2.to_k") || name.ends_with("attn2_to_k"));
        let width = to_k.and_then(|(_, parts)| Some(parts.get(&Leaf::Down)?.extents()[1]));
        let has = |start: &str| self.modules.keys().any(|name| name.starts_with(start));
        match width {
            Some(768) => Some("Stable Diffusion 1.x".into()),
            Some(1024) => Some("Stable Diffusion 2.x".into()),
            Some(2048) => Some("SDXL".into()),
            _ if has("lora_te2_") || has("text_encoder_2.") => Some("SDXL".into()),
            _ if has("transformer.") || has("lora_transformer_") => Some("a diffusion transformer (Flux, SD3)".into()),
            _ => None,
        }
    }
}
