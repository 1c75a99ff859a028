//! The progress bar: stage, step, time left.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::shown::shown;
use crate::pipeline::Event;

/// A bar on standard error, hidden when that is not a terminal or the caller wants quiet.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(units: u64, hidden: bool) -> Self {
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(units), target);
        let style = ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len}  {elapsed} passed, {eta} left")
            .expect("the template is valid");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message("text encoder");
        Progress { bar }
    }

    pub(super) fn show(&self, event: &Event) {
        let message = match event {
            Event::Encoded => "text encoded".into(),
            Event::OneMoreStep { image } => format!("picture {}: one more step", image + 1),
            Event::Step { image, step, of } => format!("picture {}: step {step} of {of}", image + 1),
            Event::Enlarged { image } => format!("picture {}: enlarged", image + 1),
            Event::Picture(picture) => format!("seed {}: decoded", picture.seed),
        };
        self.bar.set_message(message);
        self.bar.inc(1);
    }

    /// A line above the bar, or on standard error without one.
    pub(super) fn say(&self, line: &str) {
        let line = shown(line);
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line.as_ref());
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
