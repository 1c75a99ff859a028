//! What the benchmarks share: which devices, and how times are told.

use std::sync::Arc;
use std::time::Instant;

use chiaro::gpu::{GpuBackend, GpuOptions, choose_adapter};
use chiaro::pipeline::{Device, OmsSource, Pipeline, Precision, Source};
use chiaro::record::{Backend, DType, HostBackend, Products};

/// Devices from `CHIARO_BENCH_DEVICES` (names as `--device` takes them, separated by commas); the host executor alone without it.
pub(crate) fn devices() -> Vec<String> {
    let list = std::env::var("CHIARO_BENCH_DEVICES").unwrap_or_else(|_| "cpu".into());
    list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// `CHIARO_BENCH_PRECISION`: `f16` and `bf16` where the device has them; what the library chooses without.
#[allow(dead_code, reason = "not every benchmark opens a device")]
pub(crate) fn precision() -> Precision {
    match std::env::var("CHIARO_BENCH_PRECISION").as_deref() {
        Ok("f16") => Precision::F16,
        Ok("bf16") => Precision::Bf16,
        Ok("f32") => Precision::F32,
        Ok(other) => panic!("CHIARO_BENCH_PRECISION={other}: expected f32, f16 or bf16"),
        Err(_) => Precision::Auto,
    }
}

/// A device by name, without a pipeline.
#[allow(dead_code, reason = "not every benchmark runs networks alone")]
pub(crate) fn backend(name: &str) -> chiaro::Result<Arc<dyn Backend>> {
    if name == "cpu" {
        let bf16 = precision() == Precision::Bf16;
        return Ok(Arc::new(HostBackend::new(if bf16 { Products::Bf16 } else { Products::F32 })));
    }
    let adapter = choose_adapter(Some(name))?.ok_or_else(|| chiaro::Error::Device(format!("{name}: no adapter")))?;
    let storage = if precision() == Precision::F16 { DType::F16 } else { DType::F32 };
    Ok(Arc::new(GpuBackend::open(&adapter, storage, GpuOptions::default())?))
}

/// The model in `CHIARO_BENCH_MODEL`, or the demo model with its OMS module, on a device.
#[allow(dead_code, reason = "not every benchmark loads a model")]
pub(crate) fn pipeline(device: &str) -> chiaro::Result<Pipeline> {
    let device = Device::choose(device, precision())?;
    match std::env::var_os("CHIARO_BENCH_MODEL") {
        Some(folder) => Pipeline::load(&Source::Folder(folder.into()), None, device),
        None => {
            let oms = OmsSource::demo();
            Pipeline::load(&Source::DemoModel, Some(&oms), device)
        }
    }
}

/// Values from -1 to 1 that are like noise, the same at each call.
#[allow(dead_code, reason = "not every benchmark runs networks alone")]
pub(crate) fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as f32 * 12.9898).sin() * 43_758.547).fract()).collect()
}

/// A number from the environment.
#[allow(dead_code, reason = "not every benchmark has settings")]
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Least, median and largest of some seconds.
pub(crate) fn spread(mut seconds: Vec<f64>) -> [f64; 3] {
    seconds.sort_by(f64::total_cmp);
    [seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]]
}

/// Seconds of each of `count` calls, after one that warms up.
#[allow(dead_code, reason = "not every benchmark times a closure")]
pub(crate) fn time(count: usize, mut call: impl FnMut()) -> Vec<f64> {
    call();
    (0..count)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect()
}

/// Mean squared difference over mean square.
#[allow(dead_code, reason = "not every benchmark compares")]
pub(crate) fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    error / want.iter().map(|w| square(f64::from(*w))).sum::<f64>().max(f64::MIN_POSITIVE)
}
