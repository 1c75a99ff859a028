//! What kind of model the files make: who reads its prompts, and what its UNet is shown and told.

use serde::Deserialize;
use serde_json::Value;

use crate::models::original::Family;
use crate::models::{Unet, UnetConfig};
use crate::pipeline::files::recognise::explained;
use crate::pipeline::files::source::Component;
use crate::pipeline::model::encoders::TextEncoder;
use crate::{Error, Place, Result};

/// Which text encoders read the prompt, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// `text_encoder`: its last states.
    Clip,
    /// `text_encoder` and `text_encoder_2`: their states before the last layer, joined, and the pooled row of the second.
    Xl,
    /// `text_encoder_2` as in [`Xl`](Self::Xl), alone: the refiner.
    XlRefiner,
}

/// What the UNet is shown beside the noisy latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Nothing,
    /// The mask, and the latents of the picture without what is repainted.
    Masked,
    /// The latents of the picture that a prompt instructs to change (InstructPix2Pix, Brooks et al., arXiv 2211.09800); `scaled` as the
    /// noisy latents are, which only CosXL's editing model wants.
    Instructed {
        scaled: bool,
    },
}

/// A model's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) reading: Reading,
    pub(crate) shown: Shown,
    /// Whether no negative prompt means states of zeros.
    pub(crate) zeros_for_no_negative: bool,
    /// Whether the last of the numbers that the UNet is told is an aesthetic score, not the target size.
    pub(crate) aesthetic: bool,
}

impl Kind {
    /// Whether the schedule and the readers of SDXL apply.
    pub(crate) fn is_xl(self) -> bool {
        self.reading != Reading::Clip
    }
}

/// What `model_index.json` says that matters here.
#[derive(Deserialize)]
pub(crate) struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default)]
    text_encoder: Option<Vec<Value>>,
    #[serde(default = "yes")]
    force_zeros_for_empty_prompt: bool,
    #[serde(default)]
    is_cosxl_edit: bool,
}

fn yes() -> bool {
    true
}

const CLIP_CLASSES: &[&str] = &[
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "LatentConsistencyModelPipeline",
];

const XL_CLASSES: &[&str] = &[
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
];

impl ModelIndex {
    /// Only the families that the rest of the loader knows.
    pub(crate) fn read(root: &Component) -> Result<Self> {
        let folder = if let Component::Folder(path) = root { Some(path) } else { None };
        let explained = |error| match folder {
            Some(path) => explained(path, Place::Model, error),
            None => error,
        };
        if !root.has("model_index.json") {
            let missing = format!("{}: not found; is the download complete?", root.label("model_index.json"));
            return Err(explained(Error::model(missing)));
        }
        let index: ModelIndex = root.json("model_index.json")?;
        if [CLIP_CLASSES, XL_CLASSES].concat().contains(&index.class_name.as_str()) {
            return Ok(index);
        }
        Err(explained(
            Error::model(format!(
                "{}: expected {} or {}, got {}; Stable Diffusion 1.x, 2.x and XL are supported",
                root.label("model_index.json"),
                CLIP_CLASSES[0],
                XL_CLASSES[0],
                index.class_name
            ))
            .in_file(root.label("model_index.json")),
        ))
    }

    /// Who reads the prompt: of SDXL's classes the refiner says that it has no first text encoder.
    pub(crate) fn reading(&self) -> Reading {
        let has_first = self.text_encoder.as_ref().is_none_or(|entry| entry.iter().any(|part| !part.is_null()));
        match (XL_CLASSES.contains(&self.class_name.as_str()), has_first) {
            (false, _) => Reading::Clip,
            (true, true) => Reading::Xl,
            (true, false) => Reading::XlRefiner,
        }
    }

    /// The kind, from what the networks take; `latents` are the autoencoder's channels.
    ///
    /// # Errors
    /// When the networks do not fit each other, or the UNet takes channels of no known meaning.
    pub(crate) fn kind(&self, label: &str, unet: &Unet, latents: usize, encoders: &[TextEncoder]) -> Result<Kind> {
        let reading = self.reading();
        Ok(Kind {
            reading,
            shown: self.shown(label, unet, latents)?,
            zeros_for_no_negative: reading != Reading::Clip && self.force_zeros_for_empty_prompt,
            aesthetic: takes_aesthetic(label, unet, reading, encoders)?,
        })
    }

    fn shown(&self, label: &str, unet: &Unet, latents: usize) -> Result<Shown> {
        match unet.config().in_channels {
            takes if takes == latents => Ok(Shown::Nothing),
            takes if takes == 2 * latents + 1 => Ok(Shown::Masked),
            takes if takes == 2 * latents => Ok(Shown::Instructed { scaled: self.is_cosxl_edit }),
            takes => Err(Error::model(format!(
                "{label}: expected a UNet of {latents} channels, {} for instructions or {} for inpainting, got {takes}; depth models are \
                 not supported yet",
                2 * latents,
                2 * latents + 1
            )).in_file(label)),
        }
    }
}

/// Numbers of the base: original height and width, top and left of the crop, target height and width.
const WITH_TARGET: usize = 6;

/// Numbers of the refiner: an aesthetic score in place of the target size.
const WITH_SCORE: usize = 5;

/// The UNet takes what the text encoders give: states of their joined width, and with SDXL the pooled row and six numbers, or five where
/// the last is an aesthetic score.
fn takes_aesthetic(label: &str, unet: &Unet, reading: Reading, encoders: &[TextEncoder]) -> Result<bool> {
    let width = encoders.iter().map(|encoder| encoder.model.config().hidden_size).sum::<usize>();
    let config = unet.config();
    if config.cross_attention_dim != width {
        return Err(Error::model(format!(
            "{label}: the UNet takes text states of width {}, the text encoder gives {width}; they belong to different models",
            config.cross_attention_dim
        )).in_file(label));
    }
    let takes = config.addition_embed_type.as_ref().and(config.projection_class_embeddings_input_dim);
    let pooling = encoders.last().filter(|_| reading != Reading::Clip);
    let gives = |numbers: usize| {
        pooling.map(|encoder| {
            encoder.model.config().projection_dim + numbers * config.addition_time_embed_dim.unwrap_or(0)
        })
    };
    if takes.is_some() && takes == gives(WITH_SCORE) {
        return Ok(true);
    }
    if takes == gives(WITH_TARGET) {
        return Ok(false);
    }
    let words = |dim: Option<usize>| dim.map_or("nothing".into(), |dim| format!("{dim} values"));
    Err(Error::model(format!(
        "{label}: beside the time the UNet takes {}, pooled text and sizes give {}; they belong to different models",
        words(takes),
        words(gives(WITH_TARGET))
    ))
    .in_file(label))
}

/// The family of a UNet that reads its prompt so.
pub(crate) fn family(unet: &UnetConfig, reading: Reading) -> Family {
    match reading {
        Reading::XlRefiner => Family::XlRefiner,
        Reading::Xl => Family::Xl,
        Reading::Clip if unet.use_linear_projection => Family::Sd2,
        Reading::Clip => Family::Sd1,
    }
}

/// The family of a UNet, or of a ControlNet's.
pub(crate) fn family_of(unet: &UnetConfig) -> Family {
    family(unet, if unet.addition_embed_type.is_some() { Reading::Xl } else { Reading::Clip })
}
