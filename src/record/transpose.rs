//! Rows to columns, as weights are put into the order that products read them in.

use std::ops::Range;

use bytemuck::Pod;

/// `to[column · pitch + row] = from[row · from_pitch + column]` of so many rows and columns. `from` begins with the first row and `to` with the
/// first column; both may hold more.
///
/// # Panics
/// Where they hold less.
pub(crate) fn transpose<T: Pod>(
    (from, from_pitch): (&[T], usize),
    (to, pitch): (&mut [T], usize),
    rows: usize,
    columns: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= from_pitch || rows == 1, "rows lie behind each other");
    assert!(rows <= pitch || columns == 1, "columns lie behind each other");
    assert!(from.len() >= (rows - 1) * from_pitch + columns && to.len() >= (columns - 1) * pitch + rows);
    match size_of::<T>() {
        2 => by_blocks::<T, 8>((from, from_pitch), (to, pitch), rows, columns),
        4 => by_blocks::<T, 4>((from, from_pitch), (to, pitch), rows, columns),
        _ => one_by_one((from, from_pitch), (to, pitch), 0..rows, 0..columns),
    }
}

/// Squares of so many values, a register in each row.
fn by_blocks<T: Pod, const SIDE: usize>(
    (from, from_pitch): (&[T], usize),
    (to, pitch): (&mut [T], usize),
    rows: usize,
    columns: usize,
) {
    let (whole_rows, whole_columns) = (rows / SIDE * SIDE, columns / SIDE * SIDE);
    for column in (0..whole_columns).step_by(SIDE) {
        for row in (0..whole_rows).step_by(SIDE) {
            let mut square = [[0; 16]; SIDE];
            for (r, values) in square.iter_mut().enumerate() {
                values.copy_from_slice(bytemuck::cast_slice(&from[(row + r) * from_pitch + column..][..SIDE]));
            }
            for (c, values) in vector::transposed(square).iter().enumerate() {
                let to = &mut to[(column + c) * pitch + row..][..SIDE];
                bytemuck::cast_slice_mut::<T, u8>(to).copy_from_slice(values);
            }
        }
    }
    one_by_one((from, from_pitch), (to, pitch), whole_rows..rows, 0..columns);
    one_by_one((from, from_pitch), (to, pitch), 0..whole_rows, whole_columns..columns);
}

fn one_by_one<T: Pod>(
    (from, from_pitch): (&[T], usize),
    (to, pitch): (&mut [T], usize),
    rows: Range<usize>,
    columns: Range<usize>,
) {
    // As many columns at a time as a cache line has values: each row's line is read once.
    let together = (64 / size_of::<T>()).max(1);
    for first in columns.clone().step_by(together) {
        for row in rows.clone() {
            let from = &from[row * from_pitch..][first..columns.end.min(first + together)];
            for (to, value) in to[first * pitch + row..].iter_mut().step_by(pitch).zip(from) {
                *to = *value;
            }
        }
    }
}

/// Registers of 16 bytes, which these processors always have.
mod vector {
    pub(super) type Vector = [u8; 16];

    /// The columns of a square of 8 values of 2 bytes, or of 4 of 4 bytes.
    #[inline(always)]
    pub(super) fn transposed<const SIDE: usize>(mut square: [Vector; SIDE]) -> [Vector; SIDE] {
        // Rows are dealt out as cards are: after as many rounds as there are bits in a place, row and column have changed places.
        for _ in 0..SIDE.ilog2() {
            let dealt = square;
            for i in 0..SIDE / 2 {
                let (upper, lower) = (dealt[i], dealt[i + SIDE / 2]);
                (square[2 * i], square[2 * i + 1]) = zipped::<SIDE>(upper, lower);
            }
        }
        square
    }

    /// The values of both in turns: those of the first halves, those of the second.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn zipped<const SIDE: usize>(a: Vector, b: Vector) -> (Vector, Vector) {
        use std::arch::x86_64::*;
        let (a, b): (__m128i, __m128i) = (bytemuck::cast(a), bytemuck::cast(b));
        // SAFETY: every x86-64 has SSE2.
        let (low, high) = unsafe {
            match SIDE {
                8 => (_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)),
                _ => (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)),
            }
        };
        (bytemuck::cast(low), bytemuck::cast(high))
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn zipped<const SIDE: usize>(a: Vector, b: Vector) -> (Vector, Vector) {
        use std::arch::aarch64::*;
        use std::mem::transmute;
        // SAFETY: a register is 16 bytes, whatever they mean.
        unsafe {
            if SIDE == 8 {
                let (a, b): (uint16x8_t, uint16x8_t) = (transmute(a), transmute(b));
                (transmute(vzip1q_u16(a, b)), transmute(vzip2q_u16(a, b)))
            } else {
                let (a, b): (uint32x4_t, uint32x4_t) = (transmute(a), transmute(b));
                (transmute(vzip1q_u32(a, b)), transmute(vzip2q_u32(a, b)))
            }
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    #[inline(always)]
    fn zipped<const SIDE: usize>(a: Vector, b: Vector) -> (Vector, Vector) {
        let size = 16 / SIDE;
        let half = |first: usize| {
            std::array::from_fn(|i| {
                let (value, byte) = (i / size, i % size);
                [a, b][value % 2][(first + value / 2) * size + byte]
            })
        };
        (half(0), half(SIDE / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Pod + PartialEq + std::fmt::Debug>(value: impl Fn(usize) -> T) {
        for (rows, columns) in [(0, 3), (1, 1), (32, 9), (8, 8), (7, 16), (32, 320), (33, 41), (9, 100), (4, 12)] {
            for (more, below) in [(0, 0), (3, 1)] {
                let (from_pitch, pitch) = (columns + more, rows + below);
                let from: Vec<T> = (0..rows * from_pitch).map(&value).collect();
                let mut to = vec![value(77_777); columns * pitch];
                transpose((&from, from_pitch), (&mut to, pitch), rows, columns);
                for (i, found) in to.iter().enumerate() {
                    let (column, row) = (i / pitch, i % pitch);
                    let want = if row < rows { from[row * from_pitch + column] } else { value(77_777) };
                    assert_eq!(*found, want, "{rows}x{columns}, pitches {from_pitch} and {pitch}: {row} {column}");
                }
            }
        }
    }

    #[test]
    fn rows_become_columns() {
        check(|i| i as u8);
        check(|i| i as u16);
        check(|i| i as u32);
        check(|i| i as f32);
        check(|i| i as u64);
    }
}
