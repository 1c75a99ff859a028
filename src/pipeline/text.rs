//! Prompts → encoder_hidden_states: every distinct text once per text encoder.

use super::load::TextEncoder;
use super::stage::Stage;
use super::{Pipeline, Request};
use crate::Result;
use crate::models::names;

/// The prompts of a request, tokenized.
pub(super) struct TextPlan {
    /// Rows for the UNet: `[negative, prompt]` under guidance, `[prompt]` without.
    unet: Vec<String>,
    /// Rows for the OMS module: `["", C_ψ]`, or `[C_ψ]` at ω_ψ = 1; empty without OMS.
    oms: Vec<String>,
    clip_skip: usize,
    warnings: Vec<String>,
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

impl TextPlan {
    pub(super) fn new(pipeline: &Pipeline, request: &Request) -> Self {
        let unet = match pipeline.guidance_rows(request) {
            2 => vec![request.negative_prompt.clone(), request.prompt.clone()],
            _ => vec![request.prompt.clone()],
        };
        let oms = request.oms.as_ref().map_or_else(Vec::new, |oms| {
            let prompt = oms.prompt.clone().unwrap_or_else(|| request.prompt.clone());
            if oms.guided() { vec![String::new(), prompt] } else { vec![prompt] }
        });
        let mut plan = TextPlan { unet, oms, clip_skip: request.clip_skip, warnings: Vec::new() };
        let mut warned: Vec<&String> = Vec::new();
        let mut warnings = Vec::new();
        let encoders = [(pipeline.text_encoder(), &plan.unet), (pipeline.oms_text_encoder(), &plan.oms)];
        for (encoder, text) in encoders.into_iter().flat_map(|(encoder, texts)| texts.iter().map(move |t| (encoder, t)))
        {
            let encoding = encoder.tokenizer.encode(text);
            if !encoding.dropped.is_empty() && !warned.contains(&text) {
                warned.push(text);
                warnings.push(format!(
                    "the prompt has {} tokens, the text encoder takes {}; dropped: \"{}\"",
                    encoding.untruncated_len,
                    encoding.ids.len(),
                    encoding.dropped
                ));
            }
        }
        plan.warnings = warnings;
        plan
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The networks that [`encode`](Self::encode) will run, for the plan.
    pub(super) fn stages<'p>(&self, pipeline: &'p Pipeline) -> Vec<Stage<'p>> {
        let groups = self.groups(pipeline);
        groups.into_iter().map(|group| group.stage()).collect()
    }

    /// Runs the text encoders, one after the other.
    pub(super) fn encode(&self, pipeline: &Pipeline, notes: &mut Vec<String>) -> Result<Encoded> {
        let mut encoded = Encoded { unet: Vec::new(), oms: Vec::new() };
        for group in self.groups(pipeline) {
            let states = group.encode(pipeline, notes)?;
            let rows = |texts: &[String]| -> Vec<f32> {
                let row_of = |text: &String| group.texts.iter().position(|t| t == text);
                texts.iter().filter_map(row_of).flat_map(|row| states[row].iter().copied()).collect()
            };
            if group.serves_unet {
                encoded.unet = rows(&self.unet);
            }
            if group.serves_oms {
                encoded.oms = rows(&self.oms);
            }
        }
        Ok(encoded)
    }

    /// One group per encoder and depth: a module that shares the base's encoder shares its run.
    fn groups<'p>(&self, pipeline: &'p Pipeline) -> Vec<Group<'p>> {
        let base = pipeline.text_encoder();
        let own = pipeline.oms_text_encoder();
        let shared = std::ptr::eq(base, own) && self.clip_skip == 0;
        let mut groups = vec![Group {
            name: "text encoder",
            encoder: base,
            clip_skip: self.clip_skip,
            texts: unique(self.unet.iter().chain(if shared { &self.oms[..] } else { &[] })),
            serves_unet: true,
            serves_oms: shared,
        }];
        if !shared && !self.oms.is_empty() {
            groups.push(Group {
                name: "OMS text encoder",
                encoder: own,
                clip_skip: 0,
                texts: unique(self.oms.iter()),
                serves_unet: false,
                serves_oms: true,
            });
        }
        groups
    }
}

fn unique<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for text in texts {
        if !found.contains(text) {
            found.push(text.clone());
        }
    }
    found
}

/// The texts that one encoder sees in one run.
struct Group<'p> {
    name: &'static str,
    encoder: &'p TextEncoder,
    clip_skip: usize,
    texts: Vec<String>,
    serves_unet: bool,
    serves_oms: bool,
}

impl<'p> Group<'p> {
    fn stage(&self) -> Stage<'p> {
        let (encoder, rows, clip_skip) = (self.encoder, self.texts.len(), self.clip_skip);
        Stage::new(self.name, 1, move |caps| encoder.record(caps, rows, clip_skip))
    }

    /// States of each text.
    fn encode(&self, pipeline: &Pipeline, notes: &mut Vec<String>) -> Result<Vec<Vec<f32>>> {
        let ids: Vec<u32> = self.texts.iter().flat_map(|text| self.encoder.tokenizer.encode(text).ids).collect();
        let embeddings = self.encoder.model.embed(&ids, self.encoder.tokens())?;
        let outputs = self.stage().open(pipeline.device())?.run(&[(names::INPUTS_EMBEDS, &embeddings)], notes)?;
        let states = &outputs[names::ENCODER_HIDDEN_STATES];
        Ok(states.chunks(states.len() / self.texts.len()).map(<[f32]>::to_vec).collect())
    }
}
