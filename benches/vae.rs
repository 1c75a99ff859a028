//! The autoencoder's decoder in bands against the same whole: time, memory, and whether they agree.
//!
//! `CHIARO_BENCH_DEVICES=cpu,llvmpipe CHIARO_BENCH_MODEL=folder CHIARO_BENCH_SIZE=512 CHIARO_BENCH_RUNS=3 cargo bench --bench vae`; with
//! `CHIARO_BENCH_BANDS=0` only the whole. `CHIARO_BENCH_PRECISION=bf16` multiplies so on the processor.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use chiaro::models::{AutoencoderKl, AutoencoderKlConfig, names};
use chiaro::record::{ChainPlan, ChainProgram, Program, plan};
use chiaro::weights::{WeightFile, WeightType, Weights};

fn main() -> chiaro::Result<()> {
    let folder =
        std::env::var_os("CHIARO_BENCH_MODEL").map_or_else(|| PathBuf::from("assets/demo/model"), PathBuf::from);
    let folder = folder.join("vae");
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).map_err(|e| chiaro::Error::io(&config, e))?;
    let config = AutoencoderKlConfig::from_json(&text, &config.display().to_string())?;
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors"))?;
    let vae = Arc::new(AutoencoderKl::load(config, &Weights::new(Arc::new(file), "vae", WeightType::Keep))?);
    let (side, runs) = (support::setting("CHIARO_BENCH_SIZE", 128), support::setting("CHIARO_BENCH_RUNS", 3));
    let latents = side / vae.config().pixels_per_latent();
    let input = support::noise(4 * latents * latents);
    let inputs: [(&str, &[f32]); 1] = [(names::LATENTS, &input)];
    for name in support::devices() {
        let backend = support::backend(&name)?;
        let caps = backend.caps().clone();
        let recording = vae.record_decode(&caps, 1, latents, latents, false)?;
        let peak = plan(&recording)?.peak_bytes();
        let mut whole = backend.compile(recording)?;
        let want = whole.run(&inputs)?.remove(names::OUT).unwrap_or_default();
        let mut result = Ok(());
        let [least, whole_seconds, most] = support::spread(support::time(runs, || {
            result = whole.run(&inputs).map(|_| ());
        }));
        result?;
        drop(whole);
        println!("{name}, {side}²: whole {whole_seconds:.3} s ({least:.3} to {most:.3}), {} MiB", peak >> 20);
        let shares: &[u64] = if support::setting("CHIARO_BENCH_BANDS", 1) == 0 { &[] } else { &[2, 4, 8] };
        for &share in shares {
            let aim = peak / share;
            let chains = (1..=vae.levels()).map(|levels| (levels, vae.decode_chain(latents, latents, levels)));
            let planned = chains.map(|(levels, chain)| Ok((levels, ChainPlan::new(&chain, &caps, aim)?, chain)));
            let planned = planned.collect::<chiaro::Result<Vec<_>>>()?;
            let Some((levels, plan, chain)) = planned.into_iter().find(|(_, plan, _)| plan.peak_bytes() <= aim) else {
                println!("  no bands fit 1/{share} of it");
                continue;
            };
            let (peak, bands) = (plan.peak_bytes(), plan.parts.iter().map(|part| part.windows.len()).sum::<usize>());
            let mut banded = ChainProgram::new(Arc::clone(&backend), caps.clone(), chain, plan);
            let error = support::nmse(&banded.run(&inputs)?[names::OUT], &want);
            if error.is_nan() || error > 1e-9 {
                return Err(chiaro::Error::Device(format!("{name}: bands and whole disagree: NMSE {error:.2e}")));
            }
            let mut result = Ok(());
            let [least, seconds, most] = support::spread(support::time(runs, || {
                result = banded.run(&inputs).map(|_| ());
            }));
            result?;
            println!(
                "  {levels} levels, {bands} bands: {:.2} times as long, {seconds:.3} s ({least:.3} to {most:.3}), {} MiB; NMSE {error:.1e}",
                seconds / whole_seconds,
                peak >> 20
            );
        }
    }
    Ok(())
}
