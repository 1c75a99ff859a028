//! Prompts → chunks of one text encoder's length, each token with its weight.

use super::mend::mended;
use super::syntax::{Piece, PromptSyntax, parse};
use super::tokenizer::ClipTokenizer;
use crate::Result;

/// How a prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which marks mean something.
    pub syntax: PromptSyntax,
    /// AUTOMATIC1111's `comma_padding_backtrack`: where a chunk is full and one of its last so many tokens is a comma, what follows the comma
    /// moves to the next chunk. 0 never does.
    pub comma_backtrack: usize,
}

/// One row of a text encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Start, words, end and padding: exactly [`ClipTokenizer::max_length`] ids.
    pub ids: Vec<u32>,
    /// The weight of each id.
    pub weights: Vec<f32>,
    /// Ids that come from the prompt; they follow the start.
    pub words: usize,
}

impl Chunk {
    /// Whether any weight differs from 1.
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|weight| *weight != 1.0)
    }
}

/// A prompt in chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunks {
    /// At least one.
    pub chunks: Vec<Chunk>,
    /// What did not fit, with [`PromptSyntax::Plain`]; else empty.
    pub dropped: String,
    /// Ids that the whole prompt has, start and end not included.
    pub words: usize,
}

/// What stands before the name of an embedding in ComfyUI's prompts.
pub(crate) const COMFY_EMBEDDING: &str = "embedding:";
/// ComfyUI does not cut fewer tokens of one weight in two.
const COMFY_LARGE_WORD: usize = 8;

impl ClipTokenizer {
    /// A prompt's chunks. Its schedule must be resolved before.
    ///
    /// # Errors
    /// When a weight is not a number.
    pub fn chunks(&self, text: &str, reading: Reading) -> Result<Chunks> {
        match reading.syntax {
            PromptSyntax::Plain => {
                let encoding = self.encode(text);
                let words = encoding.untruncated_len - 2;
                let kept = words.min(self.max_length() - 2);
                let chunk = Chunk { weights: vec![1.0; encoding.ids.len()], ids: encoding.ids, words: kept };
                Ok(Chunks { chunks: vec![chunk], dropped: encoding.dropped, words })
            }
            PromptSyntax::A1111 => Ok(self.chunks_a1111(&parse(text, reading.syntax)?, reading.comma_backtrack)),
            PromptSyntax::Comfy => Ok(self.chunks_comfy(&parse(text, reading.syntax)?)),
        }
    }

    /// The chunk of no words.
    pub fn empty_chunk(&self) -> Chunk {
        self.chunk(Vec::new())
    }

    /// Words with their weights between start and end, padded.
    fn chunk(&self, words: Vec<(u32, f32)>) -> Chunk {
        let ids = self.framed(words.iter().map(|(id, _)| *id));
        let mut weights = vec![1.0; ids.len()];
        for (weight, (_, w)) in weights[1..].iter_mut().zip(&words) {
            *weight = *w;
        }
        Chunk { ids, weights, words: words.len() }
    }

    /// `tokenize_line` of stable-diffusion-webui's `modules/sd_hijack_clip.py`.
    fn chunks_a1111(&self, pieces: &[Piece], comma_backtrack: usize) -> Chunks {
        let (most, comma) = (self.max_length() - 2, self.comma());
        let mut chunks = Vec::new();
        let mut words = 0;
        let mut current: Vec<(u32, f32)> = Vec::new();
        let mut last_comma: Option<usize> = None;
        for piece in pieces {
            let Piece::Text { text, weight } = piece else {
                chunks.push(self.chunk(std::mem::take(&mut current)));
                last_comma = None;
                continue;
            };
            for unit in self.units(&mended(text)) {
                words += unit.ids.len();
                if comma == Some(unit.ids[0]) {
                    last_comma = Some(current.len());
                }
                if current.len() == most {
                    let near = last_comma.take().filter(|at| (1..=comma_backtrack).contains(&(most - at)));
                    let moved = near.map_or_else(Vec::new, |at| current.split_off(at + 1));
                    chunks.push(self.chunk(std::mem::replace(&mut current, moved)));
                }
                // An embedding is never cut in two.
                if current.len() + unit.ids.len() > most {
                    chunks.push(self.chunk(std::mem::take(&mut current)));
                    last_comma = None;
                }
                current.extend(unit.ids.iter().map(|id| (*id, *weight as f32)));
            }
        }
        if !current.is_empty() || chunks.is_empty() {
            chunks.push(self.chunk(current));
        }
        Chunks { chunks, dropped: String::new(), words }
    }

    /// `tokenize_with_weights` of ComfyUI's `comfy/sd1_clip.py`: text of one weight is cut into tokens as a whole, but for the names of
    /// embeddings in it. The name of one that is not there is left out.
    fn chunks_comfy(&self, pieces: &[Piece]) -> Chunks {
        let most = self.max_length() - 2;
        let mut chunks = Vec::new();
        let mut words = 0;
        let mut current: Vec<(u32, f32)> = Vec::new();
        for piece in pieces {
            let Piece::Text { text, weight } = piece else { continue };
            for ids in comfy_parts(text).flat_map(|part| self.comfy_groups(part)) {
                words += ids.len();
                let may_cut = ids.len() >= COMFY_LARGE_WORD.min(most + 1);
                if !may_cut && current.len() + ids.len() > most {
                    chunks.push(self.chunk(std::mem::take(&mut current)));
                }
                for id in ids {
                    if current.len() == most {
                        chunks.push(self.chunk(std::mem::take(&mut current)));
                    }
                    current.push((id, *weight as f32));
                }
            }
        }
        chunks.push(self.chunk(current));
        Chunks { chunks, dropped: String::new(), words }
    }

    /// What stays together of a part: the vectors of the name that it begins with, and the tokens of the rest.
    fn comfy_groups(&self, part: &str) -> Vec<Vec<u32>> {
        let Some(named) = part.strip_prefix(COMFY_EMBEDDING) else { return vec![self.words(part)] };
        let mut words = named.split_whitespace();
        let (ids, behind) = words.next().and_then(|name| self.named(name)).unwrap_or_else(|| {
            let name = named.split_whitespace().next().unwrap_or_default();
            (Vec::new(), &name[name.trim_matches(',').len()..])
        });
        let rest: Vec<&str> = std::iter::once(behind).chain(words).filter(|word| !word.is_empty()).collect();
        let rest = self.words(&rest.join(" "));
        [ids, rest].into_iter().filter(|ids| !ids.is_empty()).collect()
    }
}

/// A text, cut in front of each name of an embedding that a blank or a line feed stands before.
pub(super) fn comfy_parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let cut = text.match_indices(COMFY_EMBEDDING).find(|(at, _)| text[..*at].ends_with([' ', '\n']));
        let (part, left) = match cut {
            Some((at, _)) => (&text[..at - 1], Some(&text[at..])),
            None => (text, None),
        };
        rest = left;
        Some(part)
    })
    .filter(|part| !part.is_empty())
}
