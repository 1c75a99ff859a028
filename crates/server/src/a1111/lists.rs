//! Options, models, samplers, and truthful empty lists.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chiaro::image::metadata_in;
use chiaro::options::{SigmaSchedule, SolverKind};
use serde_json::{Map, Value, json};

use super::job::set;
use super::warned;
use crate::fields::Fields;
use crate::pictures::{decoded, from_value};
use crate::refusal::{Answer, Refusal};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::shelf::{DEMO, Item, Use};
use crate::submit::blocking;

pub(super) async fn none() -> Json<Value> {
    Json(json!([]))
}

pub(super) async fn nothing() -> Json<Value> {
    Json(json!({}))
}

pub(super) async fn options(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let own = shared.options().clone();
    let model = own.model.or_else(|| shared.settings.model.clone()).unwrap_or_else(|| DEMO.into());
    Json(json!({
        "sd_model_checkpoint": model, "sd_checkpoint_hash": null, "sd_vae": own.vae.unwrap_or_else(|| "Automatic".into()),
        "CLIP_stop_at_last_layers": own.clip_skip.unwrap_or(1), "inpainting_mask_weight": 1.0, "samples_format": "png",
        "img2img_fix_steps": false, "eta_noise_seed_delta": 0, "live_previews_enable": true, "show_progress_every_n_steps": 10,
    }))
}

/// Clients send the whole object back: what is known is set, the rest is told in a header.
pub(super) async fn set_options(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Response> {
    let Value::Object(mut map) = body else { return Err(Refusal::bad("expected an object")) };
    for name in ["img2img_fix_steps", "eta_noise_seed_delta", "live_previews_enable", "show_progress_every_n_steps"] {
        map.remove(name);
    }
    let mut options = shared.options().clone();
    let unknown = set(&shared, map, &mut options)?;
    *shared.options() = options;
    let warnings = if unknown.is_empty() { Vec::new() } else { vec![format!("passed over: {}", unknown.join(", "))] };
    Ok(warned(Json(json!({})).into_response(), &warnings))
}

pub(super) async fn samplers() -> Json<Value> {
    let all =
        SolverKind::all().map(|(kind, name, _)| json!({ "name": kind.label(), "aliases": [name], "options": {} }));
    Json(all.collect())
}

pub(super) async fn schedulers() -> Json<Value> {
    let automatic = json!({
        "name": "automatic", "label": "Automatic", "aliases": null, "default_rho": -1.0, "need_inner_model": false,
    });
    let own = SigmaSchedule::ALL.iter().map(|(name, schedule, _)| {
        json!({ "name": name, "label": schedule.label(), "aliases": null, "default_rho": -1.0, "need_inner_model": false })
    });
    Json(std::iter::once(automatic).chain(own).collect())
}

pub(super) async fn sd_models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let shown = |item: &Item| {
        json!({
            "title": item.name, "model_name": item.name, "hash": null, "sha256": null, "filename": item.file_name(), "config": null,
        })
    };
    Json(shared.shelf().used_as(Use::Model).filter(|item| item.problem.is_none()).map(shown).collect())
}

pub(super) async fn sd_vae(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let shown = |item: &Item| json!({ "model_name": item.name, "filename": item.file_name() });
    Json(shared.shelf().used_as(Use::Autoencoder).map(shown).collect())
}

pub(super) async fn loras(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let shown =
        |item: &Item| json!({ "name": item.name, "alias": item.name, "path": item.file_name(), "metadata": {} });
    Json(shared.shelf().used_as(Use::Lora).map(shown).collect())
}

pub(super) async fn embeddings(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let (mut loaded, mut skipped) = (Map::new(), Map::new());
    for item in shared.shelf().used_as(Use::Embedding) {
        let (vectors, shape) = item.vectors.unwrap_or_default();
        let own = json!({ "step": null, "sd_checkpoint": null, "sd_checkpoint_name": null, "shape": shape, "vectors": vectors });
        let place = if item.problem.is_none() { &mut loaded } else { &mut skipped };
        place.insert(item.name.clone(), own);
    }
    Json(json!({ "loaded": loaded, "skipped": skipped }))
}

pub(super) async fn latent_upscale_modes() -> Json<Value> {
    Json(json!([{ "name": "Latent" }]))
}

pub(super) async fn scripts() -> Json<Value> {
    let always = ["controlnet", "oms"];
    Json(json!({ "txt2img": always, "img2img": always }))
}

pub(super) async fn script_info() -> Json<Value> {
    let one = |name: &str, is_img2img: bool| json!({ "name": name, "is_alwayson": true, "is_img2img": is_img2img, "args": [] });
    let all = ["controlnet", "oms"].into_iter().flat_map(|name| [one(name, false), one(name, true)]);
    Json(all.collect())
}

pub(super) async fn memory(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let used = shared.engine.statistics().allocated_bytes;
    let total = shared.settings.memory_bytes;
    Json(json!({
        "ram": { "free": null, "used": used, "total": total },
        "cuda": { "error": "this server draws without CUDA", "system": { "free": null, "used": used, "total": total } },
    }))
}

pub(super) async fn refresh(State(shared): State<Arc<Shared>>) -> Answer<Json<Value>> {
    blocking(move || {
        shared.refresh();
        Ok(Json(json!({})))
    })
    .await
}

pub(super) async fn unload(State(shared): State<Arc<Shared>>) -> Answer<Json<Value>> {
    blocking(move || {
        shared.engine.release();
        Ok(Json(json!({})))
    })
    .await
}

pub(super) async fn config() -> Json<Value> {
    Json(
        json!({ "version": concat!("chiaro ", env!("CARGO_PKG_VERSION")), "mode": "api", "components": [], "dependencies": [] }),
    )
}

pub(super) async fn no_upscaler() -> Refusal {
    Refusal::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_implemented",
        "no upscaler is here; enable_hr draws a picture larger",
    )
}

pub(super) async fn no_words() -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", "no network that describes pictures is here")
}

pub(super) async fn png_info(Sent(body): Sent) -> Answer<Json<Value>> {
    let mut fields = Fields::of(body, "")?;
    let image = fields.take("image").ok_or_else(|| Refusal::field("image", "expected a picture in base64"))?;
    blocking(move || {
        let bytes = from_value("image", &image)?;
        decoded("image", &bytes)?;
        let found = metadata_in("image".as_ref(), &bytes)?;
        let own = found.text("parameters").map(str::to_owned);
        let info = own.or_else(|| found.exif.and_then(|exif| exif.user_comment)).unwrap_or_default();
        let items: Map<String, Value> = found.texts.into_iter().map(|(name, text)| (name, text.into())).collect();
        Ok(Json(json!({ "info": info, "items": items, "parameters": parameters(&info) })))
    })
    .await
}

/// The fields of AUTOMATIC1111's text by its names: prompts, and what the last line says.
fn parameters(info: &str) -> Value {
    let mut found = Map::new();
    let (text, last) = match info.trim().rsplit_once('\n') {
        Some((text, last)) if last.contains("Steps: ") => (text, last),
        _ if info.trim().starts_with("Steps: ") => ("", info.trim()),
        _ => (info.trim(), ""),
    };
    let (prompt, negative) = text.split_once("Negative prompt: ").unwrap_or((text, ""));
    found.insert("Prompt".into(), prompt.trim().into());
    found.insert("Negative prompt".into(), negative.trim().into());
    let mut rest = last;
    while let Some((name, after)) = rest.split_once(": ") {
        let (value, next) = match after.strip_prefix('"').and_then(|quoted| quoted.split_once('"')) {
            Some((value, next)) => (value, next.trim_start_matches([',', ' '])),
            None => after.split_once(", ").unwrap_or((after, "")),
        };
        found.insert(name.trim().into(), value.into());
        rest = next;
    }
    Value::Object(found)
}

pub(super) async fn control_version() -> Json<Value> {
    Json(json!({ "version": 3 }))
}

pub(super) async fn control_models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let names: Vec<String> = shared.shelf().used_as(Use::Control).map(|item| item.name.clone()).collect();
    Json(json!({ "model_list": names }))
}

pub(super) async fn control_modules() -> Json<Value> {
    Json(json!({ "module_list": ["none"], "module_detail": { "none": { "sliders": [] } } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_pictures_are_taken_apart() {
        let info =
            "a cat, dog\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, Lora hashes: \"a: 1, b: 2\", Size: 64x64";
        let found = parameters(info);
        for (name, value) in [
            ("Prompt", "a cat, dog"),
            ("Negative prompt", "fog"),
            ("Steps", "20"),
            ("Sampler", "Euler a"),
            ("Lora hashes", "a: 1, b: 2"),
            ("Size", "64x64"),
        ] {
            assert_eq!(found[name], value, "{name}");
        }
        assert_eq!(parameters("only words")["Prompt"], "only words");
        assert_eq!(parameters("")["Prompt"], "");
    }
}
