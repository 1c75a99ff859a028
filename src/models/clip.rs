//! CLIP's text encoder: `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers.

use serde::Deserialize;

use super::config::{Bound, CHANNELS, LAYERS, SHARES, Supported, WIDTH, expect, parse};
use super::{input, names, new_recording};
use crate::nn::{LayerNorm, Linear, ProjectionNames, SelfAttention};
use crate::ops::{self, Activation, Epilogue};
use crate::record::{Caps, Recording, Shape, Tensor};
use crate::weights::{Table, Weights};
use crate::{Error, Result};

const SUPPORTED: &[Supported] = &[("model_type", r#"["clip_text_model"]"#)];

const BOUNDS: &[Bound] = &[
    ("eos_token_id", 0.0, 4_294_967_295.0),
    ("hidden_size", 1.0, CHANNELS),
    ("intermediate_size", 1.0, WIDTH),
    ("layer_norm_eps", 0.0, 1.0),
    ("max_position_embeddings", 1.0, WIDTH),
    ("num_attention_heads", 1.0, SHARES),
    ("num_hidden_layers", 1.0, 4.0 * LAYERS),
    ("projection_dim", 1.0, WIDTH),
    ("vocab_size", 1.0, 4_194_304.0),
];

/// Buffers that older versions of transformers saved with the weights.
const EXTRAS: &[&str] = &["text_model.embeddings.position_ids", "embeddings.position_ids"];

/// The value of `eos_token_id` in configs made before transformers knew the true one; it stands for the largest id.
const LEGACY_EOS: usize = 2;

/// The activation between the two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`, in OpenAI's CLIP.
    QuickGelu,
    /// `x · Φ(x)`, in OpenCLIP.
    Gelu,
}

impl HiddenAct {
    fn activation(self) -> Activation {
        match self {
            HiddenAct::QuickGelu => Activation::QuickGelu,
            HiddenAct::Gelu => Activation::Gelu,
        }
    }
}

/// What `config.json` says of a text encoder. Defaults are those of transformers' `CLIPTextConfig`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// One name; `CLIPTextModelWithProjection` has a projection behind the pooled row.
    pub architectures: Vec<String>,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels between the two linear layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each layer.
    pub num_attention_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Activation between the two linear layers.
    pub hidden_act: HiddenAct,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f32,
    /// Channels behind the projection.
    pub projection_dim: usize,
    /// The token whose first place gives the pooled row; 2 means the largest id of the sequence.
    pub eos_token_id: usize,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        ClipTextConfig {
            architectures: vec!["CLIPTextModel".into()],
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            eos_token_id: 49_407,
        }
    }
}

impl ClipTextConfig {
    /// Reads `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        parse(text, origin, SUPPORTED, BOUNDS)
    }

    /// Whether the pooled row is projected.
    pub fn has_projection(&self) -> bool {
        self.architectures.iter().any(|name| name == "CLIPTextModelWithProjection")
    }
}

/// Which states a recording gives as [`names::ENCODER_HIDDEN_STATES`], and whether it gives what pooling needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextStates {
    /// Layers left out at the end. 0: the last layer's states; 1: those of the last but one (SDXL; `clip_skip` 1).
    pub skip: usize,
    /// Whether the final layer norm follows: yes for Stable Diffusion 1.x and 2.x and OMS modules, no for SDXL.
    pub normed: bool,
    /// Whether [`names::LAST_HIDDEN_STATE`] is an output too.
    pub pooled: bool,
}

/// The text encoder. Its token and position tables stay in the file; the host gathers their rows.
pub struct ClipTextModel {
    config: ClipTextConfig,
    token_embedding: Table,
    /// Rows behind the table's, for embeddings of names.
    added: Vec<Vec<f32>>,
    position_embedding: Table,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Table>,
}

impl ClipTextModel {
    /// Loads the network from the root of its file. Names may lack the prefix `text_model`.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for; when heads do not divide channels.
    pub fn load(config: ClipTextConfig, w: &Weights) -> Result<Self> {
        let hidden = config.hidden_size;
        expect("hidden_size", hidden > 0 && hidden.is_multiple_of(4), || "a multiple of 4".into())?;
        expect("num_hidden_layers", config.num_hidden_layers > 0, || "at least one".into())?;
        let bare = w.contains("final_layer_norm.weight");
        let model = if bare { w.clone() } else { w.at("text_model") };
        let embeddings = model.at("embeddings");
        let positions = [config.max_position_embeddings, hidden];
        let encoder = ClipTextModel {
            token_embedding: embeddings.table("token_embedding.weight", [config.vocab_size, hidden])?,
            added: Vec::new(),
            position_embedding: embeddings.table("position_embedding.weight", positions)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::load(&model.at("encoder.layers").at(i), &config))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(&model.at("final_layer_norm"), hidden, config.layer_norm_eps)?,
            text_projection: config
                .has_projection()
                .then(|| w.table("text_projection.weight", [config.projection_dim, hidden]))
                .transpose()?,
            config,
        };
        w.finish(EXTRAS)?;
        Ok(encoder)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Adds rows of `hidden_size` values behind the token table's, which ids from `vocab_size` on name; gives the first one's id.
    ///
    /// # Errors
    /// When a row has another length.
    pub fn add_embeddings(&mut self, rows: Vec<Vec<f32>>) -> Result<u32> {
        if let Some(row) = rows.iter().find(|row| row.len() != self.config.hidden_size) {
            return Err(Error::model(format!(
                "embedding: expected vectors of width {}, got {}",
                self.config.hidden_size,
                row.len()
            )));
        }
        let first = self.config.vocab_size + self.added.len();
        self.added.extend(rows);
        u32::try_from(first).map_err(|_| Error::model(format!("vocab_size: expected less than 2^32, got {first}")))
    }

    /// Token plus position embeddings `[batch, tokens, hidden_size]` of ids `[batch, tokens]`: the input
    /// [`names::INPUTS_EMBEDS`].
    ///
    /// # Errors
    /// When an id is outside the vocabulary, or there are more tokens than positions.
    pub fn embed(&self, ids: &[u32], tokens: usize) -> Result<Vec<f32>> {
        self.check_tokens(ids.len(), tokens)?;
        let mut out = Vec::with_capacity(ids.len() * self.config.hidden_size);
        let positions = (0..tokens).map(|p| self.position_embedding.row(p)).collect::<Result<Vec<_>>>()?;
        for (i, &id) in ids.iter().enumerate() {
            let added = (id as usize).checked_sub(self.config.vocab_size).and_then(|at| self.added.get(at));
            let token = added.map_or_else(|| self.token_embedding.row(id as usize), |row| Ok(row.clone()))?;
            out.extend(token.iter().zip(&positions[i % tokens]).map(|(t, p)| t + p));
        }
        Ok(out)
    }

    /// Records the encoder for `batch` sequences of `tokens` ids. Input: [`names::INPUTS_EMBEDS`]; outputs as
    /// [`TextStates`] says. With `taps`, every layer's states too, as `text_model.encoder.layers.N`.
    ///
    /// # Errors
    /// When there are no or more tokens than positions, or fewer layers than are to be skipped.
    pub fn record(
        &self,
        caps: &Caps,
        batch: usize,
        tokens: usize,
        states: TextStates,
        taps: bool,
    ) -> Result<Recording> {
        self.check_tokens(batch * tokens, tokens)?;
        let count = self.layers.len();
        if states.skip > count {
            return Err(Error::request(
                "clip skip",
                format!("expected at most {count}, the layers of this text encoder, got {}; choose fewer", states.skip),
            ));
        }
        let mut recording = new_recording(caps, taps);
        let rec = &mut recording;
        let mut hidden = input(rec, names::INPUTS_EMBEDS, Shape::tokens(batch, tokens, self.config.hidden_size));
        let kept = count - states.skip;
        let recorded = if states.pooled || taps { count } else { kept };
        let mut chosen = hidden;
        for (i, layer) in self.layers[..recorded].iter().enumerate() {
            hidden = rec.scoped(format!("text_model.encoder.layers.{i}"), |rec| layer.forward(rec, hidden))?;
            if i + 1 == kept {
                chosen = hidden;
            }
        }
        let norm = |rec: &mut Recording, x: Tensor| {
            rec.scoped("text_model.final_layer_norm", |rec| rec.in_f32(|rec| self.final_layer_norm.forward(rec, x)))
        };
        let chosen = if states.normed { norm(rec, chosen)? } else { chosen };
        rec.output(names::ENCODER_HIDDEN_STATES, chosen);
        if states.pooled {
            let last = if states.normed && states.skip == 0 { chosen } else { norm(rec, hidden)? };
            rec.output(names::LAST_HIDDEN_STATE, last);
        }
        Ok(recording)
    }

    /// The pooled rows `[batch, projection_dim]`, or `[batch, hidden_size]` without projection: the row of
    /// `last_hidden_state` `[batch, tokens, hidden_size]` at the first end-of-text token of each sequence of ids.
    ///
    /// # Errors
    /// When the numbers of ids and states disagree.
    pub fn pool(&self, ids: &[u32], tokens: usize, last_hidden_state: &[f32]) -> Result<Vec<f32>> {
        self.check_tokens(ids.len(), tokens)?;
        let hidden = self.config.hidden_size;
        if last_hidden_state.len() != ids.len() * hidden {
            return Err(Error::shape(
                "pool",
                format!("expected {} states, got {}", ids.len() * hidden, last_hidden_state.len()),
            ));
        }
        let mut pooled = Vec::new();
        for (ids, states) in ids.chunks(tokens).zip(last_hidden_state.chunks(tokens * hidden)) {
            let at = self.end_of_text(ids);
            let row = &states[at * hidden..(at + 1) * hidden];
            match &self.text_projection {
                Some(projection) => {
                    for i in 0..projection.rows {
                        let weight = projection.row(i)?;
                        let sum: f64 = weight.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        pooled.push(sum as f32);
                    }
                }
                None => pooled.extend_from_slice(row),
            }
        }
        Ok(pooled)
    }

    /// Place of the first end-of-text token; the first place if there is none, as transformers has it.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        let eos = match self.config.eos_token_id {
            // Of the vocabulary's ids: an embedding's are larger, and end no text.
            LEGACY_EOS => {
                let own = ids.iter().map(|&id| id as usize).filter(|&id| id < self.config.vocab_size);
                own.max().unwrap_or(0)
            }
            eos => eos,
        };
        ids.iter().position(|&id| id as usize == eos).unwrap_or(0)
    }

    fn check_tokens(&self, ids: usize, tokens: usize) -> Result<()> {
        let most = self.config.max_position_embeddings;
        if tokens > 0 && tokens <= most && ids.is_multiple_of(tokens) {
            return Ok(());
        }
        Err(Error::refused(format!(
            "text encoder: expected sequences of 1 to {most} tokens, got {ids} ids in rows of {tokens}; pad or truncate them"
        )))
    }
}

struct EncoderLayer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl EncoderLayer {
    fn load(w: &Weights, config: &ClipTextConfig) -> Result<Self> {
        let (hidden, wide, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = ops::Attention { heads: config.num_attention_heads, causal: true };
        Ok(EncoderLayer {
            layer_norm1: LayerNorm::load(&w.at("layer_norm1"), hidden, eps)?,
            self_attn: SelfAttention::load(&w.at("self_attn"), ProjectionNames::CLIP, hidden, attention, true)?,
            layer_norm2: LayerNorm::load(&w.at("layer_norm2"), hidden, eps)?,
            fc1: Linear::load(&w.at("mlp.fc1"), hidden, wide)?,
            fc2: Linear::load(&w.at("mlp.fc2"), wide, hidden)?,
            activation: config.hidden_act.activation(),
        })
    }

    fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        let normed = rec.scoped("layer_norm1", |rec| self.layer_norm1.forward(rec, x))?;
        let x = rec.scoped("self_attn", |rec| self.self_attn.forward(rec, normed, x))?;
        let normed = rec.scoped("layer_norm2", |rec| self.layer_norm2.forward(rec, x))?;
        let epilogue = Epilogue { activation: self.activation, ..Epilogue::default() };
        let wide = rec.scoped("mlp.fc1", |rec| self.fc1.forward(rec, normed, epilogue))?;
        let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
        let out = rec.scoped("mlp.fc2", |rec| self.fc2.forward(rec, wide, epilogue))?;
        Ok(rec.tap(out))
    }
}
