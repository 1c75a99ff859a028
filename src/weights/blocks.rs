//! ggml's blocks: values that share scales, as GGUF files store them.
//!
//! With `d` and `m` half-precision numbers of the block, `s` and `t` small integers of 16 or 32 of its values, and `q` the value's own bits
//! (`ggml-common.h`, `block_*`; `ggml-quants.c`, `dequantize_row_*`):
//!
//! | type | values | bytes | a value | layout of the bytes |
//! | --- | --- | --- | --- | --- |
//! | Q8_0 | 32 | 34 | d·q | d, 32 signed q |
//! | Q4_0, Q4_1 | 32 | 18, 20 | d·(q − 8), d·q + m | d, (m), half-bytes: value i is the lower half of byte i, value i + 16 its upper half |
//! | Q5_0, Q5_1 | 32 | 22, 24 | d·(q − 16), d·q + m | d, (m), the fifth bits in a word, half-bytes as above |
//! | Q2_K | 256 | 84 | d·s·q − m·t | 16 bytes of s (lower half) and t, quarter-bytes, d, m |
//! | Q3_K | 256 | 110 | d·(s − 32)·(q − 4) | third bits, quarter-bytes, 16 s of 6 bits in 12 bytes, d; a third bit that is set stands for 4 |
//! | Q4_K, Q5_K | 256 | 144, 176 | d·s·q − m·t | d, m, 8 s and 8 t of 6 bits in 12 bytes, (fifth bits), half-bytes |
//! | Q6_K | 256 | 210 | d·s·(q − 32) | half-bytes, the upper two bits, 16 signed s, d |

use half::f16;
use rayon::prelude::*;

/// A type of blocks that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// Half-bytes, one scale.
    Q4_0,
    /// Half-bytes, a scale and the least value.
    Q4_1,
    /// Five bits, one scale.
    Q5_0,
    /// Five bits, a scale and the least value.
    Q5_1,
    /// Bytes, one scale.
    Q8_0,
    /// Two bits, scales of scales.
    Q2K,
    /// Three bits, scales of scales.
    Q3K,
    /// Four bits, scales of scales.
    Q4K,
    /// Five bits, scales of scales.
    Q5K,
    /// Six bits, scales of scales.
    Q6K,
}

impl BlockType {
    /// ggml's name.
    pub const fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q5_0 => "Q5_0",
            BlockType::Q5_1 => "Q5_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q2K => "Q2_K",
            BlockType::Q3K => "Q3_K",
            BlockType::Q4K => "Q4_K",
            BlockType::Q5K => "Q5_K",
            BlockType::Q6K => "Q6_K",
        }
    }

    /// Values of a block.
    pub const fn values(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 32,
            BlockType::Q2K | BlockType::Q3K | BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q5_0 => 22,
            BlockType::Q5_1 => 24,
            BlockType::Q8_0 => 34,
            BlockType::Q2K => 84,
            BlockType::Q3K => 110,
            BlockType::Q4K => 144,
            BlockType::Q5K => 176,
            BlockType::Q6K => 210,
        }
    }

    /// The values of whole blocks.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.bytes() * self.values()];
        values
            .par_chunks_mut(self.values())
            .zip(bytes.par_chunks_exact(self.bytes()))
            .with_min_len(64)
            .for_each(|(out, block)| self.decode_block(block, out));
        values
    }

    fn decode_block(self, block: &[u8], out: &mut [f32]) {
        match self {
            BlockType::Q8_0 => {
                let d = half_at(block, 0);
                out.iter_mut().zip(&block[2..]).for_each(|(v, &q)| *v = d * f32::from(q as i8));
            }
            BlockType::Q4_0 => {
                let d = half_at(block, 0);
                fill(out, |i| d * (nibble(&block[2..], i) - 8.0));
            }
            BlockType::Q4_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                fill(out, |i| d * nibble(&block[4..], i) + m);
            }
            BlockType::Q5_0 => {
                let d = half_at(block, 0);
                fill(out, |i| d * (nibble(&block[6..], i) + 16.0 * bit(&block[2..6], i) - 16.0));
            }
            BlockType::Q5_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                fill(out, |i| d * (nibble(&block[8..], i) + 16.0 * bit(&block[4..8], i)) + m);
            }
            BlockType::Q2K => {
                let (scales, quants) = (&block[..16], &block[16..80]);
                let (d, m) = (half_at(block, 80), half_at(block, 82));
                fill(out, |i| {
                    let scale = scales[i / 16];
                    d * f32::from(scale & 15) * f32::from(quarter(quants, i)) - m * f32::from(scale >> 4)
                });
            }
            BlockType::Q3K => {
                let (third, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
                let d = half_at(block, 108);
                fill(out, |i| {
                    let part = i / 16;
                    let low = packed[part % 8] >> (part / 8 * 4) & 15;
                    let high = packed[8 + part % 4] >> (part / 4 * 2) & 3;
                    let scale = f32::from(low | high << 4) - 32.0;
                    let cut = if third[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
                    d * scale * (f32::from(quarter(quants, i)) - cut)
                });
            }
            BlockType::Q4K => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                let quants = &block[16..];
                fill(out, |i| {
                    let (s, t) = six_bits(&block[4..16], i / 32);
                    d * s * half_byte(quants, i) - m * t
                });
            }
            BlockType::Q5K => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                let (fifth, quants) = (&block[16..48], &block[48..]);
                fill(out, |i| {
                    let (s, t) = six_bits(&block[4..16], i / 32);
                    let high = f32::from(fifth[i % 32] >> (i / 32) & 1);
                    d * s * (half_byte(quants, i) + 16.0 * high) - m * t
                });
            }
            BlockType::Q6K => {
                let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
                let d = half_at(block, 208);
                fill(out, |i| {
                    // Each half of the block: four runs of 32 in two runs of bytes, first the lower halves, then the upper.
                    let (part, run, at) = (i / 128, i % 128 / 32, i % 32);
                    let four = low[part * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
                    let two = high[part * 32 + at] >> (run * 2) & 3;
                    d * f32::from(scales[i / 16] as i8) * (f32::from(four | two << 4) - 32.0)
                });
            }
        }
    }
}

fn fill(out: &mut [f32], value: impl Fn(usize) -> f32) {
    out.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Half-byte `i` of 32: the lower halves of 16 bytes, then the upper ones.
fn nibble(quants: &[u8], i: usize) -> f32 {
    f32::from(quants[i % 16] >> (i / 16 * 4) & 15)
}

/// Bit `i` of a word.
fn bit(word: &[u8], i: usize) -> f32 {
    f32::from(word[i / 8] >> (i % 8) & 1)
}

/// Half-byte `i` of 256: in runs of 32 bytes, the lower halves before the upper ones.
fn half_byte(quants: &[u8], i: usize) -> f32 {
    f32::from(quants[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15)
}

/// Two bits of 256: in runs of 32 bytes, the lowest of all of them first.
fn quarter(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Scale and minimum `j` of 8, each of 6 bits: the first four whole in bytes of their own, whose upper two bits go with the other four.
fn six_bits(packed: &[u8], j: usize) -> (f32, f32) {
    let (s, t) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(s), f32::from(t))
}
