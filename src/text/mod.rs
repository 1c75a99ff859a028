//! Prompts → token ids and weights.
//!
//! A prompt goes through [`split_networks`] (what it names beside text), [`Schedule`] (which text at which step), [`parse`] (which weight for which part), [`ClipTokenizer::chunks`] (rows
//! of a text encoder), and, when the encoder has run, [`weigh_restoring_mean`] or [`weigh_from_empty`].

mod a1111;
mod chunk;
mod comfy;
mod mend;
mod networks;
mod pages;
mod schedule;
mod syntax;
mod tokenizer;
mod units;
mod vocabulary;
mod weigh;

pub use chunk::{Chunk, Chunks, Reading};
pub use networks::{Network, split_networks, without_comments};
pub use schedule::Schedule;
pub use syntax::{Piece, PromptSyntax, parse};
pub use tokenizer::{ClipTokenizer, Encoding};
pub use vocabulary::{Vocabulary, clip_vocabulary};
pub use weigh::{weigh_from_empty, weigh_restoring_mean};
