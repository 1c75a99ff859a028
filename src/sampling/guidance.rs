//! Classifier-free guidance (Ho and Salimans, arXiv 2207.12598); eq. 21 of the OMS paper has the same form.

/// `uncond + weight · (cond - uncond)` of two rows `[unconditional, conditional]`; a single row is returned as it is.
pub fn guide(rows: &[Vec<f32>], weight: f64) -> Vec<f32> {
    match rows {
        [uncond, cond] => uncond
            .iter()
            .zip(cond)
            .map(|(&u, &c)| (f64::from(u) + weight * (f64::from(c) - f64::from(u))) as f32)
            .collect(),
        [one] => one.clone(),
        _ => panic!("guidance takes one or two rows, got {}", rows.len()),
    }
}
