//! A job as it stands: what it has told, who waits for it, how it is stopped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chiaro::engine::Cancel;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::journal::{Accepted, Drawn, End};
use crate::refusal::Refusal;

/// Events that are kept of a job; who has missed more begins with how it stands.
const KEPT_EVENTS: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Running,
    Ended(End),
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Ended(End::Completed) => "completed",
            State::Ended(End::Failed) => "failed",
            State::Ended(End::Cancelled) => "cancelled",
        }
    }

    pub(crate) fn has_ended(self) -> bool {
        matches!(self, State::Ended(_))
    }
}

/// Something that a job told.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// From 1, in the order in which they were told.
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) data: Value,
}

/// A picture that is not finished.
#[derive(Debug, Clone)]
pub(crate) struct Preview {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) image: usize,
    pub(crate) step: usize,
    pub(crate) png: Arc<Vec<u8>>,
}

/// What a job has told so far.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) state: State,
    /// Milliseconds since 1970.
    pub(crate) started: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) warnings: Vec<String>,
    /// What each adapter changed and what of it was skipped, in words; of this process alone.
    pub(crate) adapters: Vec<String>,
    pub(crate) pictures: Vec<Drawn>,
    /// What stands in the pictures, as AUTOMATIC1111 writes it; of this process alone.
    pub(crate) infotexts: BTreeMap<usize, String>,
    /// What went wrong, as the native interface tells it.
    pub(crate) error: Option<Value>,
    /// The same, of this process alone.
    pub(crate) refusal: Option<Refusal>,
    /// Units of work: done, and in all.
    pub(crate) units: (u64, u64),
    pub(crate) image: usize,
    pub(crate) step: usize,
    pub(crate) steps: usize,
    /// When the first unit was done.
    began: Option<(Instant, u64)>,
    pub(crate) preview: Option<Preview>,
    events: VecDeque<Event>,
    next_event: u64,
    /// The last of the events that made room for others.
    forgotten: u64,
}

impl Told {
    pub(crate) fn event(&mut self, name: &'static str, data: Value) {
        self.next_event += 1;
        self.events.push_back(Event { id: self.next_event, name, data });
        if self.events.len() > KEPT_EVENTS {
            self.forgotten = self.events.pop_front().map_or(0, |event| event.id);
        }
    }

    /// How it went does not matter any more: what came of it stays.
    pub(crate) fn forget_steps(&mut self) {
        self.events.retain(|event| matches!(event.name, "queued" | "started" | "image" | "ended"));
        self.events.shrink_to_fit();
        self.infotexts.clear();
    }

    /// What was told after an event; `None` where some of it is forgotten.
    pub(crate) fn events_after(&self, id: u64) -> Option<Vec<Event>> {
        (id >= self.forgotten).then(|| self.events.iter().filter(|event| event.id > id).cloned().collect())
    }

    pub(crate) fn last_event(&self) -> u64 {
        self.next_event
    }

    /// A picture is there, in place of one that was drawn before a restart.
    pub(crate) fn add_picture(&mut self, picture: Drawn) {
        self.pictures.retain(|known| known.index != picture.index);
        self.pictures.push(picture);
    }

    /// A unit of work is done.
    pub(crate) fn count_unit(&mut self) {
        self.units.0 += 1;
        self.began.get_or_insert((Instant::now(), self.units.0));
    }

    /// Seconds that are left, if it goes on as it went.
    pub(crate) fn eta(&self) -> Option<f64> {
        let (began, at) = self.began?;
        let (done, of) = self.units;
        let left = of.saturating_sub(done) as f64;
        (done > at && self.state == State::Running).then(|| began.elapsed().as_secs_f64() / (done - at) as f64 * left)
    }

    /// How much is done, 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        match (self.state, self.units) {
            (State::Ended(End::Completed), _) => 1.0,
            (_, (_, 0)) => 0.0,
            (_, (done, of)) => (done as f64 / of as f64).min(1.0),
        }
    }
}

/// A job.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) accepted: Accepted,
    rank: AtomicU64,
    told: Mutex<Told>,
    version: watch::Sender<u64>,
    cancel: Mutex<Option<Cancel>>,
    is_cancelled: AtomicBool,
    /// Callers who wait on a connection.
    waiters: AtomicUsize,
    /// Whether somebody asked how it looks since the last preview.
    wants_preview: AtomicBool,
}

impl Live {
    pub(crate) fn new(accepted: Accepted) -> Arc<Self> {
        let told = Told {
            state: State::Queued,
            started: None,
            ended: None,
            warnings: Vec::new(),
            adapters: Vec::new(),
            pictures: Vec::new(),
            infotexts: BTreeMap::new(),
            error: None,
            refusal: None,
            units: (0, 0),
            image: 0,
            step: 0,
            steps: 0,
            began: None,
            preview: None,
            events: VecDeque::new(),
            next_event: 0,
            forgotten: 0,
        };
        Arc::new(Live {
            rank: AtomicU64::new(accepted.rank),
            accepted,
            told: Mutex::new(told),
            version: watch::Sender::new(0),
            cancel: Mutex::default(),
            is_cancelled: AtomicBool::new(false),
            waiters: AtomicUsize::new(0),
            wants_preview: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.accepted.id
    }

    /// Where a finished picture is.
    pub(crate) fn image_url(&self, index: usize) -> String {
        format!("/v1/chiaro/jobs/{}/images/{index}", self.id())
    }

    /// Where a preview is, under an address that changes with it.
    pub(crate) fn preview_url(&self, number: u64) -> String {
        format!("/v1/chiaro/jobs/{}/preview?n={number}", self.id())
    }

    pub(crate) fn rank(&self) -> u64 {
        self.rank.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rank(&self, rank: u64) {
        self.rank.store(rank, Ordering::Relaxed);
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> State {
        self.told().state
    }

    /// Changes what is told, and wakes who listens.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told());
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes whenever something is told.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        let mut changes = self.listen();
        while !self.state().has_ended() {
            // The sender is this job's, which is borrowed.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Stops it: now, where it runs, else before it does.
    pub(crate) fn stop(&self) {
        self.is_cancelled.store(true, Ordering::SeqCst);
        if let Some(cancel) = &*self.cancel_slot() {
            cancel.cancel();
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_cancelled.load(Ordering::SeqCst)
    }

    /// What stops it from now on, or nothing.
    pub(crate) fn set_cancel(&self, cancel: Option<Cancel>) {
        let mut slot = self.cancel_slot();
        if let Some(cancel) = cancel.as_ref().filter(|_| self.is_stopped()) {
            cancel.cancel();
        }
        *slot = cancel;
    }

    /// Stops what runs of it, which is to run again later.
    pub(crate) fn interrupt(&self) {
        if let Some(cancel) = &*self.cancel_slot() {
            cancel.cancel();
        }
    }

    fn cancel_slot(&self) -> MutexGuard<'_, Option<Cancel>> {
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(&self) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether nobody waits any more.
    pub(crate) fn leave(&self) -> bool {
        self.waiters.fetch_sub(1, Ordering::SeqCst) == 1
    }

    pub(crate) fn want_preview(&self) {
        self.wants_preview.store(true, Ordering::Relaxed);
    }

    /// Whether a preview is due after a step.
    pub(crate) fn preview_is_due(&self, step: usize) -> bool {
        let asked = self.wants_preview.swap(false, Ordering::Relaxed);
        let every = self.accepted.preview_every;
        asked || every > 0 && step.is_multiple_of(every)
    }

    /// As the native interface shows it.
    pub(crate) fn to_json(&self, position: Option<usize>) -> Value {
        let (own, told) = (&self.accepted, self.told());
        let seconds = |ms: u64| ms as f64 / 1e3;
        let picture = |drawn: &Drawn| {
            json!({
                "index": drawn.index, "url": self.image_url(drawn.index),
                "seed": drawn.seed, "width": drawn.width, "height": drawn.height, "bytes": drawn.bytes, "mean": drawn.mean,
                "sha256": drawn.sha256,
            })
        };
        let shown = |preview: &Preview| {
            let url = self.preview_url(preview.number);
            json!({ "number": preview.number, "image": preview.image, "step": preview.step, "url": url })
        };
        json!({
            "id": own.id, "state": told.state.name(), "client": own.client, "from": own.front, "model": own.model,
            "prompt": own.prompt, "oms": own.oms, "count": own.count, "position": position,
            "created": seconds(own.at), "started": told.started.map(seconds), "ended": told.ended.map(seconds),
            "progress": {
                "share": told.share(), "eta_seconds": told.eta(), "image": told.image, "step": told.step, "steps": told.steps,
            },
            "preview": told.preview.as_ref().map(shown),
            "images": told.pictures.iter().map(picture).collect::<Vec<_>>(),
            "warnings": told.warnings, "adapters": told.adapters, "error": told.error,
        })
    }
}
