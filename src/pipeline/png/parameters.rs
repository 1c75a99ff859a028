//! A finished picture and the text that goes into its PNG.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::image::{PictureFormat, Rgb8Image, encode_picture};
use crate::pipeline::model::adapters::AdapterReport;
use crate::pipeline::model::control::Control;
use crate::pipeline::model::embeddings::EmbeddingReport;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::png::{ETA_OF_DDIM, RECORD};
use crate::pipeline::request::control::ControlRequest;
use crate::pipeline::request::fields::png;
use crate::pipeline::request::{Request, Upscale};
use crate::record::DevicePicture;
use crate::sampling::{PictureNoise, RngKind, SigmaSchedule, SolverKind};
use crate::{Error, Result};

/// A finished picture.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Picture {
    /// The pixels.
    pub image: Rgb8Image,
    /// Its seed.
    pub seed: u64,
    /// Final latents x̃_0, variance-preserving, `[4, height/8, width/8]`.
    pub latents: Vec<f32>,
    /// What made it: `request` repeats this one picture, the rest says what it was drawn with.
    pub parameters: Value,
    /// The same as AUTOMATIC1111 writes it.
    pub infotext: String,
    /// What happened on the way that a user should know: a stage redone in f32.
    pub notes: Vec<String>,
    /// The same pixels on the device, where [`Request::on_device`](crate::pipeline::Request::on_device) asks for them and a GPU drew them whole.
    pub on_device: Option<Arc<DevicePicture>>,
}

impl Picture {
    /// Keywords and texts for the PNG: `parameters` as AUTOMATIC1111 writes it, and everything as JSON under `chiaro`.
    pub fn text_chunks(&self) -> Vec<(String, String)> {
        vec![("parameters".into(), self.infotext.clone()), ("chiaro".into(), self.parameters.to_string())]
    }

    /// The bytes of its PNG with these texts, as [`write_png`](crate::image::write_png) writes them to a file. For other formats:
    /// [`encode_picture`].
    ///
    /// # Errors
    /// When the picture was made one that no PNG can hold, of no pixels or of more values than its size has.
    pub fn png(&self) -> Result<Vec<u8>> {
        let encoded = encode_picture(PictureFormat::Png, &self.image, &self.text_chunks());
        encoded.map(|(bytes, _)| bytes).map_err(|message| Error::shape("png", message))
    }
}

/// The request that draws one picture of a request again.
pub(crate) fn alone(request: &Request, index: usize, noise: &PictureNoise) -> Request {
    let place = (request.rng == RngKind::Comfy).then(|| request.place.unwrap_or((index, request.count)));
    let variation = noise.variation();
    Request { count: 1, batch: 1, seed: noise.seed(), variation, place, ..request.clone() }
}

/// Everything that decides the pixels of one picture.
pub(crate) fn parameters(pipeline: &Pipeline, request: &Request, size: (usize, usize)) -> Result<Value> {
    let solver = pipeline.sampler(request);
    Ok(json!({
        "record": RECORD,
        "version": env!("CARGO_PKG_VERSION"),
        "model": pipeline.label(),
        "parts": pipeline.parts().iter().cloned().collect::<BTreeMap<_, _>>(),
        "prediction": pipeline.prediction,
        "oms_module": request.oms.as_ref().and(pipeline.oms_label()),
        "sha256": pipeline.hashes()?,
        "adapters": pipeline.adapters().iter().map(AdapterReport::parameters).collect::<Vec<_>>(),
        "device": pipeline.device().name(),
        "storage": pipeline.device().storage_name(),
        "weights": pipeline.device().weights().to_string(),
        "width": size.0,
        "height": size.1,
        "seed": request.seed,
        "sampler": solver.to_string(),
        "sigmas": solver.takes_sigmas().then(|| pipeline.schedule_of(request).sigma_schedule().to_string()),
        "image": request.image.as_ref().map(|image| json!({
            "sha256": image.sha256(), "strength": image.strength, "mask": image.mask.is_some(),
        })),
        "embeddings": embeddings_of(pipeline, request).map(EmbeddingReport::parameters).collect::<Vec<_>>(),
        "controls": of_controls(&request.controls, &pipeline.controls),
        "request": request,
    }))
}

/// AUTOMATIC1111's text of a picture (`modules/processing.py`, `create_infotext`): prompt, negative prompt, and fields.
pub(crate) fn infotext(pipeline: &Pipeline, request: &Request, (width, height): (usize, usize)) -> Result<String> {
    let mut lines = request.prompt.clone();
    for report in pipeline.adapters() {
        lines += &format!(" {}", report.tag());
    }
    if let Some(negative) = request.negative_prompt.as_ref().filter(|text| !text.is_empty()) {
        lines += &format!("\n{}: {negative}", png("negative_prompt"));
    }
    let solver = pipeline.sampler(request);
    let mut fields = vec![
        (png("num_inference_steps"), request.num_inference_steps.to_string()),
        (png("sampler"), solver.label().to_owned()),
    ];
    if solver.takes_sigmas() {
        let sigmas = pipeline.schedule_of(request).sigma_schedule();
        let label = if sigmas == SigmaSchedule::Normal { "Automatic" } else { sigmas.label() };
        fields.push((png("sigmas"), label.to_owned()));
    }
    fields.push((png("guidance_scale"), request.guidance_scale.to_string()));
    fields.push((png("seed"), request.seed.to_string()));
    fields.push(("Size", format!("{width}x{height}")));
    if let Some(hash) = pipeline.hashes()?.get("unet") {
        fields.push(("Model hash", hash[..10].to_owned()));
    }
    fields.push(("Model", quoted(pipeline.label())));
    if !pipeline.adapters().is_empty() {
        let hashes: Vec<String> =
            pipeline.adapters().iter().map(|a| format!("{}: {}", a.name(), a.short_hash())).collect();
        fields.push(("Lora hashes", quoted(&hashes.join(", "))));
    }
    if let Some((_, name)) = pipeline.parts().iter().find(|(part, _)| *part == "vae") {
        fields.push(("VAE", quoted(name)));
    }
    if let Some((_, name)) = pipeline.parts().iter().find(|(part, _)| *part == "refiner") {
        fields.push(("Refiner", quoted(name)));
        fields.push((png("refiner_start"), request.refiner_start.to_string()));
    }
    if let Some(cache) = request.deep_cache.filter(|cache| cache.interval > 1) {
        fields.push((png("deep_cache.interval"), quoted(&cache.to_string())));
    }
    if let Some(merging) = request.token_merging {
        fields.push((png("token_merging.ratio"), merging.ratio.to_string()));
        if merging.levels > 1 {
            fields.push((png("token_merging.levels"), merging.levels.to_string()));
        }
    }
    let used: Vec<String> = embeddings_of(pipeline, request).map(EmbeddingReport::short_hash).collect();
    if !used.is_empty() {
        fields.push(("TI hashes", quoted(&used.join(", "))));
    }
    if let Some(variation) = &request.variation {
        fields.push((png("variation.seed"), variation.seed.to_string()));
        fields.push((png("variation.strength"), variation.strength.to_string()));
    }
    if let Some(image) = &request.image {
        fields.push((png("hires.strength"), image.strength.to_string()));
    }
    // AUTOMATIC1111 counts from 1 and leaves 1 unsaid.
    if request.clip_skip > 0 {
        fields.push((png("clip_skip"), (request.clip_skip + 1).to_string()));
    }
    if let Some(hires) = &request.hires {
        fields.push((png("hires.strength"), hires.strength.to_string()));
        fields.push((png("hires.scale"), hires.scale.to_string()));
        if let Some(steps) = hires.steps {
            fields.push((png("hires.steps"), steps.to_string()));
        }
        let upscaler = if hires.upscale == Upscale::Latent { "Latent" } else { "Lanczos" };
        fields.push((png("hires.upscale"), upscaler.into()));
    }
    if request.image_guidance_scale != Request::default().image_guidance_scale {
        fields.push((png("image_guidance_scale"), request.image_guidance_scale.to_string()));
    }
    if request.rng == RngKind::Torch {
        fields.push((png("rng"), "CPU".into()));
    }
    if request.noise_seed_delta != 0 {
        fields.push((png("noise_seed_delta"), request.noise_seed_delta.to_string()));
    }
    if let Some(eta) = request.eta {
        fields.push((if solver == SolverKind::Ddim { ETA_OF_DDIM } else { png("eta") }, eta.to_string()));
    }
    if let Some(oms) = &request.oms {
        fields.push(("One More Step", pipeline.oms_label().map(quoted).unwrap_or_default()));
        fields.push((png("oms.guidance_scale"), oms.guidance_scale.to_string()));
    }
    let controls =
        request.controls.iter().enumerate().map(|(i, control)| {
            format!("ControlNet {i}: {}, ", quoted(&infotext_of_control(control, &pipeline.controls)))
        });
    let controls: String = controls.collect();
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    Ok(format!("{lines}\n{}, {controls}Version: chiaro {}", fields.join(", "), env!("CARGO_PKG_VERSION")))
}

/// The embeddings whose names are in a request's prompts.
pub(crate) fn embeddings_of<'p>(
    pipeline: &'p Pipeline,
    request: &'p Request,
) -> impl Iterator<Item = &'p EmbeddingReport> {
    let tokenizer = &pipeline.text_encoders()[0].tokenizer;
    let used = |name: &str| request.prompts().any(|text| tokenizer.embeddings_in(text).contains(&name));
    pipeline.embeddings().iter().filter(move |embedding| embedding.names().any(used))
}

/// A value with signs that separate fields goes into quotes.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) { Value::from(value).to_string() } else { value.to_owned() }
}

/// What a picture's parameters say of its controls.
fn of_controls(controls: &[ControlRequest], nets: &[Control]) -> Vec<Value> {
    let one = |control: &ControlRequest| {
        let net = &nets[control.net];
        json!({ "name": net.name(), "sha256": net.sha256(), "image_sha256": control.image_sha256() })
    };
    controls.iter().map(one).collect()
}

/// A control as AUTOMATIC1111's sd-webui-controlnet writes it (`scripts/infotext.py`), as far as it has a meaning here.
fn infotext_of_control(control: &ControlRequest, nets: &[Control]) -> String {
    let net = &nets[control.net];
    let mode = if control.guess_mode { "ControlNet is more important" } else { "Balanced" };
    format!(
        "Module: none, Model: {} [{}], Weight: {}, Resize Mode: Just Resize, Guidance Start: {}, Guidance End: {}, Control Mode: {mode}",
        net.name(),
        &net.sha256()[..8],
        control.weight,
        control.start,
        control.end
    )
}
