//! Numbers that σ schedules are made of.

/// Align Your Steps for Stable Diffusion 1.5, 10 steps (Sabour et al., arXiv 2404.14507; values as its authors published them).
pub(super) const ALIGN_YOUR_STEPS_SD15: [f64; 11] =
    [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029];

/// The same for SDXL.
pub(super) const ALIGN_YOUR_STEPS_SDXL: [f64; 11] =
    [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029];

/// The value below which a share `p` (0 to 1) of the distribution Beta(a, a) lies, to 1e-15.
pub(super) fn symmetric_beta_quantile(a: f64, p: f64) -> f64 {
    if p > 0.5 {
        return 1.0 - symmetric_beta_quantile(a, 1.0 - p);
    }
    // The distribution is symmetric, so half of it lies below ½: no gamma function is needed.
    let wanted = 2.0 * p.max(0.0) * lower_incomplete(a, 0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if lower_incomplete(a, middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// ∫_0^x t^(a-1) (1-t)^(a-1) dt for x up to ½, by its continued fraction (NIST Digital Library of Mathematical Functions, 8.17.22) with
/// Lentz's method.
fn lower_incomplete(a: f64, x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let coefficient = |m: usize| {
        let k = (m / 2) as f64;
        if m.is_multiple_of(2) {
            k * (a - k) * x / ((a + 2.0 * k - 1.0) * (a + 2.0 * k))
        } else {
            -(a + k) * (2.0 * a + k) * x / ((a + 2.0 * k) * (a + 2.0 * k + 1.0))
        }
    };
    let away_from_zero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut fraction, mut c, mut d) = (1.0, 1.0, 0.0);
    for m in 1..200 {
        let term = coefficient(m);
        d = 1.0 / away_from_zero(1.0 + term * d);
        c = away_from_zero(1.0 + term / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    x.powf(a) * (1.0 - x).powf(a) / a / fraction
}

#[cfg(test)]
mod tests {
    use super::symmetric_beta_quantile;

    #[test]
    fn quantiles_of_beta() {
        // Beta(½, ½) is the arcsine distribution, Beta(1, 1) the uniform one.
        for i in 0..=20 {
            let p = f64::from(i) / 20.0;
            let arcsine = (std::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            assert!((symmetric_beta_quantile(0.5, p) - arcsine).abs() < 1e-12, "{p}");
            assert!((symmetric_beta_quantile(1.0, p) - p).abs() < 1e-12, "{p}");
        }
    }
}
