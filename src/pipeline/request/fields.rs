//! What can be asked for, a row for each: its names, its range, its default, a line about it. Validation, JSON, the PNG's text, the command's
//! `--help` and `docs/OPTIONS.md` read the same rows.
//!
//! Lines name other fields by their keys in backticks; a front door with other names puts those in their place.

use serde_json::Value;

use crate::models::TokenMerging;
use crate::pipeline::request::field_kinds::{Kind, Range, above, from_to};
use crate::sampling::{RngKind, Sampler, SigmaSchedule};
use crate::text::PromptSyntax;
use crate::{Error, Result};

/// A field of a request, or of what a request belongs to.
#[derive(Debug)]
pub struct Field {
    /// Where it stands in JSON, with dots between an object and its fields and `[]` behind a list: `hires.scale`.
    pub key: &'static str,
    /// The command's option, without dashes; `None` where the command has none.
    pub option: Option<&'static str>,
    /// What AUTOMATIC1111 and this program call it in a picture's text, where they have it.
    pub png: Option<&'static str>,
    /// What it takes.
    pub kind: Kind,
    /// What stands for the value where the option is described.
    pub value: &'static str,
    /// What holds where it is not said, in words; `None` where that is the default's own value.
    pub default: Option<&'static str>,
    /// What it is for.
    pub about: &'static str,
}

impl Field {
    /// The row of a key.
    pub const fn new(key: &'static str, kind: Kind, about: &'static str) -> Self {
        Field { key, option: None, png: None, kind, value: "", default: None, about }
    }

    /// The command's option, and what stands there for the value.
    pub const fn option(self, option: &'static str, value: &'static str) -> Self {
        Field { option: Some(option), value, ..self }
    }

    /// The name in a picture's text.
    pub const fn png(self, name: &'static str) -> Self {
        Field { png: Some(name), ..self }
    }

    /// What holds where it is not said.
    pub const fn default(self, words: &'static str) -> Self {
        Field { default: Some(words), ..self }
    }

    fn within(&self, value: f64) -> Result<()> {
        match self.kind {
            Kind::Number(range) | Kind::Pair(range) if !range.has(value) => {
                Err(Error::request(self.key, format!("expected {range}, got {value}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a field's number is in the range of its row, named by its key in backticks.
///
/// # Errors
/// [`Error::Request`] with the range and what came.
pub(crate) fn within(key: &str, value: f64) -> Result<()> {
    field(key).within(value)
}

/// The same of a value of any kind.
///
/// # Errors
/// As [`within`].
pub(crate) fn fits(key: &str, value: impl Into<Value>) -> Result<()> {
    let row = field(key);
    row.kind.check(&value.into()).map_err(|why| Error::request(row.key, why))
}

/// The row of a request's field.
///
/// # Panics
/// When there is none: callers name what the table has, and a test reads each.
fn field(key: &str) -> &'static Field {
    REQUEST.iter().find(|field| field.key == key).unwrap_or_else(|| panic!("{key}: no row of the table of fields"))
}

/// What a picture's text calls a field.
///
/// # Panics
/// As [`field`], and when texts do not have it.
pub(crate) fn png(key: &str) -> &'static str {
    field(key).png.unwrap_or_else(|| panic!("{key}: no name in a picture's text"))
}

/// How much of a picture is drawn anew.
pub const STRENGTH: Range = above(0.0, 1.0);
/// What a ControlNet's results are multiplied with.
pub const CONTROL_WEIGHT: Range = from_to(-100.0, 100.0);
/// A share of the steps.
pub const SHARE: Range = from_to(0.0, 1.0);

/// Largest width or height; a latent of 1024×1024 is beyond what these models draw, and guards size arithmetic.
const MAX_SIDE: u64 = 8192;
/// Largest size that SDXL is told; its sinusoids carry no more.
const MAX_TOLD: u64 = 65_536;

const SIDE: Kind = Kind::Whole { low: 64, high: MAX_SIDE, step: 8 };
const UNIT: Range = SHARE;
const SCALE: Range = from_to(0.0, 100.0);
const SCORE: Range = from_to(0.0, 10.0);

const fn whole(low: u64, high: u64) -> Kind {
    Kind::Whole { low, high, step: 1 }
}

/// Every field of a [`Request`](crate::pipeline::Request) that can be written down, but for its ControlNets', which have files.
pub const REQUEST: &[Field] = &[
    Field::new("prompt", Kind::Text, "What to draw"),
    Field::new("negative_prompt", Kind::Text, "What to steer away from; SDXL models tell an empty text from none")
        .option("negative", "TEXT")
        .png("Negative prompt")
        .default("none"),
    Field::new("prompt_syntax", Kind::Named(|text| text.parse::<PromptSyntax>().map(drop)), "Which marks in prompts mean something. \
        a1111: (a) (a:1.2) [b] BREAK [from:to:when] [a|b], escapes, chunks of 75 tokens. comfy: (a) (a:1.2), escapes, chunks. plain: none, \
        cut after 75 tokens, as in diffusers")
        .option("prompt-syntax", "a1111|comfy|plain")
        .default("a1111"),
    Field::new("comma_backtrack", whole(0, u32::MAX as u64), "a1111: a full chunk ends at a comma if there is one among its last N tokens; 0 fills \
        every chunk")
        .option("comma-backtrack", "N"),
    Field::new("clip_skip", whole(0, u16::MAX as u64), "Layers of the text encoder that are left out at its end, as diffusers counts; the option's number, \
        AUTOMATIC1111's and ComfyUI's, is one more: 2 leaves out the last layer. SDXL models are counted from the last layer but one")
        .option("clip-skip", "N")
        .png("Clip skip")
        .default("1, none is left out"),
    Field::new("prompt_2", Kind::Text, "SDXL: what the second text encoder reads").option("prompt-2", "TEXT").default("the prompt"),
    Field::new("negative_prompt_2", Kind::Text, "SDXL: what the second text encoder reads in place of `negative_prompt`")
        .option("negative-2", "TEXT")
        .default("`negative_prompt`"),
    Field::new("original_size", Kind::Wholes { low: 1, high: MAX_TOLD }, "SDXL: size that the picture is said to have had before cropping; \
        in JSON [height, width]")
        .option("original-size", "WIDTHxHEIGHT")
        .default("its own"),
    Field::new("crops_coords_top_left", Kind::Wholes { low: 0, high: MAX_TOLD }, "SDXL: where the picture is said to have been cropped; in \
        JSON [top, left]")
        .option("crop", "LEFT,TOP")
        .default("0,0"),
    Field::new("target_size", Kind::Wholes { low: 1, high: MAX_TOLD }, "SDXL: size that the picture is said to have after cropping; in JSON \
        [height, width]")
        .option("target-size", "WIDTHxHEIGHT")
        .default("its own"),
    Field::new("aesthetic_score", Kind::Number(SCORE), "SDXL's refiner: aesthetic score that it is told of the picture, 0 to 10")
        .option("aesthetic-score", "SCORE"),
    Field::new("negative_aesthetic_score", Kind::Number(SCORE), "The same for the negative prompt")
        .option("negative-aesthetic-score", "SCORE"),
    Field::new("refiner_start", Kind::Number(Range { low_is_in: false, high_is_in: false, ..UNIT }), "Where `model.refiner` takes over, as a \
        share of the noise schedule from 0 to 1")
        .option("refiner-start", "SHARE")
        .png("Refiner switch at"),
    Field::new("width", SIDE, "Width in pixels, a multiple of 8").option("width", "PIXELS").default("the model's own"),
    Field::new("height", SIDE, "Height in pixels, a multiple of 8").option("height", "PIXELS").default("the model's own"),
    Field::new("num_inference_steps", whole(1, 1000), "Steps of the sampler")
        .option("steps", "N")
        .png("Steps")
        .default("30; 4 with lcm and tcd"),
    Field::new("guidance_scale", Kind::Number(SCALE), "How strongly the prompt steers (classifier-free guidance); 1 turns guidance off")
        .option("guidance", "WEIGHT")
        .png("CFG scale"),
    Field::new("sampler", Kind::Named(|text| text.parse::<Sampler>().map(drop)), "Solver of the sampling equation, as diffusers, ComfyUI or \
        AUTOMATIC1111 name it: \"dpmpp_2m\", \"DPM++ 2M Karras\"; `chiaro samplers` lists them")
        .option("sampler", "NAME")
        .png("Sampler")
        .default("the model's own, or ddim"),
    Field::new("sigmas", Kind::Named(|text| text.parse::<SigmaSchedule>().map(drop)), "Where the noise levels lie: normal, karras, exponential, \
        sgm_uniform, simple, beta, kl_optimal, align_your_steps; `chiaro samplers` describes them")
        .option("sigmas", "NAME")
        .png("Schedule type")
        .default("the model's own"),
    Field::new("timestep_spacing", Kind::OneOf(&["leading", "linspace", "trailing"]), "Which timesteps are visited")
        .option("spacing", "leading|linspace|trailing")
        .default("the model's own, or the sampler's"),
    Field::new("beta_schedule", Kind::OneOf(&["linear", "scaled_linear", "squaredcos_cap_v2"]), "The curve of beta, for experiments: a \
        network was trained with one")
        .option("betas", "CURVE")
        .default("the model's own"),
    Field::new("zero_terminal_snr", Kind::Switch, "Rescale the betas so that the first step starts from noise alone (zero terminal SNR); for \
        v-predicting models trained so, with `timestep_spacing` trailing")
        .option("zero-snr", ""),
    Field::new("guidance_rescale", Kind::Number(UNIT), "Give the guided output the deviation of the unguided one, 0 (off) to 1; 0.7 goes with \
        `zero_terminal_snr`")
        .option("guidance-rescale", "WEIGHT"),
    Field::new("dynamic_thresholding", Kind::Number(above(0.0, 1.0)), "Clip the predicted picture at this share of its values (dynamic \
        thresholding), such as 0.995; for models that draw pixels")
        .option("dynamic-thresholding", "SHARE")
        .default("off"),
    Field::new("eta", Kind::Number(UNIT), "How much noise a stochastic sampler adds at each step, from 0 to 1")
        .option("eta", "ETA")
        .png("Eta")
        .default("ddim 0, tcd 0.3, the others 1"),
    Field::new("guidance_interval", Kind::Pair(UNIT), "Guide only between these shares of the steps, such as 0.2,0.8; outside, a step takes \
        half the time")
        .option("guidance-interval", "START,END")
        .default("0,1"),
    Field::new("deep_cache.interval", whole(1, 1000), "Compute the deep part of the UNet in every N-th call alone and reuse it between \
        (DeepCache), such as 3; the first D states of the way down are always computed")
        .option("deep-cache", "N[:D]")
        .png("DeepCache")
        .default("1, off; D: 2"),
    Field::new("deep_cache.depth", whole(1, 1 << 16), "States of the way down that every call computes: D of `deep_cache.interval`")
        .default("2"),
    Field::new("token_merging.ratio", Kind::Number(above(0.0, TokenMerging::MOST as f64)), "Merge this share of the pixels into others like them where pixels \
        attend to each other (token merging), such as 0.5; in the L finest levels of the UNet that attend")
        .option("token-merging", "SHARE[:L]")
        .png("Token merging ratio")
        .default("off; L: 1"),
    Field::new("token_merging.levels", whole(1, 1 << 16), "Levels of the UNet that merge, the finest first: L of `token_merging.ratio`")
        .png("Token merging levels")
        .default("1"),
    Field::new("seed", whole(0, u64::MAX), "Seed of the first picture; the i-th further one has seed + i. For the command also random, or -1: \
        one is drawn, printed and kept in the picture")
        .option("seed", "N|random")
        .png("Seed"),
    Field::new("rng", Kind::Named(|text| text.parse::<RngKind>().map(drop)), "Whose random numbers a seed gives: torch (diffusers, and \
        AUTOMATIC1111 with source CPU), a1111 (with source GPU), comfy")
        .option("rng", "NAME")
        .png("RNG"),
    Field::new("noise_seed_delta", whole(0, u64::MAX), "Added to the seed for every draw after the first noise (AUTOMATIC1111's ENSD)")
        .option("noise-seed-delta", "N")
        .png("ENSD")
        .default("0, the first generator goes on"),
    Field::new("variation.seed", whole(0, u64::MAX), "Seed towards which the first noise goes by `variation.strength`; for the command also \
        random, or -1")
        .option("variation-seed", "N|random")
        .png("Variation seed")
        .default("0"),
    Field::new("variation.strength", Kind::Number(UNIT), "How far, from 0 to 1")
        .option("variation-strength", "SHARE")
        .png("Variation seed strength")
        .default("0"),
    Field::new("offset_noise", Kind::Number(UNIT), "Weight of an offset common to all pixels of a channel in the first noise, 0 (off) to 1")
        .option("offset-noise", "WEIGHT"),
    Field::new("place", Kind::Wholes { low: 0, high: 10_000 }, "This one picture as number i (from 0) of a batch of n, [i, n]: with `rng` \
        comfy its noise depends on both")
        .default("a batch of its own"),
    Field::new("count", whole(1, 10_000), "Pictures to draw").option("count", "N"),
    Field::new("batch", whole(1, 64), "Pictures drawn together in one forward of the network: faster on large GPUs, takes more memory")
        .option("batch", "N"),
    Field::new("paste_back", Kind::Switch, "Put the pixels of `image.file` back where `image.mask` keeps them, so that they do not change in \
        any bit")
        .option("paste-back", "on|off")
        .default("on; off with models that were made for inpainting"),
    Field::new("image_guidance_scale", Kind::Number(from_to(1.0, 100.0)), "How strongly `image.file` steers a model that changes it as the \
        prompt instructs (InstructPix2Pix), at least 1")
        .option("image-guidance", "WEIGHT")
        .png("Image CFG scale"),
    Field::new("hires.scale", Kind::Number(above(1.0, 4.0)), "Draw the picture again, this many times as large (hires fix), such as 2")
        .option("hires", "SCALE")
        .png("Hires upscale")
        .default("off"),
    Field::new("hires.strength", Kind::Number(STRENGTH), "How much the second pass draws anew")
        .option("hires-strength", "SHARE")
        .png("Denoising strength")
        .default("0.7"),
    Field::new("hires.steps", whole(1, 1000), "Steps of the second pass, before `hires.strength` leaves some out")
        .option("hires-steps", "N")
        .png("Hires steps")
        .default("`num_inference_steps`"),
    Field::new("hires.upscale", Kind::OneOf(&["latent", "image"]), "What is enlarged for the second pass")
        .option("hires-upscale", "WHAT")
        .png("Hires upscaler")
        .default("latent"),
    Field::new("oms.prompt", Kind::Text, "Prompt for the OMS module alone").option("oms-prompt", "TEXT").default("the prompt"),
    Field::new("oms.negative_prompt", Kind::Text, "What the OMS module steers away from, where `oms.guidance_scale` is not 1")
        .option("oms-negative", "TEXT")
        .default("nothing"),
    Field::new("oms.guidance_scale", Kind::Number(SCALE), "Weight of the OMS prompt; at 1 the module does not run on its negative prompt too")
        .option("oms-guidance", "WEIGHT")
        .png("One More Step scale")
        .default("1; 1.25 with the demo module"),
    Field::new("oms.form.paper.eta", Kind::Number(UNIT), "How much of the noise the OMS step draws afresh: 0 is the paper's eq. 20 with the \
        initial noise alone, 1 its eq. 17")
        .option("oms-eta", "ETA")
        .default("0"),
    Field::new("oms.form", Kind::OneOf(&["paper_sde", "official"]), "Do the OMS step as its authors' code does (in JSON \"official\"), not as \
        the paper says")
        .option("oms-compat", ""),
];
