//! Sinusoids that networks take in place of a number.

/// The timestep embedding `[dim]` of diffusers' `get_timestep_embedding`: frequencies `10000^(-i/(dim/2 - freq_shift))`; cosines first
/// when `flip_sin_to_cos`. Frequencies and angles are rounded to f32 as in the reference.
pub fn timestep_embedding(timestep: f64, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f32> {
    let half = dim / 2;
    let angles: Vec<f32> = (0..half)
        .map(|i| {
            let exponent = -(10_000f64.ln()) as f32 * i as f32 / (half as f64 - freq_shift) as f32;
            timestep as f32 * exponent.exp()
        })
        .collect();
    let sines = angles.iter().map(|a| f64::from(*a).sin() as f32);
    let cosines = angles.iter().map(|a| f64::from(*a).cos() as f32);
    let mut embedding: Vec<f32> =
        if flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    embedding.resize(dim, 0.0);
    embedding
}

/// The guidance embedding `[dim]` of latent consistency models (`get_guidance_scale_embedding` in diffusers): `w = guidance_scale - 1`,
/// times 1000, frequencies `10000^(-i/(dim/2 - 1))`, sines first.
pub fn guidance_scale_embedding(guidance_scale: f64, dim: usize) -> Vec<f32> {
    timestep_embedding(f64::from((guidance_scale - 1.0) as f32 * 1000.0), dim, false, 1.0)
}
