//! Prompts → token ids.

mod tokenizer;

pub use tokenizer::{ClipTokenizer, Encoding};
