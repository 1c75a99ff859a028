//! A model of your own, a folder in the diffusers layout or a single file, and a LoRA that is switched on and off.
//!
//! ```sh
//! cargo run --release --example own_model -- "a red fox" ./dreamshaper.safetensors
//! cargo run --release --example own_model -- "a red fox" ./dreamshaper.safetensors ./style.safetensors 0.8
//! ```
//!
//! Writes plain.png and, with a LoRA, adapted.png of the same seed; then plain.png's pixels once more, to see that they are the same.

use std::path::Path;

use chiaro::engine::{Engine, ModelKey, Residency};
use chiaro::image::{Rgb8Image, write_png};
use chiaro::lookup::Places;
use chiaro::options::Adapter;
use chiaro::{Device, Event, Pipeline, Precision, Request, Source};

/// Errors of this program and of the library.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [prompt, model, adapter @ ..] = &words[..] else {
        return Err("expected: PROMPT MODEL [LORA [WEIGHT]]".into());
    };

    let engine = Engine::new(Device::choose("auto", Precision::Auto)?, Residency::On);
    // A path, or a name that `chiaro models` lists.
    let key = ModelKey::new(Source::at(Places::from_env().find(model)?)?);
    let plain = engine.load(&key)?;
    println!("{} on {}", plain.label(), engine.device().describe());

    let request = Request { prompt: prompt.clone(), ..Request::default() };
    // What the request needs at its peak is known before anything runs.
    let peak = plain.plan(&request)?.iter().map(|stage| stage.peak_bytes()).max().unwrap_or(0);
    println!("{:?} pixels, {} MiB at the peak", plain.size(&request)?, peak >> 20);
    let first = draw(&plain, request.clone(), "plain.png")?;

    let [path, weight @ ..] = adapter else { return Ok(()) };
    let weight: f64 = match weight.first() {
        Some(word) => word.parse().map_err(|_| format!("WEIGHT: expected a number, got {word}"))?,
        None => 1.0,
    };
    let adapter = Adapter { path: path.into(), weight, text_encoder_weight: None };

    // The same networks but for the tensors that the LoRA changes: those alone are uploaded.
    let before = engine.statistics().uploaded_bytes;
    let adapted = plain.with_adapters(&[adapter])?;
    for report in adapted.adapters() {
        println!("{}", report.summary());
    }
    let second = draw(&adapted, request.clone(), "adapted.png")?;
    println!("uploaded {} KiB for it", (engine.statistics().uploaded_bytes - before) >> 10);
    println!("the LoRA changes the picture: {}", first != second);

    // Off again: the plain model was there all the time. An application with many of them asks `engine.load` for keys that differ in
    // `overrides.adapters`, which does the same and remembers the last eight.
    let before = engine.statistics().uploaded_bytes;
    let third = draw(&plain, request, "plain.png")?;
    println!(
        "the same as before: {}, uploaded {} KiB",
        first == third,
        (engine.statistics().uploaded_bytes - before) >> 10
    );
    Ok(())
}

fn draw(pipeline: &Pipeline, request: Request, name: &str) -> Result<Rgb8Image> {
    for event in pipeline.generate(request)? {
        if let Event::Picture(picture) = event? {
            write_png(Path::new(name), &picture.image, &picture.text_chunks(), true)?;
            println!("{name}: seed {}", picture.seed);
            return Ok(picture.image);
        }
    }
    Err("expected a picture, the request asked for none".into())
}
