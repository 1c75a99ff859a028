//! A job, as it is written down: what is asked for, and nothing of where it runs.

use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::order::asked::Asked;
use crate::order::file::File;
use crate::order::preset::Preset;
use crate::order::strict;
use crate::pipeline::{Precision, Streaming, VaeTiling, WeightTypes};
use crate::sampling::PredictionType;
use crate::{Error, Result};

/// Pictures to draw, with all that they need: what the command's options, a line of a list of jobs and a request to a server become.
/// What is not said comes from the picture that is repeated, the preset, the model, or is [`Request`](crate::pipeline::Request)'s default, but that
/// prompts are read as AUTOMATIC1111's program reads them.
///
/// In JSON a field that is not known is an error that names the nearest (`request.promt: unknown, did you mean prompt?`), as is another
/// [`version`](Self::VERSION); `null` says nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Job {
    /// A picture to repeat: what its file says holds where the job says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<File>,
    /// What a distilled model was made for, where nothing else is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The model and its parts.
    #[serde(skip_serializing_if = "is_default")]
    pub model: ModelJob,
    /// What changes the model (LoRA and its relatives), beside those that tags in the prompt name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterJob>,
    /// Where tags in the prompt find adapters by name, beside the folders of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_folder: Option<PathBuf>,
    /// Embeddings that names in prompts stand for, beside those that are found by their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<PathBuf>,
    /// ControlNets and what they see; a repeated picture's when `None`, none when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controls: Option<Vec<ControlJob>>,
    /// A picture to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageJob>,
    /// Where, and how stored.
    #[serde(skip_serializing_if = "is_default")]
    pub device: DeviceJob,
    /// The request's fields.
    #[serde(skip_serializing_if = "Asked::is_empty")]
    pub request: Asked,
}

impl Job {
    /// The job with a model that is loaded: what that was loaded with comes before its own. Of the model the job may say the module alone, of the
    /// device nothing.
    ///
    /// # Errors
    /// [`Error::Request`] where it says more.
    pub fn after(mut self, loaded: &Job) -> Result<Job> {
        if self.device != DeviceJob::default() {
            return Err(Error::request("device", "the model is on one; choose it when that is opened"));
        }
        let module = ModelJob {
            oms: self.model.oms.take(),
            oms_text_encoder: self.model.oms_text_encoder.take(),
            ..ModelJob::default()
        };
        if self.model != ModelJob::default() {
            return Err(Error::request("model", "expected oms and oms_text_encoder alone, the rest is loaded"));
        }
        self.model = loaded.model.clone();
        if module.oms.is_some() {
            (self.model.oms, self.model.oms_text_encoder) = (module.oms, module.oms_text_encoder);
        }
        self.adapters.splice(0..0, loaded.adapters.iter().cloned());
        self.embeddings.splice(0..0, loaded.embeddings.iter().cloned());
        self.adapter_folder = self.adapter_folder.or_else(|| loaded.adapter_folder.clone());
        self.controls = self.controls.or_else(|| loaded.controls.clone());
        Ok(self)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A model and its parts, by paths or names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelJob {
    /// The model; the demo model when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A UNet in place of the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unet: Option<String>,
    /// An autoencoder in place of the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// A model whose text encoders are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<String>,
    /// An autoencoder for previews.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_vae: Option<String>,
    /// A model of the same family for the last steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// What the network predicts, where the files do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<PredictionType>,
    /// The OMS module: a folder or a name, `demo`, or `off`; `None` is the demo module with the demo model, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oms: Option<String>,
    /// Where the module's text encoder is, if its own files point elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oms_text_encoder: Option<String>,
}

/// An adapter, and how strongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterJob {
    /// The file.
    pub file: PathBuf,
    /// How strongly; 1, or the repeated picture's, when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The same for text encoders; `weight` when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_weight: Option<f64>,
}

/// A ControlNet, and what it sees. What is `None` is the repeated picture's, if that had as many nets, or
/// [`ControlRequest`](crate::pipeline::ControlRequest)'s default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlJob {
    /// The net, by path or name; the repeated picture's at the same place when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// What it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<File>,
    /// How strongly it acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The share of the steps before which it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// The share of the steps after which it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Whether it acts on the prompt's row alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guess_mode: Option<bool>,
}

/// A picture to start from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageJob {
    /// The picture.
    pub file: File,
    /// What of it is repainted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<File>,
    /// How much is drawn anew; the repeated picture's, or [`InitImage::STRENGTH`](crate::pipeline::InitImage::STRENGTH), when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

/// Where, and how stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceJob {
    /// As [`Device::first_that`](crate::pipeline::Device::first_that) takes it.
    #[serde(skip_serializing_if = "is_auto")]
    pub name: String,
    /// How activations are stored.
    #[serde(skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// How weights are stored; a repeated picture's, or `auto`, when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightTypes>,
    /// Bytes that a stage may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram: Option<u64>,
    /// Whether autoencoders run in bands.
    #[serde(skip_serializing_if = "is_default")]
    pub vae_tiling: VaeTiling,
    /// Whether weights pass through.
    #[serde(skip_serializing_if = "is_default")]
    pub stream_weights: Streaming,
}

fn is_auto(name: &str) -> bool {
    name == "auto"
}

impl Default for DeviceJob {
    fn default() -> Self {
        DeviceJob {
            name: "auto".into(),
            precision: Precision::default(),
            weights: None,
            vram: None,
            vae_tiling: VaeTiling::default(),
            stream_weights: Streaming::default(),
        }
    }
}

impl Job {
    /// The form of jobs that this library reads and writes.
    pub const VERSION: u64 = 1;

    /// A job from JSON.
    ///
    /// # Errors
    /// [`Error::Request`] that begins with the place in it: another version, a field that is not known, with the nearest, or a value of another kind
    /// or out of range.
    pub fn from_json(text: &str) -> Result<Job> {
        let value =
            serde_json::from_str(text).map_err(|e| Error::refused(format!("expected a job in JSON, got {e}")))?;
        Self::from_value(value)
    }

    /// The job as JSON, with its version, indented.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).expect("a job is texts and finite numbers");
        let fields = value.as_object_mut().expect("a job is an object");
        fields.insert("version".into(), Self::VERSION.into());
        format!("{value:#}")
    }

    fn from_value(mut value: Value) -> Result<Job> {
        if !value.is_object() {
            return Err(Error::refused(format!("expected a job, an object with \"version\": {}", Self::VERSION)));
        }
        match &value["version"] {
            Value::Number(number) if number.as_u64() == Some(Self::VERSION) => {}
            Value::Null => {
                return Err(Error::request(
                    "version",
                    format!("expected {}, got none; the form of jobs has one", Self::VERSION),
                ));
            }
            other => {
                return Err(Error::request(
                    "version",
                    format!(
                        "expected {}, which this program reads, got {other}; it was written for another version of it",
                        Self::VERSION
                    ),
                ));
            }
        }
        strict::check(&value)?;
        strict::without_nulls(&mut value);
        let Value::Object(mut fields) = value else { unreachable!("checked above") };
        Ok(Job {
            like: take(&mut fields, "like")?,
            preset: take(&mut fields, "preset")?,
            model: take(&mut fields, "model")?.unwrap_or_default(),
            adapters: take(&mut fields, "adapters")?.unwrap_or_default(),
            adapter_folder: take(&mut fields, "adapter_folder")?,
            embeddings: take(&mut fields, "embeddings")?.unwrap_or_default(),
            controls: take(&mut fields, "controls")?,
            image: take(&mut fields, "image")?,
            device: take(&mut fields, "device")?.unwrap_or_default(),
            request: fields.remove("request").map(|value| Asked::read(&value)).transpose()?.unwrap_or_default(),
        })
    }
}

fn take<T: serde::de::DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>> {
    let read = |value| serde_json::from_value(value).map_err(|e| Error::request(name.to_owned(), e.to_string()));
    fields.remove(name).map(read).transpose()
}

/// As [`Job::from_json`], inside other JSON.
impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Job::from_value(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
