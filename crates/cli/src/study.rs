//! `chiaro study`.

use std::path::Path;

use chiaro::image::check_folder;
use chiaro::order::Order;
use chiaro::pipeline::{Pipeline, Residency};
use chiaro::study::{Reference, Settings, Study, Told, parse_prompts};
use chiaro::{Error, Result, files};
use serde_json::json;

use super::progress::Progress;
use super::{StudyArgs, print_json, print_line, tell_remarks};

/// A prompt a line; anything larger is something else.
const MAX_PROMPTS_BYTES: u64 = 64 << 20;

/// Rows of the grids when --grid-prompts does not name them.
const GRID_ROWS: usize = 3;

pub(super) fn run(args: &StudyArgs) -> Result<()> {
    let Order { load, request, .. } = args.model.order(|_| Ok(()))?;
    let oms = load
        .oms
        .as_ref()
        .ok_or_else(|| Error::refused("study: compares without and with OMS, so it needs a module: add --oms DIR"))?;
    let text = files::read_text(&args.prompts, MAX_PROMPTS_BYTES, "a list of prompts")?;
    if args.model.vram.is_some() {
        return Err(Error::refused(
            "--vram: a study's pictures all have the same weights; name them with --weights, `chiaro plan --vram` says which fit",
        ));
    }
    let prompts = parse_prompts(&text)?;
    let grids = !(args.oms_prompts.is_empty() && args.oms_guidances.is_empty());
    if !grids && !args.grid_prompts.is_empty() {
        return Err(Error::refused("--grid-prompts: has no meaning without --oms-prompts or --oms-guidances"));
    }
    let grid_prompts = match &args.grid_prompts[..] {
        [] if grids => prompts.iter().take(GRID_ROWS).cloned().collect(),
        given => given.to_vec(),
    };
    let settings = Settings {
        model: load.model.to_string(),
        oms: oms.module.to_string(),
        prompts,
        count: args.count,
        seed: args.seed,
        negative_prompt: args.negative.clone(),
        width: request.width,
        height: request.height,
        steps: request.num_inference_steps,
        guidance_scale: request.guidance_scale,
        sampler: request.sampler.map(|kind| kind.to_string()),
        sigmas: request.sigmas.map(|sigmas| sigmas.to_string()),
        eta: args.eta,
        oms_guidance_scale: request.oms.as_ref().map_or(1.0, |oms| oms.guidance_scale),
        grid_prompts,
        oms_prompts: args.oms_prompts.clone(),
        oms_guidance_scales: args.oms_guidances.clone(),
        weights: args.model.weights.unwrap_or_default().to_string(),
    };
    let study = Study::new(&args.output, settings)?;
    let reference = args.reference.as_deref().map(Reference::read).transpose()?;
    if args.dry_run {
        return plan(args, &study, &load.open_lazily(&request)?.0);
    }
    check_folder(&args.output)?;
    let (pipeline, _) = load.open(&request)?;
    if !args.quiet {
        tell_remarks(&pipeline);
    }
    pipeline.device().set_residency(Residency::On);
    draw(args, &study, &pipeline)?;
    let measured = study.report(reference.as_ref(), &command_line())?;
    let report = args.output.join("report.md");
    if args.model.json {
        return print_json(&json!({ "report": report.display().to_string(), "summary": measured.summary() }));
    }
    for (name, side) in [("without OMS", &measured.without), ("with OMS", &measured.with)] {
        let distance = side.distance.map_or(String::new(), |d| format!(", distance to the reference {d:.2}"));
        print_line(&format!("{name}: mean {:.2}, standard deviation {:.2}{distance}", side.mean, side.deviation))?;
    }
    print_line(&format!("distance between them: {:.2} (all 0 to 255)", measured.between))?;
    print_line(&report.display().to_string())
}

/// What is to be done, and how much it is.
fn plan(args: &StudyArgs, study: &Study, pipeline: &Pipeline) -> Result<()> {
    let (all, missing) = study.count()?;
    let flops = study.flops(pipeline)?;
    if args.model.json {
        return print_json(&json!({ "pictures": all, "missing": missing, "flops": flops }));
    }
    print_line(&format!(
        "{all} pictures, {} of them there; {missing} to draw: {:.2} TFLOP on {}",
        all - missing,
        flops as f64 / 1e12,
        pipeline.device().describe()
    ))
}

fn draw(args: &StudyArgs, study: &Study, pipeline: &Pipeline) -> Result<()> {
    let (all, missing) = study.count()?;
    let progress = Progress::new(study.units(pipeline)?, args.quiet, args.model.json);
    progress.say(&format!("{} on {}", study.settings().model, pipeline.device().describe()));
    progress.say(&format!("{all} pictures, {} of them there; {missing} to draw", all - missing));
    let mut estimated = false;
    study.draw(pipeline, &mut |told| match told {
        Told::Unit(event) => progress.show(event),
        Told::Warning(warning) => progress.warn(&warning),
        Told::Note(note) => progress.say(&format!("note: {note}")),
        Told::Saved { left, seconds_each } if left > 0 && !std::mem::replace(&mut estimated, true) => {
            let seconds = left as f64 * seconds_each;
            let time = if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) };
            progress.say(&format!("{seconds_each:.1} s a picture: about {time} for the {left} that are left"));
        }
        _ => {}
    })?;
    progress.finish();
    Ok(())
}

/// The command as it was typed, for the report; words that a shell would split are quoted.
fn command_line() -> String {
    let plain = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./=,:+".contains(c));
    let quote = |word: String| if plain(&word) { word } else { format!("'{}'", word.replace('\'', "'\\''")) };
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_default();
    let program = Path::new(&program).file_stem().map_or("chiaro".into(), |stem| stem.to_string_lossy().into_owned());
    std::iter::once(program).chain(words.map(quote)).collect::<Vec<_>>().join(" ")
}
