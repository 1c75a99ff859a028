//! Text encoders: a tokenizer with its network, and the one or two of them that a UNet listens to.

use std::sync::Arc;

use crate::models::{ClipTextConfig, ClipTextModel, Network, TextStates};
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::files::demo;
use crate::pipeline::files::source::{Component, Source, TEXT_STEM, open};
use crate::pipeline::model::adapters::Adapters;
use crate::pipeline::model::kind::Reading;
use crate::record::{Caps, Recording};
use crate::text::ClipTokenizer;
use crate::weights::WeightType;
use crate::{Error, Result};

/// A text encoder as pipelines have it in common.
pub(crate) type Encoder = Arc<Numbered<TextEncoder>>;

/// A tokenizer with its network.
pub(crate) struct TextEncoder {
    /// The stage's name.
    pub(crate) name: &'static str,
    pub(crate) tokenizer: ClipTokenizer,
    pub(crate) model: ClipTextModel,
    /// Whether it is the demo model's, which knows few words.
    pub(crate) is_demo: bool,
}

impl TextEncoder {
    pub(crate) fn load(
        files: &Component,
        tokenizer: &Component,
        component: &'static str,
        weight_type: WeightType,
        adapters: &mut Adapters,
    ) -> Result<Self> {
        let is_demo = matches!(tokenizer, Component::Embedded(_));
        let tokenizer = load_tokenizer(tokenizer)?;
        let config = ClipTextConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
        if tokenizer.max_length() > config.max_position_embeddings {
            return Err(Error::model(format!(
                "{}: max_position_embeddings: expected at least {}, the tokenizer's model_max_length, got {}; they belong to different \
                 models",
                files.label("config.json"),
                tokenizer.max_length(),
                config.max_position_embeddings
            )).in_file(files.label("config.json")));
        }
        let second = component == "text_encoder_2";
        let weights = open(files, TEXT_STEM, component, weight_type)?;
        let weights = adapters.patch(Network::TextEncoder(usize::from(second)), weights)?;
        let model = ClipTextModel::load(config, &weights)?;
        let name = if second { "text encoder 2" } else { "text encoder" };
        Ok(TextEncoder { name, tokenizer, model, is_demo })
    }

    /// Tokens of each row.
    pub(crate) fn tokens(&self) -> usize {
        self.tokenizer.max_length()
    }

    pub(crate) fn record(&self, caps: &Caps, rows: usize, states: TextStates) -> Result<Recording> {
        self.model.record(caps, rows, self.tokens(), states, false)
    }
}

/// `text_encoder/` and `tokenizer/` of a folder, `text_encoder_2/` and `tokenizer_2/`, or both, as they are read.
pub(crate) fn load_text_encoders(
    model: &Source,
    reading: Reading,
    weight_type: WeightType,
    adapters: &mut Adapters,
) -> Result<Vec<TextEncoder>> {
    let mut load = |encoder: &'static str, tokenizer: &str| {
        TextEncoder::load(&model.component(encoder), &model.component(tokenizer), encoder, weight_type, adapters)
    };
    let mut encoders = Vec::new();
    if reading != Reading::XlRefiner {
        encoders.push(load("text_encoder", "tokenizer")?);
    }
    if reading != Reading::Clip {
        let second = load("text_encoder_2", "tokenizer_2")?;
        if !second.model.config().has_projection() {
            return Err(Error::model(format!(
                "{}: expected a CLIPTextModelWithProjection, got {}; SDXL's second text encoder has one",
                model.component("text_encoder_2").label("config.json"),
                second.model.config().architectures.join(", ")
            ))
            .in_file(model.component("text_encoder_2").label("config.json")));
        }
        if let Some(first) = encoders.first().map(TextEncoder::tokens)
            && second.tokens() != first
        {
            return Err(Error::model(format!(
                "{model}: tokenizer gives rows of {first}, tokenizer_2 of {}; they belong to different models",
                second.tokens()
            )));
        }
        encoders.push(second);
    }
    Ok(encoders)
}

/// Channels of the states of one or two encoders, joined.
pub(crate) fn joined_width(encoders: &[Encoder]) -> usize {
    encoders.iter().map(|encoder| encoder.model.config().hidden_size).sum()
}

/// The tokenizer of a folder.
pub(crate) fn load_tokenizer(files: &Component) -> Result<ClipTokenizer> {
    let optional = |name: &str| if files.has(name) { files.read(name).map(Some) } else { Ok(None) };
    let special = optional("special_tokens_map.json")?;
    let settings = optional("tokenizer_config.json")?;
    let mut tokenizer = ClipTokenizer::from_bytes(
        &files.read("vocab.json")?,
        &files.read("merges.txt")?,
        special.as_deref(),
        settings.as_deref(),
        &files.label(""),
    )?;
    if matches!(files, Component::Embedded(_)) {
        demo::SPELLINGS.iter().try_for_each(|(spelling, word)| tokenizer.read_as(spelling, word))?;
    }
    Ok(tokenizer)
}
