//! Weights in blocks of 32 values that share one half-precision scale: ggml's q8_0 and q4_0.
//!
//! A block lies along a matrix's row (or a convolution's `kh, kw, in`), whose length is a multiple of 32. With `x` the
//! values, `d` the scale before and `D` after it is rounded to f16 (`ggml-quants.c`, `quantize_row_q8_0_ref` and
//! `quantize_row_q4_0_ref`):
//!
//! - q8_0: `d = max|x| / 127`, `q = round(x / d)` with halves away from zero; a value is `D·q`;
//! - q4_0: `d = m / -8` with `m` the first value of the largest magnitude, `q = min(15, ⌊x / d + 8.5⌋)`; a value is
//!   `D·(q - 8)`.
//!
//! A block of zeros has `d = 0` and gives zeros. The numbers are ggml's, the layout is the kernels': first all quants in
//! order, a word of four bytes (q8_0) or eight half-bytes (q4_0), the lowest bits first; then all scales, two a word.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::DType;
use crate::{Error, Result};

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// Bytes of `len` values; a last odd scale is filled up to a whole word.
pub(super) const fn byte_len(dtype: DType, len: usize) -> usize {
    let scales = (len / BLOCK * 2).next_multiple_of(4);
    match dtype {
        DType::Q8_0 => len + scales,
        _ => len / 2 + scales,
    }
}

/// `values` as `dtype`, q8_0 or q4_0.
///
/// # Errors
/// When the values are no whole blocks, one is not finite, or a scale is beyond the range of f16.
pub fn quantize(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    if !dtype.is_quantized() || !values.len().is_multiple_of(BLOCK) {
        return Err(Error::model(format!(
            "quantisation: expected whole blocks of {BLOCK} values for q8_0 or q4_0, got {} values for {}",
            values.len(),
            dtype.name()
        )));
    }
    quantize_from(dtype, values.len(), |range| Cow::Borrowed(&values[range]))
}

/// Blocks that one thread makes at a time.
const GROUP: usize = 64;

/// [`quantize`] of `len` values, whole blocks, which `values` gives a part at a time.
///
/// # Errors
/// When a value is not finite, or a scale is beyond the range of f16.
pub(crate) fn quantize_from<'v>(
    dtype: DType,
    len: usize,
    values: impl Fn(Range<usize>) -> Cow<'v, [f32]> + Sync,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; byte_len(dtype, len)];
    let (quants, scales) = bytes.split_at_mut(quant_bytes(dtype, len));
    let unfit: usize = quants
        .par_chunks_mut(quant_bytes(dtype, BLOCK * GROUP))
        .zip(scales.par_chunks_mut(2 * GROUP))
        .enumerate()
        .map(|(group, (quants, scales))| {
            let first = group * GROUP * BLOCK;
            let values = values(first..len.min(first + GROUP * BLOCK));
            let blocks = values.chunks_exact(BLOCK).zip(quants.chunks_exact_mut(quant_bytes(dtype, BLOCK)));
            let unfit = blocks.zip(scales.chunks_exact_mut(2)).map(|((x, quants), scale)| {
                let d = if dtype == DType::Q8_0 { block_q8_0(x, quants) } else { block_q4_0(x, quants) };
                let stored = f16::from_f32(d);
                scale.copy_from_slice(&stored.to_le_bytes());
                // All are looked at, without a branch: it is the rule that there is none.
                let infinite = x.iter().fold(false, |any, v| any | !v.is_finite());
                usize::from(!stored.is_finite() | infinite)
            });
            unfit.sum::<usize>()
        })
        .sum();
    if unfit > 0 {
        return Err(Error::model(format!(
            "quantisation: {unfit} blocks have values that are not finite, or a scale beyond the range of f16; keep these weights in f32"
        )));
    }
    Ok(bytes)
}

/// ggml's blocks (a scale, then 32 quants; of q4_0's, value i of 16 in the lower half of a byte and value i + 16 in the upper) in the
/// layout of the kernels, with zeros up to `len` values. Quants and scales are the same numbers.
pub(crate) fn from_ggml(dtype: DType, stored: &[&[u8]], len: usize) -> Vec<u8> {
    let block = 2 + quant_bytes(dtype, BLOCK);
    let mut bytes = vec![0; byte_len(dtype, len)];
    let (mut quants, mut scales) = bytes.split_at_mut(quant_bytes(dtype, len));
    for part in stored {
        let blocks = part.len() / block;
        let (these, rest) = quants.split_at_mut(blocks * (block - 2));
        let (these_scales, rest_scales) = scales.split_at_mut(blocks * 2);
        (quants, scales) = (rest, rest_scales);
        these
            .par_chunks_mut(block - 2)
            .zip(these_scales.par_chunks_mut(2))
            .zip(part.par_chunks_exact(block))
            .with_min_len(256)
            .for_each(|((quants, scale), stored)| {
                let (d, stored) = stored.split_at(2);
                scale.copy_from_slice(d);
                if dtype == DType::Q8_0 {
                    quants.copy_from_slice(stored);
                    return;
                }
                let value = |i: usize| stored[i % 16] >> (i / 16 * 4) & 15;
                for (at, pair) in quants.iter_mut().enumerate() {
                    *pair = value(2 * at) | value(2 * at + 1) << 4;
                }
            });
    }
    bytes
}

/// The values of `len` quantised ones, as kernels unpack them.
pub(super) fn dequantize(dtype: DType, bytes: &[u8], len: usize) -> Vec<f32> {
    let (quants, scales) = bytes.split_at(quant_bytes(dtype, len));
    let mut values = vec![0.0; len];
    values.par_chunks_mut(BLOCK).zip(quants.par_chunks(quant_bytes(dtype, BLOCK))).zip(scales.par_chunks(2)).for_each(
        |((values, quants), scale)| {
            let d = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
            match dtype {
                DType::Q8_0 => values.iter_mut().zip(quants).for_each(|(v, &q)| *v = d * f32::from(q as i8)),
                _ => values.chunks_exact_mut(2).zip(quants).for_each(|(pair, &q)| {
                    pair[0] = d * (f32::from(q & 15) - 8.0);
                    pair[1] = d * (f32::from(q >> 4) - 8.0);
                }),
            }
        },
    );
    values
}

/// Bytes of the quants of `len` values, which their scales follow.
pub(crate) const fn quant_bytes(dtype: DType, len: usize) -> usize {
    match dtype {
        DType::Q8_0 => len,
        _ => len / 2,
    }
}

/// Writes 32 quants, one a byte; gives the scale.
fn block_q8_0(x: &[f32], quants: &mut [u8]) -> f32 {
    let mut largest = [0.0f32; 8];
    for eight in x.as_chunks::<8>().0 {
        largest.iter_mut().zip(eight).for_each(|(most, v)| *most = most.max(v.abs()));
    }
    let d = largest.iter().fold(0.0f32, |most, v| most.max(*v)) / 127.0;
    let inverse = inverse(d);
    for (q, v) in quants.iter_mut().zip(x) {
        *q = rounded(v * inverse) as i8 as u8;
    }
    d
}

/// `x.round()` within the range of a byte, without the call that it is on processors of the oldest kind: `x` less its whole part is exact.
fn rounded(x: f32) -> i32 {
    let x = x.clamp(-128.0, 127.0);
    let whole = x as i32;
    let rest = x - whole as f32;
    whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
}

/// Writes 32 quants, two a byte; gives the scale.
fn block_q4_0(x: &[f32], quants: &mut [u8]) -> f32 {
    let largest = x.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let d = largest / -8.0;
    let inverse = inverse(d);
    let quant = |v: f32| ((v * inverse + 8.5) as u8).min(15);
    for (q, pair) in quants.iter_mut().zip(x.chunks_exact(2)) {
        *q = quant(pair[0]) | quant(pair[1]) << 4;
    }
    d
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(dtype: DType, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let bytes = quantize(dtype, values).expect("whole blocks");
        let back = dequantize(dtype, &bytes, values.len());
        (bytes, back)
    }

    /// -16 … 15 as q8_0: the scale is 16/127 before rounding, so -16 is -127 and 15 is round(119.06) = 119.
    #[test]
    fn q8_0_of_a_ramp() {
        let ramp: Vec<f32> = (-16..16).map(|v| v as f32).collect();
        let (bytes, back) = round_trip(DType::Q8_0, &ramp);
        assert_eq!(bytes.len(), 32 + 4);
        let quants: Vec<i8> = bytes[..32].iter().map(|&b| b as i8).collect();
        let expected: Vec<i8> = (-16..16).map(|v| (f64::from(v) * 127.0 / 16.0).round() as i8).collect();
        assert_eq!(quants, expected);
        assert_eq!((quants[0], quants[16], quants[31]), (-127, 0, 119));
        let scale = f16::from_f64(16.0 / 127.0);
        assert_eq!(bytes[32..34], scale.to_le_bytes());
        assert_eq!(back[0], -127.0 * scale.to_f32());
    }

    /// The largest magnitude becomes 0, whatever its sign, and so is exact where its eighth is a half-precision number; what is as
    /// far on the other side of zero is cut to 15.
    #[test]
    fn q4_0_keeps_the_largest_value() {
        for sign in [1.0f32, -1.0] {
            let mut x = [0.0f32; 32];
            (x[0], x[1], x[2], x[3], x[31]) = (8.0 * sign, -8.0 * sign, sign, -0.4 * sign, 0.6 * sign);
            let (bytes, back) = round_trip(DType::Q4_0, &x);
            assert_eq!(bytes.len(), 16 + 4);
            // x / d + 8.5 with d = -sign: 0.5, 16.5, 7.5, 8.9; and 7.9.
            assert_eq!((bytes[0], bytes[1], bytes[15]), (0xF0, 0x87, 0x78));
            assert_eq!(bytes[16..18], f16::from_f32(-sign).to_le_bytes());
            assert_eq!((back[0], back[1], back[2], back[3], back[31]), (8.0 * sign, -7.0 * sign, sign, 0.0, sign));
        }
    }

    #[test]
    fn rounding_is_that_of_the_standard_library() {
        let near = (-254..=254).flat_map(|half| [-1, 0, 1].map(|ulp| (half as f32 * 0.5, ulp)));
        let steps = near.map(|(x, ulp)| f32::from_bits((x.to_bits() as i32 + ulp).max(0) as u32));
        let odd =
            [0.499_999_97, -0.499_999_97, f32::MIN_POSITIVE, -0.0, 127.4, -127.6, f32::NAN, 1e9, -1e9, f32::INFINITY];
        for x in steps.chain(odd) {
            assert_eq!(rounded(x) as i8, x.round() as i8, "{x}");
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for dtype in [DType::Q8_0, DType::Q4_0] {
            let mut x = vec![0.0f32; 96];
            x[40] = -3.0;
            let (bytes, back) = round_trip(dtype, &x);
            assert_eq!(bytes.len(), dtype.bytes(96));
            assert!(back[..32].iter().chain(&back[64..]).all(|&v| v == 0.0), "{dtype:?}: {back:?}");
            assert!((back[40] + 3.0).abs() < 0.01 && back[41..64].iter().all(|&v| v == 0.0), "{dtype:?}: {back:?}");
        }
    }

    /// No value is off by more than half a step, plus what the rounding of the scale (2^-11 of it) moves the value itself; q4_0
    /// may cut the end of its range by a whole step.
    #[test]
    fn values_are_off_by_half_a_step() {
        let values: Vec<f32> = (0..4096).map(|i| (i as f32 * 12.9898).sin() * (i as f32 * 0.37).cos()).collect();
        for (dtype, levels) in [(DType::Q8_0, 127.0), (DType::Q4_0, 8.0)] {
            let (_, back) = round_trip(dtype, &values);
            for (x, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let most = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                let step = most / levels;
                for (x, back) in x.iter().zip(back) {
                    let cut = dtype == DType::Q4_0 && (x.abs() + step * 0.5 > most);
                    let allowed = if cut { step } else { step * 0.5 } + most / 2048.0 + 1e-7;
                    assert!((x - back).abs() <= allowed, "{dtype:?}: {x} became {back}, step {step}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_quantised_is_an_error() {
        let error = |dtype, values: &[f32]| quantize(dtype, values).expect_err("refused").to_string();
        assert!(error(DType::Q8_0, &[1.0; 31]).contains("31 values"));
        assert!(error(DType::F16, &[1.0; 32]).contains("f16"));
        for dtype in [DType::Q8_0, DType::Q4_0] {
            for wrong in [f32::NAN, f32::INFINITY, 1e9] {
                let mut x = [1.0; 64];
                x[50] = wrong;
                assert!(error(dtype, &x).contains("1 blocks"), "{dtype:?}: {wrong} passes");
            }
        }
    }
}
