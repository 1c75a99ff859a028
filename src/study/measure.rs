//! Pictures → means, distances, and small pictures for the sheets.

use std::path::Path;

use serde_json::{Value, json};

use super::job::{Form, Job, jobs};
use super::{Reference, Settings, mean_and_deviation, wasserstein_1};
use crate::image::{Rgb8Image, read_png};
use crate::{Error, Result};

/// Prompts on the sheet of pairs: the first of the file, without choice.
const PAIRS: usize = 40;
/// Sides of the sheets' pictures, in pixels.
const PAIR_SIDE: usize = 84;
const GRID_SIDE: usize = 112;

/// The means of one picture, 0 to 255.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Index of the prompt.
    pub prompt: usize,
    /// Its seed.
    pub seed: u64,
    /// Whether it was drawn with OMS.
    pub oms: bool,
    /// Of all values.
    pub mean: f64,
    /// Of red, green and blue.
    pub channels: [f64; 3],
}

/// One distribution of means.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Each picture's.
    pub means: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Wasserstein-1 distance to the reference's, 0 to 255.
    pub distance: Option<f64>,
}

impl Side {
    fn new(means: Vec<f64>, reference: Option<&Reference>) -> Result<Side> {
        let (mean, deviation) = mean_and_deviation(&means).ok_or_else(|| Error::shape("study", "no means"))?;
        let distance = reference.map(|r| wasserstein_1(&means, &r.means)).transpose()?;
        Ok(Side { means, mean, deviation, distance })
    }

    fn json(&self) -> Value {
        json!({
            "pictures": self.means.len(), "mean_255": self.mean, "deviation_255": self.deviation,
            "wasserstein_to_reference_255": self.distance,
        })
    }
}

/// All that a report is made of.
pub struct Measured {
    /// Every picture of the distributions.
    pub rows: Vec<Row>,
    /// Without OMS.
    pub without: Side,
    /// With OMS.
    pub with: Side,
    /// The reference itself.
    pub reference: Option<Side>,
    /// Wasserstein-1 distance between without and with, 0 to 255.
    pub between: f64,
    /// First seed of the first prompts: prompt, without, with; reduced.
    pub(super) pairs: Vec<(usize, [Rgb8Image; 2])>,
    /// The grids' pictures by row and column, reduced: without OMS, each OMS prompt, each OMS guidance.
    pub(super) grid: Vec<Vec<(Form, Rgb8Image)>>,
}

impl Measured {
    /// Reads every picture of a study.
    pub(super) fn read(settings: &Settings, folder: &Path, reference: Option<&Reference>) -> Result<Measured> {
        let mut rows = Vec::new();
        let mut first = Vec::new();
        let mut grid: Vec<Vec<(Form, Rgb8Image)>> = settings.grid_prompts.iter().map(|_| Vec::new()).collect();
        for job in jobs(settings) {
            let path = job.path(folder);
            let picture = read_png(&path)?;
            let Job { prompt, seed, form } = job;
            match form {
                Form::Without | Form::With => {
                    let channels = picture.channel_means().map(|m| m * 255.0);
                    rows.push(Row { prompt, seed, oms: form == Form::With, mean: picture.mean() * 255.0, channels });
                    let is_first = seed == settings.seed.wrapping_add((prompt * settings.count) as u64);
                    if is_first && prompt < PAIRS {
                        first.push(picture.shrunk(PAIR_SIDE, PAIR_SIDE)?);
                    }
                }
                _ => grid[prompt].push((form, picture.shrunk(GRID_SIDE, GRID_SIDE)?)),
            }
        }
        // Without comes before with for each prompt.
        let mut first = first.into_iter();
        let pairs = std::iter::from_fn(|| Some([first.next()?, first.next()?])).enumerate().collect();
        let side = |oms| Side::new(rows.iter().filter(|r| r.oms == oms).map(|r| r.mean).collect(), reference);
        let (without, with) = (side(false)?, side(true)?);
        let between = wasserstein_1(&without.means, &with.means)?;
        let reference = reference.map(|r| Side::new(r.means.clone(), None)).transpose()?;
        Ok(Measured { rows, without, with, reference, between, pairs, grid })
    }

    /// The average over a prompt's pictures of each channel, without or with OMS: the "average pixel" of the paper's Figure 1.
    pub fn average_pixel(&self, prompt: usize, oms: bool) -> Option<[f64; 3]> {
        let rows: Vec<&Row> = self.rows.iter().filter(|r| r.prompt == prompt && r.oms == oms).collect();
        (!rows.is_empty())
            .then(|| [0, 1, 2].map(|c| rows.iter().map(|r| r.channels[c]).sum::<f64>() / rows.len() as f64))
    }

    /// The distributions' numbers.
    pub fn summary(&self) -> Value {
        json!({
            "without": self.without.json(), "with": self.with.json(), "reference": self.reference.as_ref().map(Side::json),
            "wasserstein_between_255": self.between,
        })
    }

    /// `means.csv`: a line for each picture.
    pub(super) fn csv(&self, settings: &Settings) -> String {
        let mut text = String::from("prompt,seed,oms,mean_255,red_255,green_255,blue_255\n");
        for row in &self.rows {
            let prompt = settings.prompts[row.prompt].replace('"', "\"\"");
            let [red, green, blue] = row.channels;
            text += &format!(
                "\"{prompt}\",{},{},{:.3},{red:.3},{green:.3},{blue:.3}\n",
                row.seed,
                u8::from(row.oms),
                row.mean
            );
        }
        text
    }
}
