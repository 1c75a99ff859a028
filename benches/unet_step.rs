//! One step of the UNet on each device, and whether the devices agree.
//!
//! `CHIARO_BENCH_DEVICES=cpu,llvmpipe CHIARO_BENCH_MODEL=folder CHIARO_BENCH_SIZE=256 CHIARO_BENCH_GUIDANCE=1 cargo bench --bench unet_step`
//!
//! `CHIARO_BENCH_BATCH=4` steps so many pictures in one forward; `CHIARO_BENCH_PRECISION=bf16` multiplies so on the processor.

mod support;

use std::time::Instant;

use chiaro::pipeline::{Event, Request};
use chiaro::sampling::SolverKind;

fn main() -> chiaro::Result<()> {
    let size = std::env::var_os("CHIARO_BENCH_SIZE").map(|_| support::setting("CHIARO_BENCH_SIZE", 256));
    let steps = support::setting("CHIARO_BENCH_STEPS", 4);
    let batch = support::setting("CHIARO_BENCH_BATCH", 1);
    let request = Request {
        count: batch,
        batch,
        prompt: "a lighthouse at night".into(),
        width: size,
        height: size,
        num_inference_steps: steps,
        guidance_scale: support::setting("CHIARO_BENCH_GUIDANCE", 7) as f64,
        sampler: Some(SolverKind::Ddim),
        ..Request::default()
    };
    let mut reference: Option<(String, Vec<f32>, f64)> = None;
    for name in support::devices() {
        let pipeline = support::pipeline(&name)?;
        let plan = pipeline.plan(&request)?;
        let unet = plan.iter().find(|s| s.name == "UNet").expect("a request has a UNet stage");
        let mut generation = pipeline.generate(request.clone())?;
        let mut seconds = Vec::new();
        let mut start = Instant::now();
        for _ in 0..=steps {
            match generation.next().transpose()? {
                Some(Event::Step { .. }) => seconds.push(start.elapsed().as_secs_f64()),
                Some(_) => {}
                None => break,
            }
            start = Instant::now();
        }
        // The first step warms up, the last one also opens the decoder.
        let timed = if seconds.len() > 2 { seconds[1..seconds.len() - 1].to_vec() } else { seconds.clone() };
        let [least, median, most] = support::spread(timed);
        let latents = generation.latents(0).unwrap_or_default().to_vec();
        println!(
            "{}: {:.3} s a step ({least:.3} to {most:.3}), {:.1} GFLOP/s, peak {} MiB, {} dispatches",
            pipeline.device().describe(),
            median,
            unet.flops as f64 / median / 1e9,
            unet.peak_bytes() >> 20,
            unet.dispatches,
        );
        match &reference {
            None => reference = Some((name, latents, median)),
            Some((first, want, seconds)) => {
                let error = support::nmse(&latents, want);
                println!("  against {first}: NMSE {error:.2e}, {:.3} times its time", median / seconds);
                if error.is_nan() || error > 1e-4 {
                    return Err(chiaro::Error::Device(format!("{name} and {first} disagree: NMSE {error:.2e}")));
                }
            }
        }
    }
    Ok(())
}
