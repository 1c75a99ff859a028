//! A single-file checkpoint as the folder that diffusers would have made of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::models::original::{Checkpoint, Family, Patches};
use crate::pipeline::files::recognise::{Found, networks_refusal};
use crate::text::clip_vocabulary;
use crate::weights::{ReadAt, TensorSet, WeightFile};
use crate::{Error, Place, Remedy, Result};

/// A checkpoint of several networks in one file, as AUTOMATIC1111, ComfyUI and Civitai keep them.
pub struct SingleFile {
    path: PathBuf,
    /// Whether a program gave its bytes; the path is then what messages call them.
    is_given: bool,
    checkpoint: Checkpoint,
}

impl SingleFile {
    /// Opens and recognises a file; `patches` replace fields of the configurations that follow from it.
    ///
    /// # Errors
    /// When the file is damaged or of no kind that is known.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn open(path: impl Into<PathBuf>, patches: &Patches) -> Result<Arc<Self>> {
        Self::open_as(path, patches, Place::Model)
    }

    /// [`open`](Self::open) of what was given in this place.
    pub(crate) fn open_as(path: impl Into<PathBuf>, patches: &Patches, wanted: Place) -> Result<Arc<Self>> {
        let path = path.into();
        match Found::in_file(&Arc::new(WeightFile::open(&path)?), patches) {
            Found::Networks(checkpoint) => Ok(Self::of(path, *checkpoint)),
            other => Err(other.refusal(&path, wanted)),
        }
    }

    /// A model in bytes that a program has, which `label` names.
    pub(crate) fn given(label: &str, reader: Arc<dyn ReadAt>) -> Result<Arc<Self>> {
        let path = PathBuf::from(label);
        match Found::in_file(&Arc::new(WeightFile::from_reader(reader, label)?), &Patches::new()) {
            Found::Networks(checkpoint) => Ok(Arc::new(SingleFile { path, is_given: true, checkpoint: *checkpoint })),
            other => Err(other.refusal(&path, Place::Model)),
        }
    }

    /// What was found, as one that was looked at already.
    pub(crate) fn of(path: PathBuf, checkpoint: Checkpoint) -> Arc<Self> {
        Arc::new(SingleFile { path, is_given: false, checkpoint })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found in it.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What its user should know; what the network predicts only if nobody has said it.
    pub(crate) fn notices(&self, prediction_is_told: bool) -> Vec<String> {
        let Checkpoint { prediction_is_known, predicts_v, foreign, .. } = &self.checkpoint;
        let mut notices = Vec::new();
        if !prediction_is_known && !prediction_is_told {
            let (assumed, models) =
                if *predicts_v { ("v", "the 768 models") } else { ("epsilon", "the inpainting models") };
            notices.push(format!(
                "{}: {} files do not say whether the network predicts epsilon or v; {assumed} is assumed, as in {models} \
                 (`model.prediction`)",
                self.path.display(),
                self.checkpoint.family.name()
            ));
        }
        if let Some(first) = foreign.first() {
            notices.push(format!(
                "{}: {} tensors are of no network that is used, such as {first} (an inspection lists them)",
                self.path.display(),
                foreign.len()
            ));
        }
        notices
    }

    /// The tensors of a component.
    pub(crate) fn weights(&self, component: &str) -> Option<&TensorSet> {
        self.checkpoint.parts.get(component).map(|part| &part.tensors)
    }

    /// A file of the folder that it stands for.
    pub(crate) fn read(&self, component: &str, file: &str) -> Option<Vec<u8>> {
        match (component, file) {
            ("", "model_index.json") => Some(self.index().to_string().into_bytes()),
            ("scheduler", "scheduler_config.json") => Some(self.scheduler().to_string().into_bytes()),
            ("tokenizer", _) if self.weights("text_encoder").is_some() => self.tokenizer("text_encoder", file),
            ("tokenizer_2", _) if self.weights("text_encoder_2").is_some() => self.tokenizer("text_encoder_2", file),
            (_, "config.json") => {
                let config = self.checkpoint.parts.get(component)?.config.clone();
                Some(Value::Object(config).to_string().into_bytes())
            }
            _ => None,
        }
    }

    fn is_distilled(&self) -> bool {
        let unet = self.checkpoint.parts.get("unet");
        unet.is_some_and(|unet| unet.config.get("time_cond_proj_dim").is_some_and(Value::is_number))
    }

    fn index(&self) -> Value {
        let class = match (self.checkpoint.family, self.checkpoint.in_channels()) {
            (Family::XlRefiner, _) => "StableDiffusionXLImg2ImgPipeline",
            (Family::Xl, Some(9)) => "StableDiffusionXLInpaintPipeline",
            (Family::Xl, Some(8)) => "StableDiffusionXLInstructPix2PixPipeline",
            (Family::Xl, _) => "StableDiffusionXLPipeline",
            (Family::Sd1 | Family::Sd2, Some(9)) => "StableDiffusionInpaintPipeline",
            (Family::Sd1 | Family::Sd2, Some(8)) => "StableDiffusionInstructPix2PixPipeline",
            (Family::Sd1 | Family::Sd2, _) if self.is_distilled() => "LatentConsistencyModelPipeline",
            (Family::Sd1 | Family::Sd2, _) => "StableDiffusionPipeline",
        };
        match self.checkpoint.family {
            // As the published refiner's index says.
            Family::XlRefiner => json!({
                "_class_name": class, "text_encoder": [null, null], "force_zeros_for_empty_prompt": false,
            }),
            _ => json!({ "_class_name": class }),
        }
    }

    /// As in the published folders of the family.
    fn scheduler(&self) -> Value {
        let (class, spacing) = match self.checkpoint.family {
            _ if self.is_distilled() => ("LCMScheduler", Value::Null),
            Family::Sd1 => ("PNDMScheduler", Value::Null),
            Family::Sd2 => ("DDIMScheduler", Value::Null),
            Family::Xl | Family::XlRefiner => ("EulerDiscreteScheduler", json!("leading")),
        };
        json!({
            "_class_name": class,
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": if self.checkpoint.predicts_v { "v_prediction" } else { "epsilon" },
            "timestep_spacing": spacing,
            "rescale_betas_zero_snr": self.checkpoint.zero_terminal_snr,
            "steps_offset": 1,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "clip_sample": false,
        })
    }

    /// CLIP's, which pads with its last token, or OpenCLIP's, which pads with id 0.
    fn tokenizer(&self, encoder: &str, file: &str) -> Option<Vec<u8>> {
        let is_open_clip = self.checkpoint.parts.get(encoder)?.config.get("hidden_act") == Some(&json!("gelu"));
        let vocabulary = clip_vocabulary();
        match file {
            "vocab.json" => Some(vocabulary.vocab.clone()),
            "merges.txt" => Some(vocabulary.merges.clone()),
            "special_tokens_map.json" => {
                let pad = if is_open_clip { "!" } else { "<|endoftext|>" };
                let map = json!({
                    "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad,
                });
                Some(map.to_string().into_bytes())
            }
            "tokenizer_config.json" => Some(br#"{"model_max_length": 77}"#.to_vec()),
            _ => None,
        }
    }

    /// Refuses a file without a network that has this place.
    ///
    /// # Errors
    /// Saying what it is instead.
    pub(crate) fn check_holds(&self, component: &str, wanted: Place) -> Result<()> {
        let holds = match component {
            "text_encoder" => ["text_encoder", "text_encoder_2"].iter().any(|name| self.weights(name).is_some()),
            name => self.weights(name).is_some(),
        };
        if holds { Ok(()) } else { Err(networks_refusal(&self.path, wanted, &self.checkpoint)) }
    }

    /// That a component is not in the file, and what gives it.
    pub(crate) fn lacks(&self, component: &str) -> Error {
        let place = match component {
            "unet" => Place::Unet,
            "vae" => Place::Vae,
            _ => Place::TextEncoder,
        };
        let message = format!("{}: expected a {component} in the file, there is none", self.path.display());
        Error::model(message).advise([Remedy::Name(place)])
    }
}

impl PartialEq for SingleFile {
    fn eq(&self, other: &Self) -> bool {
        // Of what is given, nothing but the object tells one from another.
        if self.is_given || other.is_given { std::ptr::eq(self, other) } else { self.path == other.path }
    }
}

impl Eq for SingleFile {}

impl std::fmt::Debug for SingleFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SingleFile({}, {})", self.path.display(), self.checkpoint.family.name())
    }
}
