//! All jobs, and whose turn it is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;

use crate::journal::{Accepted, Drawn, End, Journal, Line};
use crate::live::{Live, State};
use crate::refusal::{Answer, Refusal};
use crate::store::now_ms;

/// How long the job whose turn it is waits at most while others of the model that is loaded go first.
const PATIENCE: Duration = Duration::from_secs(20);

/// All jobs.
pub(crate) struct Jobs {
    inner: Mutex<Inner>,
    wake: Condvar,
    most: usize,
}

struct Inner {
    journal: Journal,
    all: BTreeMap<String, Arc<Live>>,
    waiting: Vec<Arc<Live>>,
    running: Vec<Arc<Live>>,
    /// When each client had its last turn.
    turns: HashMap<String, u64>,
    turn: u64,
    next_rank: u64,
    /// (client, key) → id.
    keys: HashMap<(String, String), String>,
    /// The model of the job before.
    model: String,
    /// Whose turn was put off, since when.
    put_off: Option<(String, Instant)>,
    is_draining: bool,
}

impl Jobs {
    /// Jobs as a journal tells of them. Those that had not ended wait again, but those that a caller waited for: nobody does any more.
    ///
    /// # Errors
    /// When the journal cannot be written anew.
    pub(crate) fn restore(mut journal: Journal, lines: Vec<Line>, most: usize) -> io::Result<Self> {
        let mut all: BTreeMap<String, Arc<Live>> = BTreeMap::new();
        for line in lines {
            match line {
                Line::Accepted(accepted) => {
                    all.insert(accepted.id.clone(), Live::new(accepted));
                }
                Line::Moved { id, rank } => {
                    if let Some(live) = all.get(&id) {
                        live.set_rank(rank);
                    }
                }
                Line::Picture { id, picture } => {
                    if let Some(live) = all.get(&id) {
                        live.tell(|told| told.add_picture(picture));
                    }
                }
                Line::Ended { id, at, end, started, error, warnings } => {
                    if let Some(live) = all.get(&id) {
                        live.tell(|told| {
                            (told.state, told.ended, told.started) = (State::Ended(end), Some(at), started);
                            (told.error, told.warnings) = (error, warnings);
                            told.event("ended", json!({ "state": told.state.name(), "error": told.error }));
                        });
                    }
                }
                Line::Removed { id } => {
                    all.remove(&id);
                }
            }
        }
        for live in all.values().filter(|live| live.accepted.synchronous && !live.state().has_ended()) {
            live.tell(|told| {
                told.state = State::Ended(End::Cancelled);
                told.ended = Some(now_ms());
                told.event("ended", json!({ "state": told.state.name() }));
            });
        }
        let waiting: Vec<_> = all.values().filter(|live| !live.state().has_ended()).cloned().collect();
        // A job that begins again draws all its pictures.
        for live in &waiting {
            live.tell(|told| told.pictures.clear());
        }
        journal.rewrite(&all.values().flat_map(|live| lines_of(live)).collect::<Vec<_>>())?;
        let keyed = |live: &Arc<Live>| Some((live.accepted.repeats()?, live.id().to_owned()));
        let inner = Inner {
            journal,
            keys: all.values().filter_map(keyed).collect(),
            next_rank: all.values().map(|live| live.rank() + 1).max().unwrap_or(0),
            all,
            waiting,
            running: Vec::new(),
            turns: HashMap::new(),
            turn: 0,
            model: String::new(),
            put_off: None,
            is_draining: false,
        };
        Ok(Jobs { inner: Mutex::new(inner), wake: Condvar::new(), most })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job that an earlier request with this key became.
    pub(crate) fn repeated(&self, client: &str, key: &str) -> Option<Arc<Live>> {
        let inner = self.lock();
        let id = inner.keys.get(&(client.to_owned(), key.to_owned()))?;
        inner.all.get(id).cloned()
    }

    /// # Errors
    /// 503 while the server ends, 429 where too many wait.
    pub(crate) fn check_room(&self) -> Answer<()> {
        self.lock().check_room(self.most)
    }

    /// Takes a job in that is in the store: it is in the journal when this returns. With the key of another job it is that one.
    pub(crate) fn accept(&self, mut accepted: Accepted, warnings: Vec<String>) -> Answer<Arc<Live>> {
        let mut inner = self.lock();
        let key = accepted.repeats();
        if let Some(known) = key.as_ref().and_then(|key| inner.all.get(inner.keys.get(key)?)) {
            return Ok(Arc::clone(known));
        }
        inner.check_room(self.most)?;
        accepted.rank = inner.next_rank;
        inner.journal.append(&[Line::Accepted(accepted.clone())]).map_err(|error| disk(&error))?;
        inner.next_rank += 1;
        let live = Live::new(accepted);
        live.told().warnings = warnings;
        inner.all.insert(live.id().to_owned(), Arc::clone(&live));
        if let Some(key) = key {
            inner.keys.insert(key, live.id().to_owned());
        }
        inner.waiting.push(Arc::clone(&live));
        drop(inner);
        live.tell(|told| told.event("queued", json!({})));
        self.wake.notify_all();
        Ok(live)
    }

    /// The next job, when there is one; `None` when the server ends.
    pub(crate) fn next(&self) -> Option<Arc<Live>> {
        let mut inner = self.lock();
        loop {
            if inner.is_draining {
                return None;
            }
            if let Some(live) = inner.choose(None) {
                return Some(inner.begin(live));
            }
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A job whose steps may share forwards with those that run, if it is its turn, or that of one that can wait.
    pub(crate) fn join(&self, kin: &str) -> Option<Arc<Live>> {
        let mut inner = self.lock();
        if inner.is_draining || kin.is_empty() || inner.waiting.is_empty() {
            return None;
        }
        let live = inner.choose(Some(kin))?;
        Some(inner.begin(live))
    }

    /// A picture is in the store.
    pub(crate) fn drew(&self, live: &Live, picture: Drawn, infotext: String) -> io::Result<()> {
        let line = Line::Picture { id: live.id().to_owned(), picture: picture.clone() };
        self.lock().journal.append(&[line])?;
        let url = live.image_url(picture.index);
        live.tell(|told| {
            told.infotexts.insert(picture.index, infotext);
            let data = json!({ "index": picture.index, "url": url, "seed": picture.seed, "mean": picture.mean });
            told.add_picture(picture);
            told.event("image", data);
        });
        Ok(())
    }

    /// The job that runs has ended.
    pub(crate) fn end(&self, live: &Arc<Live>, end: End, refusal: Option<Refusal>) {
        let mut inner = self.lock();
        inner.running.retain(|running| running.id() != live.id());
        inner.end(live, end, refusal);
    }

    /// The job that runs goes back to where it was: it runs again later, or after a restart.
    pub(crate) fn put_back(&self, live: &Arc<Live>) {
        let mut inner = self.lock();
        inner.running.retain(|running| running.id() != live.id());
        inner.waiting.push(Arc::clone(live));
        drop(inner);
        live.tell(|told| {
            (told.state, told.started) = (State::Queued, None);
            (told.units, told.step, told.preview) = ((0, 0), 0, None);
            told.event("queued", json!({}));
        });
        self.wake.notify_all();
    }

    /// Stops a job. One that waits ends at once; gives whether there was something to stop.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let Some(live) = inner.all.get(id).cloned() else { return false };
        if live.state().has_ended() {
            return false;
        }
        live.stop();
        if let Some(at) = inner.waiting.iter().position(|waiting| waiting.id() == id) {
            inner.waiting.remove(at);
            inner.end(&live, End::Cancelled, None);
        }
        true
    }

    /// Forgets a job that has ended.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.journal.append(&[Line::Removed { id: id.to_owned() }])?;
        if let Some(key) = inner.all.remove(id).and_then(|live| live.accepted.repeats()) {
            inner.keys.remove(&key);
        }
        Ok(())
    }

    /// Puts a waiting job at a place among its client's, from 0.
    pub(crate) fn move_to(&self, id: &str, place: usize) -> Answer<()> {
        let mut inner = self.lock();
        let Some(live) = inner.waiting.iter().find(|waiting| waiting.id() == id).cloned() else {
            return Err(Refusal::new(StatusCode::CONFLICT, "not_waiting", "the job does not wait any more"));
        };
        let client = &live.accepted.client;
        let mut own: Vec<_> = inner.waiting.iter().filter(|one| one.accepted.client == *client).cloned().collect();
        own.sort_by_key(|one| one.rank());
        let ranks: Vec<u64> = own.iter().map(|one| one.rank()).collect();
        own.retain(|one| one.id() != id);
        own.insert(place.min(own.len()), live);
        let moved: Vec<(Arc<Live>, u64)> =
            own.into_iter().zip(ranks).filter(|(one, rank)| one.rank() != *rank).collect();
        let lines: Vec<Line> =
            moved.iter().map(|(one, rank)| Line::Moved { id: one.id().to_owned(), rank: *rank }).collect();
        inner.journal.append(&lines).map_err(|error| disk(&error))?;
        for (one, rank) in &moved {
            one.set_rank(*rank);
        }
        Ok(())
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().all.get(id).cloned()
    }

    /// The job that is called so by another interface.
    pub(crate) fn task(&self, name: &str) -> Option<Arc<Live>> {
        self.lock().all.values().rev().find(|live| live.accepted.task.as_deref() == Some(name)).cloned()
    }

    /// All jobs, the newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Live>> {
        self.lock().all.values().rev().cloned().collect()
    }

    /// Those that run, the longest first.
    pub(crate) fn running(&self) -> Vec<Arc<Live>> {
        self.lock().running.clone()
    }

    /// Ids of waiting jobs in the order in which their turns come, as far as that is known.
    pub(crate) fn order(&self) -> Vec<String> {
        let inner = self.lock();
        let (mut lines, mut turns, mut turn) = (inner.by_client(), inner.turns.clone(), inner.turn);
        let mut order = Vec::new();
        while let Some(live) = fairest(&mut lines, &turns) {
            turn += 1;
            turns.insert(live.accepted.client.clone(), turn);
            order.push(live.id().to_owned());
        }
        order
    }

    /// Where a waiting job stands, from 0.
    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.order().iter().position(|waiting| waiting == id)
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts: BTreeMap<&'static str, u64> =
            ["queued", "running", "completed", "failed", "cancelled"].map(|name| (name, 0)).into();
        for live in self.lock().all.values() {
            *counts.entry(live.state().name()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lock().is_draining
    }

    /// No job is taken in or begun from now on.
    pub(crate) fn drain(&self) {
        self.lock().is_draining = true;
        self.wake.notify_all();
    }
}

impl Inner {
    fn check_room(&self, most: usize) -> Answer<()> {
        if self.is_draining {
            let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the server is ending");
            refusal.retry_after = Some(10);
            return Err(refusal);
        }
        if self.waiting.len() >= most {
            let why = format!("{most} jobs wait already; ask again later");
            let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", why);
            // One that is drawn makes room.
            let eta = self.running.first().and_then(|running| running.told().eta());
            refusal.retry_after = Some(eta.map_or(5, |seconds| seconds.ceil().clamp(1.0, 600.0) as u64));
            return Err(refusal);
        }
        Ok(())
    }

    /// Waiting jobs of each client, in their order.
    fn by_client(&self) -> BTreeMap<String, VecDeque<Arc<Live>>> {
        let mut lines: BTreeMap<String, VecDeque<Arc<Live>>> = BTreeMap::new();
        for live in &self.waiting {
            lines.entry(live.accepted.client.clone()).or_default().push_back(Arc::clone(live));
        }
        for line in lines.values_mut() {
            line.make_contiguous().sort_by_key(|live| live.rank());
        }
        lines
    }

    /// Takes the job whose turn it is out of those that wait. One of the model that is loaded may go first for a while; where others are under way
    /// (`kin`), one whose steps may share forwards with theirs, or none.
    fn choose(&mut self, kin: Option<&str>) -> Option<Arc<Live>> {
        let mut lines = self.by_client();
        let heads: Vec<Arc<Live>> = lines.values().filter_map(|line| line.front().cloned()).collect();
        let mut chosen = fairest(&mut lines, &self.turns)?;
        let since =
            self.put_off.take().filter(|(id, _)| id == chosen.id()).map_or_else(Instant::now, |(_, since)| since);
        let fits = |live: &Live| match kin {
            Some(kin) => live.accepted.kin == kin,
            None => live.accepted.model == self.model,
        };
        if !fits(&chosen) {
            let put_off = Some((chosen.id().to_owned(), since));
            let others = heads.into_iter().filter(|head| fits(head) && since.elapsed() < PATIENCE);
            match others.min_by_key(|head| (self.turns.get(&head.accepted.client).copied(), head.rank())) {
                Some(other) => (chosen, self.put_off) = (other, put_off),
                None if kin.is_some() => {
                    self.put_off = put_off;
                    return None;
                }
                None => {}
            }
        }
        self.waiting.retain(|waiting| waiting.id() != chosen.id());
        self.turn += 1;
        // Who has nothing to wait for has waited long enough.
        let waiting = &self.waiting;
        self.turns.retain(|client, _| waiting.iter().any(|live| live.accepted.client == *client));
        self.turns.insert(chosen.accepted.client.clone(), self.turn);
        self.model.clone_from(&chosen.accepted.model);
        Some(chosen)
    }

    fn begin(&mut self, live: Arc<Live>) -> Arc<Live> {
        self.running.push(Arc::clone(&live));
        live.tell(|told| {
            told.state = State::Running;
            told.started = Some(now_ms());
            told.event("started", json!({}));
        });
        live
    }

    fn end(&mut self, live: &Arc<Live>, end: End, refusal: Option<Refusal>) {
        live.set_cancel(None);
        let error = refusal.as_ref().map(|refusal| refusal.native()["error"].clone());
        let (at, started, warnings) = {
            let told = live.told();
            (now_ms(), told.started, told.warnings.clone())
        };
        let line = Line::Ended { id: live.id().to_owned(), at, end, started, error: error.clone(), warnings };
        if let Err(error) = self.journal.append(&[line]) {
            // It is drawn again after a restart; until then it has ended.
            eprintln!("chiaro serve: the journal cannot be written: {error}");
        }
        live.tell(|told| {
            (told.state, told.ended, told.preview) = (State::Ended(end), Some(at), None);
            (told.error, told.refusal) = (error, refusal);
            let data = json!({ "state": told.state.name(), "error": told.error });
            told.event("ended", data);
        });
    }
}

/// Takes the job out of the lines whose client has waited longest for a turn.
fn fairest(lines: &mut BTreeMap<String, VecDeque<Arc<Live>>>, turns: &HashMap<String, u64>) -> Option<Arc<Live>> {
    let order = |(client, line): &(&String, &VecDeque<Arc<Live>>)| {
        (turns.get(*client).copied(), line.front().map(|live| live.rank()))
    };
    let client =
        lines.iter().filter(|(_, line)| !line.is_empty()).min_by_key(order).map(|(client, _)| client.clone())?;
    lines.get_mut(&client)?.pop_front()
}

/// The lines that tell of a job as it stands.
fn lines_of(live: &Live) -> Vec<Line> {
    let mut accepted = live.accepted.clone();
    accepted.rank = live.rank();
    let id = || live.id().to_owned();
    let told = live.told();
    let pictures = told.pictures.iter().map(|picture| Line::Picture { id: id(), picture: picture.clone() });
    let ended = match told.state {
        State::Ended(end) => Some(Line::Ended {
            id: id(),
            at: told.ended.unwrap_or(live.accepted.at),
            end,
            started: told.started,
            error: told.error.clone(),
            warnings: told.warnings.clone(),
        }),
        _ => None,
    };
    std::iter::once(Line::Accepted(accepted)).chain(pictures).chain(ended).collect()
}

/// The disk refuses: nothing was accepted.
pub(crate) fn disk(error: &io::Error) -> Refusal {
    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "storage", format!("nothing can be kept: {}", error.kind()))
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
