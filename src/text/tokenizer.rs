//! CLIP's byte-pair encoding, from the checkpoint's `vocab.json` and `merges.txt`.
//!
//! It does what transformers' *fast* tokenizer does: NFC, runs of white space to one space, lower case, no unescaping of HTML. The slow one
//! with `ftfy` differs on curly quotes, entities, ligatures and full-width letters: `mend` does that where AUTOMATIC1111's program does.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::units::Embedding;
use super::vocabulary::byte_of_sign;
use crate::{Error, Result};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// CLIP's position table has this many rows in every published text encoder.
const MAX_LENGTH: usize = 77;
/// Letters by the word, digits one by one, other signs by the run, and English contractions (OpenAI CLIP, `simple_tokenizer.py`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A prompt as a text encoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Start, words, end and padding: exactly [`ClipTokenizer::max_length`] ids.
    pub ids: Vec<u32>,
    /// Ids that the whole prompt would have had, start and end included.
    pub untruncated_len: usize,
    /// The part of the prompt that did not fit; empty when all did.
    pub dropped: String,
}

/// A CLIP tokenizer.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: usize,
    pub(super) embeddings: Vec<Embedding>,
}

/// What `tokenizer_config.json` and `special_tokens_map.json` say that matters here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    pad_token: Option<Value>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    unk_token: Option<Value>,
    model_max_length: Option<f64>,
}

impl Settings {
    fn parse(bytes: Option<&[u8]>, label: &str, file: &str) -> Result<Self> {
        bytes.map_or_else(
            || Ok(Settings::default()),
            |bytes| serde_json::from_slice(bytes).map_err(|e| broken(label, file, e)),
        )
    }
}

fn broken(label: &str, file: &str, what: impl std::fmt::Display) -> Error {
    Error::model(format!("{label}{file}: not a CLIP tokenizer's: {what}"))
}

/// A token given as a string or as `{"content": …}`.
fn content(token: Option<&Value>) -> Option<String> {
    let token = token?;
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
}

impl ClipTokenizer {
    /// From the bytes of `vocab.json` and `merges.txt`, and of `special_tokens_map.json` and `tokenizer_config.json` where the
    /// checkpoint has them. `label` names the folder in messages.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file that is not what it should be.
    pub fn from_bytes(
        vocab: &[u8],
        merges: &[u8],
        special_tokens_map: Option<&[u8]>,
        tokenizer_config: Option<&[u8]>,
        label: &str,
    ) -> Result<Self> {
        let map = Settings::parse(special_tokens_map, label, "special_tokens_map.json")?;
        let config = Settings::parse(tokenizer_config, label, "tokenizer_config.json")?;
        let token = |from: fn(&Settings) -> Option<&Value>, default: &str| {
            content(from(&map)).or_else(|| content(from(&config))).unwrap_or_else(|| default.to_owned())
        };
        let (start, end) = (token(|s| s.bos_token.as_ref(), START), token(|s| s.eos_token.as_ref(), END));
        let (pad, unknown) = (token(|s| s.pad_token.as_ref(), END), token(|s| s.unk_token.as_ref(), END));
        let vocab: HashMap<String, u32> = serde_json::from_slice(vocab).map_err(|e| broken(label, "vocab.json", e))?;
        let id = |token: &str| {
            let found = vocab.get(token).copied();
            found.ok_or_else(|| broken(label, "vocab.json", format!("it has no token {token:?}")))
        };
        let (start_id, end_id, pad_id) = (id(&start)?, id(&end)?, id(&pad)?);
        id(&unknown)?;
        let merges = parse_merges(merges, label)?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
            .unk_token(unknown)
            .end_of_word_suffix("</w>".into())
            .continuing_subword_prefix(String::new())
            .build()
            .map_err(|e| broken(label, "merges.txt", e))?;
        let tokenizer = assemble(bpe, &[start, end, pad]).map_err(|e| broken(label, "vocab.json", e))?;
        let max_length =
            config.model_max_length.filter(|n| (3.0..=77.0).contains(n)).map_or(MAX_LENGTH, |n| n as usize);
        Ok(ClipTokenizer { tokenizer, start: start_id, end: end_id, pad: pad_id, max_length, embeddings: Vec::new() })
    }

    /// Reads one spelling of a word as another: whole words, in any case of letters.
    ///
    /// # Errors
    /// When the spelling cannot be looked for.
    pub fn read_as(&mut self, spelling: &str, word: &str) -> Result<()> {
        let pattern = ReplacePattern::Regex(format!(r"\b{spelling}\b"));
        let replace = Replace::new(pattern, word).map_err(|e| broken("", "vocab.json", e))?;
        // Behind the one that makes letters small.
        let before = self.tokenizer.get_normalizer().cloned();
        let all = before.into_iter().chain([replace.into()]).collect();
        self.tokenizer.with_normalizer(Some(Normalizers::new(all)));
        Ok(())
    }

    /// Ids of one row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// A prompt's ids; words beyond the length are dropped and reported.
    pub fn encode(&self, text: &str) -> Encoding {
        let units = self.units(text);
        let words: Vec<(u32, usize)> =
            units.iter().flat_map(|unit| unit.ids.iter().map(|id| (*id, unit.from))).collect();
        let kept = words.len().min(self.max_length - 2);
        let ids = self.framed(words[..kept].iter().map(|(id, _)| *id));
        let dropped = match words.get(kept) {
            Some(&(_, from)) => self.spaced(text).get(from..).unwrap_or_default().trim().to_owned(),
            None => String::new(),
        };
        Encoding { ids, untruncated_len: words.len() + 2, dropped }
    }

    /// The ids of a text in the vocabulary, without start, end and padding; names of embeddings are words like others.
    pub fn words(&self, text: &str) -> Vec<u32> {
        self.encoded(text).get_ids().to_vec()
    }

    /// The bytes that a token stands for, and whether it ends a word; nothing for a special token or a vector of an embedding.
    pub fn spelled(&self, id: u32) -> Option<(Vec<u8>, bool)> {
        if self.embedding_of(id).is_some() || [self.start, self.end].contains(&id) {
            return None;
        }
        let written = self.tokenizer.id_to_token(id)?;
        let signs = written.strip_suffix("</w>");
        let bytes = signs.unwrap_or(&written).chars().map(byte_of_sign).collect::<Option<Vec<u8>>>()?;
        Some((bytes, signs.is_some()))
    }

    /// A token as the vocabulary writes it, or the name of an embedding with its vector's number; `</w>` ends a word.
    pub fn token(&self, id: u32) -> Option<String> {
        self.embedding_of(id).or_else(|| self.tokenizer.id_to_token(id))
    }

    /// Tokens of the vocabulary, those that are taken whole included.
    pub fn vocabulary_len(&self) -> u32 {
        self.tokenizer.get_vocab_size(true) as u32
    }

    /// The id of a comma that ends a word.
    pub fn comma(&self) -> Option<u32> {
        self.tokenizer.token_to_id(",</w>")
    }

    /// Start, words, end and padding. There are at most `max_length - 2` words.
    pub(super) fn framed(&self, words: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.start);
        ids.extend(words);
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        ids
    }

    pub(super) fn encoded(&self, text: &str) -> tokenizers::Encoding {
        // Encoding cannot fail: unknown characters have the unknown token, which the vocabulary was checked for.
        self.tokenizer.encode(text, false).expect("byte-pair encoding has an unknown token")
    }
}

/// Lines of two parts; the first line is a version comment.
fn parse_merges(bytes: &[u8], label: &str) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(bytes).map_err(|e| broken(label, "merges.txt", e))?;
    text.lines()
        .enumerate()
        .filter(|(i, line)| !(line.trim().is_empty() || (*i == 0 && line.starts_with("#version"))))
        .map(|(i, line)| match line.split_once(' ') {
            Some((a, b)) => Ok((a.to_owned(), b.trim_end().to_owned())),
            None => Err(broken(label, "merges.txt", format!("line {} is not two parts", i + 1))),
        })
        .collect()
}

/// The special tokens (the padding token too, even where it is an ordinary sign) are taken whole wherever a prompt has them.
fn assemble(bpe: BPE, special: &[String]) -> tokenizers::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(bpe);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)));
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    let pre_tokenizers: Vec<PreTokenizerWrapper> = vec![words.into(), bytes.into()];
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(pre_tokenizers)));
    let special: Vec<AddedToken> =
        special.iter().map(|t| AddedToken::from(t.clone(), true).normalized(false)).collect();
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}
