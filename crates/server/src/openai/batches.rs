//! A file of requests, each a job: begun by one request, finished whatever happens to the process.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files;
use super::images::answer;
use super::job::{Read, Shape};
use crate::fields::Fields;
use crate::live::Live;
use crate::queue::disk;
use crate::refusal::{Answer, Refusal};
use crate::routes::Sent;
use crate::shared::Shared;
use crate::store::{is_id, new_id, now_ms};
use crate::submit::{Asked, blocking};

const KIND: &str = "batches";
const PREFIX: &str = "batch_";
const ENDPOINT: &str = "/v1/images/generations";
/// Requests of one file, as there.
const MOST_LINES: usize = 50_000;
/// Jobs of a batch that wait at a time.
const AHEAD: usize = 8;

/// A batch, as it is told and kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Batch {
    id: String,
    object: String,
    endpoint: String,
    errors: Option<Value>,
    input_file_id: String,
    completion_window: String,
    /// `in_progress`, `cancelling`, `completed`, `failed`, `cancelled`.
    status: String,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: u64,
    in_progress_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: Counts,
    metadata: Option<Value>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Counts {
    total: usize,
    completed: usize,
    failed: usize,
}

impl Batch {
    fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    fn keep(&self, shared: &Shared) -> Answer<()> {
        let own = self.id.strip_prefix(PREFIX).unwrap_or_default();
        let json = serde_json::to_vec(self).unwrap_or_default();
        shared.store.put_other(KIND, &format!("{own}.json"), &json).map_err(|error| disk(&error))
    }
}

fn read(shared: &Shared, id: &str) -> Answer<Batch> {
    let none = || Refusal::not_found("there is no batch of this id");
    let own = id.strip_prefix(PREFIX).filter(|own| is_id(own)).ok_or_else(none)?;
    let bytes = shared.store.read_other(KIND, &format!("{own}.json")).map_err(|_| none())?;
    serde_json::from_slice(&bytes).map_err(|_| none())
}

/// A line of an input file.
struct Line {
    custom_id: String,
    body: Value,
}

/// # Errors
/// A file of no lines or too many, lines that are no requests, names that are there twice.
fn lines(content: &[u8]) -> Answer<Vec<Line>> {
    let text = std::str::from_utf8(content).map_err(|_| Refusal::bad("the file is no text in UTF-8"))?;
    let mut names = BTreeSet::new();
    let mut lines = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty())
    {
        let at = |why: String| Refusal::bad(format!("line {}: {why}", i + 1));
        let value: Value = serde_json::from_str(line).map_err(|error| at(format!("no JSON: {error}")))?;
        let word = |name: &str| value[name].as_str().unwrap_or_default();
        if word("method") != "POST" || word("url") != ENDPOINT {
            return Err(at(format!("expected \"method\": \"POST\" and \"url\": \"{ENDPOINT}\"")));
        }
        let custom_id = word("custom_id").to_owned();
        if custom_id.is_empty() || !names.insert(custom_id.clone()) {
            return Err(at(format!("expected a custom_id that no other line has, got {custom_id:?}")));
        }
        lines.push(Line { custom_id, body: value["body"].clone() });
    }
    match lines.len() {
        0 => Err(Refusal::bad("the file has no lines")),
        many if many > MOST_LINES => {
            Err(Refusal::bad(format!("the file has {many} lines, at most {MOST_LINES} are taken")))
        }
        _ => Ok(lines),
    }
}

pub(super) async fn create(State(shared): State<Arc<Shared>>, Sent(body): Sent) -> Answer<Json<Batch>> {
    let mut fields = Fields::of(body, "")?;
    let input = fields.text("input_file_id")?.ok_or_else(|| Refusal::field("input_file_id", "expected a file's id"))?;
    let endpoint = fields.text("endpoint")?.unwrap_or_default();
    if endpoint != ENDPOINT {
        return Err(fields.refuse("endpoint", format!("expected {ENDPOINT}, got {endpoint:?}")));
    }
    let window = fields.text("completion_window")?.unwrap_or_else(|| "24h".into());
    let metadata = fields.take("metadata");
    let own = Arc::clone(&shared);
    let batch = blocking(move || {
        let total = lines(&files::content_of(&own, &input)?)?.len();
        let now = now_ms() / 1000;
        let batch = Batch {
            id: format!("{PREFIX}{}", new_id()),
            object: "batch".into(),
            endpoint,
            errors: None,
            input_file_id: input,
            completion_window: window,
            status: "in_progress".into(),
            output_file_id: None,
            error_file_id: None,
            created_at: now,
            in_progress_at: Some(now),
            completed_at: None,
            failed_at: None,
            cancelled_at: None,
            request_counts: Counts { total, ..Counts::default() },
            metadata,
        };
        batch.keep(&own)?;
        Ok(batch)
    })
    .await?;
    tokio::spawn(run(shared, batch.id.clone()));
    Ok(Json(batch))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<Batch>> {
    blocking(move || read(&shared, &id).map(Json)).await
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<Json<Value>> {
    blocking(move || {
        let names = shared.store.others(KIND, ".json");
        let all: Vec<Batch> =
            names.iter().rev().filter_map(|own| read(&shared, &format!("{PREFIX}{own}")).ok()).collect();
        Ok(Json(json!({ "object": "list", "data": all, "has_more": false })))
    })
    .await
}

pub(super) async fn cancel(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Json<Batch>> {
    blocking(move || {
        let mut batch = read(&shared, &id)?;
        if !batch.is_over() {
            batch.status = "cancelling".into();
            batch.keep(&shared)?;
            for live in shared.jobs.list().iter().filter(|live| live.accepted.client == id) {
                shared.jobs.cancel(live.id());
            }
        }
        Ok(Json(batch))
    })
    .await
}

/// Goes on with batches that an earlier run began.
pub(crate) fn resume(shared: &Arc<Shared>) {
    for own in shared.store.others(KIND, ".json") {
        let id = format!("{PREFIX}{own}");
        if read(shared, &id).is_ok_and(|batch| !batch.is_over()) {
            tokio::spawn(run(Arc::clone(shared), id));
        }
    }
}

/// Hands the lines in as jobs whose keys are their names, so that none is drawn twice, and writes what came of them.
async fn run(shared: Arc<Shared>, id: String) {
    if let Err(refusal) = advance(&shared, &id).await
        && let Ok(mut batch) = read(&shared, &id)
    {
        batch.status = "failed".into();
        batch.failed_at = Some(now_ms() / 1000);
        batch.errors = Some(json!({ "object": "list", "data": [{ "code": refusal.code, "message": refusal.told() }] }));
        let _ = batch.keep(&shared);
    }
}

async fn advance(shared: &Arc<Shared>, id: &str) -> Answer<()> {
    let batch = read(shared, id)?;
    let content = files::content_of(shared, &batch.input_file_id)?;
    let mut waiting: VecDeque<(Line, Arc<Live>, Shape)> = VecDeque::new();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut counts = Counts { total: batch.request_counts.total, ..Counts::default() };
    let mut lines = lines(&content)?.into_iter();
    let mut is_cancelled = false;
    loop {
        is_cancelled = is_cancelled || read(shared, id)?.status == "cancelling";
        while waiting.len() < AHEAD && !is_cancelled {
            let Some(line) = lines.next() else { break };
            match hand_in(shared, id, &line).await {
                Ok((live, shape)) => waiting.push_back((line, live, shape)),
                // Nothing is handed in to a server that ends: the next start goes on here.
                Err(refusal) if refusal.code == "ending" => return Ok(()),
                Err(refusal) => {
                    counts.failed += 1;
                    write(&mut bad, &line.custom_id, None, Err(refusal));
                }
            }
        }
        let Some((line, live, shape)) = waiting.pop_front() else { break };
        live.ended().await;
        if shared.jobs.is_draining() && !live.state().has_ended() {
            return Ok(());
        }
        let (own, job) = (Arc::clone(shared), Arc::clone(&live));
        let answered = blocking(move || Ok(answer(&own, &job, &shape, "localhost"))).await?;
        match answered {
            Ok(_) => counts.completed += 1,
            Err(_) => counts.failed += 1,
        }
        let place = if answered.is_ok() { &mut good } else { &mut bad };
        write(place, &line.custom_id, Some(live.id()), answered);
        let mut batch = read(shared, id)?;
        batch.request_counts = counts;
        batch.keep(shared)?;
    }
    let mut batch = read(shared, id)?;
    let now = now_ms() / 1000;
    batch.request_counts = counts;
    if !good.is_empty() {
        batch.output_file_id = Some(files::put(shared, format!("{id}_output.jsonl"), "batch_output", &good)?.id);
    }
    if !bad.is_empty() {
        batch.error_file_id = Some(files::put(shared, format!("{id}_error.jsonl"), "batch_output", &bad)?.id);
    }
    (batch.status, *(if is_cancelled { &mut batch.cancelled_at } else { &mut batch.completed_at })) =
        (if is_cancelled { "cancelled" } else { "completed" }.into(), Some(now));
    batch.keep(shared)
}

async fn hand_in(shared: &Arc<Shared>, id: &str, line: &Line) -> Answer<(Arc<Live>, Shape)> {
    let read = Read::of(line.body.clone(), None)?;
    let shape = Shape { partial: None, ..read.shape };
    let mut seconds = 1;
    loop {
        let asked = Asked { key: Some(line.custom_id.clone()), ..Asked::new(read.job.clone(), id, "batch") };
        let own = Arc::clone(shared);
        match blocking(move || own.submit(asked)).await {
            Ok((live, _)) => return Ok((live, shape)),
            // Others wait too.
            Err(refusal) if refusal.code == "queue_full" => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                seconds = (seconds * 2).min(30);
            }
            Err(refusal) => return Err(refusal),
        }
    }
}

/// A line of the output, in OpenAI's form.
fn write(out: &mut Vec<u8>, custom_id: &str, job: Option<&str>, answered: Answer<Value>) {
    let (status, body) = match answered {
        Ok(body) => (200, body),
        Err(refusal) => (refusal.status.as_u16(), refusal.openai()),
    };
    let id = format!("batch_req_{}", job.map_or_else(new_id, str::to_owned));
    let line = json!({
        "id": id, "custom_id": custom_id, "response": { "status_code": status, "request_id": job, "body": body }, "error": null,
    });
    out.extend(line.to_string().into_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_requests_with_names_of_their_own() {
        let line =
            |id: &str| format!("{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"{ENDPOINT}\",\"body\":{{}}}}");
        let read = |text: String| lines(text.as_bytes()).map(|lines| lines.len()).map_err(|refusal| refusal.told());
        assert_eq!(read(format!("\u{feff}{}\r\n\n{}", line("a"), line("b"))), Ok(2));
        assert!(read(format!("{}\n{}", line("a"), line("a"))).is_err_and(|e| e.starts_with("line 2")));
        assert!(read(line("a").replace("generations", "edits")).is_err());
        for wrong in ["", "x", "[]", "{}"] {
            assert!(read(wrong.into()).is_err(), "{wrong}");
        }
        assert!(lines(&[0xff]).is_err());
    }
}
