//! How the rows of a weight lie on a device.

use rayon::prelude::*;

use super::{Constant, DType, PieceSink, transpose};
use crate::{Error, Result};

/// Order of the values of a matrix (of a convolution: `[out, kh · kw · in]`) on a device. [`Constant`] gives rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Row after row.
    #[default]
    Rows,
    /// In panels of so many rows: the first four values of each row of the panel, then the next four of each. The last panel is
    /// narrower where the rows do not fill it. Of blocks the quants lie so, and behind them all the scales, one a row at a time.
    Panels(u32),
}

/// Bytes that are rearranged at a time, or one panel where that is more.
const PIECE: usize = 4 << 20;

impl Layout {
    /// The bytes of a constant in this order, piece by piece from the first to the last.
    ///
    /// # Errors
    /// As [`Constant::checked_pieces`], and when a source of panels does not give its bytes in order.
    pub fn pieces(self, constant: &Constant, sink: &mut PieceSink<'_>) -> Result<()> {
        let Layout::Panels(panel) = self else { return constant.checked_pieces(sink) };
        let (rows, panel) = (constant.shape.first().map_or(1, |&rows| rows.max(1)), panel as usize);
        let row = constant.len() / rows;
        match constant.dtype {
            DType::F32 | DType::F16 => {
                let quad = constant.dtype.bytes(4);
                let rows = Rows { panel, row: row / 4, quad };
                let mut give = |at: usize, panels: &[u8]| {
                    let mut ordered = vec![0; panels.len()];
                    rows.arrange(panels, &mut ordered);
                    sink(at, &ordered)
                };
                let mut order = InPanels::new(panel * rows.row_bytes());
                constant.checked_pieces(&mut |at, bytes| order.take(constant, at, bytes, &mut give))?;
                order.finish(&mut give)
            }
            DType::Q8_0 | DType::Q4_0 => {
                // Whole: quants and scales of a panel lie far apart, and both together are small.
                let mut stored = vec![0; constant.byte_len()];
                constant.checked_pieces(&mut |at, bytes| {
                    stored[at..at + bytes.len()].copy_from_slice(bytes);
                    Ok(())
                })?;
                let (quad, values) = if constant.dtype == DType::Q8_0 { (4, row * rows) } else { (2, row * rows / 2) };
                let (quants, scales) = stored.split_at(values);
                let mut ordered = vec![0; stored.len()];
                let (ordered_quants, ordered_scales) = ordered.split_at_mut(values);
                Rows { panel, row: row / 4, quad }.arrange(quants, ordered_quants);
                let scale = Rows { panel, row: row / super::BLOCK, quad: 2 };
                let whole = rows * scale.row_bytes();
                scale.arrange(&scales[..whole], &mut ordered_scales[..whole]);
                sink(0, &ordered)
            }
        }
    }
}

/// Whole rows of elements of `quad` bytes.
struct Rows {
    panel: usize,
    /// Elements of a row.
    row: usize,
    quad: usize,
}

impl Rows {
    fn row_bytes(&self) -> usize {
        self.row * self.quad
    }

    /// Panels of rows, of which the last may be narrower.
    fn arrange(&self, rows: &[u8], out: &mut [u8]) {
        let panel = (self.panel * self.row_bytes()).max(1);
        out.par_chunks_mut(panel).zip(rows.par_chunks(panel)).for_each(|(out, rows)| match self.quad {
            16 => to_columns::<16>(rows, self.row, out),
            8 => to_columns::<8>(rows, self.row, out),
            4 => to_columns::<4>(rows, self.row, out),
            _ => to_columns::<2>(rows, self.row, out),
        });
    }
}

/// Rows of elements of `SIZE` bytes to columns.
fn to_columns<const SIZE: usize>(from: &[u8], columns: usize, to: &mut [u8]) {
    let (from, to) = (from.as_chunks::<SIZE>().0, to.as_chunks_mut::<SIZE>().0);
    let rows = from.len() / columns.max(1);
    transpose((from, columns), (to, rows), rows, columns);
}

/// Bytes that come in order, in pieces of any length, as whole panels: of so many bytes each but for the last.
pub(super) struct InPanels {
    panel: usize,
    /// The beginning of a panel.
    waiting: Vec<u8>,
    /// Bytes that were given on.
    done: usize,
}

impl InPanels {
    pub(super) fn new(panel: usize) -> Self {
        InPanels { panel: panel.max(1), waiting: Vec::new(), done: 0 }
    }

    /// Takes the next piece; `give` gets the panels that are whole with it, and where they begin.
    ///
    /// # Errors
    /// When it is not the next; what `give` reports.
    pub(super) fn take(
        &mut self,
        constant: &Constant,
        at: usize,
        mut bytes: &[u8],
        give: &mut PieceSink<'_>,
    ) -> Result<()> {
        if at != self.done + self.waiting.len() {
            return Err(Error::model(format!("{}: expected its bytes in order, got some at {at}", constant.label)));
        }
        let panel = self.panel;
        if !self.waiting.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(panel - self.waiting.len()));
            self.waiting.extend_from_slice(head);
            bytes = rest;
            if self.waiting.len() < panel {
                return Ok(());
            }
            give(self.done, &self.waiting)?;
            self.done += panel;
            self.waiting.clear();
        }
        let (whole, rest) = bytes.split_at(bytes.len() / panel * panel);
        for piece in whole.chunks((PIECE / panel).max(1) * panel) {
            give(self.done, piece)?;
            self.done += piece.len();
        }
        self.waiting.extend_from_slice(rest);
        Ok(())
    }

    /// The last panel, where it is not whole.
    ///
    /// # Errors
    /// What `give` reports.
    pub(super) fn finish(self, give: &mut PieceSink<'_>) -> Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { give(self.done, &self.waiting) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: value `k` of row `n`.
    fn place(n: usize, k: usize, rows: usize, row: usize, panel: usize) -> usize {
        let first = n / panel * panel;
        let width = panel.min(rows - first);
        first * row + (k / 4 * width + n - first) * 4 + k % 4
    }

    #[test]
    fn values_lie_where_the_definition_says() {
        for (rows, row, panel) in [(4, 4, 32), (32, 64, 32), (36, 12, 32), (100, 2000, 32), (8, 40, 16), (68, 4, 64)] {
            let values: Vec<f32> = (0..rows * row).map(|i| i as f32).collect();
            let constant = Constant::from_f32("w", &[rows, row], &values);
            let mut found = vec![0u8; 4 * rows * row];
            let mut sink = |at: usize, bytes: &[u8]| {
                found[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            };
            Layout::Panels(panel as u32).pieces(&constant, &mut sink).expect("in order");
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(&found);
            for (i, value) in values.iter().enumerate() {
                assert_eq!(found[place(i / row, i % row, rows, row, panel)], *value, "{rows} {row} {panel}");
            }
        }
    }

    #[test]
    fn pieces_of_any_length_are_joined() {
        let panel = 96;
        let bytes: Vec<u8> = (0..10 * panel / 4).map(|i| i as u8).collect();
        let constant = Constant::from_f32("w", &[1], &[0.0]);
        let gathered = |length: usize| {
            let mut order = InPanels::new(panel);
            let mut found = Vec::new();
            let mut sink = |at: usize, bytes: &[u8]| {
                assert_eq!(at, found.len());
                assert!(at.is_multiple_of(panel), "panels begin where one ends");
                found.extend_from_slice(bytes);
                Ok(())
            };
            for (i, piece) in bytes.chunks(length).enumerate() {
                order.take(&constant, i * length, piece, &mut sink).expect("in order");
            }
            order.finish(&mut sink).expect("whole");
            found
        };
        for length in [1, 8, 24, 60, 96, 100, 200, bytes.len()] {
            assert_eq!(gathered(length), bytes, "{length}");
        }
    }
}
