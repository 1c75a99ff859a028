//! Walking a checkpoint by its own names, and remembering every tensor that was asked for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::convert::{Kept, Packed, Source, WeightType};
use super::element::StoredType;
use super::lora::Patches;
use super::pool::Pool;
use super::quantize::quantized;
use super::set::TensorSet;
use crate::record::{Constant, ConstantData, DType};
use crate::{Error, Result};

/// How many names a message lists before it counts the rest.
const LISTED: usize = 8;

/// A place in a checkpoint: its tensors and a path prefix. [`at`](Self::at) steps down, as the module tree does.
///
/// A tensor that the file lacks is noted and stood in for, so that [`finish`](Self::finish) can list all of them; a
/// model must not be used before `finish` succeeded, and every `load` in `models` calls it.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    path: String,
    remedy: &'static str,
}

struct Shared {
    tensors: TensorSet,
    model: String,
    weight_type: WeightType,
    patches: Patches,
    pool: Option<Pool>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    read: BTreeSet<String>,
    missing: Vec<String>,
}

impl Weights {
    /// The root of a file, or of another set of tensors. `model` opens every message: `unet`, `vae`, `text_encoder_2`, …
    pub fn new(tensors: impl Into<TensorSet>, model: impl Into<String>, weight_type: WeightType) -> Self {
        let shared = Shared {
            tensors: tensors.into(),
            model: model.into(),
            weight_type,
            patches: Patches::default(),
            pool: None,
            asked: Mutex::default(),
        };
        Weights {
            shared: Arc::new(shared),
            path: String::new(),
            remedy: "the weights and config.json belong to different models",
        }
    }

    /// The same root, whose tensors come with these changes. The patches' shapes are those of [`tensors`](Self::tensors).
    pub(crate) fn with_patches(&self, patches: Patches) -> Self {
        self.with(patches, self.shared.pool.clone())
    }

    /// The same root, which takes what is not changed from this pool, and leaves it there. One pool serves one model's files.
    pub(crate) fn sharing(&self, pool: &Pool) -> Self {
        self.with(Patches::default(), Some(pool.clone()))
    }

    fn with(&self, patches: Patches, pool: Option<Pool>) -> Self {
        let Shared { tensors, model, weight_type, .. } = &*self.shared;
        let asked = Mutex::default();
        let (tensors, model, weight_type) = (tensors.clone(), model.clone(), *weight_type);
        let shared = Shared { tensors, model, weight_type, patches, pool, asked };
        Weights { shared: Arc::new(shared), ..self.clone() }
    }

    /// Full names and shapes of all tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.shared.tensors.tensors().iter().map(|(name, view)| (name.as_str(), view.shape()))
    }

    /// The full name of a tensor at this place.
    pub fn full_name(&self, leaf: &str) -> String {
        self.name(leaf)
    }

    /// The root of the same tensors.
    pub fn root(&self) -> Weights {
        Weights { path: String::new(), ..self.clone() }
    }

    /// The place one name (or several, joined by dots) further down.
    pub fn at(&self, name: impl Display) -> Weights {
        Weights { path: self.name(&name.to_string()), ..self.clone() }
    }

    /// The same place, with another closing remark for a tensor of the wrong shape found from here on.
    pub fn with_remedy(&self, remedy: &'static str) -> Weights {
        Weights { remedy, ..self.clone() }
    }

    /// Whether the file has this tensor. Does not count as asking for it.
    pub fn contains(&self, name: &str) -> bool {
        self.shared.tensors.contains(&self.name(name))
    }

    /// `[len]`, in f32, with zeros up to a multiple of 4: a bias, or the scale and shift of a norm.
    ///
    /// # Errors
    /// When the file has another shape, or a type that is not read.
    pub fn vector(&self, name: &str, len: usize) -> Result<Arc<Constant>> {
        self.fused_vector(&[name], len)
    }

    /// Several vectors of `len` after each other, as [`vector`](Self::vector).
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn fused_vector(&self, names: &[&str], len: usize) -> Result<Arc<Constant>> {
        let rows = (names.len() * len).next_multiple_of(4);
        self.packed(names, &[len], &[rows], Some(DType::F32))
    }

    /// `[out, in]`, both with zeros up to a multiple of 4.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Arc<Constant>> {
        self.fused_matrix(&[name], shape)
    }

    /// Several matrices of the same `[out, in]` below each other: one product instead of several.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn fused_matrix(&self, names: &[&str], [out, inner]: [usize; 2]) -> Result<Arc<Constant>> {
        let padded = [(names.len() * out).next_multiple_of(4), inner.next_multiple_of(4)];
        self.packed(names, &[out, inner], &padded, None)
    }

    /// Matrices `[rows, in]`, each by its name and its number of rows, below each other: one product instead of several.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn stacked_matrix(&self, parts: &[(String, usize)], inner: usize) -> Result<Arc<Constant>> {
        let rows: usize = parts.iter().map(|(_, rows)| rows).sum();
        let padded = [rows.next_multiple_of(4), inner.next_multiple_of(4)];
        let sources = parts.iter().map(|(name, rows)| self.ask(name, &[*rows, inner])).collect::<Result<_>>()?;
        Ok(self.pack(self.stacked_name(parts), sources, &[rows, inner], &padded, None))
    }

    /// Vectors, each by its name and its length, after each other, as [`vector`](Self::vector).
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn stacked_vector(&self, parts: &[(String, usize)]) -> Result<Arc<Constant>> {
        let len: usize = parts.iter().map(|(_, len)| len).sum();
        let sources = parts.iter().map(|(name, len)| self.ask(name, &[*len])).collect::<Result<_>>()?;
        Ok(self.pack(self.stacked_name(parts), sources, &[len], &[len.next_multiple_of(4)], Some(DType::F32)))
    }

    fn stacked_name(&self, parts: &[(String, usize)]) -> String {
        self.name(&parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("+"))
    }

    /// A convolution, stored `[out, in, k, k]`, given as `[out, k, k, in]` (as the matrix `[out, in]` for k = 1), both
    /// channel counts with zeros up to a multiple of 4.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn conv(&self, name: &str, [out, inner]: [usize; 2], kernel: usize) -> Result<Arc<Constant>> {
        let (rows, columns) = (out.next_multiple_of(4), inner.next_multiple_of(4));
        let padded: &[usize] = if kernel == 1 { &[rows, columns] } else { &[rows, kernel, kernel, columns] };
        self.packed(&[name], &[out, inner, kernel, kernel], padded, None)
    }

    /// What `make` makes of a constant of this tree; `how` tells it from what else is made of it. Networks that share their constants share this too.
    pub(crate) fn made_of(
        &self,
        base: Arc<Constant>,
        how: &str,
        make: impl FnOnce(Arc<Constant>) -> Arc<Constant>,
    ) -> Arc<Constant> {
        match &self.shared.pool {
            Some(pool) => pool.made_of(base, how, make),
            None => make(base),
        }
    }

    /// A table whose rows the host looks up; it never goes to a device.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn table(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<Table> {
        let source = self.ask(name, &[rows, columns])?;
        Ok(Table {
            name: self.name(name),
            model: self.shared.model.clone(),
            rows,
            columns,
            source,
            changed: OnceLock::new(),
        })
    }

    /// Checks that nothing was missing and nothing was left unread, except the names in `extras` (full names of
    /// tensors that checkpoints carry without need).
    ///
    /// # Errors
    /// Listing what is missing and what was never read, with shapes.
    pub fn finish(&self, extras: &[&str]) -> Result<()> {
        let asked = self.asked();
        let unread: Vec<String> = self
            .shared
            .tensors
            .tensors()
            .iter()
            .filter(|(name, _)| !asked.read.contains(*name) && !extras.contains(&name.as_str()))
            .map(|(name, tensor)| format!("{name} {:?}", tensor.shape()))
            .collect();
        let complaints: Vec<String> = [("missing", &asked.missing), ("unknown to this model", &unread)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{} {what} ({})", count(names.len()), list(names)))
            .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        Err(Error::model(format!(
            "{}: {}: {}; the weights and config.json belong to different models, or the file is incomplete",
            self.shared.model,
            self.shared.tensors.label(),
            complaints.join(" and ")
        ))
        .in_file(self.shared.tensors.label()))
    }

    fn packed(
        &self,
        names: &[&str],
        stored: &[usize],
        padded: &[usize],
        forced: Option<DType>,
    ) -> Result<Arc<Constant>> {
        let sources = names.iter().map(|name| self.ask(name, stored)).collect::<Result<_>>()?;
        Ok(self.pack(self.name(&names.join("+")), sources, stored, padded, forced))
    }

    /// The constant of these sources below each other, `stored` but for their rows; of the pool, where it is there and nothing changes it.
    fn pack(
        &self,
        label: String,
        sources: Option<Vec<Source>>,
        stored: &[usize],
        padded: &[usize],
        forced: Option<DType>,
    ) -> Arc<Constant> {
        let is_plain = sources.iter().flatten().all(|source| source.patches.is_empty()) && sources.is_some();
        let Some(pool) = self.shared.pool.as_ref().filter(|_| is_plain) else {
            return self.pack_anew(label, sources, stored, padded, forced);
        };
        let key = format!("{} {label} {padded:?} {forced:?}", self.shared.model);
        pool.find(&key).unwrap_or_else(|| {
            let constant = self.pack_anew(label, sources, stored, padded, forced);
            pool.keep(key, &constant);
            constant
        })
    }

    fn pack_anew(
        &self,
        label: String,
        sources: Option<Vec<Source>>,
        stored: &[usize],
        padded: &[usize],
        forced: Option<DType>,
    ) -> Arc<Constant> {
        let Some(sources) = sources else {
            let data = Box::new(Missing(label.clone()));
            return Arc::new(Constant { label, shape: padded.to_vec(), dtype: DType::F32, data });
        };
        let kept = self.shared.weight_type.kept_blocks(&sources).filter(|_| forced.is_none() && padded.len() == 2);
        if let Some(dtype) = kept {
            let data = Kept { sources, len: padded.iter().product(), dtype };
            return Arc::new(Constant { label, shape: padded.to_vec(), dtype, data: Box::new(data) });
        }
        // A sum is not what was stored: kept as f32, unless all weights are to be f16.
        let stored_as = |s: &Source| if s.patches.is_empty() { s.view.dtype() } else { StoredType::F32 };
        let types: Vec<StoredType> = sources.iter().map(stored_as).collect();
        let dtype = forced.unwrap_or_else(|| self.shared.weight_type.device_type(&types));
        let channels = stored.get(1).copied().unwrap_or(1);
        let data = Packed {
            sources,
            taps: stored.iter().skip(2).product(),
            channels,
            padded_channels: if stored.len() == 1 { 1 } else { padded[padded.len() - 1] },
            padded_rows: padded[0],
            dtype,
        };
        let constant = Constant { label, shape: padded.to_vec(), dtype, data: Box::new(data) };
        Arc::new(if forced.is_some() { constant } else { quantized(self.shared.weight_type, constant) })
    }

    /// Notes that the tensor was asked for and checks it; `None` when the file lacks it.
    fn ask(&self, name: &str, shape: &[usize]) -> Result<Option<Source>> {
        let full = self.name(name);
        let Some(view) = self.shared.tensors.tensors().get(&full) else {
            self.asked().missing.push(format!("{full} {shape:?}"));
            return Ok(None);
        };
        self.asked().read.insert(full.clone());
        let model = &self.shared.model;
        let view = view.with_slow_ones(shape).unwrap_or_else(|| view.clone());
        if view.shape() != shape {
            let remedy = self.remedy;
            let found = view.shape();
            return Err(Error::model(format!("{model}: {full}: expected {shape:?}, file has {found:?}; {remedy}"))
                .in_file(view.file.label())
                .of_tensor(full));
        }
        if !view.dtype().is_readable() {
            return Err(Error::model(format!(
                "{model}: {full}: expected {}, file has {}; convert the file to one of them",
                StoredType::READABLE,
                view.dtype()
            ))
            .in_file(view.file.label())
            .of_tensor(full));
        }
        let patches = self.shared.patches.of(&full).map(<[_]>::to_vec).unwrap_or_default();
        Ok(Some(Source { view, name: full, patches }))
    }

    fn name(&self, leaf: &str) -> String {
        if self.path.is_empty() { leaf.to_owned() } else { format!("{}.{leaf}", self.path) }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(tensors: usize) -> String {
    if tensors == 1 { "1 tensor is".into() } else { format!("{tensors} tensors are") }
}

fn list(names: &[String]) -> String {
    let listed = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED { format!("{listed}, and {} more", names.len() - LISTED) } else { listed }
}

/// Stands in for a tensor that the file lacks, until `finish` reports it.
struct Missing(String);

impl ConstantData for Missing {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        Err(Error::model(format!("{}: missing in the checkpoint; its model was used before Weights::finish", self.0)))
    }
}

/// A matrix `[rows, columns]` in the file, read row by row on the host.
pub struct Table {
    name: String,
    model: String,
    /// Rows.
    pub rows: usize,
    /// Values of a row.
    pub columns: usize,
    source: Option<Source>,
    /// All values, where adapters change them.
    changed: OnceLock<Vec<f32>>,
}

impl Table {
    /// Row `index` as f32.
    ///
    /// # Errors
    /// When there is no such row, or the file cannot be read.
    pub fn row(&self, index: usize) -> Result<Vec<f32>> {
        let Some(source) = self.source.as_ref().filter(|_| index < self.rows) else {
            return Err(Error::model(format!(
                "{}: {}: expected a row below {}, got {index}; use the tokenizer that belongs to the model",
                self.model, self.name, self.rows
            ))
            .of_tensor(&self.name));
        };
        if !source.patches.is_empty() {
            let values = match self.changed.get() {
                Some(values) => values,
                None => {
                    let values = source.values()?;
                    self.changed.get_or_init(|| values)
                }
            };
            return Ok(values[index * self.columns..(index + 1) * self.columns].to_vec());
        }
        source.view.row(index)
    }
}
