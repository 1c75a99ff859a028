//! Latents at another size.

/// `[c, h, w]` at another size, bilinear with pixel centres at half steps (torch's `interpolate` with `align_corners` off): what
/// AUTOMATIC1111 calls "Latent".
pub(crate) fn bilinear(x: &[f32], c: usize, (h, w): (usize, usize), (to_h, to_w): (usize, usize)) -> Vec<f32> {
    let down = weights(h, to_h);
    let across = weights(w, to_w);
    let mut out = Vec::with_capacity(c * to_h * to_w);
    for plane in x.chunks_exact(h * w) {
        for &(y0, y1, v) in &down {
            for &(x0, x1, u) in &across {
                let at = |y: usize, x: usize| plane[y * w + x];
                let upper = at(y0, x0) * (1.0 - u) + at(y0, x1) * u;
                let lower = at(y1, x0) * (1.0 - u) + at(y1, x1) * u;
                out.push(upper * (1.0 - v) + lower * v);
            }
        }
    }
    out
}

/// For each target: its two sources and the share of the second.
fn weights(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(from - 1);
            (low, (low + 1).min(from - 1), at - low as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::bilinear;

    #[test]
    fn ramps_stay_ramps() {
        let x: Vec<f32> = (0..4).flat_map(|y| (0..4).map(move |x| (10 * y + x) as f32)).collect();
        assert_eq!(bilinear(&x, 1, (4, 4), (4, 4)), x);
        let y = bilinear(&x, 1, (4, 4), (8, 8));
        // Pixel (3, 5) of 8×8 has its centre at (1.25, 2.25) of 4×4.
        assert_eq!(y[3 * 8 + 5], 12.5 + 2.25);
        assert_eq!((y[0], y[63]), (0.0, 33.0));
    }
}
