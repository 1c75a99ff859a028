//! Weights of tokens, applied to the states that a text encoder gave for one chunk.

use crate::{Error, Result};

/// AUTOMATIC1111's rule (`modules/sd_emphasis.py`, "Original"): `z'ₜ = wₜ·zₜ`, then all of `z'` times `mean(z) / mean(z')`. `states` is
/// `[tokens, width]`, `weights` `[tokens]`. Nothing changes where all weights are 1.
///
/// # Errors
/// When the weighted states have a mean of zero, so that the old one cannot be restored.
pub fn weigh_restoring_mean(states: &mut [f32], weights: &[f32]) -> Result<()> {
    if weights.iter().all(|weight| *weight == 1.0) {
        return Ok(());
    }
    let sum = |states: &[f32]| states.iter().map(|v| f64::from(*v)).sum::<f64>();
    let before = sum(states);
    for (state, weight) in states.chunks_exact_mut((states.len() / weights.len()).max(1)).zip(weights) {
        state.iter_mut().for_each(|v| *v *= weight);
    }
    let scale = before / sum(states);
    if !scale.is_finite() {
        return Err(Error::request(
            "prompt",
            "the weights leave states of mean zero, whose mean cannot be restored; choose others, or the comfy syntax",
        ));
    }
    states.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
    Ok(())
}

/// ComfyUI's rule (`comfy/sd1_clip.py`): `z'ₜ = eₜ + wₜ·(zₜ - eₜ)`, with `e` the states of the empty prompt. Shapes as in
/// [`weigh_restoring_mean`].
pub fn weigh_from_empty(states: &mut [f32], weights: &[f32], empty: &[f32]) {
    let width = (states.len() / weights.len()).max(1);
    for ((state, empty), weight) in states.chunks_exact_mut(width).zip(empty.chunks_exact(width)).zip(weights) {
        if *weight != 1.0 {
            state.iter_mut().zip(empty).for_each(|(z, e)| *z = e + weight * (*z - e));
        }
    }
}
