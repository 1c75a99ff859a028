//! One picture of the demo model, written as a PNG that says how it was made.
//!
//! ```sh
//! cargo run --release --example one_picture -- "a red circle on a black background"
//! ```

use std::path::Path;
use std::process::ExitCode;

use chiaro::image::write_png;
use chiaro::{Device, Event, OmsSource, Pipeline, Precision, Request, Result, Source};

fn main() -> ExitCode {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a red circle on a black background".into());
    match draw(Request { prompt, ..Request::default() }, Path::new("picture.png")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            // What can be done about it is told apart from the message: an application shows its own options for it.
            for remedy in error.remedies() {
                eprintln!("choose {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

fn draw(request: Request, path: &Path) -> Result<()> {
    // The first GPU that works, else the processor; why others were passed over is in `remarks`.
    let device = Device::choose("auto", Precision::Auto)?;
    for remark in device.remarks() {
        eprintln!("{remark}");
    }
    println!("on {}", device.describe());

    // `Source::at("folder or file")?` is any other model, `None` in place of the module is a model without One More Step.
    let oms = OmsSource::demo();
    let pipeline = Pipeline::load(&Source::DemoModel, Some(&oms), device)?;
    let request = Request { oms: Some(oms.request()), ..request };

    let generation = pipeline.generate(request)?;
    for warning in generation.warnings() {
        eprintln!("{warning}");
    }
    for event in generation {
        match event? {
            Event::Step { step, of, .. } => println!("step {step} of {of}"),
            Event::Picture(picture) => {
                write_png(path, &picture.image, &picture.text_chunks(), true)?;
                println!("{}: seed {}, mean {:.3}", path.display(), picture.seed, picture.image.mean());
            }
            // Events may grow.
            _ => {}
        }
    }
    Ok(())
}
