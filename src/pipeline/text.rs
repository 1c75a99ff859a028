//! Prompts → encoder_hidden_states: every distinct text once per text encoder.

use super::load::TextEncoder;
use super::stage::Stage;
use super::{Device, Pipeline, Request};
use crate::Result;
use crate::models::names;

/// The prompts of a request.
pub(super) struct TextPlan<'p> {
    /// Rows for the UNet: `[negative, prompt]` under guidance, `[prompt]` without.
    unet: Vec<Row<'p>>,
    /// Rows for the OMS module: `["", C_ψ]`, or `[C_ψ]` at ω_ψ = 1; empty without OMS.
    oms: Vec<Row<'p>>,
    warnings: Vec<String>,
}

/// One text, the encoder that reads it, and the layers left out at its end.
#[derive(Clone)]
struct Row<'p> {
    encoder: &'p TextEncoder,
    text: String,
    clip_skip: usize,
}

impl Row<'_> {
    fn same_run(&self, other: &Row<'_>) -> bool {
        std::ptr::eq(self.encoder, other.encoder) && self.clip_skip == other.clip_skip
    }
}

/// Text states of all rows, `[rows, 77, width]` each.
pub(super) struct Encoded {
    unet: Vec<f32>,
    oms: Vec<f32>,
}

impl Encoded {
    pub(super) fn unet(&self) -> &[f32] {
        &self.unet
    }

    pub(super) fn oms(&self) -> &[f32] {
        &self.oms
    }
}

impl<'p> TextPlan<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, request: &Request) -> Self {
        let base = pipeline.text_encoder();
        // diffusers leaves layers out for the prompt alone, not for the negative prompt.
        let mut unet = vec![Row { encoder: base, text: request.prompt.clone(), clip_skip: request.clip_skip }];
        if pipeline.guidance_rows(request) == 2 {
            unet.insert(0, Row { encoder: base, text: request.negative_prompt.clone(), clip_skip: 0 });
        }
        let mut oms = Vec::new();
        if let Some(asked) = &request.oms {
            let encoder = pipeline.oms_text_encoder();
            let prompt = asked.prompt.clone().unwrap_or_else(|| request.prompt.clone());
            let texts = if asked.guided() { vec![String::new(), prompt] } else { vec![prompt] };
            oms.extend(texts.into_iter().map(|text| Row { encoder, text, clip_skip: 0 }));
        }
        let warnings = warnings(unet.iter().chain(&oms));
        TextPlan { unet, oms, warnings }
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The networks that [`encode`](Self::encode) will run, for the plan.
    pub(super) fn stages(&self) -> Vec<Stage<'p>> {
        self.runs().iter().map(|rows| stage(rows)).collect()
    }

    /// Runs the text encoders, one after the other.
    pub(super) fn encode(&self, device: &Device, notes: &mut Vec<String>) -> Result<Encoded> {
        let mut states: Vec<(Row<'p>, Vec<f32>)> = Vec::new();
        for rows in self.runs() {
            let encoded = encode(&rows, device, notes)?;
            states.extend(rows.into_iter().zip(encoded));
        }
        let gather = |rows: &[Row<'p>]| -> Vec<f32> {
            let of = |row: &Row<'p>| states.iter().find(|(r, _)| r.same_run(row) && r.text == row.text);
            rows.iter().filter_map(of).flat_map(|(_, states)| states.iter().copied()).collect()
        };
        Ok(Encoded { unet: gather(&self.unet), oms: gather(&self.oms) })
    }

    /// Distinct rows, those of one encoder and depth together: a module that shares the base's encoder shares its run.
    fn runs(&self) -> Vec<Vec<Row<'p>>> {
        let mut runs: Vec<Vec<Row<'p>>> = Vec::new();
        for row in self.unet.iter().chain(&self.oms) {
            match runs.iter_mut().find(|run| run[0].same_run(row)) {
                Some(run) if run.iter().any(|r| r.text == row.text) => {}
                Some(run) => run.push(row.clone()),
                None => runs.push(vec![row.clone()]),
            }
        }
        runs
    }
}

/// One warning per text that is too long.
fn warnings<'a, 'p: 'a>(rows: impl Iterator<Item = &'a Row<'p>>) -> Vec<String> {
    let mut warnings = Vec::new();
    for row in rows {
        let encoding = row.encoder.tokenizer.encode(&row.text);
        if encoding.dropped.is_empty() {
            continue;
        }
        let warning = format!(
            "the prompt has {} tokens, the text encoder takes {}; dropped: \"{}\"",
            encoding.untruncated_len,
            encoding.ids.len(),
            encoding.dropped
        );
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

/// The network for the rows of one run.
fn stage<'p>(rows: &[Row<'p>]) -> Stage<'p> {
    let (encoder, clip_skip, count) = (rows[0].encoder, rows[0].clip_skip, rows.len());
    Stage::new("text encoder", 1, move |caps| encoder.record(caps, count, clip_skip))
}

/// States of each row.
fn encode(rows: &[Row<'_>], device: &Device, notes: &mut Vec<String>) -> Result<Vec<Vec<f32>>> {
    let encoder = rows[0].encoder;
    let ids: Vec<u32> = rows.iter().flat_map(|row| encoder.tokenizer.encode(&row.text).ids).collect();
    let embeddings = encoder.model.embed(&ids, encoder.tokens())?;
    let outputs = stage(rows).open(device)?.run(&[(names::INPUTS_EMBEDS, &embeddings)], notes)?;
    let states = &outputs[names::ENCODER_HIDDEN_STATES];
    Ok(states.chunks(states.len() / rows.len()).map(<[f32]>::to_vec).collect())
}
