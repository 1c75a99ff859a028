//! Prompts → encoder_hidden_states for every step: every distinct chunk of text once per text encoder.

use std::sync::Arc;

use crate::Result;
use crate::models::{TextStates, names};
use crate::pipeline::device::Device;
use crate::pipeline::device::weight_types::Part as StoredPart;
use crate::pipeline::model::encoders::{Encoder, joined_width};
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::prompts::{Part, Reader, Row, Timeline, negative, positive, read_oms, remarks};
use crate::pipeline::run::stage::{Identity, Stage};
use crate::pipeline::run::time_ids::{Side, add_embeds, time_ids};
use crate::pipeline::run::watch::Watch;
use crate::record::Caps;
use crate::text::{Chunk, PromptSyntax, weigh_from_empty, weigh_restoring_mean};

/// The prompts of a request.
pub(crate) struct TextPlan {
    pipeline: Pipeline,
    syntax: PromptSyntax,
    /// Rows for the UNet: `[negative, prompt]` under guidance, `[prompt]` without; `[negative, negative, prompt]` where it is guided by a
    /// picture too.
    unet: Vec<Timeline>,
    /// Rows for the OMS module: `[negative, C_ψ]`, or `[C_ψ]` at ω_ψ = 1; empty without OMS.
    oms: Vec<Row>,
    unet_chunks: usize,
    oms_chunks: usize,
    /// What SDXL's UNet is told of the picture, for each row.
    time_ids: Vec<Vec<f64>>,
    warnings: Vec<String>,
}

/// What text encoders made for the passes of a request.
#[derive(Default)]
pub(crate) struct KnownTexts(Vec<(Run, Vec<States>)>);

/// One encoder's distinct chunks.
#[derive(Clone, PartialEq)]
struct Run {
    reader: Reader,
    ids: Vec<Vec<u32>>,
    /// Whether the pooled rows are wanted too.
    pooled: bool,
}

/// What one chunk became.
#[derive(Default)]
struct States {
    /// `[77, hidden_size]`.
    hidden: Vec<f32>,
    /// `[projection_dim]`, if wanted.
    pooled: Vec<f32>,
}

/// Rows of one batch of a text encoder. Prompts that change often have many chunks; the batch bounds the memory.
const BATCH: usize = 8;

/// Text states of all rows.
pub(crate) struct Encoded {
    unet: Vec<EncodedTimeline>,
    oms: Vec<f32>,
}

/// The states of one row of the batch, and which of them each step takes.
struct EncodedTimeline {
    rows: Vec<EncodedRow>,
    at: Vec<usize>,
}

struct EncodedRow {
    states: Vec<f32>,
    added: Vec<f32>,
}

/// What the UNet is told of the text at one step.
pub(crate) struct Conditioning {
    /// `[rows, 77 · chunks, cross_attention_dim]`.
    pub(crate) states: Vec<f32>,
    /// What SDXL's UNet is told beside the time, `[rows, projection_class_embeddings_input_dim]`; empty elsewhere.
    pub(crate) added: Vec<f32>,
}

impl Conditioning {
    /// The last `rows` of its `of` rows: the conditional one is the last.
    pub(crate) fn last(mut self, rows: usize, of: usize) -> Self {
        for values in [&mut self.states, &mut self.added] {
            values.drain(..values.len() / of * (of - rows));
        }
        self
    }
}

impl Encoded {
    /// For call `call`, from 0, of the `of` calls that the solver makes. A solver that calls the UNet more than once a step has more calls than
    /// steps; they are spread evenly.
    pub(crate) fn unet(&self, call: usize, of: usize) -> Conditioning {
        let mut conditioning = Conditioning { states: Vec::new(), added: Vec::new() };
        for EncodedTimeline { rows, at } in &self.unet {
            let step = (call * at.len() / of.max(1)).min(at.len() - 1);
            let row = &rows[at[step]];
            conditioning.states.extend(&row.states);
            conditioning.added.extend(&row.added);
        }
        conditioning
    }

    /// `[rows, 77 · chunks, cross_attention_dim]` for the OMS module.
    pub(crate) fn oms(&self) -> &[f32] {
        &self.oms
    }
}

impl TextPlan {
    /// # Errors
    /// When a weight in a prompt is not a number.
    pub(crate) fn new(pipeline: &Pipeline, request: &Request, size: (usize, usize)) -> Result<Self> {
        let mut unet = vec![positive(pipeline, request)?];
        for _ in 1..pipeline.guidance_rows(request) {
            unet.insert(0, negative(pipeline, request)?);
        }
        let side = |row: usize| if row + 1 == unet.len() { Side::Prompt } else { Side::Negative };
        let time_ids = (0..unet.len()).map(|row| time_ids(pipeline.kind, request, size, side(row))).collect();
        let oms = read_oms(pipeline, request)?;
        let longest = |rows: &mut dyn Iterator<Item = &Row>| rows.map(Row::chunks).max().unwrap_or(1).max(1);
        Ok(TextPlan {
            unet_chunks: longest(&mut unet.iter().flat_map(|timeline| &timeline.rows)),
            oms_chunks: longest(&mut oms.iter()),
            warnings: remarks(pipeline, request, unet.iter().flat_map(|timeline| &timeline.rows).chain(&oms)),
            time_ids,
            syntax: request.prompt_syntax,
            pipeline: pipeline.clone(),
            unet,
            oms,
        })
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tokens of each row of the UNet.
    pub(crate) fn unet_tokens(&self) -> usize {
        self.unet_chunks * self.pipeline.text_encoders()[0].tokens()
    }

    /// Tokens of each row of the OMS module.
    pub(crate) fn oms_tokens(&self) -> usize {
        self.oms_chunks * self.pipeline.oms_text_encoders()[0].tokens()
    }

    /// The networks that [`encode`](Self::encode) will run, for the plan.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        self.runs().iter().map(Run::stage).collect()
    }

    /// Runs the text encoders, one after the other; what `known` has of another pass is not run again.
    pub(crate) fn encode(
        &self,
        device: &Device,
        known: &mut KnownTexts,
        watch: &Watch,
        notes: &mut Vec<String>,
    ) -> Result<Encoded> {
        let runs = self.runs();
        for run in &runs {
            if !known.0.iter().any(|(known, _)| known == run) {
                let states = run.encode(device, watch, notes)?;
                known.0.push((run.clone(), states));
            }
        }
        let encoded: Vec<_> = known.0.iter().filter(|(known, _)| runs.contains(known)).collect();
        let states = States::find_in(&encoded);
        let oms_encoders = self.pipeline.oms_text_encoders();
        let mut oms = Vec::new();
        for row in &self.oms {
            oms.extend(self.join(row, oms_encoders, self.oms_chunks, &states)?);
        }
        let base = self.pipeline.text_encoders();
        let unet_row = |row: &Row, ids: &[f64]| -> Result<EncodedRow> {
            let states_of_row = self.join(row, base, self.unet_chunks, &states)?;
            let added = self.pipeline.pooling_encoder().map(|pooling| {
                let zeros = vec![0.0; pooling.model.config().projection_dim];
                // The first chunk speaks for the prompt, in AUTOMATIC1111's program as in ComfyUI.
                let pooled =
                    row.parts().last().map_or(&zeros, |part| &states(&part.reader, &part.chunks[0].ids).pooled);
                add_embeds(self.pipeline.unet.config(), pooled, ids)
            });
            Ok(EncodedRow { states: states_of_row, added: added.unwrap_or_default() })
        };
        let timeline = |(timeline, ids): (&Timeline, &Vec<f64>)| -> Result<EncodedTimeline> {
            let rows = timeline.rows.iter().map(|row| unet_row(row, ids)).collect::<Result<_>>()?;
            Ok(EncodedTimeline { rows, at: timeline.at.clone() })
        };
        Ok(Encoded { unet: self.unet.iter().zip(&self.time_ids).map(timeline).collect::<Result<_>>()?, oms })
    }

    /// A row's states `[77 · chunks, joined width]`, weighted; a shorter row ends with chunks of no words.
    fn join<'s>(
        &self,
        row: &Row,
        encoders: &[Encoder],
        chunks: usize,
        states: &impl Fn(&Reader, &[u32]) -> &'s States,
    ) -> Result<Vec<f32>> {
        let tokens = encoders[0].tokens();
        if row.parts().is_empty() {
            return Ok(vec![0.0; chunks * tokens * joined_width(encoders)]);
        }
        let mut parts = Vec::new();
        for part in row.parts() {
            let empty = part.reader.encoder.tokenizer.empty_chunk();
            let mut hidden = Vec::new();
            for at in 0..chunks {
                let chunk = part.chunks.get(at).unwrap_or(&empty);
                let mut one = states(&part.reader, &chunk.ids).hidden.clone();
                match self.syntax {
                    PromptSyntax::Plain => {}
                    PromptSyntax::A1111 => weigh_restoring_mean(&mut one, &chunk.weights)?,
                    PromptSyntax::Comfy if !chunk.is_weighted() => {}
                    PromptSyntax::Comfy => {
                        weigh_from_empty(&mut one, &chunk.weights, &states(&part.reader, &empty.ids).hidden);
                    }
                }
                hidden.extend(one);
            }
            parts.push(hidden);
        }
        let all = chunks * tokens;
        let token = |t: usize| parts.iter().flat_map(move |h| &h[t * h.len() / all..(t + 1) * h.len() / all]);
        Ok((0..all).flat_map(token).copied().collect())
    }

    /// Distinct chunks, those of one encoder and depth together: a module that shares the base's encoder shares its run.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let unet = self.unet.iter().flat_map(|timeline| &timeline.rows).map(|row| (row, self.unet_chunks));
        for (row, chunks) in unet.chain(self.oms.iter().map(|row| (row, self.oms_chunks))) {
            for part in row.parts() {
                self.add_to(&mut runs, part, chunks);
            }
        }
        runs
    }

    fn add_to(&self, runs: &mut Vec<Run>, part: &Part, chunks: usize) {
        let at = runs.iter().position(|run| run.reader == part.reader).unwrap_or_else(|| {
            let pooling = self.pipeline.pooling_encoder();
            let pooled = pooling.is_some_and(|pooling| Arc::ptr_eq(pooling, &part.reader.encoder));
            runs.push(Run { reader: part.reader.clone(), ids: Vec::new(), pooled });
            runs.len() - 1
        });
        let empty = part.reader.encoder.tokenizer.empty_chunk();
        let is_padded = part.chunks.len() < chunks;
        let needs_empty = self.syntax == PromptSyntax::Comfy && part.chunks.iter().any(Chunk::is_weighted);
        for chunk in part.chunks.iter().chain((is_padded || needs_empty).then_some(&empty)) {
            if !runs[at].ids.contains(&chunk.ids) {
                runs[at].ids.push(chunk.ids.clone());
            }
        }
    }
}

impl States {
    /// Finds the states of a chunk among those of all runs.
    fn find_in<'s>(encoded: &'s [&'s (Run, Vec<States>)]) -> impl Fn(&Reader, &[u32]) -> &'s States {
        move |reader, ids| {
            let of_reader = encoded.iter().find(|(run, _)| run.reader == *reader);
            let of_ids = |(run, states): &&'s (Run, Vec<States>)| {
                run.ids.iter().position(|one| one == ids).map(|at| &states[at])
            };
            of_reader.and_then(of_ids).expect("runs() has every chunk")
        }
    }
}

impl Run {
    fn stage(&self) -> Stage {
        let Reader { encoder, skip, normed } = self.reader.clone();
        let (rows, states) = (self.batch(), TextStates { skip, normed, pooled: self.pooled });
        let runs = self.ids.len().div_ceil(rows);
        let form = format!("text {rows} {skip} {normed} {}", self.pooled);
        let identity = Identity { networks: vec![encoder.number()], form };
        Stage::new((encoder.name, StoredPart::Text), identity, runs, move |caps: &Caps| {
            encoder.record(caps, rows, states)
        })
    }

    /// Rows of one run of the network.
    fn batch(&self) -> usize {
        self.ids.len().clamp(1, BATCH)
    }

    /// States of each chunk.
    fn encode(&self, device: &Device, watch: &Watch, notes: &mut Vec<String>) -> Result<Vec<States>> {
        let (encoder, rows) = (&self.reader.encoder, self.batch());
        let mut network = self.stage().open(device, watch)?;
        let mut all = Vec::new();
        for some in self.ids.chunks(rows) {
            // The last batch is filled with its last chunk.
            let filled = (0..rows).flat_map(|row| some[row.min(some.len() - 1)].iter().copied());
            let ids: Vec<u32> = filled.collect();
            let embeddings = encoder.model.embed(&ids, encoder.tokens())?;
            let outputs = network.run(&[(names::INPUTS_EMBEDS, &embeddings)], notes)?;
            let pooled = match outputs.get(names::LAST_HIDDEN_STATE) {
                Some(last) => encoder.model.pool(&ids, encoder.tokens(), last)?,
                None => Vec::new(),
            };
            let hidden = &outputs[names::ENCODER_HIDDEN_STATES];
            let row =
                |values: &[f32], i: usize| values[i * values.len() / rows..(i + 1) * values.len() / rows].to_vec();
            all.extend((0..some.len()).map(|i| States { hidden: row(hidden, i), pooled: row(&pooled, i) }));
        }
        Ok(all)
    }
}

#[cfg(all(test, feature = "demo"))]
#[path = "text_tests.rs"]
mod tests;
