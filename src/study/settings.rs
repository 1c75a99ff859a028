//! What a study draws, and whether a folder's pictures belong to it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::write_file;
use crate::pipeline::{OmsRequest, PromptSyntax, Request};
use crate::{Error, Result, files};

/// Everything that decides a study's pictures, but for the device. Kept in the folder as `study.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The model's name.
    pub model: String,
    /// The OMS module's name.
    pub oms: String,
    /// The prompts of the distributions, one or more.
    pub prompts: Vec<String>,
    /// Pictures of each prompt, without and with OMS.
    pub count: usize,
    /// Picture i of prompt p has this plus p·count + i, so that no two pictures of one side share their noise.
    pub seed: u64,
    /// What to steer away from.
    pub negative_prompt: String,
    /// Pixels across; the model's own when `None`.
    pub width: Option<usize>,
    /// Pixels down; the model's own when `None`.
    pub height: Option<usize>,
    /// Steps of the solver.
    pub steps: usize,
    /// ω_θ.
    pub guidance_scale: f64,
    /// The solver; the model's own when `None`.
    pub sampler: Option<String>,
    /// Where σ lie; the model's own way when `None`.
    pub sigmas: Option<String>,
    /// η; the solver's own default when `None`.
    pub eta: Option<f64>,
    /// ω_ψ.
    pub oms_guidance_scale: f64,
    /// C_θ of each row of the grids.
    pub grid_prompts: Vec<String>,
    /// C_ψ of each column of the first grid (the paper's Figure 7); no grid when empty.
    pub oms_prompts: Vec<String>,
    /// ω_ψ of each column of the second grid (Figure 8); no grid when empty.
    pub oms_guidance_scales: Vec<f64>,
    /// How weights are stored, as [`WeightTypes`](crate::pipeline::WeightTypes) are written.
    #[serde(default = "auto")]
    pub weights: String,
}

/// The weights of studies from before there was a choice.
fn auto() -> String {
    "auto".into()
}

/// The name of a study's settings in its folder.
const FILE: &str = "study.json";
/// With its prompts, which are bounded themselves.
const MAX_BYTES: u64 = 256 << 20;
/// A study of more prompts is a mistake in the file's name, or wants several folders.
const MAX_PROMPTS: usize = 100_000;

/// The prompts in a text: one a line; empty lines and those that begin with `#` are left out.
///
/// # Errors
/// When there is none, or more than 100 000.
pub fn parse_prompts(text: &str) -> Result<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let prompts: Vec<String> = lines.map(str::to_owned).collect();
    if !(1..=MAX_PROMPTS).contains(&prompts.len()) {
        return Err(Error::request(
            "prompts",
            format!(
                "expected 1 to {MAX_PROMPTS}, one a line, got {} (empty lines and lines with # do not count)",
                prompts.len()
            ),
        ));
    }
    Ok(prompts)
}

impl Settings {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let Some(first) = self.prompts.first() else {
            return Err(Error::request("prompts", "expected one at least"));
        };
        if !(1..=10_000).contains(&self.count) {
            return Err(Error::request("count", format!("expected 1 to 10000, got {}", self.count)));
        }
        if let Some(bad) = self.oms_guidance_scales.iter().find(|w| !(0.0..=100.0).contains(*w)) {
            return Err(Error::request("oms-guidances", format!("expected numbers from 0 to 100, got {bad}")));
        }
        self.request(first, self.seed, 1, Some(self.module())).validate()
    }

    /// A request for `count` pictures of one prompt, without OMS or with it.
    pub(super) fn request(&self, prompt: &str, seed: u64, count: usize, oms: Option<OmsRequest>) -> Request {
        Request {
            prompt: prompt.to_owned(),
            negative_prompt: Some(self.negative_prompt.clone()).filter(|text| !text.is_empty()),
            width: self.width,
            height: self.height,
            num_inference_steps: self.steps,
            guidance_scale: self.guidance_scale,
            // Written by a solver's own Display, or checked when it was parsed.
            sampler: self.sampler.as_ref().and_then(|name| name.parse().ok()),
            sigmas: self.sigmas.as_ref().and_then(|name| name.parse().ok()),
            eta: self.eta,
            prompt_syntax: PromptSyntax::A1111,
            seed,
            count,
            oms,
            ..Request::default()
        }
    }

    /// One More Step as the distributions use it.
    pub(super) fn module(&self) -> OmsRequest {
        OmsRequest { guidance_scale: self.oms_guidance_scale, ..OmsRequest::default() }
    }

    /// Makes the folder this study's: writes `study.json` there, or compares with the one that is there.
    ///
    /// # Errors
    /// When the folder cannot be written, holds other files, or belongs to a study with other settings: the first that differs is named with
    /// both values.
    pub(super) fn claim(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let path = folder.join(FILE);
        if self.compare(folder)? {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON") + "\n";
        write_file(&path, text.as_bytes(), false)
    }

    /// Whether the folder has settings, which then are these.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), but nothing is written.
    pub(super) fn compare(&self, folder: &Path) -> Result<bool> {
        let path = folder.join(FILE);
        if !path.exists() {
            return refuse_others_files(folder).map(|()| false);
        }
        let text = files::read_text(&path, MAX_BYTES, "a study's settings")?;
        let there: Settings = serde_json::from_str(&text).map_err(|e| {
            Error::refused(format!("{}: not the settings of a study: {e}; choose another folder", path.display()))
        })?;
        let value = |settings: &Settings| serde_json::to_value(settings).expect("strings and numbers are JSON");
        match difference("", &value(&there), &value(self)) {
            None => Ok(true),
            Some((name, old, new)) => Err(Error::refused(format!(
                "{}: {name}: the folder's study has {old}, this one {new}; choose another folder, or the same settings to go on",
                path.display()
            ))),
        }
    }
}

/// # Errors
/// When a folder without settings holds something: a report written there could replace somebody's file.
fn refuse_others_files(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            return Err(Error::refused(format!(
                "{}: expected an empty folder or one with a {FILE}, found {}; choose another",
                folder.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

/// The first place where two JSON values differ, with both.
fn difference(at: &str, old: &Value, new: &Value) -> Option<(String, String, String)> {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().find_map(|(key, value)| difference(key, value, b.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(a), Value::Array(b)) => {
            let unequal = a.iter().zip(b).enumerate();
            let inside = unequal.filter_map(|(i, (x, y))| difference(&format!("{at}[{i}]"), x, y)).next();
            let length = || (a.len() != b.len()).then(|| (at.to_owned(), of(a.len()), of(b.len())));
            inside.or_else(length)
        }
        _ => (old != new).then(|| (at.to_owned(), old.to_string(), new.to_string())),
    }
}

fn of(entries: usize) -> String {
    format!("{entries} entries")
}
