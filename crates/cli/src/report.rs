//! What a run says of each picture as soon as it is there, and at its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chiaro::Result;
use chiaro::pipeline::{AdapterReport, Picture, Pipeline, StageTime};
use serde_json::{Value, json};

use super::output::Saved;
use super::progress::Progress;
use super::{GenerateArgs, ShowArg, show, viewer};

/// The report of a run, a line for each picture.
pub(super) struct Report<'a> {
    args: &'a GenerateArgs,
    pipeline: &'a Pipeline,
    progress: &'a Progress,
    /// What a repeated picture says that was not done.
    not_repeated: &'a [String],
    pictures: usize,
    files: Vec<PathBuf>,
    /// Why lines could not be printed. Pictures matter more: the run goes on.
    failed: Result<()>,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        args: &'a GenerateArgs,
        pipeline: &'a Pipeline,
        progress: &'a Progress,
        not_repeated: &'a [String],
    ) -> Self {
        Report { args, pipeline, progress, not_repeated, pictures: 0, files: Vec::new(), failed: Ok(()) }
    }

    /// A picture is where it belongs.
    pub(super) fn add(&mut self, saved: &Saved, pictures: &[Picture]) {
        self.pictures += 1;
        if let Some(remark) = &saved.remark {
            self.progress.warn(remark);
        }
        self.files.extend(saved.file.clone());
        match &saved.file {
            Some(file) if self.args.model.json => self.print(&picture_json(file, pictures).to_string()),
            Some(file) => self.print(&line(&file.display().to_string(), pictures)),
            // The picture itself is there.
            None => self.progress.say(&line("standard output", pictures)),
        }
    }

    fn print(&mut self, line: &str) {
        if self.failed.is_ok() {
            self.failed = self.progress.print(line);
        }
    }

    /// All pictures are there.
    ///
    /// # Errors
    /// When lines could not be printed.
    pub(super) fn end(mut self, passed: Duration, times: Vec<StageTime>) -> Result<()> {
        if self.args.model.json {
            let device = self.pipeline.device();
            let end = json!({
                "event": "done", "pictures": self.pictures, "seconds": passed.as_secs_f64(), "device": device.name(),
                "device_remarks": device.remarks(), "not_repeated": self.not_repeated,
                "stages": times.iter().map(time_json).collect::<Vec<_>>(),
                "adapters": self.pipeline.adapters().iter().map(AdapterReport::to_json).collect::<Vec<_>>(),
            });
            self.print(&end.to_string());
        } else {
            self.progress.say(&format!("{:.1} s", passed.as_secs_f64()));
        }
        if !(self.args.model.json || self.args.quiet && self.args.show == ShowArg::Auto) && self.failed.is_ok() {
            self.failed = show::pictures(self.args.show, &self.files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        }
        if let Some(file) = self.files.first().filter(|_| self.args.open) {
            // The picture is there all the same.
            if let Err(error) = viewer::show(file) {
                self.progress.warn(&format!("--open: {}: {error}", file.display()));
            }
        }
        self.failed
    }
}

/// Where the time of a stage went, in seconds.
fn time_json(time: &StageTime) -> Value {
    json!({
        "stage": time.stage, "runs": time.runs, "opening_seconds": time.opening.as_secs_f64(),
        "running_seconds": time.running.as_secs_f64(), "closing_seconds": time.closing.as_secs_f64(),
    })
}

fn line(file: &str, pictures: &[Picture]) -> String {
    let mean = |picture: &Picture| format!("{:.3}", picture.image.mean());
    let means = match pictures {
        [without, with] => format!("{} without OMS, {} with", mean(without), mean(with)),
        other => other.iter().map(mean).collect::<Vec<_>>().join(", "),
    };
    format!("{file} (seed {}, mean {means})", pictures[0].seed)
}

fn picture_json(file: &Path, pictures: &[Picture]) -> Value {
    json!({
        "event": "picture", "file": file.display().to_string(), "seed": pictures[0].seed,
        "width": pictures[0].image.width, "height": pictures[0].image.height,
        "mean": pictures.iter().map(|p| p.image.mean()).collect::<Vec<_>>(),
        "parameters": pictures.iter().map(|p| p.parameters.clone()).collect::<Vec<_>>(),
    })
}
