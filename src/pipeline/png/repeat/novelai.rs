//! NovelAI's JSON in a PNG's `Comment`, with the prompt in `Description` and the model in `Source`.

use serde_json::Value;

use super::fields::Fields;
use super::{Program, Recipe, RecipeImage, cannot, json, weights};
use crate::Result;
use crate::pipeline::request::Request;
use crate::sampling::RngKind;
use crate::text::PromptSyntax;

/// What says nothing of pixels, or says what is done anyway.
const NO_EFFECT: [&str; 9] =
    ["request_type", "signed_hash", "n_samples", "prompt", "uc", "version", "params_version", "stream", "image_format"];

/// Reads the object.
pub(super) fn read(comment: &str, source: Option<&str>, description: Option<&str>) -> Result<Recipe> {
    let Some(Value::Object(map)) = json(comment) else {
        return Err(cannot(Program::NovelAi, "its parameters are no JSON that can be read"));
    };
    let fields = Fields::from(map);
    let prompt = fields.text("prompt").or_else(|| description.map(str::to_owned));
    let (Some(prompt), Some(steps)) = (prompt, fields.number("steps")?) else {
        return Err(cannot(Program::NovelAi, "it has neither a prompt nor steps"));
    };
    let mut not_repeated = Vec::new();
    let positive = weights::from_novelai(&prompt, &mut not_repeated);
    let negative = fields.text("uc").map(|text| weights::from_novelai(&text, &mut not_repeated));
    let mut recipe = Recipe {
        program: Program::NovelAi,
        request: Request {
            prompt: positive,
            negative_prompt: negative.filter(|text| !text.is_empty()),
            num_inference_steps: steps,
            guidance_scale: fields.number("scale")?.unwrap_or(5.0),
            guidance_rescale: fields.number("cfg_rescale")?.unwrap_or(0.0),
            seed: fields.number("seed")?.unwrap_or(0),
            width: fields.number("width")?,
            height: fields.number("height")?,
            rng: RngKind::Torch,
            prompt_syntax: PromptSyntax::A1111,
            ..Request::default()
        },
        // Its models have no files that are published under such a name; the name says which to take.
        model: source.map(str::to_owned),
        not_repeated,
        ..Recipe::default()
    };
    let sampler = fields.text("sampler").unwrap_or_else(|| "k_euler".into());
    recipe.take_sampler(&sampler, fields.text("noise_schedule").as_deref());
    let strength: Option<f64> = fields.number("strength")?;
    let kind = fields.text("request_type").unwrap_or_default();
    if kind.contains("Img2Img") || kind.contains("Inpaint") || kind.contains("Infill") {
        let strength = strength.unwrap_or(0.7);
        recipe.image = Some(RecipeImage { sha256: None, strength, mask: !kind.contains("Img2Img") });
    }
    fields.skip(&NO_EFFECT);
    for switch in
        ["sm", "sm_dyn", "dynamic_thresholding", "prefer_brownian", "legacy", "legacy_v3_extend", "add_original_image"]
    {
        fields.skip_if(switch, |value| value == "false");
    }
    for (scale, nothing) in
        [("uncond_scale", 1.0), ("noise", 0.0), ("skip_cfg_below_sigma", 0.0), ("lora_unet_weights", 1.0)]
    {
        fields.skip_if(scale, |value| value.parse() == Ok(nothing));
    }
    for list in [
        "reference_information_extracted_multiple",
        "reference_strength_multiple",
        "controlnet_strength",
        "extra_passthrough_testing",
    ] {
        fields.skip_if(list, |value| matches!(value, "[]" | "1" | "1.0"));
    }
    recipe.not_repeated.extend(fields.left());
    Ok(recipe)
}
