//! Threads belong to backends, and end with them. In a process of its own: other tests have threads too.

use std::sync::Arc;

use chiaro::gpu::{GpuBackend, GpuOptions};
use chiaro::pipeline::{Device, Event, OmsSource, Pipeline, Precision, Request, Source, VaeTiling};
use chiaro::record::{Backend, DType, HostBackend};

use crate::support::{adapter, alone};

/// Threads of this process by name; `None` where the system does not list them.
fn threads() -> Option<Vec<String>> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    Some(tasks.filter_map(name).map(|name| name.trim().to_owned()).collect())
}

fn draw(backend: Arc<dyn Backend>, tiling: VaeTiling) {
    let device = Device::new(backend, Precision::F32).expect("f32 is everywhere").with_vae_tiling(tiling);
    let oms = OmsSource::demo();
    let pipeline = Pipeline::load(&Source::DemoModel, Some(&oms), device).unwrap_or_else(|e| panic!("{e}"));
    let request = Request { prompt: "a lighthouse".into(), num_inference_steps: 2, ..Request::default() };
    let request = Request { oms: Some(oms.request()), ..request };
    for event in pipeline.generate(request).unwrap_or_else(|e| panic!("{e}")) {
        if let Event::Picture(picture) = event.unwrap_or_else(|e| panic!("{e}")) {
            assert!(!picture.text_chunks().is_empty());
        }
    }
}

#[test]
#[ignore = "started by the test below"]
fn alone() {
    let before = threads();
    for tiling in [VaeTiling::Off, VaeTiling::On] {
        draw(Arc::new(HostBackend::default()), tiling);
        assert_eq!(threads(), before, "on the host: threads are left");
    }
    let gpu: GpuBackend = adapter::open_with(DType::F32, GpuOptions::default());
    draw(Arc::new(gpu), VaeTiling::Off);
    let left: Vec<String> = threads().unwrap_or_default().into_iter().filter(|n| n.starts_with("chiaro")).collect();
    assert!(left.is_empty(), "on a GPU: {left:?} are left");
    rayon::ThreadPoolBuilder::new().build_global().expect("nobody started rayon's own pool");
}

#[test]
fn backends_leave_no_thread_and_never_start_the_global_pool() {
    alone::passes("record::threads::alone");
}
