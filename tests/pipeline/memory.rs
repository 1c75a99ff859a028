//! The plan says what the executors allocate, and what a full-size model takes.

use std::sync::Arc;

use chiaro::pipeline::{Device, InitImage, OmsRequest, OmsSource, Pipeline, Precision, Request, Source, VaeTiling};
use chiaro::record::{Backend, DType, HostBackend, Products};

use crate::support::adapter;

fn demo(device: Device) -> Pipeline {
    let oms = OmsSource::demo();
    Pipeline::load(&Source::DemoModel, Some(&oms), device).expect("the demo model is whole")
}

/// Every stage of the demo model, on both executors, with weights as they are and in blocks.
#[test]
fn the_plan_is_what_is_allocated() {
    let gpu: Arc<dyn Backend> = Arc::new(adapter::open(DType::F32));
    let host: Arc<dyn Backend> = Arc::new(HostBackend::default());
    let halves: Arc<dyn Backend> = Arc::new(HostBackend::new(Products::Bf16));
    for (backend, precision, weights) in [
        (Arc::clone(&host), Precision::F32, "auto"),
        (host, Precision::F32, "q8_0"),
        (Arc::clone(&halves), Precision::Bf16, "auto"),
        (halves, Precision::Bf16, "q8_0"),
        (Arc::clone(&gpu), Precision::F32, "auto"),
        (Arc::clone(&gpu), Precision::F32, "q4_0"),
        (Arc::clone(&gpu), Precision::Auto, "auto"),
        (gpu, Precision::Auto, "q8_0"),
    ] {
        let device = Device::new(backend, precision).expect("what the backend has");
        let pipeline = demo(device.with_weights(weights.parse().expect("weight types")));
        let request = Request { prompt: "a red circle".into(), oms: Some(OmsRequest::default()), ..Request::default() };
        let mut stages = 0;
        for (planned, allocated) in pipeline.measure(&request).expect("every stage opens") {
            let (want, got) = (planned.peak_bytes() as f64, allocated as f64);
            assert!((got / want - 1.0).abs() <= 0.02, "{}: planned {want}, allocated {got}", planned.name);
            stages += 1;
        }
        assert_eq!(stages, 4, "text encoder, OMS module, UNet, decoder");
    }
}

/// The same with both halves of the autoencoder in bands.
#[test]
fn the_plan_of_bands_is_what_is_allocated() {
    let gpu: Arc<dyn Backend> = Arc::new(adapter::open(DType::F32));
    for (backend, precision) in [
        (Arc::new(HostBackend::default()) as Arc<dyn Backend>, Precision::F32),
        (Arc::new(HostBackend::new(Products::Bf16)), Precision::Bf16),
        (Arc::clone(&gpu), Precision::F32),
        (gpu, Precision::Auto),
    ] {
        let device = Device::new(backend, precision).expect("what the backend has").with_vae_tiling(VaeTiling::On);
        let pipeline = Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole");
        let image = InitImage { width: 64, height: 96, rgb: vec![0.5; 3 * 64 * 96], strength: 0.5, mask: None };
        let request = Request { image: Some(image), width: Some(64), height: Some(96), ..Request::default() };
        let mut cut = 0;
        for (planned, allocated) in pipeline.measure(&request).expect("every stage opens") {
            let Some(bands) = &planned.bands else { continue };
            let (want, got) = (planned.peak_bytes() as f64, allocated as f64);
            assert!((got / want - 1.0).abs() <= 0.02, "{}: planned {want}, allocated {got}", planned.name);
            assert!(planned.peak_bytes() < bands.whole_bytes, "{}: {want} for {bands:?}", planned.name);
            cut += 1;
        }
        assert_eq!(cut, 2, "encoder and decoder");
    }
}
