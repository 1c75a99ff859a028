//! A finished picture and the text that goes into its PNG.

use serde_json::{Value, json};

use super::{Pipeline, Request};
use crate::image::Rgb8Image;
use crate::sampling::OmsForm;

/// A finished picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The pixels.
    pub image: Rgb8Image,
    /// Its seed.
    pub seed: u64,
    /// Final latents x̃_0, variance-preserving, `[4, height/8, width/8]`.
    pub latents: Vec<f32>,
    /// What made it, as JSON.
    pub parameters: Value,
    /// What happened on the way that a user should know: a stage redone in f32.
    pub notes: Vec<String>,
}

impl Picture {
    /// Keywords and texts for the PNG: `parameters` as AUTOMATIC1111 writes it, and everything as JSON under `chiaro`.
    pub fn text_chunks(&self) -> Vec<(String, String)> {
        let p = &self.parameters;
        let text = |key: &str| p[key].as_str().unwrap_or_default().to_owned();
        let mut lines = text("prompt");
        if !text("negative_prompt").is_empty() {
            lines += &format!("\nNegative prompt: {}", text("negative_prompt"));
        }
        // AUTOMATIC1111 counts from 1 and leaves 1 unsaid.
        let clip_skip = match p["clip_skip"].as_u64() {
            Some(layers @ 1..) => format!("Clip skip: {}, ", layers + 1),
            _ => String::new(),
        };
        lines += &format!(
            "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, {clip_skip}Version: chiaro {}",
            p["steps"],
            text("sampler"),
            p["guidance_scale"],
            p["seed"],
            p["width"],
            p["height"],
            text("version"),
        );
        vec![("parameters".into(), lines), ("chiaro".into(), p.to_string())]
    }
}

/// Everything that decides the pixels of one picture.
pub(super) fn parameters(pipeline: &Pipeline, request: &Request, seed: u64, size: (usize, usize)) -> Value {
    let oms = request.oms.as_ref().map(|oms| {
        json!({
            "prompt": oms.prompt.as_ref().unwrap_or(&request.prompt),
            "negative_prompt": oms.negative_prompt,
            "guidance_scale": oms.guidance_scale,
            "form": match oms.form {
                OmsForm::Paper { .. } => "eq. 20",
                OmsForm::PaperSde => "eq. 17",
                OmsForm::Official => "official",
            },
            "module": pipeline.oms_label(),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "prompt_2": request.prompt_2,
        "negative_prompt_2": request.negative_prompt_2,
        "original_size": request.original_size,
        "crops_coords_top_left": request.crops_coords_top_left,
        "target_size": request.target_size,
        "model": pipeline.label(),
        "width": size.0,
        "height": size.1,
        "steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "sampler": pipeline.sampler(request).to_string(),
        "eta": request.eta,
        "seed": seed,
        "clip_skip": request.clip_skip,
        "prompt_syntax": request.prompt_syntax.to_string(),
        "comma_backtrack": request.comma_backtrack,
        "oms": oms,
        "device": pipeline.device().name(),
        "storage": pipeline.device().storage_name(),
    })
}
