//! Variations of a seed: between the noise of one seed and that of another.

use crate::{Error, Result};

/// Mean cosine above which two noises count as parallel.
const PARALLEL: f64 = 0.9995;

/// AUTOMATIC1111's `slerp` (`modules/rng.py`) of two noises `[channels, height, width]`: at strength 0 `low`, at 1 `high`.
///
/// As there, each *column* of each channel (height values) is turned on its own: with unit columns at angle Ω,
/// `sin((1-s)Ω)/sin Ω · low + sin(sΩ)/sin Ω · high`. Two noises whose mean cosine exceeds 0.9995 (a seed and itself) are mixed
/// linearly, with the weights the other way round (`s·low + (1-s)·high`): so it is written there, and it shows only where both are nearly
/// the same.
///
/// # Errors
/// When a length is not `channels · height · width`, or the strength is outside 0 to 1.
pub fn slerp(strength: f64, low: &[f32], high: &[f32], shape: [usize; 3]) -> Result<Vec<f32>> {
    let [channels, height, width] = shape;
    let len = channels * height * width;
    if low.len() != len || high.len() != len {
        return Err(Error::shape("slerp", format!("expected {len} values, got {} and {}", low.len(), high.len())));
    }
    check_strength(strength)?;
    let columns = || (0..channels).flat_map(|c| (0..width).map(move |x| (c, x)));
    let at = |(c, x): (usize, usize)| (0..height).map(move |y| (c * height + y) * width + x);
    let cosines: Vec<f64> = columns()
        .map(|column| {
            let (mut dot, mut low_square, mut high_square) = (0.0, 0.0, 0.0);
            for i in at(column) {
                let (a, b) = (f64::from(low[i]), f64::from(high[i]));
                dot += a * b;
                low_square += a * a;
                high_square += b * b;
            }
            dot / (low_square.sqrt() * high_square.sqrt())
        })
        .collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
    let mut mixed = vec![0.0; len];
    for (column, cosine) in columns().zip(cosines) {
        let (of_low, of_high) = if mean > PARALLEL {
            (strength, 1.0 - strength)
        } else {
            let angle = cosine.clamp(-1.0, 1.0).acos();
            (((1.0 - strength) * angle).sin() / angle.sin(), (strength * angle).sin() / angle.sin())
        };
        for i in at(column) {
            mixed[i] = (of_low * f64::from(low[i]) + of_high * f64::from(high[i])) as f32;
        }
    }
    Ok(mixed)
}

/// # Errors
/// When a variation's strength is outside 0 to 1.
pub(super) fn check_strength(strength: f64) -> Result<()> {
    if strength.is_finite() && (0.0..=1.0).contains(&strength) {
        return Ok(());
    }
    Err(Error::request("variation strength", format!("expected a number from 0 to 1, got {strength}")))
}
