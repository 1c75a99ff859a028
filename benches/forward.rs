//! A forward of a UNet or an OMS module alone, two rows of 77 tokens, on values that are like noise.
//!
//! `CHIARO_BENCH_UNET=FOLDER CHIARO_BENCH_SIZE=512 CHIARO_BENCH_RUNS=3 CHIARO_BENCH_DEVICES=cpu cargo bench --bench forward`, where the folder has the
//! network's `config.json` and `diffusion_pytorch_model.safetensors`; the size is the picture's. `CHIARO_BENCH_PRECISION=bf16` multiplies so on the
//! processor; `CHIARO_BENCH_KERNELS=1` also tells where the time goes.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chiaro::models::{Unet, UnetConfig};
use chiaro::record::plan;
use chiaro::weights::{WeightFile, WeightType, Weights};

fn main() -> chiaro::Result<()> {
    let folder = std::env::var_os("CHIARO_BENCH_UNET").map_or_else(|| "assets/demo/model/unet".into(), PathBuf::from);
    let config = folder.join("config.json");
    let text = std::fs::read_to_string(&config).map_err(|e| chiaro::Error::io(&config, e))?;
    let config = UnetConfig::from_json(&text, &config.display().to_string())?;
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors"))?;
    let unet = Unet::load(config, &Weights::new(Arc::new(file), "unet", WeightType::Keep))?;
    let (side, runs) = (support::setting("CHIARO_BENCH_SIZE", 256) / 8, support::setting("CHIARO_BENCH_RUNS", 3));
    for name in support::devices() {
        let backend = support::backend(&name)?;
        let recording = unet.record(backend.caps(), 2, side, side, 77, false)?;
        let peak = plan(&recording)?.peak_bytes();
        let inputs: Vec<(String, Vec<f32>)> =
            recording.inputs().map(|(name, len)| (name.to_owned(), support::noise(len))).collect();
        let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (&**name, &**values)).collect();
        let mut program = backend.compile(recording)?;
        let mut result = Ok(());
        let [least, median, most] = support::spread(support::time(runs, || {
            result = program.run(&inputs).map(|_| ());
        }));
        result?;
        if std::env::var_os("CHIARO_BENCH_KERNELS").is_some() {
            tell_kernels(&mut *program, &inputs)?;
        }
        println!("{name}: {median:.3} s a forward ({least:.3} to {most:.3}), peak {} MiB", peak >> 20);
    }
    Ok(())
}

/// Where a forward's time goes, by the last part of the layer's name and kernel.
fn tell_kernels(program: &mut dyn chiaro::record::Program, inputs: &[(&str, &[f32])]) -> chiaro::Result<()> {
    let (_, times) = program.run_profiled(inputs)?;
    let mut groups: BTreeMap<String, (usize, f64, u64)> = BTreeMap::new();
    for time in &times {
        let layer = time.label.rsplit('.').next().unwrap_or_default();
        let group = groups.entry(format!("{} {layer}", time.kernel)).or_default();
        *group = (group.0 + 1, group.1 + time.seconds, group.2 + time.flops);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (name, (dispatches, seconds, flops)) in groups {
        println!("{:8.2} ms {dispatches:4} {:8.2} GFLOP/s  {name}", seconds * 1e3, flops as f64 / seconds / 1e9);
    }
    Ok(())
}
