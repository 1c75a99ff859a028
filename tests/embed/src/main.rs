//! MODEL PROMPT: one picture of a model's folder or file, written to picture.png. What a program links that embeds the library and no more.

use std::path::Path;

use chiaro::image::write_png;
use chiaro::{Device, Event, Pipeline, Precision, Request, Result, Source};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (model, prompt) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let device = Device::choose("auto", Precision::Auto)?;
    let pipeline = Pipeline::load(&Source::at(model)?, None, device)?;
    for event in pipeline.generate(Request { prompt, ..Request::default() })? {
        match event? {
            Event::Step { step, of, .. } => println!("step {step} of {of}"),
            Event::Picture(picture) => {
                write_png(Path::new("picture.png"), &picture.image, &picture.text_chunks(), true)?;
            }
            _ => {}
        }
    }
    Ok(())
}
