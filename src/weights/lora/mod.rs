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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use self::build::{Kind, Parts, Scale};
use self::delta::Part;
use self::keys::{Leaf, Style};
pub(crate) use self::patches::{Change, Patch, Patcher, Patches, patched};
use super::{StoredType, WeightFile};
use crate::{Error, Result, files};

/// An adapter's file with its tensors sorted by layer. Nothing but the header and PEFT's settings is read.
pub struct AdapterFile {
    file: Arc<WeightFile>,
    modules: BTreeMap<String, Parts>,
    style: Option<Style>,
    foreign: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// PEFT's settings of the whole file (`adapter_config.json`), or by component (diffusers' metadata).
    settings: Vec<(String, Value)>,
}

/// What PEFT calls its files in a folder, the weights also as it did before safetensors.
const PEFT_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const PEFT_CONFIG: &str = "adapter_config.json";
/// Settings are a page of text; anything larger is none.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// diffusers' names of a folder's LoRA.
const DIFFUSERS_WEIGHTS: [&str; 2] = ["pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"];

impl AdapterFile {
    /// Opens a file, or what PEFT or diffusers put into a folder.
    ///
    /// # Errors
    /// As [`WeightFile::open`], when a tensor that would be read is of no type that is read, or when two tensors are the same part of a layer.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = Self::in_folder(path);
        let path = named.as_deref().unwrap_or(path);
        let file = WeightFile::open(path)?;
        let config = path.with_file_name(PEFT_CONFIG);
        let is_peft =
            path.file_name().is_some_and(|name| PEFT_WEIGHTS.iter().any(|peft| name == *peft)) && config.is_file();
        let config = is_peft.then(|| files::read(&config, MAX_CONFIG_BYTES, "an adapter's settings")).transpose()?;
        Self::sort(Arc::new(file), config.as_deref())
    }

    /// The file that PEFT or diffusers put into a folder.
    pub fn in_folder(folder: &Path) -> Option<PathBuf> {
        let [peft, old_peft] = PEFT_WEIGHTS;
        let [diffusers, old_diffusers] = DIFFUSERS_WEIGHTS;
        [peft, diffusers, old_peft, old_diffusers].map(|name| folder.join(name)).into_iter().find(|path| path.exists())
    }

    /// What an open file holds, without settings that lie beside it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(file: Arc<WeightFile>) -> Result<Self> {
        Self::sort(file, None)
    }

    fn sort(file: Arc<WeightFile>, config: Option<&[u8]>) -> Result<Self> {
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        let mut style = None;
        let mut foreign = Vec::new();
        for (name, tensor) in file.tensors() {
            let Some((module, leaf, own)) = keys::parse(name) else {
                foreign.push(name.clone());
                continue;
            };
            if !matches!(leaf, Leaf::Alpha | Leaf::DoraScale) {
                style.get_or_insert(own);
            }
            if !tensor.dtype.is_readable() {
                return Err(Error::model(format!(
                    "{}: {name}: expected {}, file has {}; convert the file to one of them",
                    file.label(),
                    StoredType::READABLE,
                    tensor.dtype
                ))
                .in_file(file.label())
                .of_tensor(name));
            }
            let part = Part { file: Arc::clone(&file), name: name.clone(), tensor: tensor.clone() };
            if let Some(other) = modules.entry(module).or_default().insert(leaf, part) {
                return Err(Error::model(format!(
                    "{}: {name}: expected one such tensor, {} is the same part of the same layer; the file is damaged",
                    file.label(),
                    other.name
                ))
                .in_file(file.label())
                .of_tensor(name));
            }
        }
        let metadata = file.metadata().clone();
        let mut settings = Vec::new();
        let mut add = |text: &[u8], origin: &str| -> Result<()> {
            let value = serde_json::from_slice(text).map_err(|e| {
                Error::model(format!("{}: {origin}: {e}; the file is damaged", file.label())).in_file(file.label())
            })?;
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
        Ok(AdapterFile { file, modules, style, foreign, metadata, settings })
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
            return Err(Error::model(format!("{}: lora_alpha: expected a number, got {alpha}", self.file.label()))
                .in_file(self.file.label()));
        }
        Ok(Some(Scale { alpha, by_root: settings["use_rslora"].as_bool().unwrap_or(false) }))
    }

    /// Whose names the layers have; `None` where the file changes none.
    pub fn style(&self) -> Option<&'static str> {
        Some(match self.style? {
            Style::Kohya => "kohya",
            Style::Diffusers => "diffusers",
            Style::Peft => "PEFT",
        })
    }

    /// The kind of most layers: `LoRA`, `DoRA`, `LoHa`, `LoKr` or `full differences`.
    pub fn kind(&self) -> &'static str {
        let count = |kind| self.modules.values().filter(|parts| build::kind(parts) == kind).count();
        let kinds = KINDS.iter().max_by_key(|(kind, _)| (count(*kind), *kind == Kind::Lora));
        match kinds {
            Some((Kind::Lora, _)) if self.modules.values().any(is_dora) => "DoRA",
            Some((_, name)) => name,
            None => "LoRA",
        }
    }

    /// The ranks that occur.
    pub fn ranks(&self) -> BTreeSet<usize> {
        self.modules.values().filter_map(rank).collect()
    }

    /// What the layers hold, in words: `LoRA rank 4 to 8, DoRA`.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        for (kind, name) in KINDS {
            let of_kind: Vec<&Parts> = self.modules.values().filter(|parts| build::kind(parts) == *kind).collect();
            if of_kind.is_empty() {
                continue;
            }
            let ranks: Vec<usize> = of_kind.into_iter().filter_map(rank).collect();
            words.push(match (ranks.iter().min(), ranks.iter().max()) {
                (Some(low), Some(high)) if low == high => format!("{name} rank {low}"),
                (Some(low), Some(high)) => format!("{name} rank {low} to {high}"),
                _ => (*name).to_owned(),
            });
        }
        if self.modules.values().any(is_dora) {
            words.push("DoRA".into());
        }
        words.join(", ")
    }

    /// What the metadata says that the adapter was made for.
    pub fn said(&self) -> Option<&str> {
        let said = |key: &&str| self.metadata.get(*key).map(String::as_str).filter(|said| !said.is_empty());
        ["modelspec.architecture", "ss_base_model_version"].iter().find_map(said)
    }

    /// The inputs of the layers whose names end so.
    pub fn inputs<'a>(&'a self, ends: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let found = self.modules.iter().filter(move |(name, _)| ends.iter().any(|end| name.ends_with(end)));
        found.filter_map(|(_, parts)| Some(parts.get(&Leaf::Down)?.extents()[1]))
    }
}

const KINDS: &[(Kind, &str)] =
    &[(Kind::Lora, "LoRA"), (Kind::Loha, "LoHa"), (Kind::Lokr, "LoKr"), (Kind::Full, "full differences")];

fn is_dora(parts: &Parts) -> bool {
    parts.contains_key(&Leaf::DoraScale) || parts.contains_key(&Leaf::Magnitude)
}

fn rank(parts: &Parts) -> Option<usize> {
    let leaf = [Leaf::Down, Leaf::HadaW1B, Leaf::LokrW2B, Leaf::LokrW1B];
    leaf.iter().find_map(|leaf| parts.get(leaf)).map(|part| part.extents()[0])
}
