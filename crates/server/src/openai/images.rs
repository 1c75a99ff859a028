//! Generations and edits: handed in, waited for or streamed, answered; models.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Stream};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chiaro::image::{PictureFormat, decode_photo, encode_picture, metadata_in};
use futures_util::stream::unfold;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::job::{Edit, Read, Shape};
use crate::a1111::warned;
use crate::guard::Client;
use crate::journal::End;
use crate::live::{Live, State as Stands};
use crate::pictures::{from_value, to_base64};
use crate::queue::disk;
use crate::refusal::{Answer, Refusal};
use crate::routes::{Sent, in_time};
use crate::shared::Shared;
use crate::shelf::Use;
use crate::submit::{Asked, Caller, blocking, submit};

pub(super) async fn generations(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Answer<Response> {
    let read = Read::of(body, None)?;
    draw(shared, client, read, "image_generation", host_of(&headers)).await
}

pub(super) async fn edits(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Answer<Response> {
    let host = host_of(request.headers());
    let is_form =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"multipart"));
    let (body, edit) = if is_form {
        in_time(form(request)).await??
    } else {
        let Sent(mut body) = Sent::from_request(request, &()).await?;
        let mut take = |name: &str| {
            let value = body.as_object_mut().and_then(|map| map.remove(name)).filter(|value| !value.is_null());
            let value = match value {
                Some(Value::Array(mut list)) if list.len() == 1 => list.pop(),
                other => other,
            };
            value.map(|value| from_value(name, &value)).transpose()
        };
        let (image, mask) = (take("image")?, take("mask")?);
        (body, Edit { image: image.ok_or_else(no_image)?, mask })
    };
    let read = blocking(move || Read::of(body, Some(edit))).await?;
    draw(shared, client, read, "image_edit", host).await
}

fn no_image() -> Refusal {
    Refusal::field("image", "expected a picture, got none")
}

/// Fields of a form: texts, `image` or `image[]`, `mask`.
async fn form(request: Request) -> Answer<(Value, Edit)> {
    let broken = |error: axum::extract::multipart::MultipartError| {
        Refusal::bad(format!("the form cannot be read: {}", error.status()))
    };
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| Refusal::bad("the form cannot be read"))?;
    let (mut body, mut images, mut mask) = (Map::new(), Vec::new(), None);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        let bytes = field.bytes().await.map_err(broken)?;
        match name.as_str() {
            "image" | "image[]" => images.push(bytes.to_vec()),
            "mask" => mask = Some(bytes.to_vec()),
            _ => {
                let text =
                    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::field(name.clone(), "expected a text"))?;
                body.insert(name, text.into());
            }
        }
    }
    match images.len() {
        1 => Ok((Value::Object(body), Edit { image: images.remove(0), mask })),
        0 => Err(no_image()),
        several => Err(Refusal::field("image", format!("expected one picture, got {several}"))),
    }
}

/// What the client calls this server.
fn host_of(headers: &HeaderMap) -> String {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned()
}

async fn draw(
    shared: Arc<Shared>,
    Client(client): Client,
    read: Read,
    what: &'static str,
    host: String,
) -> Answer<Response> {
    let mut asked = Asked { synchronous: true, ..Asked::new(read.job, &client, "openai") };
    if let Some(partial) = read.shape.partial.filter(|partial| *partial > 0) {
        let request = serde_json::to_value(&asked.job.request).unwrap_or_default();
        let steps = request["num_inference_steps"].as_u64().unwrap_or(30) as usize;
        asked.preview_every = (steps / (partial + 1)).max(1);
    }
    let (live, _) = submit(&shared, asked).await?;
    let caller = Caller::new(&shared, &live);
    let warnings = read.warnings;
    if read.shape.partial.is_some() {
        return Ok(warned(stream(shared, live, caller, read.shape, what), &warnings));
    }
    live.ended().await;
    let answer = {
        let (shared, live) = (Arc::clone(&shared), Arc::clone(&live));
        blocking(move || answer(&shared, &live, &read.shape, &host)).await
    };
    drop(caller);
    answer.map(|body| warned(Json(body).into_response(), &warnings))
}

/// The pictures of a job that has ended, as OpenAI tells them.
pub(super) fn answer(shared: &Shared, live: &Live, shape: &Shape, host: &str) -> Answer<Value> {
    let (state, refusal, error, mut pictures) = {
        let told = live.told();
        (told.state, told.refusal.clone(), told.error.clone(), told.pictures.clone())
    };
    if state != Stands::Ended(End::Completed) {
        let told = error.and_then(|error| error["message"].as_str().map(str::to_owned));
        let other = || match told {
            Some(message) => Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "failed", message),
            None => Refusal::new(axum::http::StatusCode::CONFLICT, "cancelled", "the job was cancelled"),
        };
        return Err(refusal.unwrap_or_else(other));
    }
    pictures.sort_by_key(|picture| picture.index);
    let mut data = Vec::new();
    for picture in &pictures {
        data.push(if shape.as_url {
            json!({ "url": format!("http://{host}{}.png", live.image_url(picture.index)), "seed": picture.seed })
        } else {
            let png = shared.store.read_picture(live.id(), picture.index).map_err(|error| disk(&error))?;
            json!({ "b64_json": to_base64(&as_format(png, shape.format)?), "seed": picture.seed })
        });
    }
    Ok(json!({
        "created": live.accepted.at / 1000, "data": data, "background": "opaque", "output_format": shape.format_name(),
        "size": size_of(live), "quality": shape.quality, "usage": usage(), "id": live.id(),
    }))
}

/// Nothing is counted and nothing is paid.
fn usage() -> Value {
    json!({ "total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 } })
}

fn size_of(live: &Live) -> Option<String> {
    live.told().pictures.first().map(|picture| format!("{}x{}", picture.width, picture.height))
}

/// A PNG of ours in another format, with the same texts.
fn as_format(png: Vec<u8>, format: PictureFormat) -> Answer<Vec<u8>> {
    if format == PictureFormat::Png {
        return Ok(png);
    }
    let texts = metadata_in("picture".as_ref(), &png)?.texts;
    let picture = decode_photo("picture".as_ref(), &png)?.image;
    encode_picture(format, &picture, &texts).map(|(bytes, _)| bytes).map_err(Refusal::bad)
}

struct Told {
    shared: Arc<Shared>,
    live: Arc<Live>,
    /// Cancels the job when the stream goes away.
    _caller: Caller,
    changes: watch::Receiver<u64>,
    shape: Shape,
    what: &'static str,
    /// The last preview and pictures that were told.
    preview: u64,
    partial: usize,
    images: usize,
    ready: VecDeque<(String, Value)>,
    is_over: bool,
}

/// Partial pictures and finished ones as server-sent events.
fn stream(shared: Arc<Shared>, live: Arc<Live>, caller: Caller, shape: Shape, what: &'static str) -> Response {
    let changes = live.listen();
    let ready = VecDeque::new();
    let told = Told {
        shared,
        live,
        _caller: caller,
        changes,
        shape,
        what,
        preview: 0,
        partial: 0,
        images: 0,
        ready,
        is_over: false,
    };
    let events = unfold(told, |mut told| async move {
        let (name, data) = told.next().await?;
        Some((Ok::<_, Infallible>(Sse::default().event(name).data(data.to_string())), told))
    });
    Stream::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

impl Told {
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            self.changes.borrow_and_update();
            let (preview, images, state, error) = {
                let told = self.live.told();
                (told.preview.clone(), told.pictures.len(), told.state, told.error.clone())
            };
            let now = crate::store::now_ms() / 1000;
            if let Some(preview) = preview.filter(|preview| preview.number > self.preview && self.images == images) {
                self.preview = preview.number;
                if self.partial < self.shape.partial.unwrap_or(0) {
                    let event = json!({
                        "type": format!("{}.partial_image", self.what), "b64_json": to_base64(&preview.png), "created_at": now,
                        "size": self.shape.size, "quality": self.shape.quality, "background": "opaque", "output_format": "png",
                        "partial_image_index": self.partial,
                    });
                    self.partial += 1;
                    self.ready.push_back((format!("{}.partial_image", self.what), event));
                }
            }
            while self.images < images {
                match self.picture(self.images, now).await {
                    Ok(event) => self.ready.push_back((format!("{}.completed", self.what), event)),
                    Err(refusal) => self.ready.push_back(("error".into(), refusal.openai())),
                }
                self.images += 1;
                self.partial = 0;
            }
            if state.has_ended() {
                self.is_over = true;
                if state != Stands::Ended(End::Completed) {
                    let message =
                        error.map_or_else(|| "the job was cancelled".into(), |error| error["message"].clone());
                    self.ready.push_back((
                        "error".into(),
                        json!({ "type": "error", "error": { "message": message, "type": "server_error" } }),
                    ));
                }
            } else if self.ready.is_empty() {
                self.changes.changed().await.ok()?;
            }
        }
    }

    async fn picture(&self, index: usize, now: u64) -> Answer<Value> {
        let (shared, id, format) = (Arc::clone(&self.shared), self.live.id().to_owned(), self.shape.format);
        let bytes =
            blocking(move || as_format(shared.store.read_picture(&id, index).map_err(|error| disk(&error))?, format))
                .await?;
        Ok(json!({
            "type": format!("{}.completed", self.what), "b64_json": to_base64(&bytes), "created_at": now, "size": size_of(&self.live),
            "quality": self.shape.quality, "background": "opaque", "output_format": self.shape.format_name(), "usage": usage(),
        }))
    }
}

pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let shelf = shared.shelf();
    let all: Vec<Value> =
        shelf.used_as(Use::Model).filter(|item| item.problem.is_none()).map(|item| shown(&item.name)).collect();
    Json(json!({ "object": "list", "data": all }))
}

pub(super) async fn model(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Answer<Json<Value>> {
    Ok(Json(shown(&shared.shelf().find("model", &name, &[Use::Model])?.name)))
}

fn shown(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "local" })
}
