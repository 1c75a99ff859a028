//! First and later pictures where networks stay on the device: how long they take, and how much of that is not the programs' own time.
//!
//! `CHIARO_BENCH_DEVICES=cpu,0 CHIARO_BENCH_MODEL=folder CHIARO_BENCH_SIZE=256 CHIARO_BENCH_STEPS=2 cargo bench --bench resident`
//!
//! A later picture is drawn from another seed and another prompt of the same length. `before` is a picture with nothing kept, which is what each
//! picture took before networks could stay.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chiaro::gpu::{GpuBackend, GpuOptions, adapters, choose_adapter};
use chiaro::pipeline::{Device, OmsRequest, OmsSource, Pipeline, Precision, Request, Residency, Source};
use chiaro::record::{
    Backend, Caps, Counters, DType, DispatchTime, HostBackend, Outputs, Program, Recording, Run, Workers,
};

/// A backend whose programs' own time is added up.
struct Timed {
    inner: Box<dyn Backend>,
    nanoseconds: Arc<AtomicU64>,
}

struct TimedProgram {
    inner: Box<dyn Program>,
    nanoseconds: Arc<AtomicU64>,
}

impl Backend for Timed {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        let inner = self.inner.compile(recording)?;
        Ok(Box::new(TimedProgram { inner, nanoseconds: Arc::clone(&self.nanoseconds) }))
    }

    fn prepare(&self, recording: &Recording) -> chiaro::Result<()> {
        self.inner.prepare(recording)
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }

    fn allocated_bytes(&self) -> u64 {
        self.inner.allocated_bytes()
    }

    fn missing_constant_bytes(&self, recording: &Recording) -> u64 {
        self.inner.missing_constant_bytes(recording)
    }

    fn workers(&self) -> Option<&Workers> {
        self.inner.workers()
    }
}

impl Program for TimedProgram {
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> chiaro::Result<Outputs> {
        let start = Instant::now();
        let outputs = self.inner.execute(inputs, how);
        self.nanoseconds.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        outputs
    }

    fn run_profiled(&mut self, inputs: &[(&str, &[f32])]) -> chiaro::Result<(Outputs, Vec<DispatchTime>)> {
        self.inner.run_profiled(inputs)
    }

    fn allocated_bytes(&self) -> u64 {
        self.inner.allocated_bytes()
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        self.inner.weights()
    }
}

fn backend(name: &str) -> chiaro::Result<Box<dyn Backend>> {
    if name == "cpu" {
        return Ok(Box::new(HostBackend::default()));
    }
    let adapter = choose_adapter(Some(name))?.or_else(|| adapters().into_iter().next());
    let Some(adapter) = adapter else {
        return Err(chiaro::Error::Device("expected a graphics driver, found none".into()));
    };
    Ok(Box::new(GpuBackend::open(&adapter, DType::F32, GpuOptions::default())?))
}

fn request(pipeline: &Pipeline, seed: u64) -> Request {
    let prompts = ["a red circle on a black background", "a blue square on a white background"];
    let size = std::env::var_os("CHIARO_BENCH_SIZE").map(|_| support::setting("CHIARO_BENCH_SIZE", 256));
    Request {
        prompt: prompts[seed as usize % 2].into(),
        seed,
        width: size,
        height: size,
        num_inference_steps: support::setting("CHIARO_BENCH_STEPS", Request::default().num_inference_steps),
        oms: pipeline.has_oms().then(OmsRequest::default),
        ..Request::default()
    }
}

/// Seconds of a picture, and of its programs alone.
fn draw(pipeline: &Pipeline, programs: &AtomicU64, seed: u64) -> chiaro::Result<[f64; 2]> {
    let (before, start) = (programs.load(Ordering::Relaxed), Instant::now());
    pipeline.generate(request(pipeline, seed))?.try_for_each(|event| event.map(drop))?;
    Ok([start.elapsed().as_secs_f64(), (programs.load(Ordering::Relaxed) - before) as f64 * 1e-9])
}

fn main() -> chiaro::Result<()> {
    let runs = support::setting("CHIARO_BENCH_RUNS", 3);
    for name in support::devices() {
        let nanoseconds = Arc::new(AtomicU64::new(0));
        let timed = Timed { inner: backend(&name)?, nanoseconds: Arc::clone(&nanoseconds) };
        let device = Device::new(Arc::new(timed), Precision::F32)?;
        let (source, oms) = match std::env::var_os("CHIARO_BENCH_MODEL") {
            Some(folder) => (Source::Folder(folder.into()), None),
            None => (Source::DemoModel, Some(OmsSource::demo())),
        };
        let pipeline = Pipeline::load(&source, oms.as_ref(), device.clone())?;
        let [cold, _] = draw(&pipeline, &nanoseconds, 0)?;
        let before = (0..runs).map(|i| draw(&pipeline, &nanoseconds, i as u64)).collect::<chiaro::Result<Vec<_>>>()?;
        device.set_residency(Residency::On);
        let [first, _] = draw(&pipeline, &nanoseconds, 0)?;
        let uploaded = device.statistics().uploaded_bytes;
        let later = (1..=runs).map(|i| draw(&pipeline, &nanoseconds, i as u64)).collect::<chiaro::Result<Vec<_>>>()?;
        let median = |times: &[[f64; 2]], at: usize| support::spread(times.iter().map(|time| time[at]).collect())[1];
        let overhead: Vec<f64> = later.iter().map(|[all, programs]| all / programs - 1.0).collect();
        let [least, middle, most] = support::spread(overhead);
        println!(
            "{}: cold {cold:.3} s, before {:.3} s, first {first:.3} s, later {:.3} s, of which programs {:.3} s: overhead {:.1} % ({:.1} to {:.1}), \
             {} bytes uploaded by later ones, {} MiB stay",
            device.describe(),
            median(&before, 0),
            median(&later, 0),
            median(&later, 1),
            100.0 * middle,
            100.0 * least,
            100.0 * most,
            device.statistics().uploaded_bytes - uploaded,
            device.statistics().allocated_bytes >> 20
        );
    }
    Ok(())
}
