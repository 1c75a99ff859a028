//! InvokeAI's JSON of version 3 and later (`invokeai/app/invocations/metadata.py`).

use serde_json::Value;

use super::fields::Fields;
use super::{Program, Recipe, RecipeAdapter, RecipeControl, RecipeImage, cannot, json, stem, weights};
use crate::Result;
use crate::pipeline::request::Request;
use crate::pipeline::request::control::ControlRequest;
use crate::sampling::RngKind;
use crate::text::PromptSyntax;

/// What says nothing of pixels.
const NO_EFFECT: [&str; 6] =
    ["app_version", "created_by", "canvas_v2_metadata", "_canvas_objects", "metadata", "negative_prompt_collapsed"];

/// The name of a model's entry, which versions write differently.
fn name_of(model: &Value) -> Option<String> {
    let names = [&model["name"], &model["model_name"], &model["model"]["name"], &model["lora"]["model_name"]];
    let deeper = [
        &model["model"]["model_name"],
        &model["lora"]["name"],
        &model["control_model"]["model_name"],
        &model["control_model"]["name"],
    ];
    names
        .into_iter()
        .chain(deeper)
        .find_map(Value::as_str)
        .map(str::to_owned)
        .or_else(|| model.as_str().map(str::to_owned))
}

/// Reads the object.
pub(super) fn read(text: &str) -> Result<Recipe> {
    let Some(Value::Object(map)) = json(text) else {
        return Err(cannot(Program::InvokeAi, "its parameters are no JSON that can be read"));
    };
    let fields = Fields::from(map);
    let mode = fields.text("generation_mode").unwrap_or_default();
    for family in ["flux", "sd3", "cogview4", "z_image", "qwen_image"] {
        if mode.starts_with(family) {
            return Err(cannot(Program::InvokeAi, format!("{mode:?} is of a family that is not here")));
        }
    }
    let (Some(prompt), Some(steps)) = (fields.text("positive_prompt"), fields.number("steps")?) else {
        return Err(cannot(Program::InvokeAi, "it has neither a prompt nor steps"));
    };
    let mut not_repeated = Vec::new();
    let positive = weights::from_compel(&prompt, &mut not_repeated);
    let negative = fields.text("negative_prompt").map(|text| weights::from_compel(&text, &mut not_repeated));
    let device = fields.text("rand_device").unwrap_or_else(|| "cpu".into());
    let default = Request::default();
    let mut recipe = Recipe {
        program: Program::InvokeAi,
        request: Request {
            prompt: positive,
            negative_prompt: negative.filter(|text| !text.is_empty()),
            prompt_2: fields.named("positive_style_prompt"),
            negative_prompt_2: fields.named("negative_style_prompt"),
            num_inference_steps: steps,
            guidance_scale: fields.number("cfg_scale")?.unwrap_or(default.guidance_scale),
            guidance_rescale: fields.number("cfg_rescale_multiplier")?.unwrap_or(0.0),
            seed: fields.number("seed")?.unwrap_or(0),
            width: fields.number("width")?,
            height: fields.number("height")?,
            clip_skip: fields.number("clip_skip")?.unwrap_or(0),
            refiner_start: fields.number("refiner_start")?.unwrap_or(default.refiner_start),
            rng: if device == "cpu" { RngKind::Torch } else { RngKind::A1111Gpu },
            prompt_syntax: PromptSyntax::Comfy,
            ..default
        },
        not_repeated,
        ..Recipe::default()
    };
    recipe.model = fields.value("model").and_then(name_of).map(|name| stem(&name));
    for (field, part) in [("vae", "vae"), ("refiner_model", "refiner")] {
        if let Some(name) = fields.value(field).and_then(name_of) {
            recipe.parts.insert(part.to_owned(), stem(&name));
        }
    }
    let sampler = fields.text("scheduler").unwrap_or_else(|| "euler".into());
    recipe.take_sampler(&sampler, None);
    let strength = fields.number("strength")?;
    if mode.contains("img2img") || mode.contains("inpaint") || mode.contains("outpaint") || fields.has("init_image") {
        let strength = strength.unwrap_or(0.75);
        // Asked for as any other start picture.
        fields.skip(&["init_image"]);
        recipe.image = Some(RecipeImage { sha256: None, strength, mask: mode.contains("paint") });
    }
    for lora in fields.value("loras").and_then(Value::as_array).into_iter().flatten() {
        let (Some(name), Some(weight)) = (name_of(lora), lora["weight"].as_f64()) else {
            return Err(cannot(Program::InvokeAi, format!("a LoRA has no name or no weight: {lora}")));
        };
        recipe.adapters.push(RecipeAdapter { name: stem(&name), sha256: None, weight, text_encoder_weight: None });
    }
    for control in fields.value("controlnets").and_then(Value::as_array).into_iter().flatten() {
        let name = name_of(control).map_or_else(String::new, |name| stem(&name));
        let number = |field: &str, default: f64| control[field].as_f64().unwrap_or(default);
        recipe.request.controls.push(ControlRequest {
            net: recipe.request.controls.len(),
            weight: number("control_weight", 1.0),
            start: number("begin_step_percent", 0.0),
            end: number("end_step_percent", 1.0),
            ..ControlRequest::default()
        });
        recipe.not_repeated.push(format!("ControlNet {} ({name})", recipe.controls.len()));
        recipe.controls.push(RecipeControl { name, sha256: None, image_sha256: None });
    }
    fields.skip(&NO_EFFECT);
    for list in ["ipAdapters", "t2iAdapters", "regions", "ref_images"] {
        fields.skip_if(list, |value| value == "[]");
    }
    for switch in ["seamless_x", "seamless_y", "hrf_enabled"] {
        fields.skip_if(switch, |value| value == "false");
    }
    if fields.text("hrf_enabled").is_none_or(|on| on != "true") {
        fields.skip(&["hrf_method", "hrf_strength", "hrf_height", "hrf_width"]);
    } else {
        recipe.not_repeated.push("high-resolution fix".into());
    }
    if !recipe.parts.contains_key("refiner") {
        fields.skip(&[
            "refiner_steps",
            "refiner_cfg_scale",
            "refiner_scheduler",
            "refiner_positive_aesthetic_score",
            "refiner_negative_aesthetic_score",
        ]);
    }
    recipe.not_repeated.extend(fields.left());
    Ok(recipe)
}
