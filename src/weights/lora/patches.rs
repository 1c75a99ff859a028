//! Which tensors of a network are served with changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delta::Delta;

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

/// W' of W. Every change is taken of W itself, so that their order decides nothing but the last bits.
pub(crate) fn patched(mut values: Vec<f32>, patches: &[Patch]) -> Vec<f32> {
    let needs_base = patches.iter().any(|patch| patch.delta.magnitudes.is_some());
    let base = if needs_base { values.clone() } else { Vec::new() };
    for Patch { weight, delta } in patches {
        assert_eq!(values.len(), delta.rows * delta.columns, "a change was checked against its tensor's shape");
        delta.add_to(&base, *weight, &mut values);
    }
    values
}
