//! Weights that pass through the device in every run: the same bits as weights that stay.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chiaro::gpu::GpuBackend;
use chiaro::models::{Unet, UnetConfig, names};
use chiaro::pipeline::{Device, Overrides, Picture, Pipeline, Precision, Request, Source, StagePlan, Streaming};
use chiaro::record::{DType, Outputs, Program, Recording, StreamPlan, plan};
use chiaro::weights::{WeightFile, WeightType, Weights};

use super::runs::{draw, model_folder};
use crate::support::adapter;
use crate::support::golden::root;

fn unet(family: &str, weight_type: WeightType) -> Unet {
    let folder = root().join(family).join("unet");
    let text = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let config = UnetConfig::from_json(&text, "unet").unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    Unet::load(config, &Weights::new(Arc::new(file), "unet", weight_type)).unwrap_or_else(|e| panic!("{e}"))
}

fn record(backend: &GpuBackend, unet: &Unet, limit: Option<u64>) -> Recording {
    let caps = chiaro::record::Backend::caps(backend);
    let mut recording = unet.record(caps, 1, 8, 8, 77, false).unwrap_or_else(|e| panic!("{e}"));
    recording.memory_limit = limit;
    recording
}

/// Values of no particular order for every input.
fn inputs(recording: &Recording, seed: usize) -> Vec<(String, Vec<f32>)> {
    let values = |(name, len): (&str, usize)| {
        (name.to_owned(), (0..len).map(|i| ((i * 31 + seed * 17) as f32 * 0.71).sin()).collect())
    };
    recording.inputs().map(values).collect()
}

fn run(program: &mut dyn Program, inputs: &[(String, Vec<f32>)]) -> Outputs {
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    program.run(&inputs).unwrap_or_else(|e| panic!("{e}"))
}

/// Arenas as small as can be, exactly as large as the plan's least, and with most constants staying; three forwards each.
#[test]
fn a_forward_is_the_same_in_every_bit() {
    let backend = adapter::open(DType::F32);
    for (family, weight_type) in
        [("sd15", WeightType::Keep), ("sd15", WeightType::Q8_0), ("sdxl", WeightType::Keep), ("sdxl", WeightType::Q4_0)]
    {
        let what = format!("{family} {weight_type:?}");
        let unet = unet(family, weight_type);
        let given: Vec<_> = (0..3).map(|seed| inputs(&record(&backend, &unet, None), seed)).collect();
        let mut resident = backend.compile_program(record(&backend, &unet, None)).unwrap_or_else(|e| panic!("{e}"));
        let started = Instant::now();
        let want: Vec<Outputs> = given.iter().map(|given| run(&mut resident, given)).collect();
        let stayed = started.elapsed();
        assert_ne!(want[0][names::OUT], want[1][names::OUT], "{what}: inputs matter");
        let all = resident.plan().peak_bytes();
        let least = plan(&record(&backend, &unet, Some(0))).expect("planned").peak_bytes();
        for limit in [0, least, all - (all - least) / 4] {
            let recording = record(&backend, &unet, Some(limit));
            let mut streamed = backend.compile_program(recording).unwrap_or_else(|e| panic!("{what}: {e}"));
            let (planned, allocated) = (streamed.plan().peak_bytes(), streamed.allocated_bytes());
            assert!(planned <= limit.max(least) && planned < all, "{what}: {planned} within {limit}");
            assert!(allocated.abs_diff(planned) * 50 <= planned, "{what}: planned {planned}, allocated {allocated}");
            let stream = streamed.plan().stream.clone().expect("not all fits");
            let started = Instant::now();
            for (given, want) in given.iter().zip(&want) {
                assert_eq!(&run(&mut streamed, given), want, "{what} within {limit}");
            }
            assert_eq!(streamed.allocated_bytes(), allocated, "{what}: runs allocate nothing");
            println!(
                "{what}: {} KiB instead of {}, {} chunks, {} KiB a run; {:.2?} instead of {stayed:.2?}",
                planned >> 10,
                all >> 10,
                stream.chunks.len(),
                stream.bytes_per_run() >> 10,
                started.elapsed()
            );
            assert!(stream.chunks.len() > 4, "{what} within {limit}: {} chunks", stream.chunks.len());
        }
    }
}

fn request() -> Request {
    Request {
        prompt: "a lighthouse at night".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 3,
        seed: 5,
        ..Request::default()
    }
}

fn load(folder: &Path, streaming: Streaming) -> Pipeline {
    let backend = Arc::new(adapter::open(DType::F32));
    let device = Device::new(backend, Precision::F32).and_then(|device| device.with_streaming(streaming));
    let device = device.unwrap_or_else(|e| panic!("{e}"));
    Pipeline::load(&Source::Folder(folder.into()), None, device).unwrap_or_else(|e| panic!("{e}"))
}

/// Text encoders and UNet, over several steps.
#[test]
fn a_run_is_the_same_in_every_bit() {
    for family in ["sd15", "sdxl"] {
        let (folder, _guard) = model_folder(family);
        let (stays, passes) = (load(&folder, Streaming::Auto), load(&folder, Streaming::On));
        let streams = |plan: &StagePlan| plan.streamed_bytes_per_run() > 0;
        let resident = stays.plan(&request()).expect("planned");
        assert!(!resident.iter().any(streams), "{family}: nothing asks for it");
        let mut streamed = Vec::new();
        for ((planned, allocated), resident) in
            passes.measure(&request()).expect("every stage opens").iter().zip(&resident)
        {
            // Whether a small text encoder gains anything follows from its widths: what streams takes less, what stays as much.
            assert_eq!(planned.name, resident.name, "{family}");
            let gains = planned.peak_bytes() < resident.peak_bytes();
            assert_eq!(gains, streams(planned), "{family}: {planned:?}");
            let want = planned.peak_bytes();
            assert!(allocated.abs_diff(want) * 50 <= want, "{family} {}: {want}, {allocated}", planned.name);
            let first = planned.memory.stream.as_ref().map_or(0, StreamPlan::bytes_of_first_run);
            assert!(first + planned.memory.constant_bytes as u64 >= planned.weight_bytes());
            streamed.extend(streams(planned).then_some(planned.name));
        }
        assert!(streamed.contains(&"UNet"), "{family}: {streamed:?}");
        assert!(!streamed.iter().any(|name| name.starts_with("VAE")), "{family}: {streamed:?}");
        let [stays, passes]: [Picture; 2] = [&stays, &passes].map(|pipeline| draw(pipeline, request()));
        assert_eq!(stays.latents, passes.latents, "{family}");
        assert_eq!(stays.image.data, passes.image.data, "{family}");
    }
}

/// A limit below the weights is kept by streaming, and the picture is that of the same weights without a limit.
#[test]
fn a_limit_streams_and_draws_the_same() {
    let backend = Arc::new(adapter::open(DType::F32));
    let device = Device::new(backend, Precision::F32).unwrap_or_else(|e| panic!("{e}"));
    let q8_0 = device.clone().with_weights("unet=q8_0".parse().expect("one part"));
    let source = Source::DemoModel;
    let free = Pipeline::load(&source, None, q8_0).unwrap_or_else(|e| panic!("{e}"));
    let side = Some(64);
    let request = Request { width: side, height: side, num_inference_steps: 2, ..request() };
    let unet = free.plan(&request).expect("planned").into_iter().find(|s| s.name == "UNet").expect("a UNet");
    let limit = unet.peak_bytes() * 7 / 10;
    let within = |device: Device| Pipeline::load_within(&source, &Overrides::default(), None, device, &request, limit);
    let (tight, tried) = within(device.clone()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(tight.device().weights().to_string(), "unet=q8_0", "{tried:?}");
    let said: Vec<String> = tried.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.contains("q8_0") && line.contains("streamed")), "{said:?}");
    for (planned, allocated) in tight.measure(&request).expect("every stage opens") {
        assert!(planned.peak_bytes() <= limit && allocated <= limit, "{}: {allocated} of {limit}", planned.name);
    }
    assert_eq!(draw(&tight, request.clone()).latents, draw(&free, request.clone()).latents);
    // Without streaming only smaller weights are left; with it first, they stay as they are.
    let off = device.clone().with_streaming(Streaming::Off).unwrap_or_else(|e| panic!("{e}"));
    let (small, _) = within(off).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(small.device().weights().to_string(), "unet=q4_0");
    let on = device.with_streaming(Streaming::On).unwrap_or_else(|e| panic!("{e}"));
    let (kept, tried) = within(on).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(kept.device().weights().to_string(), "auto", "{tried:?}");
}
