//! What the choice of a product's kernel and tile depends on.

use crate::record::{DType, Shape};

/// Images that every way of computing is chosen for, however many a recording has: one picture under guidance. Sums are added up in another order
/// in other tiles, so a choice that saw the whole batch would give a picture other bits in other company.
pub(in crate::ops) const CHOSEN_FOR: usize = 2;

/// Results and terms of a product of [`CHOSEN_FOR`] images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Extents {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) columns: usize,
    /// A sum has `runs` times `run` terms (`shaders/shared/run.wgsl`).
    pub(in crate::ops) runs: usize,
    pub(in crate::ops) run: usize,
}

impl Extents {
    /// Of results `out` and sums of `runs` times `run` terms.
    pub(in crate::ops) fn of(out: Shape, runs: usize, run: usize) -> Self {
        Extents { rows: CHOSEN_FOR * out.h * out.w, columns: out.c, runs, run }
    }

    pub(in crate::ops) fn terms(self) -> usize {
        self.runs * self.run
    }
}

/// What the choice of a tile depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct ProductClass {
    pub(in crate::ops) kernel: &'static str,
    pub(in crate::ops) x: DType,
    pub(in crate::ops) weight: DType,
    pub(in crate::ops) extents: Extents,
}

impl ProductClass {
    /// Products share a tile if their extents agree up to the next power of two: `conv2d f16 f16 4096x512x4096`. Rows are those of
    /// [`CHOSEN_FOR`] images.
    pub(in crate::ops) fn key(&self) -> String {
        let Extents { rows, columns, .. } = self.extents;
        let [rows, columns, terms] = [rows, columns, self.extents.terms()].map(usize::next_power_of_two);
        format!("{} {} {} {rows}x{columns}x{terms}", self.kernel, self.x.name(), self.weight.name())
    }
}
