//! The pictures of a study, their names, and which of them are there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Settings;
use crate::image::png_text;
use crate::pipeline::{OmsRequest, Request};
use crate::{Error, Result};

/// How a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Of the distributions, without OMS.
    Without,
    /// Of the distributions, with OMS.
    With,
    /// The first column of both grids: without OMS.
    GridWithout,
    /// Under the OMS prompt of that index.
    GridPrompt(usize),
    /// Under the OMS guidance of that index.
    GridGuidance(usize),
}

/// One picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    /// Index among the prompts, or among the grids' prompts.
    pub(super) prompt: usize,
    pub(super) seed: u64,
    pub(super) form: Form,
}

/// All pictures: those without and with OMS of a prompt next to each other, so that a study that was stopped is balanced; then the grids.
pub(super) fn jobs(settings: &Settings) -> Vec<Job> {
    let mut jobs = Vec::new();
    for prompt in 0..settings.prompts.len() {
        for form in [Form::Without, Form::With] {
            jobs.extend((0..settings.count).map(|i| Job {
                prompt,
                seed: settings.seed.wrapping_add((prompt * settings.count + i) as u64),
                form,
            }));
        }
    }
    for prompt in 0..settings.grid_prompts.len() {
        let seed = settings.seed.wrapping_add(prompt as u64);
        let grids = !(settings.oms_prompts.is_empty() && settings.oms_guidance_scales.is_empty());
        let forms = grids.then_some(Form::GridWithout).into_iter();
        let forms = forms.chain((0..settings.oms_prompts.len()).map(Form::GridPrompt));
        let forms = forms.chain((0..settings.oms_guidance_scales.len()).map(Form::GridGuidance));
        jobs.extend(forms.map(|form| Job { prompt, seed, form }));
    }
    jobs
}

impl Job {
    /// The picture's file.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        let Job { prompt, seed, form } = self;
        match form {
            Form::Without => folder.join(format!("pictures/{prompt:04}-{seed}-without.png")),
            Form::With => folder.join(format!("pictures/{prompt:04}-{seed}-with.png")),
            Form::GridWithout => folder.join(format!("grids/{prompt:02}-without.png")),
            Form::GridPrompt(i) => folder.join(format!("grids/{prompt:02}-prompt-{i:02}.png")),
            Form::GridGuidance(i) => folder.join(format!("grids/{prompt:02}-guidance-{i:02}.png")),
        }
    }

    fn prompt<'s>(&self, settings: &'s Settings) -> &'s str {
        match self.form {
            Form::Without | Form::With => &settings.prompts[self.prompt],
            _ => &settings.grid_prompts[self.prompt],
        }
    }

    fn oms(&self, settings: &Settings) -> Option<OmsRequest> {
        let module = settings.module();
        match self.form {
            Form::Without | Form::GridWithout => None,
            Form::With => Some(module),
            Form::GridPrompt(i) => Some(OmsRequest { prompt: Some(settings.oms_prompts[i].clone()), ..module }),
            Form::GridGuidance(i) => Some(OmsRequest { guidance_scale: settings.oms_guidance_scales[i], ..module }),
        }
    }

    /// A request for this picture and `count - 1` with the seeds after its.
    pub(super) fn request(&self, settings: &Settings, count: usize) -> Request {
        settings.request(self.prompt(settings), self.seed, count, self.oms(settings))
    }

    /// Whether the picture is there, and is what its name says.
    ///
    /// # Errors
    /// When a file of that name is not a picture of this prompt, seed and module.
    pub(super) fn is_done(&self, settings: &Settings, folder: &Path) -> Result<bool> {
        let path = self.path(folder);
        if !path.exists() {
            return Ok(false);
        }
        let foreign = |what: String| {
            Err(Error::refused(format!("{}: {what}; move it away, and the study draws it again", path.display())))
        };
        let texts = png_text(&path)?;
        let parameters = texts.iter().find(|(keyword, _)| keyword == "chiaro").map(|(_, text)| text);
        let Some(Ok(found)) = parameters.map(|text| serde_json::from_str::<Value>(text)) else {
            return foreign("holds no parameters of a picture by chiaro".into());
        };
        let expected = serde_json::to_value(self.request(settings, 1)).unwrap_or_default();
        let Some(fields) = expected.as_object() else { return Ok(false) };
        match fields.iter().find(|(name, value)| found["request"].get(name.as_str()) != Some(*value)) {
            Some((name, value)) => {
                foreign(format!("expected {name} {value}, the picture has {}", found["request"][name]))
            }
            None => Ok(true),
        }
    }

    /// Whether one request can draw `next` right after this.
    fn precedes(&self, next: &Job) -> bool {
        self.prompt == next.prompt && self.form == next.form && self.seed.wrapping_add(1) == next.seed
    }
}

/// Neighbours that one request draws, at most `most` at a time.
pub(super) fn batches(jobs: &[Job], most: usize) -> Vec<&[Job]> {
    jobs.chunk_by(Job::precedes).flat_map(|run| run.chunks(most)).collect()
}
