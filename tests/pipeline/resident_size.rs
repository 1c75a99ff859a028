//! The plan's memory is the process's: what a full-size model takes while it draws.

use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Pipeline, Precision, Request, Source};
use chiaro::record::{AdapterKind, Backend, DType, HostBackend};

use crate::support::{adapter, alone, full_size, part};

/// What the process may have beside 1.15 times its plan on the processor, in bytes: the program, threads, one tensor on its way from the file.
const BESIDE: u64 = 150_000_000;

/// The same beside the plan on a GPU: its driver, kernels, and what is on its way to the device.
const BESIDE_GPU: u64 = 300_000_000;

/// The most that the process had resident, in bytes.
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Draws a small picture of a full-size model; gives the bytes that were planned on the device, and the most that the process had resident.
fn draw(backend: Arc<dyn Backend>) -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    full_size::write_model("sd15", folder.path());
    let device = Device::new(backend, Precision::F32).expect("f32 is everywhere");
    let pipeline = Pipeline::load(&Source::Folder(folder.path().into()), None, device).expect("a whole model");
    let request = Request {
        prompt: "x".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 1,
        guidance_scale: 1.0,
        ..Request::default()
    };
    let planned = pipeline.plan(&request).expect("it is planned").iter().map(|stage| stage.peak_bytes()).max();
    let planned = planned.expect("stages");
    let drawn = pipeline.generate(request).expect("the request fits");
    let pictures = drawn.filter(|event| matches!(event, Ok(Event::Picture(_)))).count();
    let resident = most_resident();
    println!("planned {planned}, resident {resident}, {pictures} pictures");
    assert_eq!(pictures, 1);
    assert!(planned > 1_600_000_000, "a full-size UNet is in the plan: {planned}");
    (planned, resident)
}

#[test]
#[ignore = "alone in its process, by the test below"]
fn alone() {
    let (planned, resident) = draw(Arc::new(HostBackend::default()));
    assert!(resident <= planned / 100 * 115 + BESIDE, "planned {planned} bytes, resident {resident}");
}

#[test]
fn a_process_has_what_its_plan_says() {
    alone::passes("pipeline::resident_size::alone");
}

#[test]
#[ignore = "alone in its process, by the test below"]
fn alone_on_a_gpu() {
    let gpu = adapter::open_as_released(DType::F32);
    // What a software driver has for a device's memory is the process's.
    let is_software = gpu.caps().kind == AdapterKind::Software || std::env::var_os("CHIARO_TEST_AS_GPU").is_some();
    let (planned, resident) = draw(Arc::new(gpu));
    let own = if is_software { planned } else { 0 };
    assert!(resident <= own + BESIDE_GPU, "planned {planned} bytes, resident {resident}");
}

/// Where everything is tested: a software driver takes half a minute.
#[test]
fn a_process_with_a_gpu_has_what_its_plan_says() {
    if part::everything() {
        alone::passes("pipeline::resident_size::alone_on_a_gpu");
    }
}
