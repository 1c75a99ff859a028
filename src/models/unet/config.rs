//! `unet/config.json`, and that of an OMS module.

use serde::{Deserialize, Deserializer};

use crate::Result;
use crate::models::config::{
    Bound, CHANNELS, LAYERS, MAX_LEVELS, OneOrMany, PLANES, SHARES, Supported, WIDTH, expect, parse,
};

/// The class of a module without time.
const WITHOUT_TIME: &str = "UNet2DConditionWoCTModel";

/// Which fields decide something that is computed in one way only here; the class first.
const SUPPORTED: &[Supported] = &[
    ("_class_name", r#"["UNet2DConditionModel", "UNet2DConditionWoCTModel"]"#),
    ("act_fn", r#"["silu", "swish"]"#),
    ("addition_embed_type", r#"[null, "text_time"]"#),
    ("attention_type", r#"["default"]"#),
    ("center_input_sample", "[false]"),
    ("class_embed_type", "[null]"),
    ("class_embeddings_concat", "[false, null]"),
    ("conv_in_kernel", "[3]"),
    ("conv_out_kernel", "[3]"),
    ("cross_attention_norm", "[null]"),
    ("downsample_padding", "[1]"),
    ("dual_cross_attention", "[false]"),
    ("encoder_hid_dim", "[null]"),
    ("encoder_hid_dim_type", "[null]"),
    ("flip_sin_to_cos", "[true]"),
    ("freq_shift", "[0]"),
    ("mid_block_only_cross_attention", "[null, false]"),
    ("mid_block_scale_factor", "[1]"),
    ("mid_block_type", r#"["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", null]"#),
    ("num_class_embeds", "[null]"),
    ("only_cross_attention", "[false]"),
    ("resnet_out_scale_factor", "[1]"),
    ("resnet_skip_time_act", "[false]"),
    ("resnet_time_scale_shift", r#"["default"]"#),
    ("reverse_transformer_layers_per_block", "[null]"),
    ("time_embedding_act_fn", "[null]"),
    ("time_embedding_type", r#"["positional"]"#),
    ("timestep_post_act", "[null]"),
];

pub(super) const BOUNDS: &[Bound] = &[
    ("addition_time_embed_dim", 1.0, WIDTH),
    ("attention_head_dim", 1.0, SHARES),
    ("block_out_channels", 1.0, CHANNELS),
    ("cross_attention_dim", 1.0, WIDTH),
    ("in_channels", 1.0, PLANES),
    ("layers_per_block", 1.0, LAYERS),
    ("norm_eps", 0.0, 1.0),
    ("norm_num_groups", 1.0, SHARES),
    ("num_attention_heads", 1.0, SHARES),
    ("out_channels", 1.0, PLANES),
    ("projection_class_embeddings_input_dim", 1.0, WIDTH),
    ("sample_size", 1.0, PLANES),
    ("time_cond_proj_dim", 1.0, WIDTH),
    ("time_embedding_dim", 1.0, WIDTH),
    ("transformer_layers_per_block", 0.0, LAYERS),
];

/// Those of them that say something of a ControlNet, too.
pub(super) const SUPPORTED_BESIDE_CLASS: &[Supported] = SUPPORTED.split_at(1).1;

/// A level on the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by a transformer.
    CrossAttnDownBlock2D,
}

/// A level on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by a transformer.
    CrossAttnUpBlock2D,
}

/// What lies between the ways down and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum MidBlockType {
    /// Two residual blocks with a transformer between them.
    UNetMidBlock2DCrossAttn,
    /// One residual block.
    UNetMidBlock2D,
    /// Nothing: `null`.
    #[serde(skip)]
    Nothing,
}

/// `null` is a kind of its own.
fn mid_block<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<MidBlockType, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(MidBlockType::Nothing))
}

/// What `config.json` says of a UNet. Lists run from the finest level to the coarsest, except `up_block_types`.
/// Defaults are those of diffusers' `UNet2DConditionModel`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// `UNet2DConditionModel`, or `UNet2DConditionWoCTModel` for a module without time.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Latent side that the model was trained at, in latent pixels.
    pub sample_size: Option<OneOrMany>,
    /// Channels of the input: 4, or 9 for inpainting.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Levels on the way down.
    pub down_block_types: Vec<DownBlockType>,
    /// Levels on the way up, the coarsest first.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: OneOrMany,
    /// Transformer blocks per attention.
    pub transformer_layers_per_block: OneOrMany,
    /// The *number of heads* of each level (the name is a historic mistake of diffusers).
    pub attention_head_dim: OneOrMany,
    /// The number of heads of each level under its right name; the other field then counts no heads.
    pub num_attention_heads: Option<OneOrMany>,
    /// What lies between the ways down and up: residual blocks with a transformer, one residual block alone, or, in distilled networks
    /// (BK-SDM, Kim et al., arXiv 2305.15798), nothing.
    #[serde(deserialize_with = "mid_block")]
    pub mid_block_type: MidBlockType,
    /// Channels of the text states.
    pub cross_attention_dim: usize,
    /// Whether transformers store their projections as matrices.
    pub use_linear_projection: bool,
    /// Groups of all group norms.
    pub norm_num_groups: usize,
    /// Added to the variance in the group norms of residual blocks and the last norm.
    pub norm_eps: f32,
    /// Width of the time embedding; four times the finest level's channels if absent.
    pub time_embedding_dim: Option<usize>,
    /// Width of the guidance embedding of a distilled consistency model.
    pub time_cond_proj_dim: Option<usize>,
    /// `text_time` where pooled text and image sizes are added to the time embedding (SDXL).
    pub addition_embed_type: Option<String>,
    /// Width of the sinusoid of each size.
    pub addition_time_embed_dim: Option<usize>,
    /// Pooled text plus six sinusoids.
    pub projection_class_embeddings_input_dim: Option<usize>,
}

impl Default for UnetConfig {
    fn default() -> Self {
        use DownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        use UpBlockType::{CrossAttnUpBlock2D, UpBlock2D};
        UnetConfig {
            class_name: "UNet2DConditionModel".into(),
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: vec![CrossAttnDownBlock2D, CrossAttnDownBlock2D, CrossAttnDownBlock2D, DownBlock2D],
            up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: OneOrMany::One(2),
            transformer_layers_per_block: OneOrMany::One(1),
            attention_head_dim: OneOrMany::One(8),
            num_attention_heads: None,
            mid_block_type: MidBlockType::UNetMidBlock2DCrossAttn,
            cross_attention_dim: 1280,
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            time_embedding_dim: None,
            time_cond_proj_dim: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
        }
    }
}

/// The numbers of one level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub(super) channels: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) transformer_layers: usize,
}

impl UnetConfig {
    /// Reads `config.json`; `origin` names it in messages.
    ///
    /// # Errors
    /// When the text is not such a config, or asks for something that is not supported.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let config: UnetConfig = parse(text, origin, SUPPORTED, BOUNDS)?;
        config.levels()?;
        Ok(config)
    }

    /// Whether the network sees a timestep. An OMS module does not: it always works at the start of the process.
    pub fn has_time(&self) -> bool {
        self.class_name != WITHOUT_TIME
    }

    /// Width of the time embedding.
    pub(super) fn time_embed_dim(&self) -> Option<usize> {
        self.has_time().then(|| self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0]))
    }

    /// Whether pooled text and sizes are added to the time embedding, and the width of that vector.
    ///
    /// # Errors
    /// When the field for the width is absent.
    pub(super) fn add_embeds_dim(&self) -> Result<Option<usize>> {
        match &self.addition_embed_type {
            None => Ok(None),
            Some(_) => {
                let dim = self.projection_class_embeddings_input_dim;
                expect("projection_class_embeddings_input_dim", dim.is_some(), || "a number".into())?;
                Ok(dim)
            }
        }
    }

    /// The levels, the finest first.
    ///
    /// # Errors
    /// When the lists disagree in length, or nothing is in them.
    pub(super) fn levels(&self) -> Result<Vec<Level>> {
        let count = self.block_out_channels.len();
        expect("block_out_channels", (1..=MAX_LEVELS).contains(&count), || format!("1 to {MAX_LEVELS} levels"))?;
        expect("down_block_types", self.down_block_types.len() == count, || format!("{count} entries"))?;
        expect("up_block_types", self.up_block_types.len() == count, || format!("{count} entries"))?;
        let layers = self.layers_per_block.levels("layers_per_block", count)?;
        let heads = match &self.num_attention_heads {
            Some(heads) => heads.levels("num_attention_heads", count)?,
            None => self.attention_head_dim.levels("attention_head_dim", count)?,
        };
        let transformer_layers = self.transformer_layers_per_block.levels("transformer_layers_per_block", count)?;
        let groups = self.norm_num_groups;
        let fits = |&c: &usize| groups > 0 && c.is_multiple_of(groups) && c.is_multiple_of(4);
        expect("block_out_channels", self.block_out_channels.iter().all(fits), || {
            format!("multiples of 4 and of norm_num_groups = {groups}")
        })?;
        Ok((0..count)
            .map(|i| Level {
                channels: self.block_out_channels[i],
                layers: layers[i],
                heads: heads[i],
                transformer_layers: transformer_layers[i],
            })
            .collect())
    }
}
