//! The one thread that draws.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use chiaro::image::{PictureFormat, encode_picture};
use chiaro::order::Job;
use chiaro::{Error, Event, Generation, Picture};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::journal::{Drawn, End};
use crate::live::{Live, Preview};
use crate::queue::disk;
use crate::refusal::{Answer, Refusal, without_paths};
use crate::shared::Shared;

/// Starts it; it ends when the server drains.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(shared: &Arc<Shared>) -> chiaro::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("chiaro device".into()).spawn(move || run(&shared));
    thread.map_err(|e| Error::io("a thread for the device", e))
}

fn run(shared: &Shared) {
    let mut recovered = None;
    while let Some(live) = shared.jobs.next() {
        let began = Instant::now();
        let drawn = catch_unwind(AssertUnwindSafe(|| draw(shared, &live))).unwrap_or_else(|_| {
            Err(Refusal::new(
                axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the server failed at this job",
            ))
        });
        match drawn {
            Ok(()) => {
                let waited = live.told().started.map_or(0, |at| at.saturating_sub(live.accepted.at));
                shared.meter.job(waited as f64 / 1e3, began.elapsed().as_secs_f64(), live.accepted.flops);
                shared.jobs.end(&live, End::Completed, None);
            }
            Err(_) if live.is_stopped() => shared.jobs.end(&live, End::Cancelled, None),
            Err(refusal) if refusal.code == "cancelled" && shared.jobs.is_draining() => shared.jobs.put_back(&live),
            // Once: a job that loses every device is the device's fault no more.
            Err(refusal) if refusal.code == "device_lost" && recovered.as_deref() != Some(live.id()) => {
                recovered = Some(live.id().to_owned());
                match shared.engine.recover() {
                    Ok(()) => shared.jobs.put_back(&live),
                    Err(error) => shared.jobs.end(&live, End::Failed, Some(Refusal::of(&error))),
                }
            }
            Err(refusal) => shared.jobs.end(&live, End::Failed, Some(refusal)),
        }
    }
}

fn draw(shared: &Shared, live: &Live) -> Answer<()> {
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
    let mut generation = pipeline.generate(request)?;
    live.set_cancel(Some(generation.cancel_token()));
    if shared.jobs.is_draining() {
        return Err(Refusal::of(&Error::Cancelled));
    }
    live.tell(|told| {
        told.units.1 = units;
        for warning in generation.warnings() {
            told.warnings.push(without_paths(warning));
        }
    });
    let mut index = 0;
    while let Some(event) = generation.next() {
        let event = event?;
        tell(live, &event);
        match event {
            Event::Step { image, step, of } if step < of && live.preview_is_due(step) => {
                preview(live, &mut generation, image, step)?;
            }
            Event::Picture(picture) => {
                keep(shared, live, index, &picture)?;
                shared.meter.image();
                index += 1;
            }
            _ => {}
        }
    }
    Ok(())
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
        let url = format!("/v1/chiaro/jobs/{}/preview?n={number}", live.id());
        told.event("preview", json!({ "number": number, "image": image, "step": step, "url": url }));
    });
    Ok(())
}

/// Puts a picture into the store, then into the journal, then tells of it.
fn keep(shared: &Shared, live: &Live, index: usize, picture: &Picture) -> Answer<()> {
    let png = picture.png()?;
    shared.store.put_picture(live.id(), index, &png).map_err(|error| disk(&error))?;
    let sha256: String = Sha256::digest(&png).iter().map(|byte| format!("{byte:02x}")).collect();
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
