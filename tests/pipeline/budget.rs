//! What full-size models take, and what a limit of memory makes of them.

use std::sync::{Arc, LazyLock};

use chiaro::pipeline::{
    ControlRequest, Device, Overrides, Part, Pipeline, Precision, Request, Source, StagePlan, WeightTypes,
};
use chiaro::record::{AdapterKind, Backend, Caps, DType, HostBackend, Program, Recording};
use chiaro::weights::WeightType;
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
    for (model, limit, unet) in [
        (sd15, 23 * GB / 10, None),
        (sd15, 15 * GB / 10, Some(WeightType::Q8_0)),
        (sd15, GB, Some(WeightType::Q4_0)),
        (sdxl, 8 * GB, None),
        (sdxl, 4 * GB, Some(WeightType::Q8_0)),
        (sdxl, 3 * GB, Some(WeightType::Q4_0)),
    ] {
        let (pipeline, tried) = model.within(device(), limit).unwrap_or_else(|e| panic!("{limit}: {e}"));
        let plans = pipeline.plan(&model.request()).unwrap_or_else(|e| panic!("{e}"));
        assert!(peak(&plans) <= limit, "{limit}: {}", peak(&plans));
        assert_eq!(pipeline.device().weights().of(Part::Unet), unet, "{limit}: {}", pipeline.device().weights());
        assert_eq!(pipeline.device().weights().of(Part::Text), None, "text encoders fit as they are");
        assert_eq!(tried.is_empty(), unet.is_none());
        assert!(tried.iter().all(|t| t.peak_bytes > limit), "{tried:?}");
        // What was tried last is what the next better choice takes.
        if let Some(last) = tried.last() {
            let better = model.stages(last.weights);
            assert_eq!(better.iter().find(|s| s.name == last.stage).map(StagePlan::peak_bytes), Some(last.peak_bytes));
        }
    }
}

#[test]
fn a_limit_that_nothing_fits_says_what_would() {
    let [sd15, _] = models();
    let error = sd15.within(device(), GB / 2).map(|_| ()).expect_err("half a gigabyte").to_string();
    let least = peak(&sd15.stages("q4_0"));
    assert!(error.starts_with("--vram: expected at least "), "{error}");
    assert!(error.contains(&format!("{:.1} MiB", least as f64 / f64::from(1 << 20))), "{least}: {error}");
    assert!(error.contains("UNet") && error.contains("q4_0"), "{error}");
    // What fits exactly fits, and a byte less does not.
    assert!(sd15.within(device(), least).is_ok());
    assert!(sd15.within(device(), least - 1).is_err());
    // Chosen types stay.
    let fixed: WeightTypes = "unet=f16".parse().expect("one part");
    let error = sd15.within(device().with_weights(fixed), GB).map(|_| ()).expect_err("f16 in 1 GB").to_string();
    assert!(error.contains("the UNet needs") && error.contains("weights f16"), "{error}");
    let host = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32");
    assert!(sd15.within(host, GB).map(|_| ()).expect_err("the host").to_string().contains("--device"));
}
