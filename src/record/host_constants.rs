//! Constants as the host executor keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;

use super::host::Shared;
use super::workers::caught;
use super::{Constant, DType, Dispatch, Held, HostWeight, Recording, Role};
use crate::Result;

/// How a constant is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// In order, as f32.
    Values,
    /// In panels, as a matrix of so many rows.
    Weight(usize),
    /// In panels of pairs of bf16, as a matrix of so many rows.
    Pairs(usize),
}

/// Most bytes of constants that are converted at a time: threads that wait for parts of one begin another.
const TOGETHER: u64 = 256 << 20;

/// The flag of a dispatch that multiplies in bf16.
pub(crate) const BF16: &str = "BF16";

/// The identity of a constant's `Arc`, and its form.
pub(super) type Key = (usize, Form);

pub(super) enum Stored {
    Values(Vec<f32>),
    Weight(HostWeight),
}

pub(super) struct HostConstant {
    pub(super) stored: Stored,
    /// Keeps the address that is a part of its key from being given to another constant.
    _source: Arc<Constant>,
    _held: Held,
}

impl Form {
    /// The form of the weight that a dispatch reads.
    pub(super) fn weight(dispatch: &Dispatch) -> Form {
        let rows = weight_rows(dispatch);
        if dispatch.variant.has(BF16) { Form::Pairs(rows) } else { Form::Weight(rows) }
    }

    /// Bytes of a constant in this form.
    pub(super) fn bytes(self, constant: &Constant) -> u64 {
        if let Form::Pairs(rows) = self {
            return HostWeight::pair_bytes(rows, constant.len()) as u64;
        }
        let dtype = if constant.dtype == DType::F16 && self != Form::Values { DType::F16 } else { DType::F32 };
        dtype.bytes(constant.len()) as u64
    }
}

impl Shared {
    /// A recording's constants by storage and form; those that no program holds are converted.
    pub(super) fn constants_of(&self, recording: &Recording) -> Result<HashMap<(u32, Form), Arc<HostConstant>>> {
        let wanted: Vec<(u32, &Arc<Constant>, Form)> = wanted(recording).collect();
        let keys: Vec<Key> = wanted.iter().map(|(_, constant, form)| key(constant, *form)).collect();
        let sources: HashMap<usize, &Arc<Constant>> =
            wanted.iter().map(|(_, constant, _)| (Arc::as_ptr(constant) as usize, *constant)).collect();
        let found = self.constants.of(&keys, !self.workers.is_worker(), |keys| self.convert_all(keys, &sources))?;
        Ok(wanted
            .iter()
            .zip(&keys)
            .map(|((storage, _, form), key)| ((*storage, *form), Arc::clone(&found[key])))
            .collect())
    }

    /// Side by side: while one is read, another is put into panels.
    fn convert_all(&self, keys: &[Key], sources: &HashMap<usize, &Arc<Constant>>) -> Result<Vec<HostConstant>> {
        let (mut made, mut rest) = (Vec::with_capacity(keys.len()), keys);
        while !rest.is_empty() {
            let mut bytes = 0;
            let is_room = |&&(at, form): &&Key| {
                bytes += form.bytes(sources[&at]);
                bytes <= TOGETHER
            };
            let (some, later) = rest.split_at(rest.iter().take_while(is_room).count().max(1));
            let some = some.par_iter().with_max_len(1).map(|&(at, form)| self.convert(sources[&at], form));
            let some: Vec<Result<HostConstant>> = self.workers.install(|| some.collect());
            for constant in some {
                made.push(constant?);
            }
            rest = later;
        }
        Ok(made)
    }

    fn convert(&self, constant: &Arc<Constant>, form: Form) -> Result<HostConstant> {
        let stored = caught(&constant.label, || {
            self.workers.install(|| match form {
                Form::Values => Ok(Stored::Values(constant.values()?)),
                Form::Weight(rows) => Ok(Stored::Weight(HostWeight::new(constant, rows)?)),
                Form::Pairs(rows) => Ok(Stored::Weight(HostWeight::new_pairs(constant, rows)?)),
            })
        })?;
        let bytes = form.bytes(constant);
        self.counts.uploaded_bytes.add(bytes);
        Ok(HostConstant { stored, _source: Arc::clone(constant), _held: self.memory.hold(bytes) })
    }

    /// Bytes of a recording's constants that no program holds.
    pub(super) fn missing_bytes(&self, recording: &Recording) -> u64 {
        let missing = wanted(recording).filter(|(_, constant, form)| !self.constants.has(key(constant, *form)));
        missing.map(|(_, constant, form)| form.bytes(constant)).sum()
    }
}

fn key(constant: &Arc<Constant>, form: Form) -> Key {
    (Arc::as_ptr(constant) as usize, form)
}

fn wanted(recording: &Recording) -> impl Iterator<Item = (u32, &Arc<Constant>, Form)> {
    let constants = recording.tensors.iter().enumerate().filter_map(|(index, tensor)| match &tensor.role {
        Role::Constant(constant) => Some((index as u32, constant)),
        _ => None,
    });
    constants.flat_map(|(storage, constant)| {
        forms(recording, storage).into_iter().map(move |form| (storage, constant, form))
    })
}

/// Rows of the weight that a dispatch reads: two for each result of a gated product.
pub(super) fn weight_rows(dispatch: &Dispatch) -> usize {
    let results = dispatch.write.shape.c;
    if dispatch.variant.has("GATED") { 2 * results } else { results }
}

/// The binding of a product's weight.
pub(super) const WEIGHT: &str = "weight";

/// The forms in which a constant is read: as a weight, in order, or (rarely) both.
pub(super) fn forms(recording: &Recording, storage: u32) -> Vec<Form> {
    let mut forms = Vec::new();
    for dispatch in &recording.dispatches {
        for (name, _) in dispatch.reads.iter().filter(|(_, tensor)| tensor.storage == storage) {
            let form = if *name == WEIGHT { Form::weight(dispatch) } else { Form::Values };
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    let is_output = recording.outputs.iter().any(|output| output.tensor.storage == storage);
    if (is_output || forms.is_empty()) && !forms.contains(&Form::Values) {
        forms.push(Form::Values);
    }
    forms
}
