//! Which weights of a network become blocks of 32, made when a backend uploads them.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::Range;

use super::WeightType;
use crate::record::{BLOCK, Constant, ConstantData, DType, PieceSink, decoded, quant_bytes, quantize, quantize_from};
use crate::{Error, Result};

/// Weights with fewer values save too little to lose accuracy for.
const LEAST: usize = 4096;

/// Modules that stay in f16: what every other layer depends on (the first layer, the time path) and what the result is read
/// from. Together they are a few percent of a network.
const KEPT: [&str; 5] = ["conv_in", "conv_out", "time_embedding", "add_embedding", "time_emb_proj"];

/// The one rule: a matrix or convolution becomes blocks if the weight type asks for it, its rows are whole blocks, it has
/// [`LEAST`] values, and no part of its path is [`KEPT`]. Norms, biases and embedding tables never come here.
fn block_type(weight_type: WeightType, constant: &Constant) -> Option<DType> {
    let dtype = weight_type.block_type()?;
    let rows = *constant.shape.first()?;
    let whole = rows > 0 && (constant.len() / rows).is_multiple_of(BLOCK);
    let kept = constant.label.split('.').any(|part| KEPT.contains(&part));
    (whole && constant.len() >= LEAST && !kept).then_some(dtype)
}

/// The constant as the device gets it.
pub(super) fn quantized(weight_type: WeightType, constant: Constant) -> Constant {
    match block_type(weight_type, &constant) {
        Some(dtype) => Constant {
            label: constant.label.clone(),
            shape: constant.shape.clone(),
            dtype,
            data: Box::new(Quantized { base: constant, dtype }),
        },
        None => constant,
    }
}

struct Quantized {
    base: Constant,
    dtype: DType,
}

impl ConstantData for Quantized {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        quantize(self.dtype, &self.base.values()?).map(Cow::Owned).map_err(|e| self.explained(&e))
    }

    fn pieces(&self, sink: &mut PieceSink<'_>) -> Result<()> {
        let size = self.base.dtype.bytes(1);
        let all_quants = quant_bytes(self.dtype, self.base.len());
        self.base.checked_pieces(&mut |offset, bytes| {
            let (first, len) = (offset / size, bytes.len() / size);
            // An odd number of scales would end within a word that the next piece begins with.
            if !first.is_multiple_of(2 * BLOCK) || !len.is_multiple_of(BLOCK) {
                return Err(
                    self.explained(&format_args!("expected pieces of whole pairs of blocks, got one at {first}"))
                );
            }
            let values = |range: Range<usize>| {
                let bytes = &bytes[range.start * size..range.end * size];
                Cow::Owned(decoded(self.base.dtype, bytes, range.len()))
            };
            let blocks = quantize_from(self.dtype, len, values).map_err(|e| self.explained(&e))?;
            let (quants, scales) = blocks.split_at(quant_bytes(self.dtype, len));
            sink(quant_bytes(self.dtype, first), quants)?;
            sink(all_quants + first / BLOCK * 2, scales)
        })
    }
}

impl Quantized {
    fn explained(&self, why: &dyn Display) -> Error {
        Error::model(format!("{}: {why}", self.base.label))
    }
}
