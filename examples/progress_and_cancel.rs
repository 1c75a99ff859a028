//! A picture that is drawn in the background: what the job tells, and how another thread stops it.
//!
//! ```sh
//! cargo run --release --example progress_and_cancel          # to the end
//! cargo run --release --example progress_and_cancel -- 300   # cancelled after so many milliseconds
//! ```

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use chiaro::engine::{Engine, JobEvent, ModelKey, Residency};
use chiaro::{Device, ErrorCode, Event, OmsSource, Precision, Request, Result, Source};

fn main() -> Result<()> {
    let patience = std::env::args().nth(1).and_then(|word| word.parse().ok()).map(Duration::from_millis);
    let engine = Engine::new(Device::choose("auto", Precision::Auto)?, Residency::On);
    let oms = OmsSource::demo();
    let pipeline = engine.load(&ModelKey::new(Source::DemoModel).with_oms(oms.clone()))?;
    let request = Request {
        prompt: "a white house at night".into(),
        num_inference_steps: 30,
        oms: Some(oms.request()),
        ..Request::default()
    };

    // The job tells on its own thread: it should be heard and passed on, not worked upon.
    let (told, events) = channel();
    let job = engine.start(&pipeline, request, move |event| drop(told.send(event)))?;

    // What cancels is small, can be cloned, and works from any thread, also from a signal handler.
    let (started, cancel) = (Instant::now(), job.cancel_token());
    if let Some(patience) = patience {
        thread::spawn(move || {
            thread::sleep(patience);
            cancel.cancel();
        });
    }

    // The channel ends with the job.
    for event in events {
        let at = started.elapsed().as_millis();
        match event {
            JobEvent::Done(Event::Encoded) => println!("{at} ms: the prompt is read"),
            JobEvent::Done(Event::OneMoreStep { image }) => println!("{at} ms: picture {image} has its noise"),
            JobEvent::Done(Event::Step { step, of, .. }) => println!("{at} ms: step {step} of {of}"),
            JobEvent::Done(Event::Picture(picture)) => {
                println!("{at} ms: a picture of {}×{}", picture.image.width, picture.image.height);
            }
            JobEvent::Finished => println!("{at} ms: finished"),
            // That it was stopped is what was asked for, no fault.
            JobEvent::Failed(error) if error.code() == ErrorCode::Cancelled => {
                let since = started.elapsed().saturating_sub(patience.unwrap_or_default());
                println!("{at} ms: cancelled, {:.1} ms after it was asked to", since.as_secs_f64() * 1e3);
            }
            JobEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
    // Nothing of a job that was cancelled is left behind, and the engine draws on.
    println!("{:?}", engine.statistics());
    Ok(())
}
