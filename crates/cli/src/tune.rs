//! `chiaro tune`.

use std::time::Duration;

use chiaro::gpu::choose_adapter;
use chiaro::order::Order;
use chiaro::pipeline::{TunedClass, check_tuning_place, save_tuning, tuning_path};
use chiaro::record::Tuning;
use chiaro::{Error, Result};
use serde_json::json;

use super::{TuneArgs, print_json, print_line, print_lines, tell_remarks};

pub(super) fn run(args: &TuneArgs) -> Result<()> {
    let name = &args.model.device;
    let wanted = (!name.eq_ignore_ascii_case("auto")).then_some(name.as_str());
    let adapter = if name.eq_ignore_ascii_case("cpu") { None } else { choose_adapter(wanted)? };
    let adapter = adapter.ok_or_else(|| {
        Error::refused(format!(
            "tune: expected a GPU, --device {name} means the processor here, which has no tiles to choose; `chiaro devices` lists what there is"
        ))
    })?;
    if args.clear {
        let path = tuning_path(&adapter);
        return match path.map(|path| (std::fs::remove_file(&path), path)) {
            Some((Ok(()), path)) => print_line(&format!("{}: removed", path.display())),
            Some((Err(error), path)) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, error)),
            _ => print_line("Nothing was kept for this device."),
        };
    }
    check_tuning_place(&adapter)?;
    let Order { load, request, .. } = args.model.order(|job| args.shortcuts.put(&mut job.request))?;
    let (pipeline, _) = load.open_lazily(&request)?;
    tell_remarks(&pipeline);
    // What is there already holds for other models: it stays, but for what is measured again.
    let known = if args.fresh { Tuning::default() } else { pipeline.device().tuning().clone() };
    let human = !args.model.json;
    if human {
        print_line(&format!("{}, {} storage", pipeline.device().name(), pipeline.device().storage_name()))?;
    }
    let mut failed = None;
    let (tuning, report) = pipeline.tune(&request, &known, Duration::from_secs(args.budget), |class| {
        if human && failed.is_none() {
            failed = print_lines(&line(class)).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let path = save_tuning(&adapter, &tuning)?;
    if args.model.json {
        let classes: Vec<_> = report
            .classes
            .iter()
            .map(|c| {
                json!({
                    "class": c.class, "flops": c.flops, "tried": c.tried,
                    "reasoned": { "tile": c.reasoned.0, "seconds": c.reasoned.1 },
                    "fastest": { "tile": c.fastest.0, "seconds": c.fastest.1 },
                    "refused": c.refused.iter().map(|(tile, why)| json!({ "tile": tile, "why": why })).collect::<Vec<_>>(),
                })
            })
            .collect();
        return print_json(&json!({
            "device": pipeline.device().name(), "storage": pipeline.device().storage_name(), "file": path.display().to_string(),
            "classes": classes, "left": report.left, "kept": tuning.len(),
        }));
    }
    let gained = report.classes.iter().filter(|c| c.fastest.0 != c.reasoned.0).count();
    print_line(&format!(
        "{} classes of products measured, {gained} of them with a faster tile than the reasoned one. Kept in {}.",
        report.classes.len(),
        path.display()
    ))?;
    if report.left > 0 {
        print_line(&format!(
            "{} classes were left when the {} s were over: --budget gives more.",
            report.left, args.budget
        ))?;
    }
    Ok(())
}

fn line(class: &TunedClass) -> String {
    let (tile, seconds) = &class.fastest;
    let found = match class.reasoned.0 == *tile {
        true => format!("{tile}: {:.3} ms, as reasoned", seconds * 1e3),
        false => {
            let (before, was) = &class.reasoned;
            format!("{tile}: {:.3} ms, {:.2} of {before}", seconds * 1e3, seconds / was)
        }
    };
    let refused = class.refused.iter().map(|(tile, why)| format!("\n  refused {tile}: {why}"));
    format!("{:<36} {found} ({} tried){}", class.class, class.tried, refused.collect::<String>())
}
