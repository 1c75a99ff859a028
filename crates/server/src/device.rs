//! The one thread that draws. Jobs of one kind share forwards of the UNet, join and leave between two steps; whatever company a picture had, its bytes are
//! those that it has alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use chiaro::engine::Together;
use chiaro::image::{PictureFormat, encode_picture};
use chiaro::order::Job;
use chiaro::{Error, ErrorCode, Event, Generation, Picture};
use serde_json::json;

use crate::journal::{Drawn, End};
use crate::live::{Live, Preview};
use crate::queue::disk;
use crate::refusal::{Answer, Refusal, without_paths};
use crate::shared::Shared;
use crate::store::sha256;

/// Starts it; it ends when the server drains.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(shared: &Arc<Shared>) -> chiaro::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("chiaro device".into()).spawn(move || run(&shared));
    thread.map_err(|e| Error::io("a thread for the device", e))
}

/// A job that is drawn.
struct Active {
    live: Arc<Live>,
    generation: Generation,
    /// Its next picture.
    index: usize,
    began: Instant,
}

/// What draws: the jobs that are under way, and the network whose forwards they share.
struct Device<'a> {
    shared: &'a Shared,
    active: Vec<Active>,
    together: Together,
    /// The last job for which the device was opened anew.
    recovered: Option<String>,
}

fn run(shared: &Shared) {
    let mut device = Device { shared, active: Vec::new(), together: Together::new(), recovered: None };
    loop {
        if device.active.is_empty() {
            // Nothing of what was shared lies beside what comes.
            device.together = Together::new();
            let Some(live) = shared.jobs.next() else { return };
            device.admit(live);
        }
        while let Some(first) = device.active.first().filter(|_| device.active.len() < shared.settings.together) {
            let Some(live) = shared.jobs.join(&first.live.accepted.kin) else { break };
            device.admit(live);
        }
        device.round();
    }
}

/// What a thread's failure is to those who wait.
fn caught<T>(work: impl FnOnce() -> Answer<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
        Err(Refusal::new(status, "internal", "the server failed at this job"))
    })
}

impl Device<'_> {
    /// Takes a job under way, or tells why not.
    fn admit(&mut self, live: Arc<Live>) {
        let began = Instant::now();
        match caught(|| begin(self.shared, &live)) {
            Ok(generation) => self.active.push(Active { live, generation, index: 0, began }),
            Err(refusal) => self.failed(&live, refusal),
        }
    }

    /// A unit of work of each job; steps that can share a forward do.
    fn round(&mut self) {
        for member in std::mem::take(&mut self.active) {
            if Together::could(&member.generation) {
                self.active.push(member);
            } else {
                self.alone(member);
            }
        }
        let mut waiting = std::mem::take(&mut self.active);
        while !waiting.is_empty() {
            let first = waiting.remove(0);
            // What was done alone in this round waits for the next one.
            if !Together::could(&first.generation) {
                self.active.push(first);
                continue;
            }
            let (kin, others): (Vec<Active>, Vec<Active>) =
                waiting.into_iter().partition(|other| Together::can(&first.generation, &other.generation));
            waiting = others;
            let mut group = vec![first];
            group.extend(kin);
            let alone = group.split_off(self.fitting(&group));
            alone.into_iter().for_each(|member| self.alone(member));
            match group.len() {
                1 => group.into_iter().for_each(|member| self.alone(member)),
                _ => self.step(group),
            }
        }
    }

    /// How many of a group fit into memory together.
    fn fitting(&self, group: &[Active]) -> usize {
        let Some(limit) = self.shared.settings.memory_bytes else { return group.len() };
        let fits = |count: &usize| {
            let generations: Vec<&Generation> = group[..*count].iter().map(|member| &member.generation).collect();
            Together::peak_bytes(&generations).is_ok_and(|bytes| bytes <= limit)
        };
        (2..=group.len()).rev().find(fits).unwrap_or(1)
    }

    /// One unit of a job by itself.
    fn alone(&mut self, mut member: Active) {
        member.live.set_cancel(Some(member.generation.cancel_token()));
        match member.generation.next() {
            Some(event) => self.heard(member, event.map_err(|error| Refusal::of(&error))),
            None => self.completed(&member),
        }
    }

    /// The next step of several in one forward. Where that fails each does its own.
    fn step(&mut self, mut group: Vec<Active>) {
        let cancel = self.together.cancel_token();
        for member in &group {
            member.live.set_cancel(Some(cancel.clone()));
        }
        let mut generations: Vec<&mut Generation> = group.iter_mut().map(|member| &mut member.generation).collect();
        match self.together.step(&mut generations) {
            Ok(events) => {
                self.shared.meter.forward(group.len());
                for (member, event) in group.into_iter().zip(events) {
                    self.heard(member, event.map_err(|error| Refusal::of(&error)));
                }
            }
            // Somebody was stopped: the others do the step again.
            Err(error) if error.code() == ErrorCode::Cancelled => {
                let is_over = self.shared.jobs.is_draining() && !group.iter().any(|member| member.live.is_stopped());
                for member in group {
                    if is_over || member.live.is_stopped() {
                        self.failed(&member.live, Refusal::of(&Error::Cancelled));
                    } else {
                        self.active.push(member);
                    }
                }
            }
            Err(_) => {
                self.together = Together::new();
                group.into_iter().for_each(|member| self.alone(member));
            }
        }
    }

    fn heard(&mut self, mut member: Active, event: Answer<Event>) {
        let shared = self.shared;
        match event.and_then(|event| caught(|| hear(shared, &mut member, event))) {
            Ok(()) => self.active.push(member),
            Err(refusal) => self.failed(&member.live, refusal),
        }
    }

    fn completed(&mut self, member: &Active) {
        let live = &member.live;
        let waited = live.told().started.map_or(0, |at| at.saturating_sub(live.accepted.at));
        let drew = member.began.elapsed().as_secs_f64();
        self.shared.meter.job(waited as f64 / 1e3, drew, live.accepted.flops);
        self.shared.jobs.end(live, End::Completed, None);
    }

    fn failed(&mut self, live: &Arc<Live>, refusal: Refusal) {
        let jobs = &self.shared.jobs;
        match refusal.code {
            _ if live.is_stopped() => jobs.end(live, End::Cancelled, None),
            "cancelled" if jobs.is_draining() => jobs.put_back(live),
            // Once: a job that loses every device is the device's fault no more.
            "device_lost" if self.recovered.as_deref() != Some(live.id()) => {
                self.recovered = Some(live.id().to_owned());
                // What else was under way was lost with it.
                let others = std::mem::take(&mut self.active);
                self.together = Together::new();
                match self.shared.engine.recover() {
                    Ok(()) => {
                        jobs.put_back(live);
                        others.iter().for_each(|other| jobs.put_back(&other.live));
                    }
                    Err(error) => {
                        jobs.end(live, End::Failed, Some(Refusal::of(&error)));
                        others.iter().for_each(|other| jobs.end(&other.live, End::Failed, Some(Refusal::of(&error))));
                    }
                }
            }
            _ => jobs.end(live, End::Failed, Some(refusal)),
        }
    }
}

/// A job before its first unit of work.
fn begin(shared: &Shared, live: &Live) -> Answer<Generation> {
    let text = shared.store.read_job(live.id()).map_err(|error| disk(&error))?;
    let order = shared.order(Job::from_json(&text)?)?;
    let pipeline = shared.load(&order, &mut |loading| {
        if live.is_stopped() {
            return Err(Error::Cancelled);
        }
        let data = json!({ "part": loading.part, "done": loading.done, "of": loading.of });
        live.tell(|told| told.event("loading", data));
        Ok(())
    })?;
    let mut request = order.request;
    request.previews = live.accepted.preview_every > 0;
    let units = pipeline.units(&request);
    let generation = pipeline.generate(request)?;
    live.set_cancel(Some(generation.cancel_token()));
    live.tell(|told| {
        told.units.1 = units;
        told.adapters = pipeline.adapters().iter().map(|adapter| without_paths(&adapter.summary())).collect();
        for warning in generation.warnings() {
            told.warnings.push(without_paths(warning));
        }
    });
    Ok(generation)
}

fn hear(shared: &Shared, member: &mut Active, event: Event) -> Answer<()> {
    let live = &member.live;
    tell(live, &event);
    match event {
        Event::Step { image, step, of } if step < of && live.preview_is_due(step) => {
            preview(live, &mut member.generation, image, step)
        }
        Event::Picture(picture) => {
            keep(shared, live, member.index, &picture)?;
            shared.meter.image();
            member.index += 1;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn tell(live: &Live, event: &Event) {
    live.tell(|told| {
        told.count_unit();
        match event {
            Event::Encoded => told.event("encoded", json!({})),
            Event::OneMoreStep { image } => told.event("one_more_step", json!({ "image": image })),
            Event::Enlarged { image } => told.event("enlarged", json!({ "image": image })),
            Event::Step { image, step, of } => {
                (told.image, told.step, told.steps) = (*image, *step, *of);
                let data = json!({
                    "image": image, "step": step, "of": of, "share": told.share(), "eta_seconds": told.eta(),
                });
                told.event("step", data);
            }
            _ => {}
        }
    });
}

fn preview(live: &Live, generation: &mut Generation, image: usize, step: usize) -> Answer<()> {
    let Some(picture) = generation.preview(image)? else { return Ok(()) };
    let (png, _) = encode_picture(PictureFormat::Png, &picture, &[]).map_err(Refusal::bad)?;
    live.tell(|told| {
        let number = told.preview.as_ref().map_or(0, |last| last.number) + 1;
        told.preview = Some(Preview { number, image, step, png: Arc::new(png) });
        let url = live.preview_url(number);
        told.event("preview", json!({ "number": number, "image": image, "step": step, "url": url }));
    });
    Ok(())
}

/// Puts a picture into the store, then into the journal, then tells of it.
fn keep(shared: &Shared, live: &Live, index: usize, picture: &Picture) -> Answer<()> {
    let png = picture.png()?;
    shared.store.put_picture(live.id(), index, &png).map_err(|error| disk(&error))?;
    let sha256 = sha256(&png);
    let drawn = Drawn {
        index,
        seed: picture.seed,
        width: picture.image.width,
        height: picture.image.height,
        bytes: png.len() as u64,
        mean: picture.image.mean(),
        sha256,
    };
    live.tell(|told| told.warnings.extend(picture.notes.iter().map(|note| without_paths(note))));
    shared.jobs.drew(live, drawn, picture.infotext.clone()).map_err(|error| disk(&error))
}
