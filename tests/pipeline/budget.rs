//! What full-size models take, and what a limit of memory makes of them.

use std::sync::{Arc, LazyLock};

use chiaro::models::{Unet, UnetConfig};
use chiaro::pipeline::{
    ControlRequest, Device, Overrides, Part, Pipeline, Precision, Remedy, Request, Source, StagePlan, Streaming,
    WeightTypes,
};
use chiaro::record::{AdapterKind, Backend, Caps, DType, HostBackend, Program, Recording, StreamPlan, Traffic, plan};
use chiaro::weights::{WeightFile, WeightType, Weights};
use tempfile::TempDir;

use crate::support::control::table;
use crate::support::full_size;
use crate::support::single_file::write;

const GB: u64 = 1_000_000_000;

pub(super) struct Model {
    folder: TempDir,
    side: usize,
}

/// Written once a process.
pub(super) fn models() -> &'static [Model; 2] {
    static MODELS: LazyLock<[Model; 2]> = LazyLock::new(|| {
        [("sd15", 512), ("sdxl", 1024)].map(|(family, side)| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            full_size::write_model(family, folder.path());
            Model { folder, side }
        })
    });
    &MODELS
}

impl Model {
    pub(super) fn source(&self) -> Source {
        Source::Folder(self.folder.path().to_owned())
    }

    fn request(&self) -> Request {
        Request { prompt: "a red circle".into(), width: Some(self.side), height: Some(self.side), ..Request::default() }
    }

    fn stages(&self, weights: &str) -> Vec<StagePlan> {
        let device = device().with_weights(weights.parse().expect("weight types"));
        let pipeline = Pipeline::load(&self.source(), None, device).unwrap_or_else(|e| panic!("{e}"));
        pipeline.plan(&self.request()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn within(&self, device: Device, bytes: u64) -> chiaro::Result<(Pipeline, Vec<chiaro::pipeline::TooLarge>)> {
        Pipeline::load_within(&self.source(), &Overrides::default(), None, device, &self.request(), bytes)
    }
}

/// The limits of an ordinary GPU: tensors of SDXL's autoencoder need bindings that software drivers do not have. It only plans.
pub(super) struct Planner(pub(super) Caps);

impl Backend for Planner {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn compile(&self, _: Recording) -> chiaro::Result<Box<dyn Program>> {
        unreachable!("nothing is run here")
    }
}

fn device() -> Device {
    Device::new(Arc::new(Planner(ordinary())), Precision::F16).expect("16-bit types")
}

pub(super) fn ordinary() -> Caps {
    Caps {
        name: "an ordinary GPU".into(),
        kind: AdapterKind::Discrete,
        storage: DType::F16,
        shader_f16: true,
        max_binding_bytes: (2 << 30) - 4,
        max_buffer_bytes: 4 << 30,
        max_workgroup_bytes: 32 << 10,
        ..Caps::webgpu()
    }
}

/// UNet and ControlNet are in memory together: one stage, of both networks' weights, which a limit makes smaller together.
#[test]
fn a_full_size_control_net_counts() {
    let [sd15, _] = models();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("control_v11p_sd15_canny.safetensors");
    let entries: Vec<_> = table("sd15").into_iter().map(|(_, entry)| entry).collect();
    let parameters: usize = entries.iter().map(|entry| entry.shape.iter().product::<usize>()).sum();
    assert_eq!(parameters, 361_279_120, "as diffusers counts the published net");
    write(&path, &entries);
    let overrides = Overrides { controls: vec![path], ..Overrides::default() };
    let request = Request { controls: vec![ControlRequest::default()], ..sd15.request() };
    let pipeline = Pipeline::load_with(&sd15.source(), &overrides, None, device()).unwrap_or_else(|e| panic!("{e}"));
    let largest = |pipeline: &Pipeline, request: &Request| {
        let plans = pipeline.plan(request).unwrap_or_else(|e| panic!("{e}"));
        plans.into_iter().max_by_key(StagePlan::peak_bytes).expect("stages")
    };
    let (both, unet) = (largest(&pipeline, &request), largest(&pipeline, &sd15.request()));
    assert_eq!((both.name, unet.name), ("UNet with ControlNet", "UNet"));
    let more = both.memory.constant_bytes - unet.memory.constant_bytes;
    // Halves, but vectors of norms and biases in f32.
    assert!((2 * parameters..2 * parameters + parameters / 100).contains(&more), "{more}");
    // Activations are those of one network at a time, beside the states that are added up.
    let tensors = |plan: &StagePlan| plan.memory.lanes.iter().sum::<usize>() as f64;
    assert!(tensors(&both) < 1.5 * tensors(&unet), "{} for {}", tensors(&both), tensors(&unet));
    let limit = both.peak_bytes() - 1;
    let within = |request: &Request| {
        Pipeline::load_within(&sd15.source(), &overrides, None, device(), request, limit)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let (smaller, tried) = within(&request);
    assert_eq!(smaller.device().weights().of(Part::Unet), Some(WeightType::Q8_0));
    assert!(tried.iter().any(|tried| tried.stage == "UNet with ControlNet"), "{tried:?}");
    assert!(largest(&smaller, &request).peak_bytes() <= limit);
    assert_eq!(within(&sd15.request()).0.device().weights(), WeightTypes::default(), "the UNet alone fits");
}

fn peak(stages: &[StagePlan]) -> u64 {
    stages.iter().map(StagePlan::peak_bytes).max().expect("stages")
}

#[test]
fn sizes_of_full_models() {
    let [sd15, sdxl] = models();
    let cases = [
        (sd15, "auto", 23 * GB / 10),
        (sd15, "q8_0", 15 * GB / 10),
        (sd15, "q4_0", GB),
        (sdxl, "auto", 8 * GB),
        (sdxl, "q8_0", 4 * GB),
        (sdxl, "q4_0", 3 * GB),
    ];
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (model, weights, most) in cases {
        let stages = model.stages(weights);
        for s in &stages {
            let (own, peak) = (mebibytes(s.memory.constant_bytes as u64), mebibytes(s.peak_bytes()));
            println!("{}² {weights} {}: {own:.1} MiB of weights, {peak:.1} MiB", model.side, s.name);
        }
        assert!(peak(&stages) < most, "{weights}: {} bytes, expected less than {most}", peak(&stages));
    }
}

/// 860 million parameters, most of them in blocks: 34 and 18 bytes for 32.
#[test]
fn blocks_take_what_they_are_defined_to() {
    let [sd15, _] = models();
    let bytes = |weights: &str| {
        let stages = sd15.stages(weights);
        let unet = stages.iter().find(|s| s.name == "UNet").expect("a UNet");
        assert_eq!(unet.weights.iter().map(|(_, bytes)| bytes).sum::<u64>(), unet.memory.constant_bytes as u64);
        unet.weights.clone()
    };
    let of = |list: &[(DType, u64)], wanted: DType| list.iter().find(|(t, _)| *t == wanted).map_or(0, |&(_, b)| b);
    let f16 = bytes("f16");
    for (weights, dtype, block) in [("q8_0", DType::Q8_0, 34.0), ("q4_0", DType::Q4_0, 18.0)] {
        let list = bytes(weights);
        assert_eq!(list[0].0, dtype, "most of it is {weights}: {list:?}");
        let moved = (of(&f16, DType::F16) - of(&list, DType::F16)) as f64 / 2.0;
        let per_value = of(&list, dtype) as f64 / moved;
        assert!((per_value / (block / 32.0) - 1.0).abs() < 1e-4, "{weights}: {per_value} bytes a value");
        assert_eq!(of(&list, DType::F32), of(&f16, DType::F32), "norms and biases stay");
        // The time path (about 30 million values) and the first and last convolution.
        let kept = of(&list, DType::F16) as f64 / of(&f16, DType::F16) as f64;
        assert!((0.01..0.05).contains(&kept), "{kept} of the weights stay in f16");
    }
}

#[test]
fn a_limit_takes_the_best_that_fits() {
    let [sd15, sdxl] = models();
    let (auto, off, on) = (Streaming::Auto, Streaming::Off, Streaming::On);
    for (model, limit, streaming, unet, streamed) in [
        (sd15, 23 * GB / 10, auto, None, false),
        (sd15, 15 * GB / 10, auto, Some(WeightType::Q8_0), false),
        (sd15, GB, auto, Some(WeightType::Q8_0), true),
        (sd15, GB / 2, auto, Some(WeightType::Q8_0), true),
        (sd15, GB, off, Some(WeightType::Q4_0), false),
        (sd15, GB, on, None, true),
        (sdxl, 8 * GB, auto, None, false),
        (sdxl, 4 * GB, auto, Some(WeightType::Q8_0), false),
        (sdxl, 3 * GB, auto, Some(WeightType::Q8_0), true),
        (sdxl, 2 * GB, auto, Some(WeightType::Q8_0), true),
        (sdxl, 3 * GB, off, Some(WeightType::Q4_0), false),
        (sdxl, 4 * GB, on, None, true),
    ] {
        let device = device().with_streaming(streaming).unwrap_or_else(|e| panic!("{e}"));
        let (pipeline, tried) = model.within(device, limit).unwrap_or_else(|e| panic!("{limit}: {e}"));
        let plans = pipeline.plan(&model.request()).unwrap_or_else(|e| panic!("{e}"));
        assert!(peak(&plans) <= limit, "{limit}: {}", peak(&plans));
        assert_eq!(pipeline.device().weights().of(Part::Unet), unet, "{limit}: {}", pipeline.device().weights());
        assert_eq!(pipeline.device().weights().of(Part::Text), None, "text encoders fit as they are");
        let unet_plan = plans.iter().find(|s| s.name == "UNet").expect("a UNet");
        // Perhaps only what is read once a picture.
        assert_eq!(unet_plan.memory.stream.is_some(), streamed, "{limit} {streaming:?}");
        for s in plans.iter().filter(|s| s.memory.stream.is_some()) {
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            println!(
                "{}² within {limit}, {streaming:?}: {} {}: {:.1} MiB stay, {:.1} MiB a run, peak {:.1} MiB",
                model.side,
                s.name,
                s.weights[0].0.name(),
                mebibytes(s.memory.constant_bytes as u64),
                mebibytes(s.streamed_bytes_per_run()),
                mebibytes(s.peak_bytes()),
            );
            assert!(s.streamed_bytes_per_run() < s.weight_bytes(), "some stay");
        }
        assert_eq!(tried.is_empty(), unet.is_none());
        assert!(tried.iter().all(|t| t.peak_bytes > limit), "{tried:?}");
        // What was tried last is what the next better choice takes.
        assert_eq!(tried.iter().any(|t| t.remedy == Remedy::Streamed), streamed && streaming == auto, "{tried:?}");
        if let Some(last) = tried.last() {
            let better = model.stages(last.weights);
            assert_eq!(better.iter().find(|s| s.name == last.stage).map(StagePlan::peak_bytes), Some(last.peak_bytes));
        }
    }
}

/// `limit` fits and a byte less does not.
fn assert_least(model: &Model, device: &Device, limit: u64) {
    let error = model.within(device.clone(), limit / 2).map(|_| ()).expect_err("half of it").to_string();
    assert!(error.starts_with("device.vram: expected at least "), "{error}");
    assert!(error.contains(&format!("{:.1} MiB", limit as f64 / f64::from(1 << 20))), "{limit}: {error}");
    assert!(model.within(device.clone(), limit).is_ok(), "{limit}");
    assert!(model.within(device.clone(), limit - 1).is_err(), "{limit}");
}

#[test]
fn a_limit_that_nothing_fits_says_what_would() {
    let [sd15, _] = models();
    let off = device().with_streaming(Streaming::Off).unwrap_or_else(|e| panic!("{e}"));
    let error = sd15.within(off.clone(), GB / 2).map(|_| ()).expect_err("half a gigabyte").to_string();
    assert!(error.contains("UNet") && error.contains("q4_0"), "{error}");
    assert_least(sd15, &off, peak(&sd15.stages("q4_0")));
    // With bands and streaming, what a UNet computes with is the most.
    let error = sd15.within(device(), GB / 10).map(|_| ()).expect_err("a tenth of a gigabyte").to_string();
    let (_, least) = error.split_once("expected at least ").expect("the least");
    let least: f64 = least.split(' ').next().and_then(|number| number.parse().ok()).expect("a number of MiB");
    assert!(error.contains("the UNet needs") && error.contains("q4_0, streamed"), "{error}");
    let mebibytes = |n: f64| (n * f64::from(1 << 20)) as u64;
    assert!(least < 250.0 && sd15.within(device(), mebibytes(least + 0.1)).is_ok(), "{least}");
    assert!(sd15.within(device(), mebibytes(least - 0.1)).is_err(), "{least}");
    // Chosen types stay; what they do not fit is streamed.
    let fixed = |device: Device| device.with_weights("unet=f16".parse().expect("one part"));
    let error = sd15.within(fixed(off), GB).map(|_| ()).expect_err("f16 in 1 GB").to_string();
    assert!(error.contains("the UNet needs") && error.contains("weights f16"), "{error}");
    let (pipeline, _) = sd15.within(fixed(device()), GB).unwrap_or_else(|e| panic!("{e}"));
    let plans = pipeline.plan(&sd15.request()).unwrap_or_else(|e| panic!("{e}"));
    let unet = plans.iter().find(|s| s.name == "UNet").expect("a UNet");
    assert!(unet.weights[0].0 == DType::F16 && unet.memory.stream.is_some(), "{:?}", unet.weights);
    let host = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32");
    assert!(host.clone().with_streaming(Streaming::On).is_err_and(|e| !e.remedies().is_empty()));
    assert!(!sd15.within(host, GB).map(|_| ()).expect_err("the host").remedies().is_empty());
}

/// And with its autoencoder in bands, a gigabyte holds a picture of 1024×1024.
#[test]
fn a_gigabyte_holds_the_unet_of_sdxl() {
    let [_, sdxl] = models();
    let (pipeline, _) = sdxl.within(device(), GB).unwrap_or_else(|e| panic!("{e}"));
    let plans = pipeline.plan(&sdxl.request()).unwrap_or_else(|e| panic!("{e}"));
    assert!(plans.iter().all(|plan| plan.peak_bytes() <= GB) && plans.iter().any(|plan| plan.bands.is_some()));
    let folder = sdxl.folder.path().join("unet");
    let config = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    let config = UnetConfig::from_json(&config, "unet").unwrap_or_else(|e| panic!("{e}"));
    let weights = Weights::new(Arc::new(file), "unet", WeightType::Q8_0);
    let unet = Unet::load(config, &weights).unwrap_or_else(|e| panic!("{e}"));
    let mut recording = unet.record(&ordinary(), 2, 128, 128, 77, false).unwrap_or_else(|e| panic!("{e}"));
    let whole = plan(&recording).unwrap_or_else(|e| panic!("{e}")).constant_bytes as u64;
    for limit in [4 * GB, 2 * GB, GB, GB * 7 / 10] {
        recording.memory_limit = Some(limit);
        let planned = plan(&recording).unwrap_or_else(|e| panic!("{e}"));
        let (passing, allocated, chunks) = planned
            .stream
            .as_ref()
            .map_or((0, 0, 0), |stream| (stream.bytes_per_run(), stream.allocated_bytes(), stream.chunks.len()));
        println!(
            "UNet of SDXL in q8_0 within {limit}: {} MiB stay, {} MiB a run in {chunks} chunks through {} MiB, peak {} MiB",
            planned.constant_bytes >> 20,
            passing >> 20,
            allocated >> 20,
            planned.peak_bytes() >> 20
        );
        assert!(planned.peak_bytes() <= limit, "{limit}: {}", planned.peak_bytes());
        let first = planned.stream.as_ref().map_or(0, StreamPlan::bytes_of_first_run);
        assert_eq!(planned.constant_bytes as u64 + first, whole, "every constant is read once");
        // No more than a tenth of the limit is left unused while constants pass.
        assert!(passing == 0 || planned.peak_bytes() * 10 > limit * 9, "{limit}: {}", planned.peak_bytes());
    }
}

/// What a step of the UNet moves between memory and kernels, against each layer's weights, inputs and results once; and its kernel launches.
#[test]
fn a_step_moves_little() {
    let [sd15, _] = models();
    let stages = sd15.stages("auto");
    let unet = stages.iter().find(|s| s.name == "UNet").expect("a UNet");
    let (Traffic { moved, least, .. }, once) = (unet.traffic, unet.once);
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "a step: {:.1} GFLOP, {} dispatches, {:.1} MiB moved, {:.1} MiB at least, {:.3}; once: {} dispatches, {:.1} MiB; tensors {:.1} MiB, peak {:.1} MiB",
        unet.flops as f64 / 1e9,
        unet.dispatches,
        mebibytes(moved),
        mebibytes(least),
        moved as f64 / least as f64,
        once.dispatches,
        mebibytes(once.moved),
        mebibytes(unet.memory.lanes.iter().sum::<usize>() as u64),
        mebibytes(unet.peak_bytes()),
    );
    assert!(unet.dispatches <= 450, "{} dispatches", unet.dispatches);
    assert!(moved * 2 <= least * 3, "{moved} bytes, {least} at least");
    // No layer is left out: the least has all weights but the text's keys and values.
    assert!(least + once.least > unet.weight_bytes() && least <= moved);
    // Keys and values of 16 attentions.
    assert_eq!(once.dispatches, 16);
}
