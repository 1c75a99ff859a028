//! The change of one tensor, and how it is added to the stored values.
//!
//! With W `[out, in · taps]` (a convolution's taps beside its channels), `s` = α / rank and `⊗` Kronecker's product:
//!
//! | kind | ΔW |
//! | --- | --- |
//! | LoRA (arXiv 2106.09685, eq. 3) | s · up · down; with a core (LoCon): s · Σ_pq up_op core_pqt down_qi |
//! | LoHa (FedPara, arXiv 2108.06098, prop. 1; LyCORIS `loha.py`) | s · (w1_a · w1_b) ⊙ (w2_a · w2_b), either with a core |
//! | LoKr (LyCORIS `lokr.py`) | s · w1 ⊗ w2, either a product, w2 also with a core |
//! | full | the stored difference |
//!
//! DoRA (arXiv 2402.09353, eq. 5) turns any of them into m · (W + ΔW) / ‖W + ΔW‖ − W, the norm taken for each output or, as LyCORIS first
//! had it, for each input channel; m is learned.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::product::{multiply_add, product, transposed};
use crate::Result;
use crate::weights::{StoredTensor, WeightFile};

/// Rows that one thread works on at a time.
const ROWS: usize = 16;

/// Values that norms are taken of at a time.
const TOGETHER: usize = 1 << 22;

/// A tensor of an adapter file whose type and shape were checked.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) file: Arc<WeightFile>,
    pub(super) name: String,
    pub(super) tensor: StoredTensor,
}

impl Part {
    pub(super) fn values(&self) -> Result<Vec<f32>> {
        Ok(self.tensor.dtype.decode(&self.file.bytes(&self.tensor)?))
    }

    /// `[first extent, all others]`.
    pub(super) fn extents(&self) -> [usize; 2] {
        let shape = &self.tensor.shape;
        // Saturating: a header may give an empty tensor extents whose product no integer holds.
        [
            shape.first().copied().unwrap_or(1),
            shape.iter().skip(1).fold(1, |n: usize, extent| n.saturating_mul(*extent)),
        ]
    }
}

/// `a · b`, or with a core `Σ_pq a_po core_pqt b_qi`.
pub(super) enum Factors {
    /// `a [out, rank]`, `b [rank, in · taps]`.
    Two { a: Part, b: Part },
    /// `a [out, p]`, or `[p, out]` where `transposed`; `core [p, q, taps]`; `b [q, in]`.
    Core { a: Part, transposed: bool, core: Part, b: Part },
}

impl Factors {
    fn dense(&self) -> Result<LowRank> {
        Ok(match self {
            Factors::Two { a, b } => LowRank { rank: b.extents()[0], a: a.values()?, b: b.values()? },
            Factors::Core { a, transposed: is_transposed, core, b } => {
                let values = a.values()?;
                let a = if *is_transposed { transposed(&values, a.extents()[1]) } else { values };
                let (p, q) = (core.tensor.shape[0], core.tensor.shape[1]);
                let (taps, inner) = (core.extents()[1] / q, b.extents()[1]);
                // [p, taps, q] · [q, inner] = [p, taps, inner], then taps last.
                let spread: Vec<f32> =
                    core.values()?.chunks(q * taps).flat_map(|rows| transposed(rows, taps)).collect();
                let mixed = product([p * taps, inner, q], &spread, &b.values()?);
                let b = mixed.chunks(taps * inner).flat_map(|rows| transposed(rows, inner)).collect();
                LowRank { rank: p, a, b }
            }
        })
    }
}

/// `a [rows, rank] · b [rank, columns]`.
struct LowRank {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl LowRank {
    fn add_rows(&self, first: usize, columns: usize, factor: f32, out: &mut [f32]) {
        let rows = out.len() / columns;
        multiply_add([rows, columns, self.rank], factor, &self.a[first * self.rank..], &self.b, out);
    }

    fn whole(&self, rows: usize) -> Vec<f32> {
        product([rows, self.b.len() / self.rank.max(1), self.rank], &self.a, &self.b)
    }
}

/// One side of Kronecker's product, `[rows, columns]`.
pub(super) struct Side {
    pub(super) values: SideValues,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

pub(super) enum SideValues {
    Whole(Part),
    Product(Factors),
}

impl Side {
    fn dense(&self) -> Result<Vec<f32>> {
        match &self.values {
            SideValues::Whole(part) => part.values(),
            SideValues::Product(factors) => Ok(factors.dense()?.whole(self.rows)),
        }
    }
}

/// What is added, before scaling.
pub(super) enum Terms {
    Product(Factors),
    Hadamard(Factors, Factors),
    Kronecker(Side, Side),
    Full(Part),
}

/// DoRA's magnitudes.
pub(super) struct Magnitudes {
    pub(super) values: Part,
    /// One for each output, otherwise one for each input channel.
    pub(super) per_output: bool,
}

/// The change of one tensor; nothing is read from the file before it is used.
pub(super) struct Delta {
    pub(super) terms: Terms,
    pub(super) scale: f64,
    pub(super) magnitudes: Option<Magnitudes>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Columns that are changed, from the first on: fewer where a model takes more channels than the one that it was made for.
    pub(super) changed: usize,
    /// Positions of a convolution's kernel.
    pub(super) taps: usize,
}

impl Delta {
    /// The change with its factors read. `base` gives rows of W, which norms over input channels are taken of.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn read(&self, base: &Base<'_>) -> Result<ReadDelta<'_>> {
        let terms = match &self.terms {
            Terms::Product(factors) => Dense::Product(factors.dense()?),
            Terms::Hadamard(left, right) => Dense::Hadamard(left.dense()?, right.dense()?),
            Terms::Kronecker(left, right) => Dense::Kronecker((left.dense()?, left), (right.dense()?, right)),
            Terms::Full(part) => Dense::Full(part.values()?),
        };
        let magnitudes = self.magnitudes.as_ref().map(|magnitudes| magnitudes.values.values()).transpose()?;
        let magnitudes = magnitudes.unwrap_or_default();
        let mut read = ReadDelta { delta: self, terms, magnitudes };
        if self.magnitudes.as_ref().is_some_and(|magnitudes| !magnitudes.per_output) {
            let squares = read.channel_squares(base)?;
            read.magnitudes = read.magnitudes.iter().zip(squares).map(|(m, s)| ratio(*m, s)).collect();
        }
        Ok(read)
    }
}

/// Gives some rows of the tensor that is changed.
pub(super) type Base<'b> = dyn Fn(Range<usize>) -> Result<Vec<f32>> + 'b;

enum Dense<'d> {
    Product(LowRank),
    Hadamard(LowRank, LowRank),
    Kronecker((Vec<f32>, &'d Side), (Vec<f32>, &'d Side)),
    Full(Vec<f32>),
}

/// A change whose factors are in memory, to be added to some rows at a time.
pub(super) struct ReadDelta<'d> {
    delta: &'d Delta,
    terms: Dense<'d>,
    /// DoRA: m of each output, or m / ‖·‖ of each input channel.
    magnitudes: Vec<f32>,
}

/// m / ‖·‖; 0 where there is nothing to scale.
fn ratio(magnitude: f32, square: f64) -> f32 {
    if square > 0.0 { (f64::from(magnitude) / square.sqrt()) as f32 } else { 0.0 }
}

fn squares<'v>(values: impl IntoIterator<Item = &'v f32>) -> f64 {
    values.into_iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

impl ReadDelta<'_> {
    /// `out += weight · ΔW` for the rows from `first` on; `base` is W there, looked at by DoRA alone.
    pub(super) fn add_to(&self, first: usize, base: &[f32], weight: f64, out: &mut [f32]) {
        let Some(magnitudes) = &self.delta.magnitudes else {
            return self.accumulate(first, (weight * self.delta.scale) as f32, out);
        };
        let mut merged = base.to_vec();
        self.accumulate(first, self.delta.scale as f32, &mut merged);
        let (columns, taps, weight) = (self.delta.columns, self.delta.taps, weight as f32);
        let rows = out.par_chunks_mut(columns).zip(merged.par_chunks(columns)).zip(base.par_chunks(columns));
        rows.enumerate().for_each(|(row, ((out, merged), base))| {
            let of_row = magnitudes.per_output.then(|| ratio(self.magnitudes[first + row], squares(merged)));
            for column in 0..columns {
                let factor = of_row.unwrap_or_else(|| self.magnitudes[column / taps]);
                out[column] += weight * (factor * merged[column] - base[column]);
            }
        });
    }

    /// ‖W + ΔW‖² of each input channel.
    fn channel_squares(&self, base: &Base<'_>) -> Result<Vec<f64>> {
        let Delta { rows, columns, taps, scale, .. } = *self.delta;
        let mut sums = vec![0.0; columns / taps];
        let together = (TOGETHER / columns.max(1)).max(1);
        for first in (0..rows).step_by(together) {
            let mut merged = base(first..rows.min(first + together))?;
            self.accumulate(first, scale as f32, &mut merged);
            for row in merged.chunks(columns) {
                sums.iter_mut().zip(row.chunks(taps)).for_each(|(sum, of_channel)| *sum += squares(of_channel));
            }
        }
        Ok(sums)
    }

    fn accumulate(&self, start: usize, factor: f32, out: &mut [f32]) {
        let Delta { columns, changed, .. } = *self.delta;
        if changed == columns {
            return self.accumulate_whole(start, factor, out);
        }
        let mut change = vec![0.0; out.len() / columns * changed];
        self.accumulate_whole(start, factor, &mut change);
        for (row, change) in out.chunks_mut(columns).zip(change.chunks(changed)) {
            row.iter_mut().zip(change).for_each(|(out, change)| *out += change);
        }
    }

    /// Rows of the columns that are changed.
    fn accumulate_whole(&self, start: usize, factor: f32, out: &mut [f32]) {
        let columns = self.delta.changed;
        let each = |out: &mut [f32], body: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            out.par_chunks_mut(ROWS * columns).enumerate().for_each(|(i, rows)| body(start + i * ROWS, rows));
        };
        match &self.terms {
            Dense::Product(dense) => each(out, &|first, rows| dense.add_rows(first, columns, factor, rows)),
            Dense::Hadamard(left, right) => each(out, &|first, rows| {
                let (mut l, mut r) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
                left.add_rows(first, columns, factor, &mut l);
                right.add_rows(first, columns, 1.0, &mut r);
                rows.iter_mut().zip(l.iter().zip(&r)).for_each(|(out, (l, r))| *out += l * r);
            }),
            Dense::Kronecker((l, left), (r, right)) => each(out, &|first, rows| {
                for (i, row) in rows.chunks_mut(columns).enumerate() {
                    let (upper, lower) = ((first + i) / right.rows, (first + i) % right.rows);
                    let lower = &r[lower * right.columns..(lower + 1) * right.columns];
                    for (block, l) in row.chunks_mut(right.columns).zip(&l[upper * left.columns..]) {
                        block.iter_mut().zip(lower).for_each(|(out, r)| *out += factor * l * r);
                    }
                }
            }),
            Dense::Full(values) => each(out, &|first, rows| {
                let values = &values[first * columns..];
                rows.iter_mut().zip(values).for_each(|(out, v)| *out += factor * v);
            }),
        }
    }
}
