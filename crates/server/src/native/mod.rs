//! Our own interface, `/v1/chiaro`: jobs that outlive the process, what they tell while they run, what is here.

mod events;
mod jobs;
mod lists;
mod openapi;
mod recipe;

use axum::routing::{delete, get, patch, post};

use crate::routes::Route;

pub use openapi::openapi;

pub(crate) fn routes() -> Vec<Route> {
    let route = |method, path, about, takes, gives, handler| Route { method, path, about, takes, gives, handler };
    vec![
        route(
            "post",
            "/v1/chiaro/jobs",
            "Hand a job in. It is on disk when the answer comes (202); `Idempotency-Key` makes repeats the same job.",
            Some("Submission"),
            "JobState",
            post(jobs::submit),
        ),
        route(
            "get",
            "/v1/chiaro/jobs",
            "Jobs, the newest first (`state`, `limit`, `before`).",
            None,
            "JobList",
            get(jobs::list),
        ),
        route(
            "get",
            "/v1/chiaro/jobs/{id}",
            "A job as it stands, and what was asked.",
            None,
            "JobState",
            get(jobs::show),
        ),
        route(
            "delete",
            "/v1/chiaro/jobs/{id}",
            "Cancel a job; remove one that has ended, with its pictures.",
            None,
            "Done",
            delete(jobs::delete),
        ),
        route(
            "patch",
            "/v1/chiaro/jobs/{id}",
            "Move a waiting job among its client's: `position` from 0.",
            Some("Move"),
            "JobState",
            patch(jobs::reorder),
        ),
        route(
            "get",
            "/v1/chiaro/jobs/{id}/events",
            "What a job tells, as server-sent events; `Last-Event-ID` goes on from there.",
            None,
            "text/event-stream",
            get(events::stream),
        ),
        route("get", "/v1/chiaro/jobs/{id}/images/{index}", "A finished picture.", None, "image/png", get(jobs::image)),
        route(
            "get",
            "/v1/chiaro/jobs/{id}/preview",
            "The last preview of a job that runs.",
            None,
            "image/png",
            get(jobs::preview),
        ),
        route(
            "post",
            "/v1/chiaro/plan",
            "What a job would take, without handing it in.",
            Some("Submission"),
            "Plan",
            post(jobs::plan),
        ),
        route(
            "post",
            "/v1/chiaro/tokens",
            "How a prompt is read: tokens, chunks.",
            Some("TokensRequest"),
            "Tokens",
            post(lists::tokens),
        ),
        route(
            "post",
            "/v1/chiaro/recipe",
            "The job that a picture's text describes: ours, AUTOMATIC1111's, ComfyUI's and others'.",
            Some("RecipeRequest"),
            "Recipe",
            post(recipe::read),
        ),
        route(
            "get",
            "/v1/chiaro/models",
            "Models, modules, adapters, nets and embeddings by name.",
            None,
            "ModelList",
            get(lists::models),
        ),
        route(
            "post",
            "/v1/chiaro/models/refresh",
            "Look at the folders of models again.",
            None,
            "ModelList",
            post(lists::refresh),
        ),
        route("get", "/v1/chiaro/samplers", "Samplers and schedules.", None, "Samplers", get(lists::samplers)),
        route("get", "/v1/chiaro/device", "Where it draws, and what stays there.", None, "Device", get(lists::device)),
        route("get", "/v1/chiaro/health/live", "Whether the process answers.", None, "Done", get(lists::live)),
        route("get", "/v1/chiaro/health/ready", "Whether it takes jobs.", None, "Done", get(lists::ready)),
        route("get", "/v1/chiaro/metrics", "Numbers for Prometheus.", None, "text/plain", get(lists::metrics)),
        route("get", "/v1/chiaro/openapi.json", "This description.", None, "application/json", get(lists::openapi)),
    ]
}
