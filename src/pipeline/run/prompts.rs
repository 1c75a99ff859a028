//! A request's prompts as rows of chunks: what each text encoder reads at each step.

use crate::Result;
use std::sync::Arc;

use crate::pipeline::files::demo;
use crate::pipeline::model::encoders::Encoder;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::text::{Chunk, ClipTokenizer, Piece, PromptSyntax, Schedule, parse, split_networks, without_comments};

/// Text states of one row of a batch, from one or two encoders joined on channels.
pub(crate) enum Row {
    /// One part per encoder.
    Texts(Vec<Part>),
    /// States and pooled row of zeros: SDXL without a negative prompt.
    Zeros,
}

/// One text as one encoder reads it.
pub(crate) struct Part {
    pub(crate) reader: Reader,
    /// At least one.
    pub(crate) chunks: Vec<Chunk>,
    /// What did not fit.
    dropped: String,
    words: usize,
}

/// An encoder, and which of its states are taken.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) encoder: Encoder,
    pub(crate) skip: usize,
    pub(crate) normed: bool,
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.encoder, &other.encoder) && self.skip == other.skip && self.normed == other.normed
    }
}

/// One row of the UNet's batch over the steps.
pub(crate) struct Timeline {
    /// Distinct rows.
    pub(crate) rows: Vec<Row>,
    /// Which of them each step takes.
    pub(crate) at: Vec<usize>,
}

/// How a network's encoders are read: those of SDXL give their states before the last layer, without the final norm; others their last
/// states behind it (`encode_prompt` of diffusers' pipelines). `clip_skip` leaves out so many more layers.
fn readers(encoders: &[Encoder], as_xl: bool, clip_skip: usize) -> impl Iterator<Item = Reader> {
    encoders.iter().map(move |encoder| Reader {
        encoder: Arc::clone(encoder),
        skip: clip_skip + usize::from(as_xl),
        normed: !as_xl,
    })
}

impl Row {
    /// `texts` for the first and the second encoder; the second may not be there.
    fn texts(readers: impl Iterator<Item = Reader>, texts: &[String; 2], request: &Request) -> Result<Self> {
        let part = |(reader, text): (Reader, &String)| -> Result<Part> {
            let chunks = reader.encoder.tokenizer.chunks(text, request.reading())?;
            Ok(Part { reader, chunks: chunks.chunks, dropped: chunks.dropped, words: chunks.words })
        };
        Ok(Row::Texts(readers.zip(texts).map(part).collect::<Result<_>>()?))
    }

    pub(crate) fn parts(&self) -> &[Part] {
        match self {
            Row::Texts(parts) => parts,
            Row::Zeros => &[],
        }
    }

    /// Chunks of the longest part.
    pub(crate) fn chunks(&self) -> usize {
        self.parts().iter().map(|part| part.chunks.len()).max().unwrap_or(0)
    }
}

impl Timeline {
    /// Both encoders' texts at every step.
    fn texts(
        pipeline: &Pipeline,
        request: &Request,
        clip_skip: usize,
        side: Side,
        first: &str,
        second: Option<&str>,
    ) -> Result<Self> {
        let schedules = [first, second.unwrap_or(first)].map(|text| schedule(text, request, side));
        let steps = request.num_inference_steps;
        let changes = schedules.iter().any(Schedule::changes);
        let mut distinct: Vec<[String; 2]> = Vec::new();
        let mut at = Vec::with_capacity(steps);
        for step in 1..=steps {
            if step == 1 || changes {
                let texts = schedules.each_ref().map(|schedule| schedule.at(step));
                let known = distinct.iter().position(|known| *known == texts);
                at.push(known.unwrap_or(distinct.len()));
                if known.is_none() {
                    distinct.push(texts);
                }
            } else {
                at.push(0);
            }
        }
        let encoders = pipeline.text_encoders();
        let row = |texts: &[String; 2]| Row::texts(readers(encoders, pipeline.kind.is_xl(), clip_skip), texts, request);
        Ok(Timeline { rows: distinct.iter().map(row).collect::<Result<_>>()?, at })
    }
}

/// Which of a request's texts: AUTOMATIC1111's program takes tags out of prompts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Prompt,
    Negative,
}

/// A text's schedule over a request's steps.
pub(crate) fn schedule(text: &str, request: &Request, side: Side) -> Schedule {
    match request.prompt_syntax {
        PromptSyntax::A1111 => {
            let text = split_networks(&without_comments(text), |_| side == Side::Prompt).0;
            Schedule::parse(&text, request.num_inference_steps)
        }
        PromptSyntax::Plain | PromptSyntax::Comfy => Schedule::constant(text),
    }
}

/// The conditional row.
pub(crate) fn positive(pipeline: &Pipeline, request: &Request) -> Result<Timeline> {
    Timeline::texts(pipeline, request, request.clip_skip, Side::Prompt, &request.prompt, request.prompt_2.as_deref())
}

/// The unconditional row. SDXL takes zeros where no negative prompt is given at all; an empty one is encoded.
pub(crate) fn negative(pipeline: &Pipeline, request: &Request) -> Result<Timeline> {
    let (first, second) = (request.negative_prompt.as_deref(), request.negative_prompt_2.as_deref());
    if first.is_none() && second.is_none() && pipeline.kind.zeros_for_no_negative {
        return Ok(Timeline { rows: vec![Row::Zeros], at: vec![0; request.num_inference_steps] });
    }
    // diffusers leaves layers out for the prompt alone; AUTOMATIC1111's program and ComfyUI for both.
    let clip_skip = match request.prompt_syntax {
        PromptSyntax::Plain => 0,
        PromptSyntax::A1111 | PromptSyntax::Comfy => request.clip_skip,
    };
    Timeline::texts(pipeline, request, clip_skip, Side::Negative, first.unwrap_or_default(), second)
}

/// The OMS module's rows. It runs before the first step, so it reads what the first step reads.
pub(crate) fn read_oms(pipeline: &Pipeline, request: &Request) -> Result<Vec<Row>> {
    let Some(asked) = &request.oms else {
        return Ok(Vec::new());
    };
    let prompt = asked.prompt.as_ref().unwrap_or(&request.prompt);
    let negative = asked.guided().then_some((&asked.negative_prompt, Side::Negative));
    let texts = [negative, Some((prompt, Side::Prompt))];
    let row = |(text, side): (&String, Side)| {
        let text = schedule(text, request, side).at(1);
        let encoders = pipeline.oms_text_encoders();
        Row::texts(readers(encoders, encoders.len() == 2, 0), &[text.clone(), text], request)
    };
    texts.into_iter().flatten().map(row).collect()
}

/// What a user should know: words that did not fit, texts that have no effect, marks that are not read.
pub(crate) fn remarks<'a>(pipeline: &Pipeline, request: &Request, rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    let mut remarks: Vec<String> = Vec::new();
    for part in rows.flat_map(Row::parts).filter(|part| !part.dropped.is_empty()) {
        let (takes, dropped) = (part.chunks[0].ids.len(), &part.dropped);
        remarks.push(format!(
            "the prompt has {} tokens, the text encoder takes {takes}; dropped: \"{dropped}\"",
            part.words + 2
        ));
    }
    let negatives = [&request.negative_prompt, &request.negative_prompt_2];
    if negatives.iter().any(|text| text.is_some()) && pipeline.guidance_rows(request) == 1 {
        remarks.push("the negative prompt has no effect: this runs without classifier-free guidance".into());
    }
    if request.oms.as_ref().is_some_and(|oms| !oms.negative_prompt.is_empty() && !oms.guided()) {
        remarks.push("the negative prompt of OMS has no effect at an OMS guidance of 1".into());
    }
    if request.prompt_syntax == PromptSyntax::Comfy {
        let tokenizer = &pipeline.text_encoders()[0].tokenizer;
        remarks.extend(request.prompts().flat_map(|text| unknown_embeddings(tokenizer, text)));
    }
    if request.prompt_syntax == PromptSyntax::A1111 {
        remarks.extend(request.positive_prompts().flat_map(|text| foreign_marks(text, Side::Prompt)));
        remarks.extend(request.negative_prompts().flat_map(|text| foreign_marks(text, Side::Negative)));
    }
    let demo = |encoders: &[Encoder]| encoders.iter().any(|encoder| encoder.is_demo);
    let own = if demo(pipeline.text_encoders()) { request.prompts().collect() } else { Vec::new() };
    let asked = request.oms.as_ref().filter(|_| demo(pipeline.oms_text_encoders()));
    let of_oms = asked.into_iter().flat_map(|oms| oms.prompt.iter().chain([&oms.negative_prompt]));
    remarks.extend(unknown_to_demo(&own.into_iter().chain(of_oms).map(String::as_str).collect::<Vec<_>>(), request));
    let mut seen = Vec::new();
    remarks.retain(|remark| {
        !seen.contains(remark) && {
            seen.push(remark.clone());
            true
        }
    });
    remarks
}

/// What to say of words that the demo model does not know, of texts that it reads.
pub(crate) fn unknown_to_demo(texts: &[&str], request: &Request) -> Option<String> {
    let mut words = Vec::new();
    for text in texts {
        // Tags are no words, on whichever side they stand.
        let schedule = schedule(text, request, Side::Prompt);
        let mut before = String::new();
        for step in 1..=request.num_inference_steps {
            let at_step = schedule.at(step);
            if step > 1 && at_step == before {
                continue;
            }
            // What cannot be parsed is an error elsewhere.
            let pieces = parse(&at_step, request.prompt_syntax).unwrap_or_default();
            let plain = pieces.iter().filter_map(|piece| match piece {
                Piece::Text { text, .. } => Some(text.as_str()),
                _ => None,
            });
            words.push(plain.collect::<Vec<_>>().join(" "));
            before = at_step;
        }
    }
    demo::remark(&demo::unknown_words(&words.join(" ")))
}

/// Names of embeddings that are not here, as ComfyUI's prompts have them. Of a prompt that cannot be read its error says more.
pub(crate) fn unknown_embeddings(tokenizer: &ClipTokenizer, text: &str) -> Vec<String> {
    let names = tokenizer.unknown_embeddings(text).unwrap_or_default();
    names
        .iter()
        .map(|name| format!("embedding:{name} is left out: no such embedding is here (`embeddings[]`)"))
        .collect()
}

/// Marks of AUTOMATIC1111's program that are more than text, and what becomes of them here.
pub(crate) fn foreign_marks(text: &str, side: Side) -> Vec<String> {
    let mut remarks = Vec::new();
    let read = without_comments(text);
    for network in split_networks(&read, |_| true).1 {
        let tag = format!("<{}:{}>", network.kind, network.arguments.join(":"));
        remarks.push(match (side, network.kind.as_str()) {
            (Side::Negative, _) => {
                format!("{tag} in the negative prompt is read as words: tags belong into the prompt")
            }
            (_, "lora" | "lyco") => format!("{tag} in the prompt is left out: the file is not looked up here"),
            (_, "hypernet") => format!("{tag} in the prompt is left out: hypernetworks are not supported"),
            (_, kind) => format!("{tag} in the prompt is left out: no kind of network is called {kind:?} here"),
        });
    }
    if read.len() < text.len() {
        remarks.push("what stands behind # in the prompt is a comment".into());
    }
    if read.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "AND") {
        remarks.push("AND in the prompt is read as a word: prompts are not composed".into());
    }
    remarks
}
