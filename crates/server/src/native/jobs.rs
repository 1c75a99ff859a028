//! Jobs: hand in, look at, move, cancel; their pictures.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chiaro::order::Job;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::guard::Client;
use crate::live::{Live, State as Stands};
use crate::refusal::{Answer, Refusal};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::store::is_id;
use crate::submit::{Asked, blocking};

/// Jobs in one answer.
const MOST_LISTED: usize = 500;

/// `{"job": {…}, "preview_every": 5}`, or a job by itself.
pub(super) struct Submission {
    pub(super) job: Job,
    pub(super) preview_every: usize,
}

impl Submission {
    pub(super) fn read(value: Value) -> Answer<Self> {
        let (mut job, preview_every) = match value {
            Value::Object(map) if map.contains_key("job") => {
                let mut fields = Fields::of(Value::Object(map), "")?;
                let job = fields.take("job").unwrap_or_default();
                let every = fields.whole("preview_every")?.unwrap_or(0);
                if !(0..=1000).contains(&every) {
                    return Err(fields.refuse("preview_every", format!("expected 0 to 1000, got {every}")));
                }
                if let Some(unknown) = fields.rest().first() {
                    return Err(Refusal::field(unknown.clone(), "unknown; a submission has job and preview_every"));
                }
                (job, every as usize)
            }
            job => (job, 0),
        };
        if let Value::Object(map) = &mut job {
            map.entry("version").or_insert_with(|| Job::VERSION.into());
        }
        data_uris(&mut job);
        Ok(Submission { job: Job::from_json(&job.to_string())?, preview_every })
    }
}

/// Data URIs in place of files become their bytes.
fn data_uris(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                let letters = inner
                    .as_str()
                    .filter(|text| text.starts_with("data:"))
                    .and_then(|text| text.split_once(";base64,"));
                match letters.map(|(_, letters)| letters.to_owned()) {
                    Some(letters) if matches!(name.as_str(), "file" | "mask" | "image") => {
                        *inner = json!({ "bytes": letters })
                    }
                    _ => data_uris(inner),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(data_uris),
        _ => {}
    }
}

pub(super) async fn submit(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Answer<Response> {
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(key) => match key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= 255) {
            Some(key) => Some(key.to_owned()),
            None => return Err(Refusal::bad("the header Idempotency-Key: expected 1 to 255 visible characters")),
        },
    };
    blocking(move || {
        let submission = Submission::read(body)?;
        let asked =
            Asked { key, preview_every: submission.preview_every, ..Asked::new(submission.job, &client.0, "chiaro") };
        let (live, plan) = shared.submit(asked)?;
        let mut state = live.to_json(shared.jobs.position(live.id()));
        state["plan"] = plan.map_or(Value::Null, |plan| plan.to_json());
        let place = [(header::LOCATION, format!("/v1/chiaro/jobs/{}", live.id()))];
        Ok((StatusCode::ACCEPTED, place, Json(state)).into_response())
    })
    .await
}

pub(super) async fn plan(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Json<Value>> {
    blocking(move || {
        let submission = Submission::read(body)?;
        let plan = shared.plan(&submission.job, submission.preview_every > 0)?;
        let mut told = plan.to_json();
        told["warnings"] = plan.warnings.clone().into();
        Ok(Json(told))
    })
    .await
}

#[derive(Deserialize)]
pub(super) struct Listing {
    state: Option<String>,
    limit: Option<usize>,
    before: Option<String>,
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<Listing>) -> Answer<Json<Value>> {
    let order = shared.jobs.order();
    let limit = query.limit.unwrap_or(100).clamp(1, MOST_LISTED);
    let is_meant = |live: &Arc<Live>| {
        query.state.as_deref().is_none_or(|wanted| wanted.split(',').any(|one| one == live.state().name()))
            && query.before.as_deref().is_none_or(|before| live.id() < before)
    };
    let mut found: Vec<_> = shared.jobs.list().into_iter().filter(is_meant).take(limit + 1).collect();
    let has_more = found.len() > limit;
    found.truncate(limit);
    let shown = |live: &Arc<Live>| live.to_json(order.iter().position(|id| id == live.id()));
    Ok(Json(json!({ "jobs": found.iter().map(shown).collect::<Vec<_>>(), "has_more": has_more })))
}

/// The job of an id.
pub(super) fn find(shared: &Shared, id: &str) -> Answer<Arc<Live>> {
    let found = Some(id).filter(|id| is_id(id)).and_then(|id| shared.jobs.find(id));
    found.ok_or_else(|| Refusal::not_found("there is no job of this id"))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let live = find(&shared, &id)?;
    let text = {
        let shared = Arc::clone(&shared);
        blocking(move || Ok(shared.store.read_job(&id).unwrap_or_default())).await?
    };
    let mut state = live.to_json(shared.jobs.position(live.id()));
    let mut job: Value = serde_json::from_str(&text).unwrap_or_default();
    without_bytes(&mut job);
    state["job"] = job;
    Ok(Json(state))
}

/// Pictures are as large as they are: how many bytes they have is told.
fn without_bytes(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(bytes) = map.get_mut("bytes").filter(|bytes| bytes.is_string()) {
                *bytes = json!(bytes.as_str().map_or(0, str::len) / 4 * 3);
                return;
            }
            map.values_mut().for_each(without_bytes);
        }
        Value::Array(list) => list.iter_mut().for_each(without_bytes),
        _ => {}
    }
}

pub(super) async fn delete(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    let live = find(&shared, &id)?;
    if shared.jobs.cancel(&id) {
        return Ok(Json(json!({ "id": id, "cancelled": true })));
    }
    if live.state().has_ended() {
        blocking(move || {
            shared.remove(&id);
            Ok(Json(json!({ "id": id, "removed": true })))
        })
        .await
    } else {
        Ok(Json(json!({ "id": id })))
    }
}

pub(super) async fn reorder(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Sent(body): Sent,
) -> Answer<Json<Value>> {
    let live = find(&shared, &id)?;
    let mut fields = Fields::of(body, "")?;
    let place = fields.whole("position")?.and_then(|place| usize::try_from(place).ok());
    let place = place.ok_or_else(|| fields.refuse("position", "expected a whole number from 0"))?;
    blocking(move || {
        shared.jobs.move_to(live.id(), place)?;
        Ok(Json(live.to_json(shared.jobs.position(live.id()))))
    })
    .await
}

pub(super) async fn image(
    State(shared): State<Arc<Shared>>,
    Path((id, index)): Path<(String, String)>,
) -> Answer<Response> {
    let live = find(&shared, &id)?;
    let missing = || Refusal::not_found("the job has no such picture");
    let index: usize = index.strip_suffix(".png").unwrap_or(&index).parse().map_err(|_| missing())?;
    if !live.told().pictures.iter().any(|picture| picture.index == index) {
        return Err(missing());
    }
    let bytes = blocking(move || shared.store.read_picture(&id, index).map_err(|_| missing())).await?;
    // A picture of a job never changes.
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "private, max-age=31536000, immutable")], bytes)
        .into_response())
}

pub(super) async fn preview(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let live = find(&shared, &id)?;
    if live.state() == Stands::Running {
        live.want_preview();
    }
    let preview = live.told().preview.clone();
    let preview = preview.ok_or_else(|| Refusal::not_found("there is no preview of the job now"))?;
    Ok(([(header::CONTENT_TYPE, "image/png")], preview.png.to_vec()).into_response())
}
