//! txt2img and img2img: handed in, waited for, answered.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chiaro::image::{PictureFormat, decode_photo, encode_picture, metadata_in};
use serde_json::{Value, json};

use super::job::Read;
use super::warned;
use crate::guard::Client;
use crate::journal::{Drawn, End};
use crate::live::{Live, State as Stands};
use crate::pictures::to_base64;
use crate::refusal::{Answer, Refusal};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::submit::{Asked, Caller, blocking, submit};

pub(super) async fn txt2img(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    Sent(body): Sent,
) -> Answer<Response> {
    draw(shared, client, body, false).await
}

pub(super) async fn img2img(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    Sent(body): Sent,
) -> Answer<Response> {
    draw(shared, client, body, true).await
}

async fn draw(shared: Arc<Shared>, Client(client): Client, body: Value, is_img2img: bool) -> Answer<Response> {
    let echo = without_pictures(&body);
    let own = Arc::clone(&shared);
    let read = blocking(move || Read::of(&own, body, is_img2img)).await?;
    let asked = Asked { synchronous: true, task: read.task.clone(), ..Asked::new(read.job.clone(), &client, "a1111") };
    let (live, _) = submit(&shared, asked).await?;
    let caller = Caller::new(&shared, &live);
    live.ended().await;
    let answer = {
        let (shared, live) = (Arc::clone(&shared), Arc::clone(&live));
        blocking(move || answer(&shared, &live, &read, echo)).await
    };
    drop(caller);
    answer
}

/// What was asked, as it is told back: without the pictures.
fn without_pictures(body: &Value) -> Value {
    let mut echo = body.clone();
    for name in ["init_images", "mask"] {
        if let Some(value) = echo.get_mut(name) {
            *value = Value::Null;
        }
    }
    echo
}

fn answer(shared: &Shared, live: &Live, read: &Read, echo: Value) -> Answer<Response> {
    let (state, refusal, mut pictures) = {
        let told = live.told();
        (told.state, told.refusal.clone(), told.pictures.clone())
    };
    // One that was interrupted gives what it has, as there.
    if let (Stands::Ended(End::Failed), Some(refusal)) = (state, refusal) {
        return Err(refusal);
    }
    pictures.sort_by_key(|picture| picture.index);
    let mut images = Vec::new();
    for picture in pictures.iter().filter(|_| read.send_images) {
        let png = shared.store.read_picture(live.id(), picture.index).map_err(|error| crate::queue::disk(&error))?;
        images.push(to_base64(&match &read.region {
            None => png,
            Some(region) => pasted(region, &png)?,
        }));
    }
    let info = info(live, read, &pictures).to_string();
    let body = json!({ "images": images, "parameters": echo, "info": info });
    let mut warnings = read.warnings.clone();
    warnings.extend(live.told().warnings.iter().cloned());
    Ok(warned(Json(body).into_response(), &warnings))
}

/// A part in the picture that it belongs in, with the same texts.
fn pasted(region: &super::inpaint::Region, png: &[u8]) -> Answer<Vec<u8>> {
    let texts = metadata_in("picture".as_ref(), png)?.texts;
    let whole = region.paste(&decode_photo("picture".as_ref(), png)?.image)?;
    encode_picture(PictureFormat::Png, &whole, &texts).map(|(bytes, _)| bytes).map_err(Refusal::bad)
}

/// `info` (`modules/processing.py`, `Processed.js`).
fn info(live: &Live, read: &Read, pictures: &[Drawn]) -> Value {
    let told = live.told();
    let request = serde_json::to_value(&read.job.request).unwrap_or_default();
    let (prompt, negative) =
        (live.accepted.prompt.clone(), request["negative_prompt"].as_str().unwrap_or_default().to_owned());
    let each = |value: Value| Value::from(vec![value; pictures.len()]);
    let seeds: Vec<u64> = pictures.iter().map(|picture| picture.seed).collect();
    let infotexts: Vec<&String> = pictures.iter().filter_map(|picture| told.infotexts.get(&picture.index)).collect();
    let mut extra = serde_json::Map::new();
    if !read.warnings.is_empty() {
        extra.insert("Warnings".into(), read.warnings.join("; ").into());
    }
    if live.accepted.oms {
        extra.insert("One More Step".into(), read.job.model.oms.clone().unwrap_or_else(|| "on".into()).into());
    }
    json!({
        "prompt": prompt, "all_prompts": each(prompt.clone().into()),
        "negative_prompt": negative, "all_negative_prompts": each(negative.clone().into()),
        "seed": seeds.first().copied().map_or(request["seed"].clone(), Value::from), "all_seeds": seeds,
        "subseed": read.subseed, "all_subseeds": each(read.subseed.into()), "subseed_strength": read.subseed_strength,
        "width": pictures.first().map(|picture| picture.width), "height": pictures.first().map(|picture| picture.height),
        "sampler_name": request["sampler"], "cfg_scale": request["guidance_scale"], "steps": request["num_inference_steps"],
        "batch_size": request["batch"], "restore_faces": false, "face_restoration_model": null,
        "sd_model_name": live.accepted.model, "sd_model_hash": null, "sd_vae_name": read.job.model.vae, "sd_vae_hash": null,
        "seed_resize_from_w": -1, "seed_resize_from_h": -1, "denoising_strength": read.denoising_strength,
        "extra_generation_params": extra, "index_of_first_image": 0, "infotexts": infotexts, "styles": [],
        "job_timestamp": live.accepted.at.to_string(), "clip_skip": request["clip_skip"].as_u64().unwrap_or(0) + 1,
        "is_using_inpainting_conditioning": false, "version": concat!("chiaro ", env!("CARGO_PKG_VERSION")), "job_id": live.id(),
    })
}
