//! Weights of products as the host executor keeps them: in panels that a register tile reads front to back.

use std::borrow::Cow;
use std::cell::RefCell;

use bytemuck::Pod;
use half::{bf16, f16};
use rayon::prelude::*;

use super::panels::InPanels;
use super::{Constant, DType, Lines, narrow, transpose, widen};
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
        let inner = constant.len() / rows.max(1);
        let values = match constant.dtype {
            DType::F16 => Values::F16(from_pieces(constant, rows, panel_len, ordered)?),
            DType::F32 => Values::F32(from_pieces(constant, rows, panel_len, ordered)?),
            _ => Values::F32(panels(&constant.values()?, rows, panel_len, ordered)),
        };
        Ok(HostWeight { rows, inner, values })
    }

    /// `rows` rows, one after the other.
    pub(crate) fn from_f32(values: &[f32], rows: usize) -> Self {
        let inner = values.len() / rows.max(1);
        HostWeight { rows, inner, values: Values::F32(panels(values, rows, panel_len, ordered)) }
    }

    pub(super) fn new_pairs(constant: &Constant, rows: usize) -> Result<Self> {
        let inner = constant.len() / rows.max(1);
        let values = match constant.dtype {
            DType::F16 => {
                from_pieces(constant, rows, pairs_len, |rows: &[f16], inner, out| paired(rows, inner, out, widen))?
            }
            DType::F32 => from_pieces(constant, rows, pairs_len, paired_f32)?,
            _ => panels(&constant.values()?, rows, pairs_len, paired_f32),
        };
        Ok(HostWeight { rows, inner, values: Values::Pairs(values) })
    }

    /// `rows` rows, one after the other, in pairs.
    pub(crate) fn pairs(values: &[f32], rows: usize) -> Self {
        let inner = values.len() / rows.max(1);
        HostWeight { rows, inner, values: Values::Pairs(panels(values, rows, pairs_len, paired_f32)) }
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
fn values<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    }
}

/// Values of a panel of so many rows of `inner` values.
fn panel_len(rows: usize, inner: usize) -> usize {
    rows * inner
}

/// As [`panel_len`], in pairs.
fn pairs_len(_rows: usize, inner: usize) -> usize {
    HostWeight::PANEL * inner.next_multiple_of(HostWeight::STEP)
}

/// Panels of `rows` rows, each put in order by `pack(rows, inner, out)`, `len(rows, inner)` values that are zeros before.
fn panels<T: Pod + Send + Sync, U: Pod + Send + Sync>(
    rows: &[T],
    count: usize,
    len: impl Fn(usize, usize) -> usize,
    pack: impl Fn(&[T], usize, &mut [U]) + Sync,
) -> Lines<U> {
    let inner = rows.len() / count.max(1);
    let whole = len(HostWeight::PANEL, inner).max(1);
    let last = count % HostWeight::PANEL;
    let mut ordered =
        Lines::of(U::zeroed(), count / HostWeight::PANEL * whole + if last > 0 { len(last, inner) } else { 0 });
    let panels = ordered.par_chunks_mut(whole).zip(rows.par_chunks((HostWeight::PANEL * inner).max(1)));
    panels.for_each(|(out, rows)| pack(rows, inner, out));
    ordered
}

/// As [`panels`], of a constant that is read piece by piece, so that what was read of it and what was made of it are never there together.
fn from_pieces<T: Pod, U: Pod>(
    constant: &Constant,
    count: usize,
    len: impl Fn(usize, usize) -> usize,
    pack: impl Fn(&[T], usize, &mut [U]),
) -> Result<Lines<U>> {
    let inner = constant.len() / count.max(1);
    let mut made = Lines::default();
    made.reserve(count.div_ceil(HostWeight::PANEL) * len(HostWeight::PANEL, inner));
    let panel = HostWeight::PANEL * inner;
    let mut give = |_: usize, bytes: &[u8]| {
        for rows in values::<T>(bytes).chunks(panel.max(1)) {
            pack(rows, inner, made.more(len(rows.len() / inner, inner)));
        }
        Ok(())
    };
    let mut pieces = InPanels::new(panel * size_of::<T>());
    constant.checked_pieces(&mut |at, bytes| pieces.take(constant, at, bytes, &mut give))?;
    pieces.finish(&mut give)?;
    Ok(made)
}

/// A panel's rows of `inner` values, position by position.
fn ordered<T: Pod>(rows: &[T], inner: usize, out: &mut [T]) {
    let width = rows.len() / inner.max(1);
    transpose((rows, inner), (out, width), width, inner);
}

fn paired_f32(rows: &[f32], inner: usize, out: &mut [bf16]) {
    paired(rows, inner, out, |values, wide| wide.copy_from_slice(values));
}

fn paired<T>(rows: &[T], inner: usize, out: &mut [bf16], widen: impl Fn(&[T], &mut [f32])) {
    /// Pairs of a row of a processor's matrix, and its rows.
    const SIDE: usize = 16;
    thread_local! {
        static SCRATCH: RefCell<(Vec<f32>, Lines<bf16>)> = RefCell::default();
    }
    let pitch = inner.next_multiple_of(HostWeight::STEP);
    SCRATCH.with_borrow_mut(|(wide, narrowed)| {
        wide.resize(inner, 0.0);
        narrowed.resize(SIDE * pitch, bf16::ZERO);
        for (half, rows) in rows.chunks(SIDE * inner.max(1)).enumerate() {
            let count = rows.len() / inner;
            for (row, narrowed) in rows.chunks_exact(inner).zip(narrowed.chunks_exact_mut(pitch)) {
                widen(row, wide);
                let (values, padding) = narrowed.split_at_mut(inner);
                narrow(wide, values);
                padding.fill(bf16::ZERO);
            }
            let pairs: &[u32] = bytemuck::cast_slice(narrowed);
            let matrices =
                bytemuck::cast_slice_mut::<bf16, u32>(out).chunks_exact_mut(SIDE * SIDE).skip(half).step_by(2);
            for (step, matrix) in matrices.enumerate() {
                transpose((&pairs[step * SIDE..], pitch / 2), (matrix, SIDE), count, SIDE);
            }
        }
    });
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
