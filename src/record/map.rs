//! A feature map in host memory, row by row, with as many bits as the device keeps.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::{DType, Shape};

/// One image's activations `[h, w, c]` in host memory. Each row is memory of its own, so that rows that nobody reads again
/// are given back while another map grows.
#[derive(Debug)]
pub struct FeatureMap {
    shape: Shape,
    dtype: DType,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
enum Row {
    /// Not written yet, or released.
    Empty,
    F32(Box<[f32]>),
    F16(Box<[f16]>),
}

impl Row {
    fn new(values: &[f32], dtype: DType) -> Row {
        if dtype == DType::F32 {
            return Row::F32(values.into());
        }
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        Row::F16(halves.into())
    }
}

impl FeatureMap {
    /// A map without values yet; `shape` is one image, `dtype` that of its tensor on the device.
    ///
    /// # Panics
    /// When the shape is not one image, or the type one of weights.
    pub fn new(shape: Shape, dtype: DType) -> Self {
        assert!(shape.n == 1 && !dtype.is_quantized(), "a map is one image of activations");
        FeatureMap { shape, dtype, rows: vec![Row::Empty; shape.h] }
    }

    /// A whole map; values are rounded to the type.
    ///
    /// # Panics
    /// As [`new`](Self::new), and when `values` does not hold `h · w · c` values.
    pub fn from_values(values: &[f32], shape: Shape, dtype: DType) -> Self {
        let mut map = FeatureMap::new(shape, dtype);
        map.write(0..shape.h, values);
        map
    }

    /// `[1, h, w, c]`.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How values are kept.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Replaces rows by `values`, `[rows, w, c]`.
    ///
    /// # Panics
    /// When there are no such rows, or `values` has another length.
    pub fn write(&mut self, rows: Range<usize>, values: &[f32]) {
        let (dtype, row) = (self.dtype, self.row_len());
        assert_eq!(values.len(), rows.len() * row, "the values cover {rows:?}");
        self.rows[rows].par_iter_mut().zip(values.par_chunks(row)).for_each(|(to, from)| *to = Row::new(from, dtype));
    }

    /// Rows as f32, `[rows, w, c]`.
    ///
    /// # Panics
    /// When a row was not written, or was released.
    pub fn read(&self, rows: Range<usize>) -> Vec<f32> {
        let row = self.row_len();
        let mut values = vec![0.0; rows.len() * row];
        self.rows[rows].par_iter().zip(values.par_chunks_mut(row)).for_each(|(from, to)| copy(from, to));
        values
    }

    /// Gives the memory of these rows back.
    pub fn release(&mut self, rows: Range<usize>) {
        self.rows[rows].fill(Row::Empty);
    }

    /// `visit` of every row's values `[w, c]`, in order, on all cores.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn map_rows<T: Send>(&self, visit: impl Fn(&[f32]) -> T + Sync) -> Vec<T> {
        let visit_row = |buffer: &mut Vec<f32>, row: &Row| match row {
            Row::F32(values) => visit(values),
            _ => {
                buffer.resize(self.row_len(), 0.0);
                copy(row, buffer);
                visit(buffer)
            }
        };
        self.rows.par_iter().map_init(Vec::new, visit_row).collect()
    }

    /// Values that are NaN or infinite.
    pub fn non_finite(&self) -> usize {
        self.map_rows(|row| row.iter().filter(|v| !v.is_finite()).count()).into_iter().sum()
    }

    fn row_len(&self) -> usize {
        self.shape.w * self.shape.c
    }
}

fn copy(row: &Row, out: &mut [f32]) {
    match row {
        Row::F32(values) => out.copy_from_slice(values),
        Row::F16(values) => values.convert_to_f32_slice(out),
        Row::Empty => panic!("a row is written before it is read, and released after its last use"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_are_kept() {
        let shape = Shape::image(1, 5, 3, 4);
        let values: Vec<f32> = (0..shape.len()).map(|i| 1.0 + i as f32 / 4096.0).collect();
        let rounded: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        assert_ne!(values, rounded);
        for (dtype, kept) in [(DType::F32, &values), (DType::F16, &rounded)] {
            let mut map = FeatureMap::from_values(&values, shape, dtype);
            assert_eq!(map.read(0..5), *kept);
            assert_eq!(map.read(2..4), kept[24..48]);
            map.write(3..4, &[7.0; 12]);
            assert_eq!(map.read(2..5), [&kept[24..36], &[7.0; 12], &kept[48..]].concat());
            assert_eq!(map.map_rows(|row| row[1]), [kept[1], kept[13], kept[25], 7.0, kept[49]]);
            assert_eq!(map.non_finite(), 0);
            map.write(0..1, &[1e6; 12]);
            assert_eq!(map.non_finite(), if dtype == DType::F16 { 12 } else { 0 });
        }
    }

    #[test]
    #[should_panic(expected = "released")]
    fn a_released_row_is_not_read() {
        let mut map = FeatureMap::from_values(&[0.0; 8], Shape::image(1, 2, 1, 4), DType::F32);
        map.release(0..1);
        assert_eq!(map.read(1..2), [0.0; 4]);
        map.read(0..2);
    }
}
