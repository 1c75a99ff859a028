//! `chiaro generate`, and the command without a name.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::compose::Order;
use super::progress::Progress;
use super::{GenerateArgs, ShowArg, output, print_json, print_line, show};
use crate::Result;
use crate::image::{Rgb8Image, side_by_side, write_png};
use crate::pipeline::{AdapterReport, Event, Generation, Picture, Pipeline, Request};

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let started = Instant::now();
    let order = Order::read(args)?;
    let request = order.request.clone();
    let files = output::choose(args.output.as_deref(), &request.prompt, request.count, args.overwrite)?;
    let (pipeline, too_large) = order.model.open(&request)?;
    let runs: Vec<Request> =
        if args.compare { vec![Request { oms: None, ..request.clone() }, request] } else { vec![request] };
    let units = runs.iter().map(|r| pipeline.units(r)).sum();
    let progress = Progress::new(units, args.quiet || args.model.json);
    progress.say(&format!("{} on {}", order.model.source()?, pipeline.device().describe()));
    for remark in pipeline.device().remarks() {
        progress.say(remark);
    }
    for tried in too_large {
        progress.say(&format!("--vram: {tried}"));
    }
    for (stage, bands) in pipeline.plan(&order.request)?.iter().filter_map(|s| Some((s.name, s.bands.as_ref()?))) {
        progress.say(&format!("{stage}: {bands}"));
    }
    for adapter in pipeline.adapters() {
        progress.say(&adapter.summary());
    }
    for difference in order.differences(&pipeline)? {
        progress.say(&format!("warning: {difference}"));
    }
    let mut drawn = Vec::new();
    for (index, run) in runs.into_iter().enumerate() {
        let previews = args.model.preview.map(|every| Previews { every: every.into(), files: &files });
        drawn.push(draw(&pipeline, run, &progress, previews, index == 0)?);
    }
    progress.finish();
    let mut saved = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let pictures: Vec<&Picture> = drawn.iter().map(|set| &set[i]).collect();
        let image = compose(&pictures)?;
        save(file, &image, &pictures, args.overwrite)?;
        if args.model.preview.is_some() {
            // It may never have been there: with few steps nothing is shown.
            let _ = std::fs::remove_file(preview_of(file));
        }
        saved.push((file.clone(), pictures));
    }
    report(args, &pipeline, &saved, started)
}

/// When pictures are shown as they stand, and beside which files.
struct Previews<'a> {
    every: usize,
    files: &'a [PathBuf],
}

impl Previews<'_> {
    fn show(&self, generation: &mut Generation<'_>, event: &Event, batch: usize) -> Result<()> {
        let &Event::Step { image, step, of } = event else { return Ok(()) };
        if !step.is_multiple_of(self.every) || step == of {
            return Ok(());
        }
        for image in image / batch * batch..=image {
            if let Some(picture) = generation.preview(image)? {
                write_png(&preview_of(&self.files[image]), &picture, &[], true)?;
            }
        }
        Ok(())
    }
}

/// Where a picture is shown until it is there.
fn preview_of(file: &Path) -> PathBuf {
    file.with_extension("preview.png")
}

/// Runs one request to its end; warnings are said once.
fn draw(
    pipeline: &Pipeline,
    request: Request,
    progress: &Progress,
    previews: Option<Previews<'_>>,
    say: bool,
) -> Result<Vec<Picture>> {
    let batch = request.batch.max(1);
    let mut generation = pipeline.generate(request)?;
    if say {
        for warning in generation.warnings() {
            progress.say(&format!("warning: {warning}"));
        }
    }
    let mut pictures = Vec::new();
    while let Some(event) = generation.next() {
        let event = event?;
        progress.show(&event);
        if let Some(previews) = &previews {
            previews.show(&mut generation, &event, batch)?;
        }
        if let Event::Picture(picture) = event {
            for note in &picture.notes {
                progress.say(&format!("note: {note}"));
            }
            pictures.push(*picture);
        }
    }
    Ok(pictures)
}

fn compose(pictures: &[&Picture]) -> Result<Rgb8Image> {
    match pictures {
        [one] => Ok(one.image.clone()),
        many => side_by_side(&[("without OMS", &many[0].image), ("with OMS", &many[1].image)]),
    }
}

fn save(file: &Path, image: &Rgb8Image, pictures: &[&Picture], overwrite: bool) -> Result<()> {
    // The last picture is the one with OMS; its parameters and the same seed without it are the comparison.
    let picture = pictures[pictures.len() - 1];
    write_png(file, image, &picture.text_chunks(), overwrite)
}

fn report(
    args: &GenerateArgs,
    pipeline: &Pipeline,
    saved: &[(PathBuf, Vec<&Picture>)],
    started: Instant,
) -> Result<()> {
    if args.model.json {
        let list: Vec<_> = saved
            .iter()
            .map(|(file, pictures)| {
                json!({
                    "file": file.display().to_string(), "seed": pictures[0].seed,
                    "width": pictures[0].image.width, "height": pictures[0].image.height,
                    "mean": pictures.iter().map(|p| p.image.mean()).collect::<Vec<_>>(),
                    "parameters": pictures.iter().map(|p| p.parameters.clone()).collect::<Vec<_>>(),
                })
            })
            .collect();
        return print_json(&json!({
            "adapters": pipeline.adapters().iter().map(AdapterReport::to_json).collect::<Vec<_>>(),
            "device": pipeline.device().name(), "device_remarks": pipeline.device().remarks(), "seconds": started.elapsed().as_secs_f64(), "pictures": list,
        }));
    }
    for (file, pictures) in saved {
        let means: Vec<String> = pictures.iter().map(|p| format!("{:.3}", p.image.mean())).collect();
        let means = if args.compare {
            format!("mean {} without OMS, {} with", means[0], means[1])
        } else {
            format!("mean {}", means[0])
        };
        print_line(&format!("{} (seed {}, {means})", file.display(), pictures[0].seed))?;
    }
    if !(args.quiet && args.show == ShowArg::Auto) {
        show::pictures(args.show, &saved.iter().map(|(file, _)| file.as_path()).collect::<Vec<_>>())?;
    }
    if !args.quiet {
        eprintln!("{:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}
