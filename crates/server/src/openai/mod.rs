//! OpenAI's interface: images, models, files and batches (its OpenAPI description), for clients that speak it.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `job` | their fields → a job |
//! | `images` | generations and edits: called, waited for or streamed, answered |
//! | `files` | files that are handed in, and what batches wrote |
//! | `batches` | a file of requests, each a job |

mod batches;
mod files;
mod images;
mod job;

use axum::routing::{delete, get, post};

use crate::routes::Route;

pub(crate) use batches::resume as resume_batches;

pub(crate) fn routes() -> Vec<Route> {
    let route = |method, path, about, takes, gives, handler| Route { method, path, about, takes, gives, handler };
    vec![
        route(
            "post",
            "/v1/images/generations",
            "Draw from a prompt.",
            Some("ImageRequest"),
            "Images",
            post(images::generations),
        ),
        route(
            "post",
            "/v1/images/edits",
            "Draw from a prompt and a picture.",
            Some("ImageEditForm"),
            "Images",
            post(images::edits),
        ),
        route("get", "/v1/models", "Models.", None, "Models", get(images::models)),
        route("get", "/v1/models/{model}", "A model.", None, "Model", get(images::model)),
        route("post", "/v1/files", "Hand in a file for a batch.", Some("FileForm"), "File", post(files::create)),
        route("get", "/v1/files", "Files.", None, "Files", get(files::list)),
        route("get", "/v1/files/{id}", "A file.", None, "File", get(files::show)),
        route("delete", "/v1/files/{id}", "Remove a file.", None, "Deleted", delete(files::remove)),
        route("get", "/v1/files/{id}/content", "What is in a file.", None, "application/jsonl", get(files::content)),
        route(
            "post",
            "/v1/batches",
            "Draw what a file asks for.",
            Some("BatchRequest"),
            "Batch",
            post(batches::create),
        ),
        route("get", "/v1/batches", "Batches.", None, "Batches", get(batches::list)),
        route("get", "/v1/batches/{id}", "A batch.", None, "Batch", get(batches::show)),
        route("post", "/v1/batches/{id}/cancel", "Cancel a batch.", None, "Batch", post(batches::cancel)),
    ]
}
