//! Products of bf16 in single precision, of operands that are widened: for processors that have nothing for them.
//!
//! A product of two bf16 is exact in f32, so that fused and separate additions give the same bits, and all levels what the portable loop gives.

use half::bf16;

use super::half_tile::Tile;
use super::{Block, Level};
use crate::record::HostWeight;

/// Rows and columns whose sums stay in registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const ROWS: usize = 4;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const WIDTH: usize = 16;

/// `x` and `panel` are what the tile's pointers lead to.
pub(super) fn widened(level: Level, tile: Tile, x: &[bf16], panel: &[bf16], out: &mut Block<'_>) {
    if level == Level::Portable {
        return portable(tile, x, panel, out);
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    for first in (0..out.rows()).step_by(ROWS) {
        let x = &x[first * tile.pitch..];
        // SAFETY: the tile's operands are in the slices, and the processor has the level's instructions.
        unsafe {
            match out.rows() - first {
                1 => vector::<1>(tile, x.as_ptr(), out, first),
                2 => vector::<2>(tile, x.as_ptr(), out, first),
                3 => vector::<3>(tile, x.as_ptr(), out, first),
                _ => vector::<ROWS>(tile, x.as_ptr(), out, first),
            }
        }
    }
}

fn portable(tile: Tile, x: &[bf16], panel: &[bf16], out: &mut Block<'_>) {
    let columns = out.columns();
    for row in 0..out.rows() {
        let x = &x[row * tile.pitch..][..tile.depth];
        let out = out.row(row);
        let mut sums = [0.0f32; HostWeight::PANEL];
        if tile.add {
            sums[..columns].copy_from_slice(out);
        }
        for (pair, x) in x.chunks_exact(2).enumerate() {
            let x = [x[0].to_f32(), x[1].to_f32()];
            for (column, sum) in sums.iter_mut().enumerate() {
                let weight = &panel[HostWeight::pair_place(2 * pair, column)..][..2];
                *sum = *sum + x[0] * weight[0].to_f32() + x[1] * weight[1].to_f32();
            }
        }
        out.copy_from_slice(&sums[..columns]);
    }
}

/// As many rows of `out` from `first` on.
///
/// # Safety
/// What the tile's fields name exists, `x` has the rows, and the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn vector<const COUNT: usize>(tile: Tile, x: *const bf16, out: &mut Block<'_>, first: usize) {
    use std::arch::x86_64::*;
    /// The first and the second of each pair.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn both(pairs: __m256i) -> [__m256; 2] {
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(second)]
    }
    let columns = out.columns();
    for column in (0..columns).step_by(WIDTH) {
        let width = WIDTH.min(columns - column);
        let mut edge = [0.0f32; WIDTH];
        let mut sums = [[_mm256_setzero_ps(); 2]; COUNT];
        for (row, [low, high]) in sums.iter_mut().enumerate().filter(|_| tile.add) {
            edge[..width].copy_from_slice(&out.row(first + row)[column..][..width]);
            // SAFETY: there are 16 values.
            (*low, *high) = unsafe { (_mm256_loadu_ps(edge.as_ptr()), _mm256_loadu_ps(edge.as_ptr().add(8))) };
        }
        for position in (0..tile.depth).step_by(2) {
            // SAFETY: the caller's.
            unsafe {
                let panel = tile.panel.add(HostWeight::pair_place(position, column)).cast::<__m256i>();
                let weights = [both(_mm256_loadu_si256(panel)), both(_mm256_loadu_si256(panel.add(1)))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let pair = x.add(row * tile.pitch + position).cast::<i32>().read_unaligned();
                    let values = both(_mm256_set1_epi32(pair));
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = _mm256_fmadd_ps(values[0], weights[0], *sum);
                        *sum = _mm256_fmadd_ps(values[1], weights[1], *sum);
                    }
                }
            }
        }
        for (row, [low, high]) in sums.iter().enumerate() {
            // SAFETY: there is room for 16 values.
            unsafe {
                _mm256_storeu_ps(edge.as_mut_ptr(), *low);
                _mm256_storeu_ps(edge.as_mut_ptr().add(8), *high);
            }
            out.row(first + row)[column..][..width].copy_from_slice(&edge[..width]);
        }
    }
}

/// As many rows of `out` from `first` on.
///
/// # Safety
/// What the tile's fields name exists, and `x` has the rows.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn vector<const COUNT: usize>(tile: Tile, x: *const bf16, out: &mut Block<'_>, first: usize) {
    use std::arch::aarch64::*;
    /// The first and the second of each pair.
    #[inline]
    #[target_feature(enable = "neon")]
    fn both(pairs: uint32x4_t) -> [float32x4_t; 2] {
        let second = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
        [vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)), vreinterpretq_f32_u32(second)]
    }
    let columns = out.columns();
    for column in (0..columns).step_by(WIDTH) {
        let width = WIDTH.min(columns - column);
        let mut edge = [0.0f32; WIDTH];
        let mut sums = [[vdupq_n_f32(0.0); WIDTH / 4]; COUNT];
        for (row, sums) in sums.iter_mut().enumerate().filter(|_| tile.add) {
            edge[..width].copy_from_slice(&out.row(first + row)[column..][..width]);
            for (sum, values) in sums.iter_mut().zip(edge.as_chunks::<4>().0) {
                // SAFETY: there are 4 values.
                *sum = unsafe { vld1q_f32(values.as_ptr()) };
            }
        }
        for position in (0..tile.depth).step_by(2) {
            // SAFETY: the caller's.
            unsafe {
                let panel = tile.panel.add(HostWeight::pair_place(position, column)).cast::<u32>();
                let mut weights = [[vdupq_n_f32(0.0); 2]; WIDTH / 4];
                for (four, weights) in weights.iter_mut().enumerate() {
                    *weights = both(vld1q_u32(panel.add(4 * four)));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let pair = x.add(row * tile.pitch + position).cast::<u32>().read_unaligned();
                    let values = both(vdupq_n_u32(pair));
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = vfmaq_f32(*sum, weights[0], values[0]);
                        *sum = vfmaq_f32(*sum, weights[1], values[1]);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (values, sum) in edge.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                // SAFETY: there is room for 4 values.
                unsafe { vst1q_f32(values.as_mut_ptr(), *sum) };
            }
            out.row(first + row)[column..][..width].copy_from_slice(&edge[..width]);
        }
    }
}
