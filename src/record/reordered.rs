//! A matrix with its rows in another order, in the type that it is stored in.

use std::borrow::Cow;
use std::sync::Arc;

use super::{BLOCK, Constant, ConstantData, DType};
use crate::Result;

struct Reordered {
    base: Arc<Constant>,
    /// For each row, which row of the base it is.
    order: Vec<u32>,
}

impl Constant {
    /// The same matrix with row `order[i]` in place `i`. Its bytes are made whole, so two copies of the matrix are in host
    /// memory while it is uploaded.
    ///
    /// # Panics
    /// When the order does not name as many rows as there are, each of them one that exists.
    pub fn reordered(self: Arc<Self>, order: Vec<u32>) -> Arc<Self> {
        let rows = self.shape.first().copied().unwrap_or(0);
        assert!(order.len() == rows && order.iter().all(|&row| (row as usize) < rows), "an order of {rows} rows");
        let (label, shape, dtype) = (self.label.clone(), self.shape.clone(), self.dtype);
        Arc::new(Constant { label, shape, dtype, data: Box::new(Reordered { base: self, order }) })
    }
}

impl ConstantData for Reordered {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let stored = self.base.checked_bytes()?;
        let row = self.base.len() / self.order.len().max(1);
        let mut out = Vec::with_capacity(stored.len());
        // Of blocks first all quants, then all scales.
        let quants = match self.base.dtype {
            DType::F32 | DType::F16 => self.base.dtype.bytes(row),
            DType::Q8_0 => row,
            DType::Q4_0 => row / 2,
        };
        let (values, scales) = stored.split_at(quants * self.order.len());
        let mut take = |from: &[u8], bytes: usize| {
            self.order.iter().for_each(|&row| out.extend_from_slice(&from[row as usize * bytes..][..bytes]));
        };
        take(values, quants);
        if self.base.dtype.is_quantized() {
            take(scales, row / BLOCK * 2);
        }
        // A last odd scale is filled up to a word.
        out.resize(stored.len(), 0);
        Ok(Cow::Owned(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_in_every_type() {
        let (rows, row) = (6, 96);
        let values: Vec<f32> = (0..rows * row).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let order = vec![3u32, 0, 5, 1, 4, 2];
        for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0] {
            let base = match dtype {
                DType::F32 => Constant::from_f32("w", &[rows, row], &values),
                DType::F16 => Constant::from_f32_as_f16("w", &[rows, row], &values),
                blocks => Constant::from_f32_quantized("w", &[rows, row], &values, blocks).expect("whole blocks"),
            };
            let before = base.values().expect("readable");
            let other = base.reordered(order.clone());
            assert_eq!((other.dtype, other.byte_len()), (dtype, other.checked_bytes().expect("readable").len()));
            let after = other.values().expect("readable");
            for (place, &from) in order.iter().enumerate() {
                let from = from as usize;
                assert_eq!(after[place * row..][..row], before[from * row..][..row], "{dtype:?} {place}");
            }
        }
    }
}
