//! ControlNets and their files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::models::original::Control as Original;
use crate::models::{ControlNet, ControlNetConfig, OneOrMany, Unet, UnetConfig};
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::files::recognise::{Found, explained};
use crate::pipeline::files::source::{Component, DIFFUSION_STEM};
use crate::pipeline::model::kind::family_of;
use crate::weights::{TensorSet, WeightFile, WeightType, Weights};
use crate::{Error, Place, Result};

/// A net as pipelines have it in common.
pub(crate) type Control = Arc<Numbered<LoadedControl>>;

/// A net with its files.
pub(crate) struct LoadedControl {
    pub(crate) net: ControlNet,
    name: String,
    tensors: TensorSet,
    sha256: String,
    foreign: Vec<String>,
}

impl LoadedControl {
    /// A folder of `ControlNetModel`, or a single file in its layout or the original one.
    ///
    /// # Errors
    /// When files are missing or damaged, it is no ControlNet, one of an unsupported kind, or of another family than the UNet.
    pub(crate) fn load(path: &Path, unet: &Unet, weight_type: WeightType) -> Result<Self> {
        let Files { config, tensors, foreign } = read(path, Some(unet.config()), weight_type.prefers_halves())?;
        if let Some(reason) = config.misfit(unet.config()) {
            return Err(Error::model(format!(
                "{}: expected a ControlNet for {}, got one for {}: {reason}",
                path.display(),
                family_of(unet.config()).name(),
                family_of(&config.unet).name()
            ))
            .in_file(path.display()));
        }
        let net = ControlNet::load(config, &Weights::new(tensors.clone(), "controlnet", weight_type))?;
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = name.map_or_else(|| "controlnet".into(), |name| name.to_string_lossy().into_owned());
        // A picture's parameters name it, whatever becomes of the file.
        let sha256 = tensors.sha256()?;
        Ok(LoadedControl { net, name, tensors, sha256, foreign })
    }

    /// The folder's name, or the file's without ending.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What a user should know of the file.
    pub(crate) fn notice(&self) -> Option<String> {
        let first = self.foreign.first()?;
        Some(format!(
            "{}: {} tensors are of no ControlNet, such as {first} (an inspection lists them)",
            self.tensors.label(),
            self.foreign.len()
        ))
    }

    /// SHA-256 of the weights' file, in hexadecimal.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// What lies at a path.
pub(crate) struct Files {
    pub(crate) config: ControlNetConfig,
    tensors: TensorSet,
    /// Names that belong to no ControlNet.
    pub(crate) foreign: Vec<String>,
}

/// Configuration and tensors of what lies at a path. What shapes do not tell is taken from the UNet that a net goes with.
pub(crate) fn read(path: &Path, unet: Option<&UnetConfig>, prefer_f16: bool) -> Result<Files> {
    if !path.is_dir() {
        let file = Arc::new(WeightFile::open(path)?);
        let found = Found::in_file(&file, &BTreeMap::new());
        if !matches!(found, Found::Control(_)) {
            return Err(found.refusal(path, Place::Control));
        }
        let file = TensorSet::from(file);
        let Original { part, foreign, .. } = Original::read(&file, &unet.map(of_unet).unwrap_or_default())?;
        let config = Value::Object(part.config).to_string();
        let config = ControlNetConfig::from_json(&config, &path.display().to_string())?;
        return Ok(Files { config, tensors: part.tensors, foreign });
    }
    let inner = path.join("controlnet");
    let files = Component::Folder(if inner.is_dir() { inner } else { path.to_owned() });
    let config = files
        .text("config.json")
        .and_then(|text| ControlNetConfig::from_json(&text, &files.label("config.json")))
        .map_err(|error| explained(path, Place::Control, error))?;
    let tensors = files.weights(DIFFUSION_STEM, prefer_f16)?;
    match Original::relative(&tensors) {
        Some(relative) => Err(Error::model(format!(
            "{}: expected a ControlNet, got {relative}, which is not supported",
            path.display()
        ))
        .in_file(path.display())),
        None => Ok(Files { config, tensors, foreign: Vec::new() }),
    }
}

/// The numbers that a net shares with its UNet and that no shape tells.
fn of_unet(unet: &UnetConfig) -> Map<String, Value> {
    let heads = match unet.num_attention_heads.as_ref().unwrap_or(&unet.attention_head_dim) {
        OneOrMany::One(heads) => json!(heads),
        OneOrMany::Many(heads) => json!(heads),
    };
    [
        ("attention_head_dim", heads),
        ("norm_num_groups", json!(unet.norm_num_groups)),
        ("norm_eps", json!(unet.norm_eps)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}
