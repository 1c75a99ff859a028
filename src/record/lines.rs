//! Values in memory that begins with a cache line.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// What processors read at a time, and the widest registers hold.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A vector of numbers whose first begins a cache line. A register of 64 bytes, or a row of a processor's matrix, that is read across two lines costs two
/// reads: products of which each operand lies so take twice the time (Emerald Rapids, AMX).
pub(crate) struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Lines { lines: Vec::new(), len: 0, values: PhantomData }
    }
}

impl<T: Pod> Lines<T> {
    const OF_LINE: usize = size_of::<Line>() / size_of::<T>();

    /// `len` times a value.
    pub(crate) fn of(value: T, len: usize) -> Self {
        let mut lines = Lines::default();
        lines.resize(len, value);
        lines
    }

    /// Room for `len` values in all.
    pub(crate) fn reserve(&mut self, len: usize) {
        self.lines.reserve_exact(len.div_ceil(Self::OF_LINE).saturating_sub(self.lines.len()));
    }

    /// `count` zeros more, of which the first begins a line.
    ///
    /// # Panics
    /// Where what was there before does not end with one.
    pub(crate) fn more(&mut self, count: usize) -> &mut [T] {
        let before = self.len;
        assert!(before.is_multiple_of(Self::OF_LINE), "lines are whole before the next one");
        self.resize(before + count, T::zeroed());
        &mut self[before..]
    }

    /// As [`Vec::resize`], but that values up to the end of the last line that was may be those of before.
    pub(crate) fn resize(&mut self, len: usize, value: T) {
        let mut line = Line::zeroed();
        bytemuck::cast_slice_mut(&mut line.0).fill(value);
        self.lines.resize(len.div_ceil(Self::OF_LINE), line);
        self.len = len;
    }

    /// As [`Vec::clear`].
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.len = 0;
    }
}

impl<T: Pod> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn they_begin_with_a_line_and_hold_what_was_asked() {
        for len in [0, 1, 15, 16, 17, 1000, 100_000] {
            let mut values = Lines::of(1.5f32, len);
            assert_eq!(values.as_ptr().align_offset(64), 0);
            assert_eq!(&values[..], vec![1.5; len]);
            values.clear();
            assert!(values.is_empty());
            values.resize(len + 7, 0.0);
            assert_eq!(&values[..], vec![0.0; len + 7]);
        }
        let halves = Lines::of(bf16::ONE, 33);
        assert_eq!((halves.len(), halves[32]), (33, bf16::ONE));
    }
}
