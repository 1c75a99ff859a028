//! A picture's text → the job that makes it again here.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chiaro::order::{Asked, Job};
use chiaro::recipe::{Recipe, recipe_in};
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::pictures::{decoded, from_value};
use crate::refusal::{Answer, Refusal, without_paths};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::shelf::Use;
use crate::submit::blocking;

pub(super) async fn read(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Json<Value>> {
    let mut fields = Fields::of(body, "")?;
    let image = fields.take("image").ok_or_else(|| Refusal::field("image", "expected a picture in base64"))?;
    if let Some(unknown) = fields.rest().first() {
        return Err(Refusal::field(unknown.clone(), "unknown; expected image"));
    }
    blocking(move || {
        let bytes = from_value("image", &image)?;
        decoded("image", &bytes)?;
        match recipe_in("image".as_ref(), &bytes) {
            Ok(recipe) => Ok(Json(to_json(&shared, &recipe)?)),
            // A picture like any other: there is no job in it.
            Err(error) => {
                Ok(Json(json!({ "job": null, "not_repeated": [], "message": without_paths(&error.to_string()) })))
            }
        }
    })
    .await
}

/// The job, and what of the picture it does not repeat.
fn to_json(shared: &Shared, recipe: &Recipe) -> Answer<Value> {
    let shelf = shared.shelf();
    let mut job = Job { request: Asked::of(&recipe.request), ..Job::default() };
    let mut missing: Vec<String> = recipe.not_repeated.iter().map(|what| without_paths(what)).collect();
    if let Some(name) = &recipe.model {
        match shelf.find("model", name, &[Use::Model]) {
            Ok(item) => job.model.name = Some(item.name.clone()),
            Err(refusal) => missing.push(refusal.told()),
        }
    }
    let is_demo = job.model.name.as_deref() == Some(crate::shelf::DEMO);
    match (&recipe.oms_module, &recipe.request.oms) {
        (Some(name), _) => match shelf.find("oms", name, &[Use::Oms]) {
            Ok(item) => job.model.oms = Some(item.name.clone()),
            Err(_) if is_demo => job.model.oms = Some(crate::shelf::DEMO.into()),
            Err(refusal) => missing.push(refusal.told()),
        },
        (None, None) if is_demo => job.model.oms = Some("off".into()),
        _ => {}
    }
    for adapter in &recipe.adapters {
        match shelf.find("lora", &adapter.name, &[Use::Lora]) {
            Ok(item) => job.adapters.push(chiaro::order::AdapterJob {
                file: item.name.clone().into(),
                weight: Some(adapter.weight),
                text_encoder_weight: adapter.text_encoder_weight,
            }),
            Err(refusal) => missing.push(refusal.told()),
        }
    }
    missing.extend(recipe.image.iter().map(|_| "the picture that it started from is not in the file".to_owned()));
    let job: Value = serde_json::from_str(&job.to_json()).unwrap_or_default();
    Ok(
        json!({ "job": job, "program": format!("{:?}", recipe.program), "not_repeated": missing, "model": recipe.model }),
    )
}
