//! What keeping features over calls (DeepCache) gains in time and costs in likeness to the full run.
//!
//! `CHIARO_BENCH_DEVICES=cpu CHIARO_BENCH_MODEL=folder CHIARO_BENCH_SIZE=256 CHIARO_BENCH_STEPS=30 cargo bench --bench deep_cache`

mod support;

use std::time::Instant;

use chiaro::pipeline::{DeepCache, Event, Pipeline, Request};
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
    Err(chiaro::Error::Request("bench: expected a picture, got none".into()))
}

/// In dB, of 8-bit pixels.
fn psnr(got: &[u8], want: &[u8]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * want.len() as f64 / error).log10()
}

fn main() -> chiaro::Result<()> {
    let size = std::env::var_os("CHIARO_BENCH_SIZE").map(|_| support::setting("CHIARO_BENCH_SIZE", 256));
    let steps = support::setting("CHIARO_BENCH_STEPS", 30);
    for device in support::devices() {
        let pipeline = support::pipeline(&device)?;
        println!("{}, {steps} steps", pipeline.device().describe());
        println!(
            "| interval:depth | time | PSNR, least and mean | NMSE of latents, mean and most |\n|---|---|---|---|"
        );
        for (interval, depth) in [(1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3)] {
            let (mut ratios, mut likeness, mut errors) = (Vec::new(), Vec::new(), Vec::new());
            for prompt in PROMPTS {
                for seed in SEEDS {
                    let full = Request {
                        prompt: prompt.into(),
                        seed,
                        width: size,
                        height: size,
                        num_inference_steps: steps,
                        sampler: Some(SolverKind::Ddim),
                        ..Request::default()
                    };
                    let kept = Request { deep_cache: Some(DeepCache { interval, depth }), ..full.clone() };
                    let (want_seconds, want, want_pixels) = draw(&pipeline, &full)?;
                    let (seconds, latents, pixels) = draw(&pipeline, &kept)?;
                    ratios.push(seconds / want_seconds);
                    likeness.push(psnr(&pixels, &want_pixels));
                    errors.push(support::nmse(&latents, &want));
                }
            }
            let [_, ratio, _] = support::spread(ratios);
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let least = likeness.iter().copied().fold(f64::INFINITY, f64::min);
            let most = errors.iter().copied().fold(0.0, f64::max);
            println!(
                "| {interval}:{depth} | {ratio:.2} | {least:.1}, {:.1} | {:.1e}, {most:.1e} |",
                mean(&likeness),
                mean(&errors)
            );
            if interval == 1 && most != 0.0 {
                return Err(chiaro::Error::Device(format!("an interval of 1 is not off: NMSE {most:.1e}")));
            }
        }
    }
    Ok(())
}
