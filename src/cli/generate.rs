//! `chiaro generate`, and the command without a name.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::args::Pair;
use super::progress::Progress;
use super::{GenerateArgs, output, print_json, print_line};
use crate::image::{Rgb8Image, side_by_side, write_png};
use crate::pipeline::{Event, OmsRequest, Picture, Pipeline, Request};
use crate::sampling::OmsForm;
use crate::{Error, Result};

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let started = Instant::now();
    let oms = args.model.oms_source()?;
    refuse_unused_oms_options(args, oms.is_some())?;
    let request = request(args, oms.is_some())?;
    request.validate()?;
    let files = output::choose(args.output.as_deref(), &args.prompt, args.count, args.overwrite)?;
    let pipeline = args.model.open()?;
    let runs: Vec<Request> =
        if args.compare { vec![Request { oms: None, ..request.clone() }, request] } else { vec![request] };
    let units = runs.iter().map(|r| pipeline.units(r)).sum();
    let progress = Progress::new(units, args.quiet || args.model.json);
    progress.say(&format!("{} on {}", args.model.source(), pipeline.device().describe()));
    let mut drawn = Vec::new();
    for (index, run) in runs.into_iter().enumerate() {
        drawn.push(draw(&pipeline, run, &progress, index == 0)?);
    }
    progress.finish();
    let mut saved = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let pictures: Vec<&Picture> = drawn.iter().map(|set| &set[i]).collect();
        let image = compose(&pictures)?;
        save(file, &image, &pictures, args.overwrite)?;
        saved.push((file.clone(), pictures));
    }
    report(args, &pipeline, &saved, started)
}

fn refuse_unused_oms_options(args: &GenerateArgs, has_oms: bool) -> Result<()> {
    if has_oms {
        return Ok(());
    }
    let unused = [
        ("--compare", args.compare),
        ("--oms-prompt", args.oms_prompt.is_some()),
        ("--oms-negative", !args.oms_negative.is_empty()),
        ("--oms-compat", args.oms_compat),
    ];
    match unused.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            Err(Error::Request(format!("{option}: needs a module, add --oms DIR (or --oms demo with the demo model)")))
        }
        None => Ok(()),
    }
}

fn request(args: &GenerateArgs, has_oms: bool) -> Result<Request> {
    let form = if args.oms_compat { OmsForm::Official } else { OmsForm::default() };
    let guidance_scale = args.model.oms_guidance()?;
    Ok(Request {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative.clone(),
        prompt_2: args.prompt_2.clone(),
        negative_prompt_2: args.negative_2.clone(),
        original_size: args.original_size.map(Pair::down_across),
        crops_coords_top_left: args.crop.map_or((0, 0), Pair::down_across),
        target_size: args.target_size.map(Pair::down_across),
        prompt_syntax: args.reading.prompt_syntax,
        comma_backtrack: args.reading.comma_backtrack,
        clip_skip: usize::from(args.clip_skip) - 1,
        eta: args.eta,
        seed: args.seed,
        count: args.count,
        oms: has_oms.then(|| OmsRequest {
            prompt: args.oms_prompt.clone(),
            negative_prompt: args.oms_negative.clone(),
            guidance_scale,
            form,
        }),
        ..args.model.request()
    })
}

/// Runs one request to its end; warnings are said once.
fn draw(pipeline: &Pipeline, request: Request, progress: &Progress, say: bool) -> Result<Vec<Picture>> {
    let generation = pipeline.generate(request)?;
    if say {
        for warning in generation.warnings() {
            progress.say(&format!("warning: {warning}"));
        }
    }
    let mut pictures = Vec::new();
    for event in generation {
        let event = event?;
        progress.show(&event);
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
                    "file": file, "seed": pictures[0].seed,
                    "width": pictures[0].image.width, "height": pictures[0].image.height,
                    "mean": pictures.iter().map(|p| p.image.mean()).collect::<Vec<_>>(),
                    "parameters": pictures.iter().map(|p| p.parameters.clone()).collect::<Vec<_>>(),
                })
            })
            .collect();
        return print_json(&json!({
            "device": pipeline.device().name(), "seconds": started.elapsed().as_secs_f64(), "pictures": list,
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
    if !args.quiet {
        eprintln!("{:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}
