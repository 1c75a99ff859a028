//! Weights of products as the host executor keeps them: in panels that a register tile reads front to back.

use std::borrow::Cow;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Constant, DType, Lines, decoded, narrow};
use crate::Result;

/// A matrix `[rows, inner]` in panels of [`PANEL`](HostWeight::PANEL) rows, of each panel the first value of every row, then the
/// second; the last panel is narrower where the rows do not fill it. f16 stays f16; blocks are kept as f32.
///
/// Or in pairs of bf16: of each panel and [`STEP`](HostWeight::STEP) of the inner extent the first 16 rows, `[16 pairs, 16 rows, 2]`, then the other 16,
/// with zeros up to whole panels and steps. A matrix of a processor's is so one piece of memory: every other cache line of it would take three times as
/// long (Sapphire Rapids).
pub struct HostWeight {
    rows: usize,
    inner: usize,
    values: Values,
}

enum Values {
    F32(Lines<f32>),
    F16(Lines<f16>),
    Pairs(Lines<bf16>),
}

/// Part of a panel: so many values for each position of the inner extent.
#[derive(Clone, Copy)]
pub enum PanelValues<'a> {
    /// As single precision.
    F32(&'a [f32]),
    /// As half precision.
    F16(&'a [f16]),
}

impl HostWeight {
    /// Rows of a panel: two of the widest registers.
    pub const PANEL: usize = 32;

    /// Positions of the inner extent that pairs come in.
    pub const STEP: usize = 32;

    pub(super) fn new(constant: &Constant, rows: usize) -> Result<Self> {
        let bytes = constant.checked_bytes()?;
        let inner = constant.len() / rows.max(1);
        if constant.dtype != DType::F16 {
            return Ok(HostWeight::from_f32(&decoded(constant.dtype, &bytes, constant.len()), rows));
        }
        Ok(HostWeight { rows, inner, values: Values::F16(panels(&f16s(&bytes), inner)) })
    }

    /// `rows` rows, one after the other.
    pub(crate) fn from_f32(values: &[f32], rows: usize) -> Self {
        let inner = values.len() / rows.max(1);
        HostWeight { rows, inner, values: Values::F32(panels(values, inner)) }
    }

    pub(super) fn new_pairs(constant: &Constant, rows: usize) -> Result<Self> {
        let bytes = constant.checked_bytes()?;
        if constant.dtype != DType::F16 {
            return Ok(HostWeight::pairs(&decoded(constant.dtype, &bytes, constant.len()), rows));
        }
        Ok(HostWeight::paired(&f16s(&bytes), rows, |from, to| from.convert_to_f32_slice(to)))
    }

    /// `rows` rows, one after the other, in pairs.
    pub(crate) fn pairs(values: &[f32], rows: usize) -> Self {
        HostWeight::paired(values, rows, |from, to| to.copy_from_slice(from))
    }

    fn paired<T: Sync>(values: &[T], rows: usize, widen: impl Fn(&[T], &mut [f32]) + Sync) -> Self {
        let inner = values.len() / rows.max(1);
        let mut pairs = Lines::of(bf16::ZERO, Self::pair_bytes(rows, values.len()) / 2);
        let (whole, panel) = (inner.next_multiple_of(Self::STEP), Self::PANEL * inner.max(1));
        let panels = pairs.par_chunks_mut((Self::PANEL * whole).max(1)).zip(values.par_chunks(panel));
        let scratch = || (vec![0.0; inner], vec![bf16::ZERO; whole]);
        panels.for_each_init(scratch, |(wide, narrowed), (out, rows)| {
            for (column, row) in rows.chunks_exact(inner).enumerate() {
                widen(row, wide);
                narrow(wide, &mut narrowed[..inner]);
                for (pair, values) in narrowed.chunks_exact(2).enumerate() {
                    out[Self::pair_place(2 * pair, column)..][..2].copy_from_slice(values);
                }
            }
        });
        HostWeight { rows, inner, values: Values::Pairs(pairs) }
    }

    /// Bytes of a matrix of so many rows and values in pairs.
    pub(super) fn pair_bytes(rows: usize, len: usize) -> usize {
        let inner = len / rows.max(1);
        DType::F16.bytes(rows.next_multiple_of(Self::PANEL) * inner.next_multiple_of(Self::STEP))
    }

    /// Where a panel in pairs has the value of a position and a column.
    pub(crate) const fn pair_place(position: usize, column: usize) -> usize {
        let matrix = 2 * (position / Self::STEP) + column / 16;
        (16 * matrix + position % Self::STEP / 2) * 32 + 2 * (column % 16) + position % 2
    }

    /// Positions `inner` of panel `index` in pairs, whole [`STEP`](Self::STEP)s; `None` where the weight lies in values.
    pub fn panel_pairs(&self, index: usize, inner: std::ops::Range<usize>) -> Option<&[bf16]> {
        let Values::Pairs(values) = &self.values else { return None };
        let first = index * Self::PANEL * self.inner.next_multiple_of(Self::STEP);
        Some(&values[first + inner.start * Self::PANEL..first + inner.end * Self::PANEL])
    }

    /// Whether it lies in pairs of bf16.
    pub fn is_paired(&self) -> bool {
        matches!(self.values, Values::Pairs(_))
    }

    /// Rows: the product's columns.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Rows of panel `index`.
    pub fn width(&self, index: usize) -> usize {
        Self::PANEL.min(self.rows - index * Self::PANEL)
    }

    /// Positions `inner` of panel `index`, `[inner, width]`.
    ///
    /// # Panics
    /// Where it lies in pairs.
    pub fn panel(&self, index: usize, inner: std::ops::Range<usize>) -> PanelValues<'_> {
        let (first, width) = (index * Self::PANEL * self.inner, self.width(index));
        let range = first + inner.start * width..first + inner.end * width;
        match &self.values {
            Values::F32(values) => PanelValues::F32(&values[range]),
            Values::F16(values) => PanelValues::F16(&values[range]),
            Values::Pairs(_) => panic!("a weight in pairs is read in pairs"),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(&values[..]),
            Values::F16(values) => size_of_val(&values[..]),
            Values::Pairs(values) => size_of_val(&values[..]),
        }
    }
}

/// The values of some bytes, which inside the program may begin at any address.
fn f16s(bytes: &[u8]) -> Cow<'_, [f16]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

/// Rows of `inner` values in panels.
fn panels<T: Pod + Send + Sync>(rows: &[T], inner: usize) -> Lines<T> {
    // Positions that are moved of every row before the next ones: their cache lines stay.
    const TOGETHER: usize = 32;
    let mut ordered = Lines::of(T::zeroed(), rows.len());
    let panel = (HostWeight::PANEL * inner).max(1);
    ordered.par_chunks_mut(panel).zip(rows.par_chunks(panel)).for_each(|(out, rows)| {
        let width = rows.len() / inner;
        for (block, out) in out.chunks_mut(TOGETHER * width).enumerate() {
            for (r, row) in rows.chunks_exact(inner).enumerate() {
                for (out, value) in out[r..].iter_mut().step_by(width).zip(&row[block * TOGETHER..]) {
                    *out = *value;
                }
            }
        }
    });
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lie_where_the_definition_says() {
        for (rows, inner) in [(4usize, 4usize), (32, 96), (36, 12), (100, 200), (65, 33)] {
            let values: Vec<f32> = (0..rows * inner).map(|i| (i % 251) as f32).collect();
            let whole = inner.next_multiple_of(HostWeight::STEP);
            for weight in [
                HostWeight::pairs(&values, rows),
                HostWeight::new_pairs(&Constant::from_f32("w", &[rows, inner], &values), rows).expect("its bytes"),
            ] {
                assert_eq!(weight.bytes(), HostWeight::pair_bytes(rows, values.len()));
                for index in 0..rows.div_ceil(HostWeight::PANEL) {
                    let panel = weight.panel_pairs(index, 0..whole).expect("pairs");
                    for (i, found) in panel.iter().enumerate() {
                        let k = i / 1024 * 32 + i % 512 / 32 * 2 + i % 2;
                        let lane = i % 1024 / 512 * 16 + i % 32 / 2;
                        let row = index * HostWeight::PANEL + lane;
                        let want = if row < rows && k < inner { values[row * inner + k] } else { 0.0 };
                        assert_eq!(found.to_f32(), want, "{rows} {inner}: {row} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn values_lie_where_the_definition_says() {
        for (rows, inner) in [(4, 4), (32, 100), (36, 12), (100, 200), (65, 33)] {
            let values: Vec<f32> = (0..rows * inner).map(|i| i as f32).collect();
            let weight = HostWeight::from_f32(&values, rows);
            for (row, k) in (0..rows).flat_map(|row| (0..inner).map(move |k| (row, k))) {
                let (index, lane) = (row / HostWeight::PANEL, row % HostWeight::PANEL);
                let PanelValues::F32(found) = weight.panel(index, k..inner) else { unreachable!("made of f32") };
                assert_eq!(found[lane], values[row * inner + k], "{rows} {inner}: {row} {k}");
            }
        }
    }
}
