//! Heads whose channels are not a multiple of 4, as only very small networks have them: their projections are widened
//! with zeros to the next multiple, so that kernels can move vectors of four.

use std::borrow::Cow;
use std::sync::Arc;

use super::Linear;
use crate::Result;
use crate::record::{Constant, ConstantData, DType};
use crate::weights::Weights;

/// Heads and their channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) channels: usize,
}

impl Heads {
    /// Channels of a head on the device.
    pub(super) fn padded(self) -> usize {
        self.channels.next_multiple_of(4)
    }

    /// Channels of all heads on the device.
    pub(super) fn width(self) -> usize {
        self.count * self.padded()
    }

    fn are_whole(self) -> bool {
        self.padded() == self.channels
    }

    /// Widens the rows of projections that lie below each other. The first of them is scaled if it makes the queries:
    /// the kernel divides by the square root of the padded width, attention by that of the true one.
    pub(super) fn widen_rows(self, w: &Weights, layer: Linear, queries_first: bool) -> Linear {
        if self.are_whole() {
            return layer;
        }
        let scale = if queries_first { (self.padded() as f32 / self.channels as f32).sqrt() } else { 1.0 };
        let widen = |base: Arc<Constant>| {
            let inner = if base.shape.len() == 1 { 1 } else { base.shape[base.shape.len() - 1] };
            let parts = base.len() / inner / (self.count * self.channels);
            let shape = [parts * self.width(), inner][..base.shape.len()].to_vec();
            let widened = Widened { heads: self, run: inner, repeats: parts, scale };
            w.made_of(base, "wide rows", |base| constant(base, shape, widened))
        };
        Linear { weight: widen(layer.weight), bias: layer.bias.map(widen), ..layer }
    }

    /// Widens the columns of the projection behind the attention.
    pub(super) fn widen_columns(self, w: &Weights, layer: Linear) -> Linear {
        if self.are_whole() {
            return layer;
        }
        let rows = layer.weight.shape[0];
        let widened = Widened { heads: self, run: 1, repeats: rows, scale: 1.0 };
        let shape = vec![rows, self.width()];
        let weight = w.made_of(layer.weight, "wide columns", |base| constant(base, shape, widened));
        Linear { weight, ..layer }
    }
}

fn constant(base: Arc<Constant>, shape: Vec<usize>, widened: Widened) -> Arc<Constant> {
    let label = base.label.clone();
    Arc::new(Constant { label, shape, dtype: DType::F32, data: Box::new((base, widened)) })
}

/// `repeats` times: `heads` runs of `channels · run` values, each followed by zeros. The first repeat is scaled.
struct Widened {
    heads: Heads,
    run: usize,
    repeats: usize,
    scale: f32,
}

impl ConstantData for (Arc<Constant>, Widened) {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let (base, Widened { heads, run, repeats, scale }) = self;
        let values = base.values()?;
        let mut out = Vec::with_capacity(DType::F32.bytes(repeats * heads.width() * run));
        for (i, head) in values.chunks_exact(heads.channels * run).take(repeats * heads.count).enumerate() {
            let scale = if i < heads.count { *scale } else { 1.0 };
            head.iter().for_each(|v| out.extend((v * scale).to_le_bytes()));
            out.resize(DType::F32.bytes((i + 1) * heads.padded() * run), 0);
        }
        Ok(Cow::Owned(out))
    }
}
