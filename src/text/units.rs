//! What a text is made of: tokens of the vocabulary, and names that stand for vectors of their own (textual inversion).

use std::borrow::Cow;
use std::ops::Range;

use super::chunk::{COMFY_EMBEDDING, comfy_parts};
use super::{ClipTokenizer, Piece, PromptSyntax, parse};
use crate::{Error, Result};

/// What files of embeddings end with.
const EMBEDDING_ENDINGS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// A name that stands for vectors.
pub(super) struct Embedding {
    name: String,
    /// The name's own tokens.
    spelled: Vec<u32>,
    /// The ids of its vectors, outside the vocabulary.
    ids: Range<u32>,
}

/// A part of a text that stays together where it can.
pub(super) struct Unit {
    /// One token, or the vectors of a name.
    pub(super) ids: Vec<u32>,
    /// Where it begins, in bytes of [`ClipTokenizer::spaced`].
    pub(super) from: usize,
}

impl ClipTokenizer {
    /// Makes `name` stand for the vectors `ids`, which are not in the vocabulary.
    ///
    /// # Errors
    /// When the name has no token, or another embedding has it.
    pub fn add_embedding(&mut self, name: &str, ids: Range<u32>) -> Result<()> {
        let spelled = self.words(name);
        if spelled.is_empty() {
            return Err(Error::model(format!("embedding: expected a name that can be typed, got {name:?}")));
        }
        let most = self.max_length() - 2;
        if !(1..=most).contains(&ids.len()) {
            return Err(Error::model(format!(
                "embedding {name}: expected 1 to {most} vectors, the tokens of a chunk, got {}",
                ids.len()
            )));
        }
        if let Some(other) = self.embeddings.iter().find(|other| other.spelled == spelled) {
            return Err(Error::model(format!(
                "embedding: expected each name once, got {name:?} and {:?}; rename a file",
                other.name
            )));
        }
        self.embeddings.push(Embedding { name: name.to_owned(), spelled, ids });
        // The longest first, so that "style-2" is not read as "style" and what follows.
        self.embeddings.sort_by_key(|embedding| std::cmp::Reverse(embedding.spelled.len()));
        Ok(())
    }

    /// The names in a text that stand for vectors, each once, as they were added.
    pub fn embeddings_in(&self, text: &str) -> Vec<&str> {
        let units = self.units(text);
        let used = |embedding: &&Embedding| units.iter().any(|unit| unit.ids.first() == Some(&embedding.ids.start));
        self.embeddings.iter().filter(used).map(|embedding| embedding.name.as_str()).collect()
    }

    /// Names in a prompt of ComfyUI (`embedding:NAME`) that nothing was added for.
    ///
    /// # Errors
    /// When a weight is not a number.
    pub fn unknown_embeddings(&self, text: &str) -> Result<Vec<String>> {
        let pieces = parse(text, PromptSyntax::Comfy)?;
        let texts = pieces.iter().filter_map(|piece| match piece {
            Piece::Text { text, .. } => Some(text),
            _ => None,
        });
        let parts = texts.flat_map(|text| comfy_parts(text)).filter_map(|part| part.strip_prefix(COMFY_EMBEDDING));
        let names = parts.filter_map(|part| part.split_whitespace().next());
        Ok(names.filter(|name| self.named(name).is_none()).map(str::to_owned).collect())
    }

    /// The name and number of a vector.
    pub(super) fn embedding_of(&self, id: u32) -> Option<String> {
        let found = self.embeddings.iter().find(|embedding| embedding.ids.contains(&id))?;
        let (count, at) = (found.ids.len(), id - found.ids.start + 1);
        Some(if count == 1 { format!("{}</w>", found.name) } else { format!("{}[{at}/{count}]</w>", found.name) })
    }

    /// The vectors of a name as ComfyUI's `embedding:NAME` has it, also with its folder and its ending (`embedding:sub/NAME.pt`), and what
    /// is left of the word: commas at its end.
    pub(super) fn named<'t>(&self, name: &'t str) -> Option<(Vec<u32>, &'t str)> {
        let ids = |name: &str| self.embeddings.iter().find(|e| e.name == name).map(|e| e.ids.clone().collect());
        let find = |name: &str| {
            let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
            let bare = EMBEDDING_ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).unwrap_or(file);
            ids(name).or_else(|| ids(file)).or_else(|| ids(bare))
        };
        let bare = name.trim_matches(',');
        find(name).map(|ids| (ids, "")).or_else(|| Some((find(bare)?, &name[bare.len()..])))
    }

    /// Tokens, with the vectors of a name where the tokens of the name stand, the longest name first (`find_embedding_at_position` of
    /// stable-diffusion-webui's `modules/textual_inversion/textual_inversion.py`).
    pub(super) fn units(&self, text: &str) -> Vec<Unit> {
        let text = self.spaced(text);
        let encoded = self.encoded(&text);
        let (ids, offsets) = (encoded.get_ids(), encoded.get_offsets());
        let mut units = Vec::with_capacity(ids.len());
        let mut at = 0;
        while at < ids.len() {
            let from = offsets.get(at).map_or(0, |offset| offset.0);
            match self.embeddings.iter().find(|embedding| ids[at..].starts_with(&embedding.spelled)) {
                Some(embedding) => {
                    units.push(Unit { ids: embedding.ids.clone().collect(), from });
                    at += embedding.spelled.len();
                }
                None => {
                    units.push(Unit { ids: vec![ids[at]], from });
                    at += 1;
                }
            }
        }
        units
    }

    /// The text with room around names such as `<toy>`, whose signs would run together with those beside them.
    pub(super) fn spaced<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let has_sign =
            |name: &str| [name.chars().next(), name.chars().last()].iter().flatten().any(|c| !c.is_alphanumeric());
        let mut text = Cow::Borrowed(text);
        for Embedding { name, .. } in self.embeddings.iter().filter(|embedding| has_sign(&embedding.name)) {
            if text.contains(name) {
                text = text.replace(name, &format!(" {name} ")).into();
            }
        }
        text
    }
}
