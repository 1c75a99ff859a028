//! Prompts → encoder_hidden_states: every distinct text once per text encoder.

use std::collections::HashMap;

use super::encoders::{TextEncoder, joined_width};
use super::stage::Stage;
use super::time_ids::{self, add_embeds};
use super::{Device, Pipeline, Request};
use crate::Result;
use crate::models::{TextStates, names};
use crate::record::Caps;

/// The prompts of a request.
pub(super) struct TextPlan<'p> {
    pipeline: &'p Pipeline,
    /// Rows for the UNet: `[negative, prompt]` under guidance, `[prompt]` without.
    unet: Vec<Row<'p>>,
    /// Rows for the OMS module: `["", C_ψ]`, or `[C_ψ]` at ω_ψ = 1; empty without OMS.
    oms: Vec<Row<'p>>,
    /// The six sizes that SDXL's UNet is told.
    time_ids: [usize; time_ids::COUNT],
    warnings: Vec<String>,
}

/// Text states of one row of a batch, from one or two encoders joined on channels.
enum Row<'p> {
    /// One part per encoder.
    Texts(Vec<Part<'p>>),
    /// States and pooled row of zeros: SDXL without a negative prompt.
    Zeros,
}

/// One text as one encoder reads it.
struct Part<'p> {
    reader: Reader<'p>,
    text: String,
}

/// An encoder, and which of its states are taken.
#[derive(Clone, Copy)]
struct Reader<'p> {
    encoder: &'p TextEncoder,
    skip: usize,
    normed: bool,
}

impl PartialEq for Reader<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.encoder, other.encoder) && self.skip == other.skip && self.normed == other.normed
    }
}

/// One encoder's distinct texts.
struct Run<'p> {
    reader: Reader<'p>,
    texts: Vec<String>,
    /// Whether the pooled rows are wanted too.
    pooled: bool,
}

/// What one text became.
#[derive(Default)]
struct States {
    /// `[tokens, hidden_size]`.
    hidden: Vec<f32>,
    /// `[projection_dim]`, if wanted.
    pooled: Vec<f32>,
}

/// Text states of all rows.
pub(super) struct Encoded {
    unet: Vec<f32>,
    added: Option<Vec<f32>>,
    oms: Vec<f32>,
}

impl Encoded {
    /// `[rows, 77, cross_attention_dim]` for the UNet.
    pub(super) fn unet(&self) -> &[f32] {
        &self.unet
    }

    /// What SDXL's UNet is told beside the time, `[rows, projection_class_embeddings_input_dim]`.
    pub(super) fn added(&self) -> Option<&[f32]> {
        self.added.as_deref()
    }

    /// `[rows, 77, cross_attention_dim]` for the OMS module.
    pub(super) fn oms(&self) -> &[f32] {
        &self.oms
    }
}

/// How a network's encoders are read: one gives its last states behind the final norm; two (SDXL) those before their last layer, without it
/// (`encode_prompt` of diffusers' pipelines). `clip_skip` leaves out so many more layers.
fn readers(encoders: &[TextEncoder], clip_skip: usize) -> impl Iterator<Item = Reader<'_>> {
    let dual = encoders.len() == 2;
    encoders.iter().map(move |encoder| Reader { encoder, skip: clip_skip + usize::from(dual), normed: !dual })
}

impl<'p> Row<'p> {
    /// `first` for the first encoder, `second` for the second if there is one.
    fn texts(encoders: &'p [TextEncoder], clip_skip: usize, first: &str, second: Option<&str>) -> Self {
        let texts = [first, second.unwrap_or(first)];
        let parts = readers(encoders, clip_skip).zip(texts);
        Row::Texts(parts.map(|(reader, text)| Part { reader, text: text.to_owned() }).collect())
    }

    fn parts(&self) -> &[Part<'p>] {
        match self {
            Row::Texts(parts) => parts,
            Row::Zeros => &[],
        }
    }
}

impl<'p> TextPlan<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, request: &Request, size: (usize, usize)) -> Self {
        let base = pipeline.text_encoders();
        // diffusers leaves layers out for the prompt alone, not for the negative prompt.
        let mut unet = vec![Row::texts(base, request.clip_skip, &request.prompt, request.prompt_2.as_deref())];
        if pipeline.guidance_rows(request) == 2 {
            unet.insert(0, negative(pipeline, request));
        }
        let mut oms = Vec::new();
        if let Some(asked) = &request.oms {
            let encoders = pipeline.oms_text_encoders();
            let prompt = asked.prompt.as_ref().unwrap_or(&request.prompt);
            let texts = if asked.guided() { vec!["", prompt] } else { vec![prompt.as_str()] };
            oms.extend(texts.into_iter().map(|text| Row::texts(encoders, 0, text, None)));
        }
        let warnings = warnings(unet.iter().chain(&oms).flat_map(Row::parts));
        TextPlan { pipeline, unet, oms, time_ids: time_ids::time_ids(request, size), warnings }
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The networks that [`encode`](Self::encode) will run, for the plan.
    pub(super) fn stages(&self) -> Vec<Stage<'p>> {
        self.runs().iter().map(Run::stage).collect()
    }

    /// Runs the text encoders, one after the other.
    pub(super) fn encode(&self, device: &Device, notes: &mut Vec<String>) -> Result<Encoded> {
        let mut encoded = Vec::new();
        for run in self.runs() {
            let states = run.encode(device, notes)?;
            encoded.push((run, states));
        }
        let states = |part: &Part<'p>| {
            let run = encoded.iter().find(|(run, _)| run.reader == part.reader);
            run.and_then(|(_, states)| states.get(&part.text)).expect("runs() has every part")
        };
        let base = self.pipeline.text_encoders();
        let oms = self.oms.iter().flat_map(|row| join(row, self.pipeline.oms_text_encoders(), states)).collect();
        let unet = self.unet.iter().flat_map(|row| join(row, base, states)).collect();
        let added = base.get(1).map(|second| {
            let zeros = vec![0.0; second.model.config().projection_dim];
            let pooled = self.unet.iter().map(|row| row.parts().last().map_or(&zeros, |part| &states(part).pooled));
            pooled.flat_map(|pooled| add_embeds(self.pipeline.unet.config(), pooled, self.time_ids)).collect()
        });
        Ok(Encoded { unet, added, oms })
    }

    /// Distinct texts, those of one encoder and depth together: a module that shares the base's encoder shares its run.
    fn runs(&self) -> Vec<Run<'p>> {
        let pooling = self.pipeline.text_encoders().get(1);
        let mut runs: Vec<Run<'p>> = Vec::new();
        for part in self.unet.iter().chain(&self.oms).flat_map(Row::parts) {
            match runs.iter_mut().find(|run| run.reader == part.reader) {
                Some(run) if run.texts.contains(&part.text) => {}
                Some(run) => run.texts.push(part.text.clone()),
                None => runs.push(Run {
                    reader: part.reader,
                    texts: vec![part.text.clone()],
                    pooled: pooling.is_some_and(|second| std::ptr::eq(second, part.reader.encoder)),
                }),
            }
        }
        runs
    }
}

/// The unconditional row. SDXL takes zeros where no negative prompt is given at all; an empty one is encoded.
fn negative<'p>(pipeline: &'p Pipeline, request: &Request) -> Row<'p> {
    let (first, second) = (request.negative_prompt.as_deref(), request.negative_prompt_2.as_deref());
    if first.is_none() && second.is_none() && pipeline.zeros_for_no_negative {
        return Row::Zeros;
    }
    Row::texts(pipeline.text_encoders(), 0, first.unwrap_or_default(), second)
}

/// One warning per text that is too long.
fn warnings<'a, 'p: 'a>(parts: impl Iterator<Item = &'a Part<'p>>) -> Vec<String> {
    let mut warnings = Vec::new();
    for part in parts {
        let encoding = part.reader.encoder.tokenizer.encode(&part.text);
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

/// A row's states `[tokens, joined width]`.
fn join<'s, 'p>(row: &Row<'p>, encoders: &[TextEncoder], states: impl Fn(&Part<'p>) -> &'s States) -> Vec<f32> {
    let tokens = encoders[0].tokens();
    let hidden: Vec<&[f32]> = row.parts().iter().map(|part| states(part).hidden.as_slice()).collect();
    if hidden.is_empty() {
        return vec![0.0; tokens * joined_width(encoders)];
    }
    let token = |t: usize| hidden.iter().flat_map(move |h| &h[t * h.len() / tokens..(t + 1) * h.len() / tokens]);
    (0..tokens).flat_map(token).copied().collect()
}

impl<'p> Run<'p> {
    fn stage(&self) -> Stage<'p> {
        let Reader { encoder, skip, normed } = self.reader;
        let (count, states) = (self.texts.len(), TextStates { skip, normed, pooled: self.pooled });
        Stage::new(encoder.name, 1, move |caps: &Caps| encoder.record(caps, count, states))
    }

    /// States of each text.
    fn encode(&self, device: &Device, notes: &mut Vec<String>) -> Result<HashMap<String, States>> {
        let encoder = self.reader.encoder;
        let ids: Vec<u32> = self.texts.iter().flat_map(|text| encoder.tokenizer.encode(text).ids).collect();
        let embeddings = encoder.model.embed(&ids, encoder.tokens())?;
        let outputs = self.stage().open(device)?.run(&[(names::INPUTS_EMBEDS, &embeddings)], notes)?;
        let pooled = match outputs.get(names::LAST_HIDDEN_STATE) {
            Some(last) => encoder.model.pool(&ids, encoder.tokens(), last)?,
            None => Vec::new(),
        };
        let hidden = &outputs[names::ENCODER_HIDDEN_STATES];
        let rows = self.texts.len();
        let row = |values: &[f32], i: usize| values[i * values.len() / rows..(i + 1) * values.len() / rows].to_vec();
        let states = |i: usize| States { hidden: row(hidden, i), pooled: row(&pooled, i) };
        Ok(self.texts.iter().enumerate().map(|(i, text)| (text.clone(), states(i))).collect())
    }
}
