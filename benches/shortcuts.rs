//! What keeping features over calls (DeepCache) and merging tokens gain in time and cost in likeness to the full run.
//!
//! `CHIARO_BENCH_ONLY=token-merging CHIARO_BENCH_DEVICES=cpu CHIARO_BENCH_MODEL=folder CHIARO_BENCH_SIZE=256 CHIARO_BENCH_STEPS=30 cargo bench
//! --bench shortcuts`; without `CHIARO_BENCH_ONLY` both. `CHIARO_BENCH_PICTURES=1`: fewer than the six.

mod support;

use std::time::Instant;

use chiaro::pipeline::{DeepCache, Event, Pipeline, Request, TokenMerging};
use chiaro::sampling::SolverKind;

const PROMPTS: [&str; 3] = ["a red circle", "a blue square on a white background", "a lighthouse at night"];
const SEEDS: [u64; 2] = [1, 2];

/// Seconds of the steps, final latents and pixels.
fn draw(pipeline: &Pipeline, request: &Request) -> chiaro::Result<(f64, Vec<f32>, Vec<u8>)> {
    let (mut seconds, mut start) = (0.0, Instant::now());
    for event in pipeline.generate(request.clone())? {
        match event? {
            // The first step warms up, the last one opens the decoder; both are whole or shallow alike in every round.
            Event::Step { step, of, .. } if step > 1 && step < of => seconds += start.elapsed().as_secs_f64(),
            Event::Picture(picture) => return Ok((seconds, picture.latents, picture.image.data)),
            _ => {}
        }
        start = Instant::now();
    }
    Err(chiaro::Error::request("bench", "expected a picture, got none"))
}

/// In dB, of 8-bit pixels.
fn psnr(got: &[u8], want: &[u8]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * want.len() as f64 / error).log10()
}

/// The name of a row, and what it adds to the full request.
fn rows() -> Vec<(String, DeepCache, Option<TokenMerging>)> {
    let off = DeepCache { interval: 1, depth: 2 };
    let caches = [(1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3)];
    let caches = caches.map(|(interval, depth)| DeepCache { interval, depth });
    let mergings = [(0.25, 1), (0.5, 1), (0.75, 1), (0.5, 2)].map(|(ratio, levels)| TokenMerging { ratio, levels });
    let caches = caches.map(|cache| (format!("deep-cache {cache}"), cache, None));
    let mergings = mergings.map(|merging| (format!("token-merging {merging}"), off, Some(merging)));
    let wanted = std::env::var("CHIARO_BENCH_ONLY").unwrap_or_default();
    caches.into_iter().chain(mergings).filter(|(name, ..)| name.contains(&wanted)).collect()
}

fn main() -> chiaro::Result<()> {
    let size = std::env::var_os("CHIARO_BENCH_SIZE").map(|_| support::setting("CHIARO_BENCH_SIZE", 256));
    let steps = support::setting("CHIARO_BENCH_STEPS", 30);
    let pictures: Vec<_> = PROMPTS.iter().flat_map(|prompt| SEEDS.map(|seed| (*prompt, seed))).collect();
    let pictures = &pictures[..support::setting("CHIARO_BENCH_PICTURES", pictures.len()).clamp(1, pictures.len())];
    for device in support::devices() {
        let pipeline = support::pipeline(&device)?;
        println!("{}, {steps} steps", pipeline.device().describe());
        println!("| shortcut | time | PSNR, least and mean | NMSE of latents, mean and most |\n|---|---|---|---|");
        for (name, cache, token_merging) in rows() {
            let (mut ratios, mut likeness, mut errors) = (Vec::new(), Vec::new(), Vec::new());
            for (prompt, seed) in pictures.iter().copied() {
                let full = Request {
                    prompt: prompt.into(),
                    seed,
                    width: size,
                    height: size,
                    num_inference_steps: steps,
                    sampler: Some(SolverKind::Ddim),
                    ..Request::default()
                };
                let short = Request { deep_cache: Some(cache), token_merging, ..full.clone() };
                let (want_seconds, want, want_pixels) = draw(&pipeline, &full)?;
                let (seconds, latents, pixels) = draw(&pipeline, &short)?;
                ratios.push(seconds / want_seconds);
                likeness.push(psnr(&pixels, &want_pixels));
                errors.push(support::nmse(&latents, &want));
            }
            let [_, ratio, _] = support::spread(ratios);
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let least = likeness.iter().copied().fold(f64::INFINITY, f64::min);
            let most = errors.iter().copied().fold(0.0, f64::max);
            println!(
                "| {name} | {ratio:.2} | {least:.1}, {:.1} | {:.1e}, {most:.1e} |",
                mean(&likeness),
                mean(&errors)
            );
            if cache.interval == 1 && token_merging.is_none() && most != 0.0 {
                return Err(chiaro::Error::Device(format!("an interval of 1 is not off: NMSE {most:.1e}")));
            }
        }
    }
    Ok(())
}
