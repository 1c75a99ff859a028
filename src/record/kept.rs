//! What a program knows of the runs before: the inputs that its prologue was computed from, and whether features are kept.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Recording;
use crate::{Error, Result};

/// Inputs of the prologue as the last run had them.
pub(crate) struct Kept {
    /// Their storages.
    inputs: BTreeSet<u32>,
    /// Their values, in that order; `None` while the prologue's results are not in memory.
    values: Option<Vec<Vec<f32>>>,
    /// Whether a run ended well that computed what [`Recording::deep`] names.
    has_features: bool,
}

impl Kept {
    pub(crate) fn of(recording: &Recording) -> Self {
        let reads = recording.dispatches[..recording.prologue].iter().flat_map(|dispatch| &dispatch.reads);
        let inputs = reads.map(|(_, tensor)| tensor.storage).filter(|&storage| recording.is_input(storage)).collect();
        Kept { inputs, values: None, has_features: false }
    }

    /// The first dispatch of a run with these inputs, by storage: behind the prologue if its results are those of the last run's. Until
    /// [`made`](Self::made) says that the run ended well, nothing counts as kept.
    fn first(&mut self, recording: &Recording, inputs: &[(u32, &[f32])]) -> usize {
        let same = |values: &Vec<Vec<f32>>| self.own(inputs).zip(values).all(|(new, old)| is_same(new, old));
        let kept = self.values.as_ref().is_some_and(same);
        // A run that fails half-way leaves results of the prologue as they are: nothing else may lie there.
        if kept {
            return recording.prologue;
        }
        self.values = None;
        0
    }

    /// The dispatches of a run with these inputs, in order: with `reuse`, those that kept features stand for are left out.
    ///
    /// # Errors
    /// When no features are kept.
    pub(crate) fn ranges(
        &mut self,
        recording: &Recording,
        inputs: &[(u32, &[f32])],
        reuse: bool,
    ) -> Result<[Range<usize>; 2]> {
        if reuse && !self.has_features {
            return Err(Error::shape("run", "expected a whole run before one on kept features, got none"));
        }
        let first = self.first(recording, inputs);
        let Range { start, end } = recording.deep;
        let all = recording.dispatches.len();
        if reuse {
            return Ok([first..start.max(first), end..all]);
        }
        // What fails half-way leaves a mixture.
        self.has_features = false;
        Ok([first..all, all..all])
    }

    /// Notes that a run with these inputs, from dispatch `first` on, ended well.
    pub(crate) fn made(&mut self, recording: &Recording, first: usize, inputs: &[(u32, &[f32])]) {
        self.has_features = !recording.deep.is_empty();
        if first == 0 && !self.inputs.is_empty() {
            self.values = Some(self.own(inputs).map(<[f32]>::to_vec).collect());
        }
    }

    fn own<'v>(&self, inputs: &[(u32, &'v [f32])]) -> impl Iterator<Item = &'v [f32]> {
        inputs.iter().filter(|(storage, _)| self.inputs.contains(storage)).map(|&(_, values)| values)
    }
}

/// Bit for bit: a NaN is itself.
fn is_same(a: &[f32], b: &[f32]) -> bool {
    bytemuck::cast_slice::<f32, u8>(a) == bytemuck::cast_slice::<f32, u8>(b)
}
