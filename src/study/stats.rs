//! Statistics of image means.

use crate::{Error, Result};

/// Mean and standard deviation (of the values themselves, divided by their number); `None` of nothing.
pub fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    Some((mean, variance.sqrt()))
}

/// The Wasserstein-1 distance of two samples, of any two sizes: ∫|F_a - F_b|, the area between their distribution functions. In the unit of
/// the values.
///
/// # Errors
/// When a sample is empty or holds a value that is not finite.
pub fn wasserstein_1(a: &[f64], b: &[f64]) -> Result<f64> {
    let (a, b) = (sorted(a)?, sorted(b)?);
    let mut edges: Vec<f64> = a.iter().chain(&b).copied().collect();
    edges.sort_by(f64::total_cmp);
    let below = |sample: &[f64], x: f64| sample.partition_point(|v| *v <= x) as f64 / sample.len() as f64;
    Ok(edges.windows(2).map(|pair| (pair[1] - pair[0]) * (below(&a, pair[0]) - below(&b, pair[0])).abs()).sum())
}

fn sorted(values: &[f64]) -> Result<Vec<f64>> {
    if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
        return Err(Error::shape("wasserstein_1", "expected a sample of finite numbers, at least one"));
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Ok(values)
}

/// How many values lie in each of `bins` equal parts of `low` to `high`; the upper end belongs to the last.
///
/// # Errors
/// When a value lies outside, or there are no bins.
pub fn histogram(values: &[f64], low: f64, high: f64, bins: usize) -> Result<Vec<usize>> {
    let mut counts = vec![0; bins];
    for &value in values {
        if bins == 0 || !(low..=high).contains(&value) {
            return Err(Error::shape("histogram", format!("{value} is not in {bins} bins from {low} to {high}")));
        }
        let bin = ((value - low) / (high - low) * bins as f64) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    Ok(counts)
}
