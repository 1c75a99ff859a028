//! What a tokenizer makes of a prompt: which tokens are kept, with which weight, in which chunk. No network is loaded.

use serde::Serialize;

use crate::Result;
use crate::models::ClipTextConfig;
use crate::pipeline::files::source::Source;
use crate::pipeline::model::embeddings::{Embedding, Embeddings};
use crate::pipeline::model::encoders::load_tokenizer;
use crate::pipeline::request::Request;
use crate::pipeline::run::prompts::{Side, foreign_marks, schedule, unknown_embeddings, unknown_to_demo};
use crate::text::PromptSyntax;
use crate::text::{Chunk, ClipTokenizer};

/// A prompt as one tokenizer of a model reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenReport {
    /// The tokenizer's folder: `tokenizer`, or `tokenizer_2` of SDXL.
    pub tokenizer: &'static str,
    /// Tokens of a chunk, start and end not counted.
    pub capacity: usize,
    /// Each distinct text of the steps.
    pub texts: Vec<TextReport>,
    /// Marks that are only text here.
    pub remarks: Vec<String>,
}

/// The text of some steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextReport {
    /// The steps that read it, from 1.
    pub steps: Vec<usize>,
    /// The text with its weights.
    pub text: String,
    /// Tokens of the whole text, with those that are dropped.
    pub count: usize,
    /// Its chunks, at least one.
    pub chunks: Vec<ChunkReport>,
    /// What does not fit; empty when all does.
    pub dropped: String,
}

/// One row of the text encoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ChunkReport {
    /// The prompt's tokens in it.
    pub tokens: Vec<TokenEntry>,
    /// Places that are padded.
    pub padding: usize,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenEntry {
    /// As the vocabulary writes it, or the name of an embedding with its vector's number; `</w>` ends a word.
    pub token: String,
    /// The same in letters, without the mark of an end. Of a letter that several tokens make, the first has it, and the others nothing.
    pub text: String,
    /// Its place in the vocabulary; of an embedding's vector, one behind it.
    pub id: u32,
    /// What its states are weighted with, to six decimals.
    pub weight: f64,
}

/// What the tokenizers of a model make of a request's prompt.
///
/// # Errors
/// When the request is out of range, a weight in the prompt is not a number, an embedding does not fit, or the tokenizer's files are missing
/// or damaged.
pub fn token_reports(model: &Source, embeddings: &[Embedding], request: &Request) -> Result<Vec<TokenReport>> {
    request.validate()?;
    let embeddings = Embeddings::open(embeddings)?;
    let is_dual = model.component("tokenizer_2").has("vocab.json");
    let mut widths = Vec::new();
    if !embeddings.is_empty() {
        for encoder in ["text_encoder", "text_encoder_2"].into_iter().take(1 + usize::from(is_dual)) {
            let files = model.component(encoder);
            let config = ClipTextConfig::from_json(&files.text("config.json")?, &files.label("config.json"))?;
            widths.push(config.hidden_size);
        }
    }
    let read = |name, prompt: &String| report(name, model, prompt, (&embeddings, &widths), request);
    let mut reports = vec![read("tokenizer", &request.prompt)?];
    if is_dual {
        reports.push(read("tokenizer_2", request.prompt_2.as_ref().unwrap_or(&request.prompt))?);
    }
    if matches!(model, Source::DemoModel) {
        let texts = [Some(&request.prompt), request.prompt_2.as_ref()].into_iter().flatten();
        reports[0].remarks.extend(unknown_to_demo(&texts.map(String::as_str).collect::<Vec<_>>(), request));
    }
    Ok(reports)
}

fn report(
    name: &'static str,
    model: &Source,
    prompt: &str,
    (embeddings, widths): (&Embeddings, &[usize]),
    request: &Request,
) -> Result<TokenReport> {
    let mut tokenizer = load_tokenizer(&model.component(name))?;
    let mut remarks = embeddings.name_in(&mut tokenizer, widths)?;
    let schedule = schedule(prompt, request, Side::Prompt);
    let mut texts: Vec<TextReport> = Vec::new();
    for step in 1..=request.num_inference_steps {
        let text = schedule.at(step);
        match texts.iter_mut().find(|known| known.text == text) {
            Some(known) => known.steps.push(step),
            None => texts.push(text_report(&tokenizer, step, text, request)?),
        }
    }
    remarks.extend(match request.prompt_syntax {
        PromptSyntax::A1111 => foreign_marks(prompt, Side::Prompt),
        PromptSyntax::Comfy => unknown_embeddings(&tokenizer, prompt),
        PromptSyntax::Plain => Vec::new(),
    });
    Ok(TokenReport { tokenizer: name, capacity: tokenizer.max_length() - 2, texts, remarks })
}

fn text_report(tokenizer: &ClipTokenizer, step: usize, text: String, request: &Request) -> Result<TextReport> {
    let chunks = tokenizer.chunks(&text, request.reading())?;
    let capacity = tokenizer.max_length() - 2;
    let chunk = |chunk: &Chunk| {
        let texts = readable(tokenizer, &chunk.ids[1..=chunk.words]);
        let words = chunk.ids.iter().zip(&chunk.weights).skip(1).take(chunk.words).zip(texts);
        let entry = |((&id, &weight), text): ((&u32, &f32), String)| TokenEntry {
            token: tokenizer.token(id).unwrap_or_default(),
            text,
            id,
            weight: (f64::from(weight) * 1e6).round() / 1e6,
        };
        ChunkReport { tokens: words.map(entry).collect(), padding: capacity - chunk.words }
    };
    Ok(TextReport {
        steps: vec![step],
        text,
        count: chunks.words,
        chunks: chunks.chunks.iter().map(chunk).collect(),
        dropped: chunks.dropped,
    })
}

/// Each token in letters. The bytes of one letter may lie in several tokens: the first has it then. What is no letter is written in bytes.
fn readable(tokenizer: &ClipTokenizer, ids: &[u32]) -> Vec<String> {
    let mut texts = vec![String::new(); ids.len()];
    let (mut bytes, mut first) = (Vec::new(), 0);
    for (i, &id) in ids.iter().enumerate() {
        let Some((own, ends)) = tokenizer.spelled(id) else {
            let token = tokenizer.token(id).unwrap_or_default();
            texts[i] = token.strip_suffix("</w>").map_or(token.clone(), str::to_owned);
            continue;
        };
        if bytes.is_empty() {
            first = i;
        }
        bytes.extend(own);
        let is_last = i + 1 == ids.len() || ends;
        if is_last || std::str::from_utf8(&bytes).is_ok() {
            for part in bytes.utf8_chunks() {
                texts[first] += part.valid();
                texts[first].extend(part.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
            }
            bytes.clear();
        }
    }
    texts
}
