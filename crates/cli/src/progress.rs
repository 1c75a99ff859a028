//! What is said on standard error: the progress bar (stage, step, time left) and lines. Nobody need be reading.

use std::io::Write;
use std::time::Duration;

use chiaro::Result;
use chiaro::pipeline::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print_line;
use super::shown::shown;

/// A line on standard error. Where that is closed or full the line is lost, and nothing else.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", shown(line));
}

/// A bar on standard error, hidden when that is not a terminal or the caller wants quiet.
pub(super) struct Progress {
    bar: ProgressBar,
    quiet: bool,
}

impl Progress {
    /// `quiet` leaves out everything but warnings, `hidden` the bar alone.
    pub(super) fn new(units: u64, quiet: bool, hidden: bool) -> Self {
        let target = if quiet || hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(units), target);
        let style = ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len}  {elapsed} passed, {eta} left")
            .expect("the template is valid");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar.set_message("text encoder");
        Progress { bar, quiet }
    }

    pub(super) fn show(&self, event: &Event) {
        let message = match event {
            Event::Encoded => "text encoded".into(),
            Event::OneMoreStep { image } => format!("picture {}: one more step", image + 1),
            Event::Step { image, step, of } => format!("picture {}: step {step} of {of}", image + 1),
            Event::Enlarged { image } => format!("picture {}: enlarged", image + 1),
            Event::Picture(picture) => format!("seed {}: decoded", picture.seed),
            _ => return self.bar.inc(1),
        };
        self.bar.set_message(message);
        self.bar.inc(1);
    }

    /// Something worth knowing: a line above the bar, or on standard error without one; nothing under quiet.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            self.line(line);
        }
    }

    /// Something that a user did not ask for: told under quiet, too.
    pub(super) fn warn(&self, line: &str) {
        self.line(&format!("warning: {line}"));
    }

    /// A line that is told under quiet, too.
    pub(super) fn line(&self, line: &str) {
        let line = shown(line);
        if self.bar.is_hidden() {
            tell(&line);
        } else {
            self.bar.println(line.as_ref());
        }
    }

    /// A line on standard output.
    pub(super) fn print(&self, line: &str) -> Result<()> {
        self.bar.suspend(|| print_line(line))
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
