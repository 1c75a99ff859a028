//! `chiaro generate`, and the command without a name.

use std::collections::VecDeque;
use std::time::Instant;

use chiaro::Result;
use chiaro::image::{Rgb8Image, side_by_side};
use chiaro::order::{Order, with_options};
use chiaro::pipeline::{Event, Generation, Picture, Pipeline, Request, Residency, TooLarge};

use super::output::Output;
use super::preview::Previews;
use super::progress::Progress;
use super::remedies::worded;
use super::report::Report;
use super::{GenerateArgs, interrupt, print_text, shown};

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let started = Instant::now();
    let job = args.job()?;
    if args.print_job {
        return print_text(&format!("{}\n", shown::shown_json(&job.to_json())));
    }
    let order = args.order(job)?;
    let request = order.request.clone();
    let mut output = Output::choose(args, &request.prompt, request.count)?;
    let (pipeline, too_large) = order.load.open(&request)?;
    let mut runs = Vec::new();
    if args.compare {
        runs.push(Request { oms: None, ..request.clone() });
    }
    let count = request.count;
    runs.push(request);
    // A single request that runs each network once takes the least memory; others find their networks where they left them.
    if runs.len() > 1 || count > order.request.batch || order.request.hires.is_some() {
        pipeline.device().set_residency(Residency::On);
    }
    let units = runs.iter().map(|r| pipeline.units(r)).sum();
    let progress = Progress::new(units, args.quiet, args.model.json);
    tell_beginning(args, &order, &pipeline, &too_large, &progress)?;
    let mut runs = runs.into_iter().map(|request| Run::new(&pipeline, request)).collect::<Result<Vec<_>>>()?;
    tell_warnings(&runs, &progress);

    interrupt::tidy_up_when_ended();
    let mut previews = args.model.preview.map(|every| Previews::new(every, order.request.batch));
    let mut report = Report::new(args, &pipeline, &progress, &order.not_repeated);
    let mut index = 0;
    while index < count {
        let alone = runs.len() == 1;
        for run in &mut runs {
            run.draw(alone, &progress, |generation, event| match &mut previews {
                Some(previews) => previews.show(generation, event, &mut output, &progress),
                None => Ok(()),
            })?;
        }
        while let Some(pictures) = take_each(&mut runs) {
            let last = &pictures[pictures.len() - 1];
            let saved = output.save(index, &*compose(&pictures)?, &last.text_chunks())?;
            if let Some(previews) = &mut previews {
                previews.remove(index);
            }
            report.add(&saved, &pictures);
            index += 1;
        }
    }
    progress.finish();
    let times = runs.iter().flat_map(|run| run.generation.times()).collect();
    report.end(started.elapsed(), times)
}

/// One request under way, and what it has drawn that is not saved.
struct Run {
    generation: Generation,
    drawn: VecDeque<Picture>,
}

impl Run {
    fn new(pipeline: &Pipeline, request: Request) -> Result<Self> {
        Ok(Run { generation: pipeline.generate(request)?, drawn: VecDeque::new() })
    }

    /// Draws the next picture; where the request is not `alone`, all of its group, after which the device is free for another.
    fn draw(
        &mut self,
        alone: bool,
        progress: &Progress,
        mut show: impl FnMut(&mut Generation, &Event) -> Result<()>,
    ) -> Result<()> {
        let before = self.drawn.len();
        while let Some(event) = self.generation.next() {
            let event = event?;
            progress.show(&event);
            show(&mut self.generation, &event)?;
            if let Event::Picture(picture) = event {
                for note in &picture.notes {
                    progress.say(&format!("note: {note}"));
                }
                self.drawn.push_back(*picture);
            }
            if self.drawn.len() > before && (alone || self.generation.is_idle()) {
                break;
            }
        }
        Ok(())
    }
}

/// The next picture of each run, if all have one.
fn take_each(runs: &mut [Run]) -> Option<Vec<Picture>> {
    if runs.iter().any(|run| run.drawn.is_empty()) {
        return None;
    }
    Some(runs.iter_mut().filter_map(|run| run.drawn.pop_front()).collect())
}

fn compose(pictures: &[Picture]) -> Result<std::borrow::Cow<'_, Rgb8Image>> {
    use std::borrow::Cow;
    match pictures {
        [one] => Ok(Cow::Borrowed(&one.image)),
        // The last picture is the one with OMS; its parameters and the same seed without it are the comparison.
        many => side_by_side(&[("without OMS", &many[0].image), ("with OMS", &many[1].image)]).map(Cow::Owned),
    }
}

/// What is known before anything is drawn.
fn tell_beginning(
    args: &GenerateArgs,
    order: &Order,
    pipeline: &Pipeline,
    too_large: &[TooLarge],
    progress: &Progress,
) -> Result<()> {
    progress.say(&format!("{} on {}", order.load.model, pipeline.device().describe()));
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
    for note in &order.notes {
        progress.say(&format!("note: {}", with_options(note)));
    }
    if !order.not_repeated.is_empty() {
        progress.line(&with_options(&format!("not repeated: {}", order.not_repeated.join(", "))));
    }
    for difference in order.differences(pipeline)? {
        progress.warn(&with_options(&difference));
    }
    for idle in args.without_effect(order) {
        progress.warn(&idle);
    }
    Ok(())
}

/// Warnings of all runs, each said once.
fn tell_warnings(runs: &[Run], progress: &Progress) {
    let mut said: Vec<&String> = Vec::new();
    for warning in runs.iter().flat_map(|run| run.generation.warnings()) {
        if !said.contains(&warning) {
            progress.warn(&worded(warning));
            said.push(warning);
        }
    }
}
