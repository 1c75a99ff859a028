//! Between the field's channel-first order and the engine's channels-last order. Both on the host.

/// `[n, c, h, w]` to `[n, h, w, c']`, with c' the next multiple of 4 and zeros in the added channels.
///
/// # Panics
/// When `values` does not hold `n · c · pixels` values.
pub fn to_channels_last(values: &[f32], n: usize, c: usize, pixels: usize) -> Vec<f32> {
    assert_eq!(values.len(), n * c * pixels, "the values cover [{n}, {c}, {pixels} pixels]");
    let padded = c.next_multiple_of(4);
    let mut out = vec![0.0; n * pixels * padded];
    for (image, out) in values.chunks_exact((c * pixels).max(1)).zip(out.chunks_exact_mut((pixels * padded).max(1))) {
        for (channel, plane) in image.chunks_exact(pixels.max(1)).enumerate() {
            for (value, out) in plane.iter().zip(out.iter_mut().skip(channel).step_by(padded)) {
                *out = *value;
            }
        }
    }
    out
}

/// `[n, h, w, c]` without padding to `[n, c, h, w]`; recordings return their results without padding.
///
/// # Panics
/// When `values` does not hold `n · c · pixels` values.
pub fn to_channels_first(values: &[f32], n: usize, c: usize, pixels: usize) -> Vec<f32> {
    assert_eq!(values.len(), n * c * pixels, "the values cover [{n}, {pixels} pixels, {c}]");
    let mut out = vec![0.0; values.len()];
    for (image, out) in values.chunks_exact((c * pixels).max(1)).zip(out.chunks_exact_mut((c * pixels).max(1))) {
        for (channel, plane) in out.chunks_exact_mut(pixels.max(1)).enumerate() {
            for (value, out) in image.iter().skip(channel).step_by(c).zip(plane) {
                *out = *value;
            }
        }
    }
    out
}

/// Rows of `c` values to rows of c' values, with c' the next multiple of 4 and zeros in the added ones.
pub fn pad_rows(values: &[f32], c: usize) -> Vec<f32> {
    let padded = c.next_multiple_of(4);
    let mut out = vec![0.0; values.len() / c.max(1) * padded];
    for (row, out) in values.chunks_exact(c.max(1)).zip(out.chunks_exact_mut(padded.max(1))) {
        out[..c].copy_from_slice(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let values: Vec<f32> = (0..2 * 3 * 5).map(|v| v as f32).collect();
        let last = to_channels_last(&values, 2, 3, 5);
        assert_eq!(last[..8], [0.0, 5.0, 10.0, 0.0, 1.0, 6.0, 11.0, 0.0]);
        let unpadded: Vec<f32> = last.chunks(4).flat_map(|pixel| &pixel[..3]).copied().collect();
        assert_eq!(pad_rows(&unpadded, 3), last);
        assert_eq!(to_channels_first(&unpadded, 2, 3, 5), values);
    }
}
