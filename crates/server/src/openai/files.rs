//! Files that are handed in for batches, and what batches wrote.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::queue::disk;
use crate::refusal::{Answer, Refusal};
use crate::routes::in_time;
use crate::shared::Shared;
use crate::store::{is_id, new_id, now_ms};
use crate::submit::blocking;

pub(super) const KIND: &str = "files";
const PREFIX: &str = "file-";

/// What is known of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) object: String,
    pub(super) bytes: u64,
    pub(super) created_at: u64,
    /// What it was called; never a path here.
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) status: String,
}

pub(super) fn put(shared: &Shared, filename: String, purpose: &str, content: &[u8]) -> Answer<File> {
    let own = new_id();
    let file = File {
        id: format!("{PREFIX}{own}"),
        object: "file".into(),
        bytes: content.len() as u64,
        created_at: now_ms() / 1000,
        filename,
        purpose: purpose.into(),
        status: "processed".into(),
    };
    let json = serde_json::to_vec(&file).unwrap_or_default();
    let store = &shared.store;
    store.put_other(KIND, &format!("{own}.jsonl"), content).map_err(|error| disk(&error))?;
    store.put_other(KIND, &format!("{own}.json"), &json).map_err(|error| disk(&error))?;
    Ok(file)
}

/// The part of an id that is a name in the store.
fn own_part(id: &str) -> Answer<&str> {
    let own = id.strip_prefix(PREFIX).filter(|own| is_id(own));
    own.ok_or_else(|| Refusal::not_found("there is no file of this id"))
}

fn read(shared: &Shared, id: &str) -> Answer<File> {
    let own = own_part(id)?;
    let bytes = shared.store.read_other(KIND, &format!("{own}.json"));
    let file = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    file.ok_or_else(|| Refusal::not_found("there is no file of this id"))
}

pub(super) fn content_of(shared: &Shared, id: &str) -> Answer<Vec<u8>> {
    read(shared, id)?;
    shared.store.read_other(KIND, &format!("{}.jsonl", own_part(id)?)).map_err(|error| disk(&error))
}

pub(super) async fn create(State(shared): State<Arc<Shared>>, request: Request) -> Answer<Json<File>> {
    let broken = |_| Refusal::bad("the form cannot be read");
    let (purpose, name, content) = in_time(async {
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|_| Refusal::bad("expected a form with purpose and file"))?;
        let (mut purpose, mut file) = (None, None);
        while let Some(field) = form.next_field().await.map_err(broken)? {
            match field.name() {
                Some("purpose") => purpose = Some(field.text().await.map_err(broken)?),
                Some("file") => {
                    let name: String = field.file_name().unwrap_or("file").chars().take(200).collect();
                    file = Some((name, field.bytes().await.map_err(broken)?));
                }
                _ => {}
            }
        }
        let (name, content) = file.ok_or_else(|| Refusal::field("file", "expected a file"))?;
        Ok::<_, Refusal>((purpose.unwrap_or_default(), name, content))
    })
    .await??;
    if purpose != "batch" {
        return Err(Refusal::field("purpose", format!("expected batch, got {purpose:?}")));
    }
    blocking(move || put(&shared, name, &purpose, &content).map(Json)).await
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<Json<Value>> {
    blocking(move || {
        let names = shared.store.others(KIND, ".json");
        let files: Vec<File> =
            names.iter().rev().filter_map(|own| read(&shared, &format!("{PREFIX}{own}")).ok()).collect();
        Ok(Json(json!({ "object": "list", "data": files, "has_more": false })))
    })
    .await
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<File>> {
    blocking(move || read(&shared, &id).map(Json)).await
}

pub(super) async fn remove(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<Value>> {
    blocking(move || {
        read(&shared, &id)?;
        let own = own_part(&id)?;
        for name in [format!("{own}.json"), format!("{own}.jsonl")] {
            shared.store.remove_other(KIND, &name).map_err(|error| disk(&error))?;
        }
        Ok(Json(json!({ "id": id, "object": "file", "deleted": true })))
    })
    .await
}

pub(super) async fn content(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let bytes = blocking(move || content_of(&shared, &id)).await?;
    let kinds = [(header::CONTENT_TYPE, "application/jsonl"), (header::CONTENT_DISPOSITION, "attachment")];
    Ok((kinds, bytes).into_response())
}
