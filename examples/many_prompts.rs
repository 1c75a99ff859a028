//! Many pictures with one engine: networks stay on the device, so that from the second picture on nothing is loaded, uploaded or compiled.
//!
//! ```sh
//! cargo run --release --example many_prompts -- "a red circle" "a blue square" "a house at night"
//! ```

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use chiaro::engine::{Engine, JobEvent, ModelKey, Residency};
use chiaro::image::write_png;
use chiaro::{Device, Event, OmsSource, Precision, Request, Result, Source};

/// What is drawn when nothing is asked for.
const PROMPTS: [&str; 3] = ["a red circle on a black background", "a blue square", "a white house at night"];

fn main() -> Result<()> {
    let mut prompts: Vec<String> = std::env::args().skip(1).collect();
    if prompts.is_empty() {
        prompts = PROMPTS.map(str::to_owned).into();
    }
    // `Residency::Within(bytes)` sets a limit for all models of the device together.
    let engine = Engine::new(Device::choose("auto", Precision::Auto)?, Residency::On);
    println!("on {}", engine.device().describe());
    let oms = OmsSource::demo();
    let model = ModelKey::new(Source::DemoModel).with_oms(oms.clone());

    let mut before = engine.statistics();
    for (number, prompt) in (1..).zip(prompts) {
        let started = Instant::now();
        // Loaded once: the engine knows a model by its key.
        let pipeline = engine.load(&model)?;
        let request = Request { prompt: prompt.clone(), oms: Some(oms.request()), ..Request::default() };

        let (told, events) = channel();
        let _job = engine.start(&pipeline, request, move |event| drop(told.send(event)))?;
        for event in events {
            match event {
                JobEvent::Done(Event::Picture(picture)) => {
                    let path = PathBuf::from(format!("prompt-{number}.png"));
                    write_png(&path, &picture.image, &picture.text_chunks(), true)?;
                    println!("{}: {prompt}, {:.2} s", path.display(), started.elapsed().as_secs_f64());
                }
                JobEvent::Failed(error) => return Err(error),
                _ => {}
            }
        }

        let now = engine.statistics();
        println!(
            "  uploaded {} bytes, compiled {} kernels and {} networks, found {} compiled; {} MiB in use",
            now.uploaded_bytes - before.uploaded_bytes,
            now.compiled_pipelines - before.compiled_pipelines,
            now.compiled_programs - before.compiled_programs,
            now.hits - before.hits,
            now.allocated_bytes >> 20,
        );
        before = now;
    }
    // What stays can be given up, as when an application goes to the background.
    engine.release();
    println!("released: {} MiB in use", engine.statistics().allocated_bytes >> 20);
    Ok(())
}
