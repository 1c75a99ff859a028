//! What a job tells, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sse, KeepAlive, Sse as Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::sync::watch;

use super::jobs::find;
use crate::live::{Event, Live};
use crate::refusal::Answer;
use crate::shared::Shared;

#[derive(Deserialize)]
pub(super) struct From {
    /// In place of the header, for who cannot set it.
    after: Option<u64>,
}

pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<From>,
    headers: HeaderMap,
) -> Answer<Response<impl Stream<Item = Result<Sse, Infallible>>>> {
    let live = find(&shared, &id)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).or(query.after).unwrap_or(0);
    let told = events(live, last);
    Ok(Response::new(told).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

struct Listener {
    live: Arc<Live>,
    changes: watch::Receiver<u64>,
    last: u64,
    ready: VecDeque<Event>,
    is_over: bool,
}

fn events(live: Arc<Live>, last: u64) -> impl Stream<Item = Result<Sse, Infallible>> {
    let changes = live.listen();
    let listener = Listener { live, changes, last, ready: VecDeque::new(), is_over: false };
    unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(Sse::default().id(event.id.to_string()).event(event.name).data(event.data.to_string())), listener))
    })
}

impl Listener {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = event.id;
                self.is_over = event.name == "ended";
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            self.changes.borrow_and_update();
            let (events, last, has_ended) = {
                let told = self.live.told();
                (told.events_after(self.last), told.last_event(), told.state.has_ended())
            };
            match events {
                // Events that are forgotten: how it stands now, and on from there.
                None => {
                    let data = self.live.to_json(None);
                    self.ready.push_back(Event { id: last, name: "state", data });
                }
                Some(events) if events.is_empty() && has_ended => return None,
                Some(events) if events.is_empty() => self.changes.changed().await.ok()?,
                Some(events) => self.ready.extend(events),
            }
        }
    }
}
