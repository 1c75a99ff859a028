//! What stays on a device between requests: counted, on both executors.

use std::path::Path;
use std::sync::Arc;

use chiaro::image::Rgb8Image;
use chiaro::pipeline::{
    Adapter, ControlRequest, Device, OmsRequest, OmsSource, Overrides, Pipeline, Precision, Request, Residency, Source,
    Statistics, VaeTiling,
};
use chiaro::record::{Backend, DType, HostBackend};

use tempfile::TempDir;

use super::adapter_files::{Format, make, read};
use super::adapters::{file, kohya_unet};
use super::runs::{committed_folder, draw};
use crate::support::adapter;
use crate::support::control::write_folder;
use crate::support::golden::committed;
use crate::support::xl_folder::{refiner, sdxl};

/// Both executors.
pub(super) fn devices() -> Vec<(&'static str, Device)> {
    let device = |backend: Arc<dyn Backend>| Device::new(backend, Precision::F32).expect("f32 is everywhere");
    vec![("host", device(Arc::new(HostBackend::default()))), ("gpu", device(Arc::new(adapter::open(DType::F32))))]
}

fn request(prompt: &str) -> Request {
    Request {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 3,
        guidance_scale: 4.0,
        ..Request::default()
    }
}

fn control(net: usize, start: f64, end: f64) -> ControlRequest {
    let image = Rgb8Image { width: 8, height: 8, data: (0..192).map(|i| (i * 7) as u8).collect() };
    ControlRequest { net, image: Some(Arc::new(image)), start, end, ..ControlRequest::default() }
}

/// A model, and a request of all that it has.
struct Case {
    name: &'static str,
    pipeline: Pipeline,
    request: Request,
    /// Its files.
    _files: Vec<TempDir>,
}

fn cases(device: &Device, folder: &Path) -> Vec<Case> {
    let oms = OmsSource::folder(committed().join("oms"));
    let with_oms = |request: Request| Request { oms: Some(OmsRequest::default()), ..request };
    let load = |source: &Source, overrides: &Overrides, oms: Option<&OmsSource>| {
        Pipeline::load_with(source, overrides, oms, device.clone()).unwrap_or_else(|e| panic!("{source}: {e}"))
    };
    let (sd15, guard) = committed_folder("sd15");
    let controls = Overrides { controls: vec![write_folder("sd15_a", folder)], ..Overrides::default() };
    let (base, second) = (sdxl(), refiner());
    let refined = Overrides { refiner: Some(second.path().to_owned()), ..Overrides::default() };
    let demo = OmsSource::demo();
    vec![
        Case {
            name: "sd15, OMS, a ControlNet that comes and goes",
            pipeline: load(&Source::Folder(sd15), &controls, Some(&oms)),
            request: Request { controls: vec![control(0, 0.3, 0.7)], ..with_oms(request("a house")) },
            _files: guard.into_iter().collect(),
        },
        Case {
            name: "sdxl with a refiner",
            pipeline: load(&Source::Folder(base.path().to_owned()), &refined, None),
            request: Request { refiner_start: 0.5, num_inference_steps: 4, ..request("a house") },
            _files: vec![base, second],
        },
        Case {
            name: "demo in bands",
            pipeline: {
                let device = device.clone().with_vae_tiling(VaeTiling::On);
                Pipeline::load(&Source::DemoModel, None, device).expect("the demo model")
            },
            request: request("a red ball"),
            _files: Vec::new(),
        },
        Case {
            name: "demo with OMS",
            pipeline: load(&Source::DemoModel, &Overrides::default(), Some(&demo)),
            request: Request { oms: Some(demo.request()), ..request("a red ball") },
            _files: Vec::new(),
        },
    ]
}

/// What happened between two looks.
fn between(before: Statistics, after: Statistics) -> [u64; 3] {
    [
        after.uploaded_bytes - before.uploaded_bytes,
        after.compiled_pipelines - before.compiled_pipelines,
        after.compiled_programs - before.compiled_programs,
    ]
}

#[test]
fn the_second_request_of_a_kind_costs_its_arithmetic() {
    for (on, device) in devices() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for Case { name, pipeline, request, _files } in cases(&device, folder.path()) {
            let name = format!("{name}, {on}");
            device.set_residency(Residency::Off);
            let alone = draw(&pipeline, request.clone());
            // What does not stay is brought again.
            let before = device.statistics();
            draw(&pipeline, request.clone());
            assert!(between(before, device.statistics())[0] > 0, "{name}: weights stayed unasked");
            device.set_residency(Residency::On);
            let first = draw(&pipeline, request.clone());
            let before = device.statistics();
            let second = draw(&pipeline, Request { prompt: "another thing".into(), seed: 5, ..request.clone() });
            let after = device.statistics();
            let [uploaded, pipelines, programs] = between(before, after);
            assert_eq!((uploaded, pipelines), (0, 0), "{name}: uploads and kernels of the second request");
            // Bands are planned part by part in every run; of them the weights stay.
            assert!(programs == 0 || name.contains("bands"), "{name}: {programs} programs of the second request");
            assert!(after.hits > before.hits && after.evictions == before.evictions, "{name}: {after:?}");
            assert_ne!(first.image.data, second.image.data, "{name}");
            // It is the picture that it was, and is again.
            let again = draw(&pipeline, request.clone());
            assert!(first.image.data == alone.image.data && again.image.data == alone.image.data, "{name}");
            // Another size brings no weights.
            let before = device.statistics();
            draw(&pipeline, Request { width: Some(96), ..request });
            let [uploaded, _, programs] = between(before, device.statistics());
            // Bands of another size may be cut elsewhere, where a weight is read in another order.
            let allowed = if name.contains("bands") { 4096 } else { 0 };
            assert!(
                uploaded <= allowed && programs > 0,
                "{name}: {uploaded} bytes of another size, {programs} programs"
            );
        }
    }
}

/// Everything is given back: what stayed, when it is released or its model is dropped.
#[test]
fn what_is_released_or_dropped_is_gone() {
    for (on, device) in devices() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = device.statistics().allocated_bytes;
        device.set_residency(Residency::On);
        for Case { name, pipeline, request, _files } in cases(&device, folder.path()) {
            draw(&pipeline, request.clone());
            assert!(device.statistics().allocated_bytes > base, "{name}, {on}: nothing stayed");
            device.release();
            assert_eq!(device.statistics().allocated_bytes, base, "{name}, {on}: released");
            let mut generation = pipeline.generate(request).expect("the request fits");
            generation.next();
            drop(pipeline);
            // A job keeps its model, and gives it up with its end.
            generation.by_ref().for_each(|event| drop(event.expect("it goes on")));
            drop(generation);
            assert_eq!(device.statistics().allocated_bytes, base, "{name}, {on}: dropped");
        }
    }
}

/// So is what a job leaves that is dropped in the middle, when nobody else has its model.
#[test]
fn a_job_that_is_dropped_with_its_model_leaves_nothing() {
    for (on, device) in devices() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let base = device.statistics().allocated_bytes;
        device.set_residency(Residency::On);
        for Case { name, pipeline, request, _files } in cases(&device, folder.path()) {
            for events in [1, 3, 5] {
                let mut generation = pipeline.clone().generate(request.clone()).expect("the request fits");
                generation.by_ref().take(events).for_each(|event| drop(event.expect("it goes on")));
            }
            let mut generation = pipeline.generate(request).expect("the request fits");
            drop(pipeline);
            generation.by_ref().take(3).for_each(|event| drop(event.expect("it goes on")));
            drop(generation);
            assert_eq!(device.statistics().allocated_bytes, base, "{name}, {on}");
        }
    }
}

/// Bytes of the constants that an adapter changes: to_out is a matrix of its own, and what is changed is kept as f32.
#[test]
fn an_adapter_that_is_switched_uploads_what_it_changes() {
    let (model, _guard) = committed_folder("sd15");
    let base = read(&model.join("unet/diffusion_pytorch_model.safetensors"));
    let is_out = |name: &&String| name.ends_with("to_out.0.weight");
    let layers: Vec<String> =
        base.keys().filter(is_out).filter_map(|name| name.strip_suffix(".weight")).map(str::to_owned).collect();
    let changed: usize = layers.iter().map(|layer| base[&format!("{layer}.weight")].1.len()).sum();
    let made = make(Format::Lora, &base, &layers, 3);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "lora.safetensors", &made, kohya_unet);
    let adapter = Adapter { path, weight: 1.0, text_encoder_weight: None };
    for (on, device) in devices() {
        device.set_residency(Residency::On);
        let plain = Pipeline::load(&Source::Folder(model.clone()), None, device.clone()).expect("it loads");
        let without = draw(&plain, request("a house"));
        let before = device.statistics();
        let switched = plain.with_adapters(std::slice::from_ref(&adapter)).expect("it fits");
        let with = draw(&switched, request("a house"));
        let uploaded = between(before, device.statistics())[0];
        assert_eq!(uploaded, 4 * changed as u64, "{on}: bytes of {} layers", layers.len());
        assert_ne!(with.image.data, without.image.data, "{on}");
        let loaded = Overrides { adapters: vec![adapter.clone()], ..Overrides::default() };
        let loaded = Pipeline::load_with(&Source::Folder(model.clone()), &loaded, None, device.clone());
        let loaded = draw(&loaded.expect("it loads"), request("a house"));
        assert_eq!(with.image.data, loaded.image.data, "{on}: as if it had been loaded with it");
        // Off again: the model as it was, which is still there.
        let before = device.statistics();
        let off = switched.with_adapters(&[]).expect("none fits always");
        assert_eq!(draw(&off, request("a house")).image.data, without.image.data, "{on}");
        assert_eq!(between(before, device.statistics())[0], 0, "{on}: uploaded to switch it off");
    }
}

/// Three models alternate where two have room.
#[test]
fn a_limit_holds_for_all_models_together() {
    for (on, device) in devices() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cases = cases(&device, folder.path());
        device.set_residency(Residency::On);
        let mut sizes: Vec<u64> = Vec::new();
        for case in &cases {
            device.release();
            draw(&case.pipeline, case.request.clone());
            sizes.push(device.statistics().allocated_bytes);
        }
        let wanted: Vec<_> = cases.iter().map(|case| draw(&case.pipeline, case.request.clone()).image.data).collect();
        let limit = sizes.iter().sum::<u64>() - sizes.iter().min().expect("three");
        device.release();
        device.set_residency(Residency::Within(limit));
        let (mut most, before) = (0, device.statistics());
        // Each twice in a row: in a circle the least recently used is always the one that comes next.
        for round in 0..3 {
            for (case, wanted) in cases.iter().zip(&wanted).flat_map(|pair| [pair, pair]) {
                let mut generation = case.pipeline.generate(case.request.clone()).expect("the request fits");
                for event in generation.by_ref() {
                    if let chiaro::pipeline::Event::Picture(picture) = event.expect("it goes on") {
                        assert_eq!(picture.image.data, *wanted, "{}, {on}, round {round}", case.name);
                    }
                    most = most.max(device.statistics().allocated_bytes);
                }
            }
        }
        let after = device.statistics();
        assert!(most as f64 <= limit as f64 * 1.02, "{on}: {most} bytes under a limit of {limit}");
        assert!(most as f64 >= limit as f64 * 0.5, "{on}: {most} bytes under a limit of {limit}");
        assert!(after.evictions > before.evictions && after.hits > before.hits, "{on}: {after:?}");
    }
}
