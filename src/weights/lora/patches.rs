//! Which tensors of a network are served with changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delta::{Base, Delta, ReadDelta};
use crate::Result;

/// W' = W + Σ weight · ΔW, by the full name of W. A tensor without an entry is served as it lies in its file.
#[derive(Default)]
pub(crate) struct Patches {
    by_name: BTreeMap<String, Vec<Patch>>,
}

/// One adapter's part in a tensor.
#[derive(Clone)]
pub(crate) struct Patch {
    pub(super) weight: f64,
    pub(super) delta: Arc<Delta>,
}

impl Patches {
    /// Adds a change; at weight 0 there is none.
    pub(crate) fn add(&mut self, name: &str, weight: f64, change: Change) {
        if weight != 0.0 {
            let patch = Patch { weight, delta: Arc::new(change.0) };
            self.by_name.entry(name.to_owned()).or_default().push(patch);
        }
    }

    pub(crate) fn of(&self, name: &str) -> Option<&[Patch]> {
        self.by_name.get(name).map(Vec::as_slice)
    }
}

/// A change that was checked against the shape of the tensor it is for.
pub(crate) struct Change(pub(super) Delta);

/// The changes of one tensor with their factors read, to be added to some rows at a time.
pub(crate) struct Patcher<'p> {
    patches: Vec<(f64, ReadDelta<'p>)>,
    columns: usize,
    needs_base: bool,
}

impl<'p> Patcher<'p> {
    /// For a tensor of `rows` × `columns` values, of which `base` gives some rows.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn new(patches: &'p [Patch], [rows, columns]: [usize; 2], base: &Base<'_>) -> Result<Self> {
        for Patch { delta, .. } in patches {
            let agrees = [delta.rows, delta.columns] == [rows, columns];
            assert!(agrees, "a change was checked against its tensor's shape");
        }
        let needs_base = patches.iter().any(|patch| patch.delta.magnitudes.is_some());
        let read = |patch: &'p Patch| Ok((patch.weight, patch.delta.read(base)?));
        Ok(Patcher { patches: patches.iter().map(read).collect::<Result<_>>()?, columns, needs_base })
    }

    /// W' of the rows of W from `first` on. Every change is taken of W itself, so that their order decides nothing but the last bits.
    pub(crate) fn patch(&self, first: usize, values: &mut [f32]) {
        debug_assert!(values.len().is_multiple_of(self.columns), "whole rows");
        let base = if self.needs_base { values.to_vec() } else { Vec::new() };
        for (weight, delta) in &self.patches {
            delta.add_to(first, &base, *weight, values);
        }
    }
}

/// The extents of a change, as a matrix.
pub(crate) fn extents(patches: &[Patch]) -> Option<[usize; 2]> {
    patches.first().map(|patch| [patch.delta.rows, patch.delta.columns])
}

/// W' of the whole of W.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn patched(mut values: Vec<f32>, patches: &[Patch]) -> Result<Vec<f32>> {
    if let Some([rows, columns]) = extents(patches) {
        let patcher = Patcher::new(patches, [rows, columns], &|range| {
            Ok(values[range.start * columns..range.end * columns].to_vec())
        })?;
        patcher.patch(0, &mut values);
    }
    Ok(values)
}
