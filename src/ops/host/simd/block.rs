//! Blocks of one matrix that several tasks write at once.

use std::marker::PhantomData;
use std::ops::Range;

/// A row-major matrix `[rows, stride]` that is lent out in blocks.
pub(in crate::ops) struct Shared<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    _lent: PhantomData<&'a mut [f32]>,
}

// SAFETY: blocks are made by an unsafe function alone, whose caller sees to it that they do not overlap.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(in crate::ops) fn new(values: &'a mut [f32], stride: usize) -> Self {
        Shared { start: values.as_mut_ptr(), rows: values.len() / stride.max(1), stride, _lent: PhantomData }
    }

    /// Some columns of some rows.
    ///
    /// # Safety
    /// No other block that lives at the same time has an element of this one.
    pub(in crate::ops) unsafe fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Block<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.stride, "columns {columns:?} of {}", self.stride);
        // SAFETY: the assertions keep the block's first element in the matrix, or one past it where the block is empty.
        let start = unsafe { self.start.add((rows.start * self.stride + columns.start).min(self.rows * self.stride)) };
        Block { start, rows: rows.len(), columns: columns.len(), stride: self.stride, _lent: PhantomData }
    }
}

/// A block of a matrix, borrowed from it.
pub(in crate::ops) struct Block<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    _lent: PhantomData<&'a mut [f32]>,
}

impl Block<'_> {
    /// A whole matrix `[rows, columns]`.
    pub(in crate::ops) fn of(values: &mut [f32], columns: usize) -> Block<'_> {
        let rows = values.len() / columns.max(1);
        Block { start: values.as_mut_ptr(), rows, columns, stride: columns, _lent: PhantomData }
    }

    pub(in crate::ops) fn rows(&self) -> usize {
        self.rows
    }

    pub(in crate::ops) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn start(&mut self) -> *mut f32 {
        self.start
    }

    /// Some columns of all rows.
    pub(in crate::ops) fn part(&mut self, columns: Range<usize>) -> Block<'_> {
        assert!(columns.start <= columns.end && columns.end <= self.columns, "columns {columns:?} of {}", self.columns);
        // SAFETY: the assertion keeps the part inside the block, whose first row has so many columns.
        let start = unsafe { self.start.add(columns.start) };
        Block { start, rows: self.rows, columns: columns.len(), stride: self.stride, _lent: PhantomData }
    }

    /// Row `index`.
    #[inline(always)]
    pub(in crate::ops) fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row is one of the block's, which is borrowed mutably and has so many columns in each.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.stride), self.columns) }
    }
}
