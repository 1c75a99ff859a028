//! A PNG → the request that made it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{DeepCache, Hires, Request, Upscale};
use crate::image::png_text;
use crate::models::TokenMerging;
use crate::sampling::{PredictionType, RngKind, Sampler, Variation};
use crate::text::PromptSyntax;
use crate::{Error, Result};

/// What a PNG says of its making.
#[derive(Debug, Clone, Deserialize)]
pub struct Recipe {
    /// The request that draws it again; without the picture that it started from.
    pub request: Request,
    /// The model's name: "demo", or its folder's.
    #[serde(default)]
    pub model: Option<String>,
    /// SHA-256 of the weight files by component.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
    /// Parts that were not the model's own, and what their files were called.
    #[serde(default)]
    pub parts: BTreeMap<String, String>,
    /// What the network was said to predict, where the model's files were overruled.
    #[serde(default)]
    pub prediction: Option<PredictionType>,
    /// The OMS module's name, where there was one.
    #[serde(default)]
    pub oms_module: Option<String>,
    /// The device that drew it.
    #[serde(default)]
    pub device: Option<String>,
    /// How activations were stored there: "f16" or "f32".
    #[serde(default)]
    pub storage: Option<String>,
    /// How weights were stored there, as [`WeightTypes`](super::WeightTypes) are written.
    #[serde(default)]
    pub weights: Option<String>,
    /// The adapters that changed the model.
    #[serde(default)]
    pub adapters: Vec<RecipeAdapter>,
    /// The picture that it started from.
    #[serde(default)]
    pub image: Option<RecipeImage>,
    /// The embeddings whose names are in its prompts.
    #[serde(default)]
    pub embeddings: Vec<RecipeEmbedding>,
    /// The ControlNets that acted, one for each of the request's.
    #[serde(default)]
    pub controls: Vec<RecipeControl>,
}

/// What is known of an embedding.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeEmbedding {
    /// The file's name without ending.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// What is known of a ControlNet.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeControl {
    /// The folder's name, or the file's without ending.
    pub name: String,
    /// SHA-256 of the weights' file.
    pub sha256: String,
    /// SHA-256 of the picture that it saw ([`super::ControlRequest::image_sha256`]).
    #[serde(default)]
    pub image_sha256: Option<String>,
}

/// What is known of an adapter.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeAdapter {
    /// The file's name without ending.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// How strongly it was applied.
    pub weight: f64,
    /// How strongly to text encoders, where that was another number.
    #[serde(default)]
    pub text_encoder_weight: Option<f64>,
}

/// What is known of a start picture.
#[derive(Debug, Clone, Deserialize)]
pub struct RecipeImage {
    /// SHA-256 of its pixels and mask ([`super::InitImage::sha256`]).
    pub sha256: String,
    /// How much was drawn anew.
    pub strength: f64,
    /// Whether it had a mask.
    pub mask: bool,
}

/// Reads what a PNG of this program, or of AUTOMATIC1111, says of its making.
///
/// # Errors
/// When the file is no PNG, says nothing, or what it says cannot be understood.
pub fn read_recipe(path: &Path) -> Result<Recipe> {
    let texts = png_text(path)?;
    let find = |wanted: &str| texts.iter().find(|(keyword, _)| keyword == wanted).map(|(_, text)| text);
    if let Some(json) = find("chiaro") {
        return serde_json::from_str(json)
            .map_err(|e| Error::Request(format!("{}: its parameters cannot be read: {e}", path.display())));
    }
    match find("parameters") {
        Some(text) => from_infotext(text).map_err(|e| Error::Request(format!("{}: {e}", path.display()))),
        None => {
            Err(Error::Request(format!("{}: holds no parameters; was it saved by another program?", path.display())))
        }
    }
}

/// AUTOMATIC1111's text (`modules/infotext_utils.py`): prompt lines, "Negative prompt: …" lines, and one line of fields.
fn from_infotext(text: &str) -> Result<Recipe> {
    let text = text.trim_end();
    let (prompts, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let fields = fields(last);
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    fn number<T: std::str::FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>> {
        let refused = |value: &str| Error::Request(format!("{name}: expected a number, got {value:?}"));
        value.map(|value| value.trim().parse().map_err(|_| refused(value))).transpose()
    }
    let Some(steps) = number("Steps", get("Steps"))? else {
        return Err(Error::Request("its parameters have no \"Steps\"".into()));
    };
    let (prompt, negative) = match prompts.split_once("Negative prompt:") {
        Some((prompt, negative)) => (prompt.trim(), Some(negative.trim().to_owned())),
        None => (prompts.trim(), None),
    };
    let default = Request::default();
    let named = format!("{} {}", get("Sampler").unwrap_or("Euler a"), get("Schedule type").unwrap_or_default());
    let sampler: Sampler = named.parse()?;
    let size = get("Size").and_then(|size| size.split_once('x'));
    let strength: Option<f64> = number("Denoising strength", get("Denoising strength"))?;
    let hires = match number("Hires upscale", get("Hires upscale"))? {
        Some(scale) => Some(Hires {
            scale,
            strength: strength.unwrap_or(0.7),
            steps: number("Hires steps", get("Hires steps"))?,
            upscale: if get("Hires upscaler").is_some_and(|name| !name.starts_with("Latent")) {
                Upscale::Image
            } else {
                Upscale::Latent
            },
        }),
        None => None,
    };
    let variation = match number("Variation seed strength", get("Variation seed strength"))? {
        Some(strength) => {
            Some(Variation { seed: number("Variation seed", get("Variation seed"))?.unwrap_or(0), strength })
        }
        None => None,
    };
    // There the share may be larger and means all pixels that can be merged.
    let token_merging = number::<f32>("Token merging ratio", get("Token merging ratio"))?
        .filter(|ratio| *ratio != 0.0)
        .map(|ratio| if ratio <= 1.0 { ratio.min(0.75) } else { ratio });
    let levels = number("Token merging levels", get("Token merging levels"))?.unwrap_or(1);
    let token_merging = token_merging.map(|ratio| TokenMerging { ratio, levels });
    let refused = |e: String| Error::Request(format!("DeepCache: {e}"));
    let deep_cache = get("DeepCache").map(|text| text.parse::<DeepCache>().map_err(refused)).transpose()?;
    let clip_skip: usize = number("Clip skip", get("Clip skip"))?.unwrap_or(1);
    let request = Request {
        prompt: prompt.to_owned(),
        negative_prompt: negative,
        width: number("Size", size.map(|(width, _)| width))?,
        height: number("Size", size.map(|(_, height)| height))?,
        num_inference_steps: steps,
        guidance_scale: number("CFG scale", get("CFG scale"))?.unwrap_or(7.0),
        sampler: Some(sampler.kind),
        sigmas: sampler.sigmas,
        seed: number("Seed", get("Seed"))?.unwrap_or(default.seed),
        rng: if get("RNG") == Some("CPU") { RngKind::Torch } else { RngKind::A1111Gpu },
        variation,
        hires,
        refiner_start: number("Refiner switch at", get("Refiner switch at"))?.unwrap_or(default.refiner_start),
        clip_skip: clip_skip.saturating_sub(1),
        deep_cache,
        token_merging,
        prompt_syntax: PromptSyntax::A1111,
        ..default
    };
    let model = get("Model").map(str::to_owned);
    Ok(Recipe {
        request,
        model,
        sha256: BTreeMap::new(),
        parts: get("Refiner").map(|name| ("refiner".to_owned(), name.to_owned())).into_iter().collect(),
        prediction: None,
        oms_module: None,
        device: None,
        storage: None,
        weights: None,
        adapters: Vec::new(),
        image: None,
        controls: Vec::new(),
        embeddings: Vec::new(),
    })
}

/// `Name: value` pairs with commas between them; a value in quotes is a JSON string.
fn fields(line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while let Some((name, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let mut quoted = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let (value, used) = match (after.starts_with('"'), quoted.next()) {
            (true, Some(Ok(value))) => (value, quoted.byte_offset()),
            _ => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), end)
            }
        };
        fields.push((name.trim().to_owned(), value));
        rest = after[used..].trim_start().strip_prefix(',').unwrap_or("");
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{SigmaSchedule, SolverKind};

    #[test]
    fn automatic1111_s_text() {
        let text = "a (red:1.2) car, 4k\nsecond line\nNegative prompt: blurry, low quality\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, \
                    CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, Model: \"v1, a: b\", Denoising strength: 0.4, \
                    Clip skip: 2, Token merging ratio: 0.9, DeepCache: \"3:1\", Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent, Version: v1.9.0";
        let recipe = from_infotext(text).expect("well formed");
        let r = &recipe.request;
        assert_eq!(r.prompt, "a (red:1.2) car, 4k\nsecond line");
        assert_eq!(r.negative_prompt.as_deref(), Some("blurry, low quality"));
        assert_eq!((r.num_inference_steps, r.seed, r.clip_skip), (20, 965_400_086, 1));
        assert_eq!((r.width, r.height), (Some(512), Some(768)));
        assert_eq!((r.sampler, r.sigmas), (Some(SolverKind::DpmPp2m), Some(SigmaSchedule::Karras)));
        assert_eq!(r.token_merging, Some(TokenMerging { ratio: 0.75, levels: 1 }));
        assert_eq!(r.deep_cache, Some(DeepCache { interval: 3, depth: 1 }));
        assert_eq!(recipe.model.as_deref(), Some("v1, a: b"));
        let hires = r.hires.as_ref().expect("hires");
        assert_eq!((hires.scale, hires.strength, hires.steps, hires.upscale), (2.0, 0.4, Some(10), Upscale::Latent));
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in
            ["", "just words", "a\nSteps: many, Sampler: Euler", "a\nSteps: 3, Sampler: Nothing such", "\n:::,,,\"\"\""]
        {
            assert!(from_infotext(text).is_err(), "{text:?}");
        }
    }

    /// Whatever a file says, reading it ends in a recipe or an error, and what is read is checked or refused.
    #[test]
    fn damaged_texts_never_panic() {
        let request = Request { prompt: "a (red:1.2) \u{1f980}".into(), seed: 9, ..Request::default() };
        let json = serde_json::json!({ "request": request, "model": "demo", "sha256": { "unet": "00" } }).to_string();
        let text = "a\nNegative prompt: b\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, Model: \"x, y\", Version: v1";
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for source in [json.as_str(), text] {
            for _ in 0..5_000 {
                let mut bytes = source.as_bytes().to_vec();
                for _ in 0..=random(3) {
                    let at = random(bytes.len());
                    match random(3) {
                        0 => bytes[at] = random(256) as u8,
                        1 => bytes.truncate(at.max(1)),
                        _ => bytes.insert(at, b"0123456789-.,:\"{}[]eE"[random(21)]),
                    }
                }
                let damaged = String::from_utf8_lossy(&bytes);
                let read = serde_json::from_str::<Recipe>(&damaged).ok().or_else(|| from_infotext(&damaged).ok());
                if let Some(recipe) = read {
                    // Out of range or not: an answer, not a panic.
                    let _ = recipe.request.validate();
                }
            }
        }
    }
}
