//! Weights of products as the host executor keeps them: in panels that a register tile reads front to back.

use half::f16;
use rayon::prelude::*;

use super::{Constant, DType, decoded};
use crate::Result;

/// A matrix `[rows, inner]` in panels of [`PANEL`](HostWeight::PANEL) rows, of each panel the first value of every row, then the
/// second; the last panel is narrower where the rows do not fill it. f16 stays f16; blocks are kept as f32.
pub struct HostWeight {
    rows: usize,
    inner: usize,
    values: Values,
}

enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
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

    pub(super) fn new(constant: &Constant, rows: usize) -> Result<Self> {
        let bytes = constant.checked_bytes()?;
        let inner = constant.len() / rows.max(1);
        if constant.dtype != DType::F16 {
            return Ok(HostWeight::from_f32(&decoded(constant.dtype, &bytes, constant.len()), rows));
        }
        // Bytes inside the program may begin at any address.
        let values = match bytemuck::try_cast_slice::<u8, f16>(&bytes) {
            Ok(values) => panels(values, inner),
            Err(_) => panels(&bytemuck::pod_collect_to_vec::<u8, f16>(&bytes), inner),
        };
        Ok(HostWeight { rows, inner, values: Values::F16(values) })
    }

    /// `rows` rows, one after the other.
    pub(crate) fn from_f32(values: &[f32], rows: usize) -> Self {
        let inner = values.len() / rows.max(1);
        HostWeight { rows, inner, values: Values::F32(panels(values, inner)) }
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
    pub fn panel(&self, index: usize, inner: std::ops::Range<usize>) -> PanelValues<'_> {
        let (first, width) = (index * Self::PANEL * self.inner, self.width(index));
        let range = first + inner.start * width..first + inner.end * width;
        match &self.values {
            Values::F32(values) => PanelValues::F32(&values[range]),
            Values::F16(values) => PanelValues::F16(&values[range]),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(values.as_slice()),
            Values::F16(values) => size_of_val(values.as_slice()),
        }
    }
}

/// Rows of `inner` values in panels.
fn panels<T: Copy + Default + Send + Sync>(rows: &[T], inner: usize) -> Vec<T> {
    // Positions that are moved of every row before the next ones: their cache lines stay.
    const TOGETHER: usize = 32;
    let mut ordered = vec![T::default(); rows.len()];
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
