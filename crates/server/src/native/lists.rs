//! What is here: models, samplers, the device, numbers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chiaro::options::{SigmaSchedule, SolverKind};
use chiaro::order::{Job, embeddings};
use chiaro::reports::token_reports;
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::refusal::{Answer, Refusal, without_paths};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::submit::blocking;

pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(listing(&shared))
}

fn listing(shared: &Shared) -> Value {
    let shelf = shared.shelf();
    let shown = |item: &crate::shelf::Item| {
        json!({
            "name": item.name, "use": item.usage.name(), "family": item.family, "bytes": item.bytes, "file": item.file_name(),
            "in_channels": item.in_channels, "problem": item.problem,
        })
    };
    json!({
        "default": shared.settings.model.as_deref().unwrap_or(crate::shelf::DEMO), "default_oms": shared.settings.oms,
        "models": shelf.items.iter().map(shown).collect::<Vec<_>>(),
    })
}

pub(super) async fn refresh(State(shared): State<Arc<Shared>>) -> Answer<Json<Value>> {
    blocking(move || {
        shared.refresh();
        Ok(Json(listing(&shared)))
    })
    .await
}

pub(super) async fn samplers() -> Json<Value> {
    let samplers = SolverKind::all().map(|(kind, name, about)| {
        json!({
            "name": name, "label": kind.label(), "about": about, "eta": kind.eta(), "sigmas": kind.takes_sigmas(),
            "steps": kind.default_steps(),
        })
    });
    let schedules = SigmaSchedule::ALL
        .iter()
        .map(|(name, schedule, about)| json!({ "name": name, "label": schedule.label(), "about": about }));
    Json(json!({ "samplers": samplers.collect::<Vec<_>>(), "sigmas": schedules.collect::<Vec<_>>() }))
}

pub(super) async fn device(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let (device, statistics) = (shared.engine.device(), shared.engine.statistics());
    Json(json!({
        "name": device.name(), "description": device.describe(), "storage": device.storage_name(),
        "weights": device.weights().to_string(), "limit_bytes": shared.settings.memory_bytes,
        "allocated_bytes": statistics.allocated_bytes, "version": env!("CARGO_PKG_VERSION"),
    }))
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let (status, word) =
        if shared.jobs.is_draining() { (StatusCode::SERVICE_UNAVAILABLE, "ending") } else { (StatusCode::OK, "ok") };
    (status, Json(json!({ "status": word }))).into_response()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let statistics = shared.engine.statistics();
    let single = |value: u64| vec![(String::new(), value as f64)];
    let counts = shared.jobs.counts();
    let jobs = counts.iter().map(|(state, count)| (format!("state=\"{state}\""), *count as f64)).collect();
    let text = shared.meter.text(&[
        ("chiaro_jobs", "gauge", "Jobs that are known, by state.", jobs),
        (
            "chiaro_uploaded_bytes_total",
            "counter",
            "Bytes of weights that came to the device, to stay.",
            single(statistics.uploaded_bytes),
        ),
        (
            "chiaro_streamed_bytes_total",
            "counter",
            "Bytes of weights that passed through.",
            single(statistics.streamed_bytes),
        ),
        ("chiaro_compiled_pipelines_total", "counter", "Kernels compiled.", single(statistics.compiled_pipelines)),
        (
            "chiaro_compiled_programs_total",
            "counter",
            "Networks compiled at fixed shapes.",
            single(statistics.compiled_programs),
        ),
        ("chiaro_program_hits_total", "counter", "Networks found compiled.", single(statistics.hits)),
        ("chiaro_program_evictions_total", "counter", "Networks that made room.", single(statistics.evictions)),
        ("chiaro_allocated_bytes", "gauge", "Bytes allocated on the device.", single(statistics.allocated_bytes)),
    ]);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], super::openapi()).into_response()
}

pub(super) async fn tokens(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Json<Value>> {
    let mut fields = Fields::of(body, "")?;
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let model = fields.word("model")?;
    if let Some(unknown) = fields.rest().first() {
        return Err(Refusal::field(unknown.clone(), "unknown; expected prompt and model"));
    }
    blocking(move || {
        let mut job = Job::default();
        job.model.name = model;
        // A prompt of no words has no tokens; jobs of none are refused.
        let is_empty = prompt.trim().is_empty();
        job.request.set("prompt", if is_empty { "x" } else { &prompt })?;
        let order = shared.order(job)?;
        let found = embeddings(&[], &shared.settings.places.embeddings_in(&[&prompt]));
        let reports = token_reports(&order.load.model, &found, &order.request)?;
        let counted = reports.iter().map(|report| {
            let longest = report.texts.iter().map(|text| text.count).max().unwrap_or(0);
            json!({
                "tokenizer": report.tokenizer, "count": if is_empty { 0 } else { longest }, "capacity": report.capacity,
                "chunks": report.texts.iter().map(|text| text.chunks.len()).max().unwrap_or(0),
                "remarks": report.remarks.iter().map(|remark| without_paths(remark)).collect::<Vec<_>>(),
            })
        });
        Ok(Json(json!({ "tokenizers": counted.collect::<Vec<_>>() })))
    })
    .await
}
