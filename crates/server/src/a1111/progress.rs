//! How far it is; interrupting.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fields::Fields;
use crate::guard::Client;
use crate::live::Live;
use crate::pictures::to_base64;
use crate::refusal::Answer;
use crate::routes::Sent;
use crate::shared::Shared;

#[derive(Deserialize)]
pub(super) struct Wanted {
    skip_current_image: Option<bool>,
}

pub(super) async fn progress(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    Query(wanted): Query<Wanted>,
) -> Json<Value> {
    let running = shared.jobs.running();
    // One's own, if one is drawn, as there is one at a time there.
    let own = running.iter().find(|live| live.accepted.client == client.0).or(running.first());
    let Some(live) = own else { return Json(idle()) };
    let with_image = !wanted.skip_current_image.unwrap_or(false);
    if with_image {
        live.want_preview();
    }
    let told = live.told();
    let preview = told.preview.as_ref().filter(|_| with_image);
    Json(json!({
        "progress": told.share(), "eta_relative": told.eta().unwrap_or(0.0),
        "state": {
            "skipped": false, "interrupted": live.is_stopped(), "stopping_generation": live.is_stopped(), "job": live.id(),
            "job_count": live.accepted.count.max(1), "job_timestamp": live.accepted.at.to_string(),
            "job_no": told.pictures.len(), "sampling_step": told.step, "sampling_steps": told.steps,
        },
        "current_image": preview.map(|preview| to_base64(&preview.png)), "textinfo": null,
    }))
}

fn idle() -> Value {
    json!({
        "progress": 0.0, "eta_relative": 0.0,
        "state": {
            "skipped": false, "interrupted": false, "stopping_generation": false, "job": "", "job_count": 0, "job_timestamp": "0",
            "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
        },
        "current_image": null, "textinfo": null,
    })
}

/// `/internal/progress` (`modules/progress.py`).
pub(super) async fn task(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Json<Value>> {
    let mut fields = Fields::of(body, "")?;
    let name = fields.text("id_task")?.unwrap_or_default();
    let last = fields.whole("id_live_preview")?.unwrap_or(-1);
    let with_image = fields.flag("live_preview")?.unwrap_or(true);
    let live = shared.jobs.task(&name);
    Ok(Json(live.map_or_else(
        || json!({ "active": false, "queued": false, "completed": false, "id_live_preview": -1, "textinfo": "Waiting..." }),
        |live| {
            if with_image {
                live.want_preview();
            }
            of_task(&live, last, with_image)
        },
    )))
}

fn of_task(live: &Live, last: i64, with_image: bool) -> Value {
    let told = live.told();
    let preview = told.preview.as_ref().filter(|preview| with_image && preview.number as i64 != last);
    let number = told.preview.as_ref().map_or(-1, |preview| preview.number as i64);
    json!({
        "active": told.state.name() == "running", "queued": told.state.name() == "queued", "completed": told.state.has_ended(),
        "progress": told.share(), "eta": told.eta(), "id_live_preview": number, "textinfo": null,
        "live_preview": preview.map(|preview| format!("data:image/png;base64,{}", to_base64(&preview.png))),
    })
}

/// Stops what runs, if it is this client's.
pub(super) async fn interrupt(State(shared): State<Arc<Shared>>, Extension(client): Extension<Client>) -> Json<Value> {
    if let Some(live) = shared.jobs.running().iter().find(|live| live.accepted.client == client.0) {
        shared.jobs.cancel(live.id());
    }
    Json(json!({}))
}
