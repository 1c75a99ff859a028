//! Fooocus's JSON (`modules/meta_parser.py`, `modules/async_worker.py`); its text in AUTOMATIC1111's form is read by `infotext`.

use serde_json::{Map, Value};

use super::fields::{Fields, number};
use super::{Program, Recipe, RecipeAdapter, cannot, stem};
use crate::Result;
use crate::pipeline::request::Request;
use crate::sampling::RngKind;
use crate::text::PromptSyntax;

/// What says nothing of pixels, or what other fields say.
const NO_EFFECT: [&str; 11] = [
    "version",
    "metadata_scheme",
    "created_by",
    "base_model_hash",
    "refiner_model_hash",
    "loras",
    "performance",
    "prompt",
    "negative_prompt",
    "prompt_expansion",
    "image_number",
];

/// Reads the object. Older versions name its fields as they show them: "Guidance Scale".
pub(super) fn read(map: Map<String, Value>) -> Result<Recipe> {
    let plain = |name: String| match name.as_str() {
        "CFG Mimicking from TSNR" => "adaptive_cfg".into(),
        _ => match name.strip_prefix("LoRA ") {
            Some(number) => format!("lora_combined_{number}"),
            None => name.to_lowercase().replace(' ', "_"),
        },
    };
    let fields = Fields::from(map.into_iter().map(|(name, value)| (plain(name), value)).collect::<Vec<_>>());
    let (Some(prompt), Some(steps)) = (fields.text("prompt"), fields.number("steps")?) else {
        return Err(crate::Error::refused(
            "its parameters are JSON of a program that is not known here: neither \"prompt\" nor \"steps\" of Fooocus",
        ));
    };
    // What was drawn, styles and expansion with it: texts that are encoded one by one and joined.
    let whole = |name: &str| -> Option<Vec<String>> {
        let list = fields.value(name)?.as_array()?;
        let texts = list.iter().filter_map(Value::as_str).map(str::to_owned);
        Some(texts.filter(|text| !text.trim().is_empty()).collect::<Vec<_>>()).filter(|list| !list.is_empty())
    };
    let (positive, negative) = (whole("full_prompt"), whole("full_negative_prompt"));
    let is_joined = [&positive, &negative].into_iter().flatten().any(|texts| texts.len() > 1);
    let size = fields.size("resolution")?;
    let clip_skip: i64 = fields.number("clip_skip")?.unwrap_or(2);
    let mut recipe = Recipe {
        program: Program::Fooocus,
        request: Request {
            prompt: positive.map_or(prompt, |texts| texts.join(", ")),
            negative_prompt: negative.map(|texts| texts.join(", ")).or(fields.text("negative_prompt")),
            num_inference_steps: steps,
            guidance_scale: fields.number("guidance_scale")?.unwrap_or(7.0),
            seed: fields.number("seed")?.unwrap_or(0),
            width: size.map(|size| size.0),
            height: size.map(|size| size.1),
            refiner_start: fields.number("refiner_switch")?.filter(|share| *share < 1.0).unwrap_or(0.8),
            // SDXL's own layer is the second from the end.
            clip_skip: usize::try_from(clip_skip - 2).unwrap_or(0),
            rng: RngKind::Comfy,
            prompt_syntax: PromptSyntax::Comfy,
            ..Request::default()
        },
        model: fields.named("base_model").map(|name| stem(&name)),
        ..Recipe::default()
    };
    if is_joined {
        recipe.not_repeated.push("texts of styles in chunks of their own (one text in their place)".into());
        fields.skip(&["styles"]);
    }
    if let Some(name) = fields.named("refiner_model") {
        recipe.parts.insert("refiner".into(), stem(&name));
    }
    if let Some(name) = fields.named("vae").filter(|name| !name.starts_with("Default")) {
        recipe.parts.insert("vae".into(), stem(&name));
    }
    let sampler = fields.text("sampler").unwrap_or_else(|| "dpmpp_2m_sde_gpu".into());
    recipe.take_sampler(&sampler, fields.text("scheduler").as_deref());
    for name in fields.names_with("lora_combined_") {
        let text = fields.text(&name).unwrap_or_default();
        let parts: Vec<&str> = text.split(" : ").collect();
        let (on, file, weight) = match parts.as_slice() {
            [file, weight] => (true, *file, *weight),
            [on, file, weight] => (*on == "True", *file, *weight),
            _ => return Err(cannot(Program::Fooocus, format!("{name}: expected a file and a weight, got {text:?}"))),
        };
        if on && file != "None" {
            let weight = number(&name, weight)?;
            recipe.adapters.push(RecipeAdapter { name: stem(file), sha256: None, weight, text_encoder_weight: None });
        }
    }
    fields.skip(&NO_EFFECT);
    fields.skip_if("styles", |value| value == "[]" || value.is_empty());
    // Fooocus's own doing, on in every picture.
    fields.skip_if("sharpness", |value| value.parse() == Ok(0.0));
    recipe.not_repeated.extend(fields.left());
    Ok(recipe)
}
