//! Embeddings (textual inversion): which files, for which names in prompts; `weights` reads them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::pipeline::files::recognise::{Found, family_of_widths};
use crate::pipeline::model::encoders::TextEncoder;
use crate::text::ClipTokenizer;
use crate::weights::{EmbeddingFile, WeightFile};
use crate::{Error, Place, Result};

/// An embedding to load.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The file.
    pub path: PathBuf,
    /// Whether it lies among others rather than being asked for: one that does not fit the model is then left out with a notice.
    pub is_found: bool,
}

/// An embedding that was loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EmbeddingReport {
    /// The file's name without ending, which stands for the vectors.
    pub name: String,
    /// Another name for them: the token that diffusers keeps in the file.
    pub token: Option<String>,
    /// How many tokens' places it takes.
    pub vectors: usize,
    sha256: String,
}

impl EmbeddingReport {
    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.token.as_deref())
    }

    /// What a picture's parameters say: enough to ask for the same file.
    pub(crate) fn parameters(&self) -> Value {
        json!({ "name": self.name, "sha256": self.sha256, "vectors": self.vectors })
    }

    /// `name: 0123456789ab`, an entry of AUTOMATIC1111's "TI hashes" (`process_texts` in `modules/sd_hijack_clip.py`): signs that separate
    /// are left out of the name, and the hash is the file's, cut to twelve digits.
    pub(crate) fn short_hash(&self) -> String {
        format!("{}: {}", self.name.replace([':', ','], ""), &self.sha256[..12])
    }
}

/// Open embedding files.
pub(crate) struct Embeddings {
    open: Vec<Opened>,
    /// Why files that were found among others are not used.
    left_out: Vec<String>,
}

/// For each of a model's text encoders the vectors of an embedding.
type Rows = Vec<Vec<Vec<f32>>>;

/// An embedding with its vectors.
type Fitting<'a> = (&'a Opened, Rows);

struct Opened {
    path: PathBuf,
    is_found: bool,
    name: String,
    file: EmbeddingFile,
}

impl Embeddings {
    /// # Errors
    /// When a file that was asked for is missing, damaged or no embedding.
    pub(crate) fn open(embeddings: &[Embedding]) -> Result<Self> {
        let mut all = Embeddings { open: Vec::new(), left_out: Vec::new() };
        for embedding in embeddings {
            match Opened::new(embedding) {
                Err(error) if embedding.is_found => all.left_out.push(unused(&error)),
                open => all.open.push(open?),
            }
        }
        Ok(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Those that fit text encoders of these widths with their vectors, and what a user should know of the others.
    fn fitting(&self, widths: &[usize]) -> Result<(Vec<Fitting<'_>>, Vec<String>)> {
        let (mut fitting, mut left_out): (Vec<Fitting<'_>>, _) = (Vec::new(), self.left_out.clone());
        for open in &self.open {
            let same = |other: &&Fitting<'_>| other.0.name.to_lowercase() == open.name.to_lowercase();
            match (open.rows(widths), fitting.iter().find(same)) {
                (Err(error), _) if open.is_found => left_out.push(unused(&error)),
                (Ok(_), Some((other, _))) if open.is_found => {
                    left_out.push(format!(
                        "{} is left out: {} has the same name",
                        open.path.display(),
                        other.path.display()
                    ));
                }
                (rows, _) => fitting.push((open, rows?)),
            }
        }
        Ok((fitting, left_out))
    }

    /// Gives names and vectors to the text encoders of a model; and what a user should know of those that were left out.
    ///
    /// # Errors
    /// When one that was asked for does not fit, or two have one name.
    pub(crate) fn add_to(&self, encoders: &mut [TextEncoder]) -> Result<(Vec<EmbeddingReport>, Vec<String>)> {
        let widths: Vec<usize> = encoders.iter().map(|encoder| encoder.model.config().hidden_size).collect();
        let (fitting, left_out) = self.fitting(&widths)?;
        let mut added = Vec::new();
        for (open, rows) in fitting {
            let vectors = rows[0].len();
            for (encoder, rows) in encoders.iter_mut().zip(rows) {
                let first = encoder.model.add_embeddings(rows)?;
                open.name_in(&mut encoder.tokenizer, first, vectors)?;
            }
            added.push(open.report(vectors)?);
        }
        Ok((added, left_out))
    }

    /// Gives the names to a tokenizer of a model whose networks are not loaded, with text encoders of these widths; and what a user should
    /// know of those that were left out.
    ///
    /// # Errors
    /// As [`add_to`](Self::add_to).
    pub(crate) fn name_in(&self, tokenizer: &mut ClipTokenizer, widths: &[usize]) -> Result<Vec<String>> {
        let (fitting, left_out) = self.fitting(widths)?;
        let mut first = tokenizer.vocabulary_len();
        for (open, rows) in fitting {
            open.name_in(tokenizer, first, rows[0].len())?;
            first += rows[0].len() as u32;
        }
        Ok(left_out)
    }
}

fn unused(error: &Error) -> String {
    format!("{error}; its name in the prompt is read as words")
}

impl Opened {
    fn new(embedding: &Embedding) -> Result<Self> {
        let path = &embedding.path;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let file = Arc::new(WeightFile::open(path)?);
        let file = match Found::in_file(&file, &BTreeMap::new()) {
            Found::Embedding(file) => file,
            other => return Err(other.refusal(path, Place::Embedding)),
        };
        Ok(Opened { file, is_found: embedding.is_found, path: path.clone(), name })
    }

    /// Another name than the file's.
    fn token(&self) -> Option<&str> {
        self.file.token().filter(|token| *token != self.name)
    }

    fn report(&self, vectors: usize) -> Result<EmbeddingReport> {
        let token = self.token().map(str::to_owned);
        Ok(EmbeddingReport { name: self.name.clone(), token, vectors, sha256: self.file.sha256()? })
    }

    fn name_in(&self, tokenizer: &mut ClipTokenizer, first: u32, vectors: usize) -> Result<()> {
        let ids = first..first + vectors as u32;
        let mut names = std::iter::once(self.name.as_str()).chain(self.token());
        names.try_for_each(|name| tokenizer.add_embedding(name, ids.clone()))
    }

    /// The vectors for each of a model's text encoders, which have these widths.
    fn rows(&self, widths: &[usize]) -> Result<Rows> {
        let (_, own) = self.file.extents()?;
        if own == widths {
            return self.file.vectors();
        }
        Err(Error::model(format!(
            "embedding {}: expected vectors of width {} for this model's text encoder{}, got {}; it was made for another family ({})",
            self.path.display(),
            joined(widths),
            if widths.len() == 1 { "" } else { "s" },
            joined(&own),
            family_of_widths(&own)
        )))
    }
}

fn joined(widths: &[usize]) -> String {
    widths.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ")
}
