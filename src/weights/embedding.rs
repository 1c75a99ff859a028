//! Files of embeddings (textual inversion): vectors that stand for a name in prompts.
//!
//! | form | tensors |
//! | --- | --- |
//! | AUTOMATIC1111 | `emb_params` `[n, width]` |
//! | diffusers | one tensor `[width]` or `[n, width]`, named by its token |
//! | Stable Diffusion XL | `clip_l` `[n, width]` and `clip_g` `[n, width]`, one for each text encoder |

use std::path::Path;
use std::sync::Arc;

use super::{TensorSet, WeightFile, WeightType, Weights};
use crate::{Error, Result};

/// Names of tensors that tell no token: AUTOMATIC1111's, in safetensors and in its own files.
const UNNAMED: [&str; 2] = ["emb_params", "string_to_param.*"];
/// Of the two text encoders of Stable Diffusion XL.
const PAIR: [&str; 2] = ["clip_l", "clip_g"];

/// A file of embeddings; its vectors are read when asked for.
pub struct EmbeddingFile {
    file: TensorSet,
    /// One tensor, or one for each of two text encoders.
    tensors: Vec<String>,
    token: Option<String>,
}

impl EmbeddingFile {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is missing, damaged or no embedding.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TensorSet::from(Arc::new(WeightFile::open(path)?));
        EmbeddingFile::of(&file).ok_or_else(|| {
            let some: Vec<&str> = file.tensors().keys().take(3).map(String::as_str).collect();
            Error::model(format!(
                "{}: expected an embedding (emb_params, clip_l and clip_g, or one tensor under its token's name), got {} tensors such as \
                 {some:?}",
                file.label(),
                file.tensors().len(),
            )).in_file(file.label())
        })
    }

    /// What is in a file; `None` where names and numbers of extents are not those of an embedding.
    pub fn of(file: &TensorSet) -> Option<Self> {
        let is_rows = |name: &&str| file.shape(name).is_some_and(|shape| (1..=2).contains(&shape.len()));
        let known = |names: &[&str]| names.iter().filter(|name| is_rows(name)).map(|name| (*name).to_owned()).collect();
        let made = |tensors, token| Some(EmbeddingFile { file: file.clone(), tensors, token });
        let (unnamed, pair): (Vec<String>, Vec<String>) = (known(&UNNAMED), known(&PAIR));
        match file.tensors().keys().map(String::as_str).collect::<Vec<_>>().as_slice() {
            _ if unnamed.len() == 1 => made(unnamed, None),
            _ if !pair.is_empty() => made(pair, None),
            // A file of one tensor that is something else has a path for a name.
            [token] if is_rows(token) && !token.contains('.') => made(vec![(*token).into()], Some((*token).to_owned())),
            _ => None,
        }
    }

    /// The token that diffusers keeps in the file.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// SHA-256 of the file, in hexadecimal.
    ///
    /// # Errors
    /// As [`TensorSet::sha256`].
    pub fn sha256(&self) -> Result<String> {
        self.file.sha256()
    }

    /// How many vectors there are for each text encoder, and their widths.
    ///
    /// # Errors
    /// When there are none, or not as many for one as for the other.
    pub fn extents(&self) -> Result<(usize, Vec<usize>)> {
        let mut all = Vec::new();
        for name in &self.tensors {
            all.push(match *self.file.shape(name).unwrap_or_default() {
                [width] if width > 0 => (1, width),
                [rows, width] if rows > 0 && width > 0 => (rows, width),
                ref other => return self.refuse(&format!("expected {name} as [vectors, width], got {other:?}")),
            });
        }
        let count = all[0].0;
        if all.iter().any(|(rows, _)| *rows != count) {
            return self
                .refuse(&format!("expected as many vectors for one text encoder as for the other, got {all:?}"));
        }
        Ok((count, all.into_iter().map(|(_, width)| width).collect()))
    }

    /// The vectors for each text encoder.
    ///
    /// # Errors
    /// As [`extents`](Self::extents); when values are of a type that is not read, or not finite.
    pub fn vectors(&self) -> Result<Vec<Vec<Vec<f32>>>> {
        let (count, widths) = self.extents()?;
        let mut all = Vec::new();
        for (name, &width) in self.tensors.iter().zip(&widths) {
            let view = self.file.tensors().get(name).and_then(|view| view.reshaped(&[count, width]));
            let tensors = view.map(|view| (name.clone(), view)).into_iter().collect();
            let weights = Weights::new(TensorSet::new(self.file.label(), tensors), "embedding", WeightType::Keep);
            let table = weights.table(name, [count, width])?;
            let rows = (0..count).map(|row| table.row(row)).collect::<Result<Vec<_>>>()?;
            if !rows.iter().flatten().all(|v| v.is_finite()) {
                return self.refuse(&format!("expected finite numbers in {name}, got others; the file is damaged"));
            }
            all.push(rows);
        }
        Ok(all)
    }

    fn refuse<T>(&self, what: &str) -> Result<T> {
        Err(Error::model(format!("{}: {what}", self.file.label())).in_file(self.file.label()))
    }
}
