//! Many pictures looked at together: what the paper's figures and tables show, measured on a model at hand.
//!
//! A [`Study`] draws every prompt with the same seeds without and with One More Step. Each picture is a file with its parameters, so a study
//! that was stopped goes on where it stood. From the files it writes the means, their distributions and distances (Figure 6, last
//! column of Table 2), the average pixel of each prompt (Figure 1), grids over the module's prompt and guidance (Figures 7 and 8), and a
//! report that shows them.
//!
//! | file | what it does |
//! | --- | --- |
//! | `settings` | what decides the pictures; whether a folder belongs to them |
//! | `job` | the pictures, their names, which are there |
//! | `reference` | means to compare with |
//! | `measure` | pictures → means, distances, small pictures |
//! | `stats` | mean, Wasserstein distance, histogram |
//! | `figures`, `report` | charts and contact sheets; the Markdown page |
//! | `chart`, `raster` | curves on axes, as SVG and as pixels |

mod chart;
mod figures;
mod job;
mod measure;
mod raster;
mod reference;
mod report;
mod settings;
mod stats;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub use chart::{Chart, Curve};
pub use measure::{Measured, Row, Side};
pub use reference::Reference;
pub use settings::{Settings, parse_prompts};
pub use stats::{histogram, mean_and_deviation, wasserstein_1};

use crate::image::{check_names, write_png};
use crate::pipeline::{Event, Pipeline, StagePlan};
use crate::{Error, Result};

/// The most pictures that one request draws. Each is written when it is complete, so that a study that is stopped loses little.
const BATCH: usize = 64;

/// A folder of pictures that belong together.
pub struct Study {
    folder: PathBuf,
    settings: Settings,
}

/// What [`Study::draw`] tells on its way.
#[non_exhaustive]
pub enum Told<'a> {
    /// The pipeline did one unit of work.
    Unit(&'a Event),
    /// A picture is in the folder.
    Saved {
        /// How many are still to be drawn.
        left: usize,
        /// Mean seconds of those drawn now.
        seconds_each: f64,
    },
    /// Something that a user did not ask for.
    Warning(String),
    /// What happened on the way.
    Note(String),
}

impl Study {
    /// A study with these settings in `folder`, which need not exist. Nothing is written.
    ///
    /// # Errors
    /// When the settings are out of range, or the folder belongs to a study with others.
    pub fn new(folder: &Path, settings: Settings) -> Result<Study> {
        settings.validate()?;
        check_names(folder)?;
        if folder.exists() && !folder.is_dir() {
            return Err(Error::refused(format!("{}: expected a folder", folder.display())));
        }
        settings.compare(folder)?;
        Ok(Study { folder: folder.to_owned(), settings })
    }

    /// What it draws.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many pictures it has in all, and how many of them are not there yet.
    ///
    /// # Errors
    /// When a file of a picture's name is something else.
    pub fn count(&self) -> Result<(usize, usize)> {
        Ok((job::jobs(&self.settings).len(), self.missing()?.len()))
    }

    /// Units of work until all pictures are there, for a progress bar.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn units(&self, pipeline: &Pipeline) -> Result<u64> {
        let missing = self.missing()?;
        Ok(job::batches(&missing, BATCH).iter().map(|b| pipeline.units(&b[0].request(&self.settings, b.len()))).sum())
    }

    /// Floating-point operations until all pictures are there.
    ///
    /// # Errors
    /// As [`count`](Self::count), and when the model cannot draw them.
    pub fn flops(&self, pipeline: &Pipeline) -> Result<u64> {
        let one = |form: job::Form| {
            let all = job::jobs(&self.settings);
            let Some(job) = all.iter().find(|job| job.form == form) else { return Ok(0) };
            let plan = pipeline.plan(&job.request(&self.settings, 1))?;
            Ok::<u64, Error>(plan.iter().map(StagePlan::total_flops).sum())
        };
        let (without, with) = (one(job::Form::Without)?, one(job::Form::With)?);
        let plain = |job: &job::Job| matches!(job.form, job::Form::Without | job::Form::GridWithout);
        Ok(self.missing()?.iter().map(|job| if plain(job) { without } else { with }).sum())
    }

    /// Draws the pictures that are not there, each to its own file. `tell` gets what happens.
    ///
    /// # Errors
    /// When the folder cannot be written, or the model fails.
    pub fn draw(&self, pipeline: &Pipeline, tell: &mut dyn FnMut(Told<'_>)) -> Result<()> {
        self.settings.claim(&self.folder)?;
        for name in ["pictures", "grids"] {
            let folder = self.folder.join(name);
            std::fs::create_dir_all(&folder).map_err(|e| Error::io(folder, e))?;
        }
        let missing = self.missing()?;
        let (started, mut drawn, mut warned) = (Instant::now(), 0, false);
        for batch in job::batches(&missing, BATCH) {
            let mut places = batch.iter();
            let generation = pipeline.generate(batch[0].request(&self.settings, batch.len()))?;
            if !std::mem::replace(&mut warned, true) {
                generation.warnings().iter().for_each(|warning| tell(Told::Warning(warning.clone())));
            }
            for event in generation {
                let event = event?;
                tell(Told::Unit(&event));
                if let Event::Picture(picture) = &event {
                    picture.notes.iter().for_each(|note| tell(Told::Note(note.clone())));
                    let job = places.next().expect("a request gives as many pictures as it asks for");
                    write_png(&job.path(&self.folder), &picture.image, &picture.text_chunks(), false)?;
                    drawn += 1;
                    let seconds_each = started.elapsed().as_secs_f64() / drawn as f64;
                    tell(Told::Saved { left: missing.len() - drawn, seconds_each });
                }
            }
        }
        Ok(())
    }

    /// Measures all pictures and writes `means.csv`, `summary.json`, `figures/` and `report.md`; gives what was measured.
    ///
    /// `command` is shown in the report as what made it.
    ///
    /// # Errors
    /// When a picture is missing or cannot be read, or the folder cannot be written.
    pub fn report(&self, reference: Option<&Reference>, command: &str) -> Result<Measured> {
        let measured = Measured::read(&self.settings, &self.folder, reference)?;
        report::write(&self.settings, &self.folder, &measured, reference, command)?;
        Ok(measured)
    }

    fn missing(&self) -> Result<Vec<job::Job>> {
        let mut missing = Vec::new();
        for job in job::jobs(&self.settings) {
            if !job.is_done(&self.settings, &self.folder)? {
                missing.push(job);
            }
        }
        Ok(missing)
    }
}
