//! A picture has the same bytes alone, in a batch, and beside other rows: their number, prompts and timesteps are nobody else's business.

use std::sync::Arc;

use chiaro::models::{ClipTextConfig, ClipTextModel, Shortcuts, TextStates, TokenMerging, Unet, UnetConfig};
use chiaro::pipeline::{Device, Event, Picture, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, Caps, DType, HostBackend, MatrixShape, Outputs, Recording, Role};
use chiaro::sampling::{RngKind, SolverKind};
use chiaro::weights::{WeightFile, WeightType, Weights};

use super::runs::model_folder;
use crate::support::adapter;
use crate::support::golden::root;

/// Rows that are computed together.
const ROWS: usize = 4;

/// A network, recorded for so many rows.
type Network = Box<dyn Fn(&Caps, usize) -> Recording>;

fn weights(folder: &str, file: &str) -> (String, Weights) {
    let folder = root().join(folder);
    let text = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let file = WeightFile::open(folder.join(file)).unwrap_or_else(|e| panic!("{e}"));
    (text, Weights::new(Arc::new(file), "network", WeightType::Keep))
}

fn unet(family: &str, [h, w]: [usize; 2], merging: Option<TokenMerging>) -> Network {
    let (text, weights) = weights(&format!("{family}/unet"), "diffusion_pytorch_model.safetensors");
    let config = UnetConfig::from_json(&text, "unet").unwrap_or_else(|e| panic!("{e}"));
    let unet = Unet::load(config, &weights).unwrap_or_else(|e| panic!("{e}"));
    let shortcuts = Shortcuts { merging, depth: None };
    Box::new(move |caps, rows| {
        unet.record_shortened(caps, [rows, h, w], 77, &[], shortcuts, true).unwrap_or_else(|e| panic!("{e}"))
    })
}

fn text_encoder(family: &str) -> Network {
    let (text, weights) = weights(&format!("{family}/text_encoder"), "model.safetensors");
    let config = ClipTextConfig::from_json(&text, "text_encoder").unwrap_or_else(|e| panic!("{e}"));
    let model = ClipTextModel::load(config, &weights).unwrap_or_else(|e| panic!("{e}"));
    let states = TextStates { skip: 0, normed: true, pooled: true };
    Box::new(move |caps, rows| model.record(caps, rows, 77, states, true).unwrap_or_else(|e| panic!("{e}")))
}

fn networks(size: [usize; 2]) -> Vec<(&'static str, Network)> {
    vec![
        ("sd15", unet("sd15", size, None)),
        ("sdxl", unet("sdxl", size, None)),
        ("sd15, tokens merged", unet("sd15", size, Some(TokenMerging { ratio: 0.5, levels: 2 }))),
        ("text encoder", text_encoder("sd15")),
    ]
}

/// Values for every input: latents, timesteps and text of each row differ from all others'.
fn inputs(recording: &Recording) -> Vec<(String, Vec<f32>)> {
    let input = |(at, tensor): (usize, &chiaro::record::TensorInfo)| match &tensor.role {
        Role::Input(name) => {
            Some((name.clone(), (0..tensor.len).map(|i| ((i + 977 * at) as f32 * 0.71).sin()).collect()))
        }
        _ => None,
    };
    recording.tensors.iter().enumerate().filter_map(input).collect()
}

fn run(backend: &dyn Backend, recording: Recording, inputs: &[(String, Vec<f32>)]) -> Outputs {
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    backend.compile(recording).and_then(|mut program| program.run(&inputs)).unwrap_or_else(|e| panic!("{e}"))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Every block's results of each row, alone and among other prompts and timesteps.
fn check_networks(backend: &dyn Backend) {
    for (name, record) in networks([16, 24]) {
        let recording = record(backend.caps(), ROWS);
        let all = inputs(&recording);
        let together = run(backend, recording, &all);
        for row in [0, ROWS - 1] {
            let part = |values: &[f32]| values.chunks(values.len() / ROWS).nth(row).expect("one of them").to_vec();
            let own: Vec<_> = all.iter().map(|(name, values)| (name.clone(), part(values))).collect();
            let alone = run(backend, record(backend.caps(), 1), &own);
            assert!(alone.len() > 3, "{name}: blocks are compared too");
            for (output, values) in &alone {
                let same = bits(values) == bits(&part(&together[output]));
                assert!(same, "{name} on {}: {output} of row {row}", backend.caps().name);
            }
        }
        let again = run(backend, record(backend.caps(), ROWS), &all);
        assert!(again == together, "{name} on {}: the same twice", backend.caps().name);
    }
}

fn draw(pipeline: &Pipeline, request: &Request) -> Vec<Picture> {
    let events = pipeline.generate(request.clone()).unwrap_or_else(|e| panic!("{e}"));
    let picture = |event| match event {
        Event::Picture(picture) => Some(*picture),
        _ => None,
    };
    events.map(|event| event.unwrap_or_else(|e| panic!("{e}"))).filter_map(picture).collect()
}

fn assert_same(what: &str, found: &Picture, alone: &Picture) {
    assert_eq!(found.seed, alone.seed, "{what}");
    assert_eq!(bits(&found.latents), bits(&alone.latents), "{what}: latents of seed {}", alone.seed);
    assert!(found.image.data == alone.image.data, "{what}: pixels of seed {}", alone.seed);
}

/// Seeds drawn alone, four at once, and at other places of another batch, whose last group is smaller. Guidance ends on the way, so that calls
/// have two rows a picture, then one.
fn check_pictures(device: &Device, families: &[&str]) {
    for &family in families {
        let (folder, _guard) = model_folder(family);
        let pipeline =
            Pipeline::load(&Source::Folder(folder), None, device.clone()).unwrap_or_else(|e| panic!("{family}: {e}"));
        let base = Request {
            prompt: "a red circle".into(),
            width: Some(64),
            height: Some(64),
            num_inference_steps: 4,
            guidance_scale: 4.0,
            guidance_interval: (0.0, 0.5),
            sampler: Some(SolverKind::EulerAncestral),
            seed: 11,
            ..Request::default()
        };
        let alone: Vec<Picture> =
            (11..16).flat_map(|seed| draw(&pipeline, &Request { seed, ..base.clone() })).collect();
        assert!(alone.windows(2).all(|pair| pair[0].latents != pair[1].latents), "seeds differ");
        let four = draw(&pipeline, &Request { count: 4, batch: 4, ..base.clone() });
        let shifted = draw(&pipeline, &Request { seed: 12, count: 4, batch: 3, ..base.clone() });
        assert_eq!((four.len(), shifted.len()), (4, 4));
        four.iter().zip(&alone).for_each(|(found, alone)| assert_same(family, found, alone));
        shifted.iter().zip(&alone[1..]).for_each(|(found, alone)| assert_same(family, found, alone));
        // ComfyUI's draws depend on the place; so does nothing else.
        let comfy = Request { rng: RngKind::Comfy, count: 3, batch: 3, ..base.clone() };
        for (index, found) in draw(&pipeline, &comfy).iter().enumerate() {
            let placed = Request { place: Some((index, 3)), count: 1, batch: 1, ..comfy.clone() };
            assert_same(family, found, &draw(&pipeline, &placed)[0]);
        }
    }
}

#[test]
fn rows_do_not_see_each_other_on_the_host() {
    check_networks(&HostBackend::default());
}

#[test]
fn rows_do_not_see_each_other_on_the_gpu() {
    check_networks(&adapter::open_with(DType::F32, adapter::test_options()));
}

#[test]
fn rows_do_not_see_each_other_on_the_gpu_in_half_precision() {
    check_networks(&adapter::open_with(DType::F16, adapter::test_options()));
}

#[test]
fn pictures_are_the_same_in_any_company_on_the_host() {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    check_pictures(&device, &["sd15", "sdxl"]);
}

/// Software drivers are slow.
const ON_GPU: &[&str] = &["sd15"];

#[test]
fn pictures_are_the_same_in_any_company_on_the_gpu() {
    let device = Device::new(Arc::new(adapter::open(DType::F32)), Precision::F32).expect("f32 is everywhere");
    check_pictures(&device, ON_GPU);
}

#[test]
fn pictures_are_the_same_in_any_company_on_the_gpu_in_half_precision() {
    let device = Device::new(Arc::new(adapter::open(DType::F16)), Precision::F16).expect("16-bit types");
    check_pictures(&device, ON_GPU);
}

/// Kernels and their forms, where a picture is as large as real ones: on GPUs there are fewer results than a tile takes for one row, and enough for
/// several.
#[test]
fn networks_have_the_same_kernels_for_any_number_of_rows() {
    let gpu = adapter::discrete_caps();
    let half = Caps { storage: DType::F16, shader_f16: true, ..gpu.clone() };
    let matrices = Caps { matrices: vec![MatrixShape::square(16)], ..half.clone() };
    for (name, record) in networks([64, 64]) {
        for caps in [&gpu, &half, &matrices, &Caps::host()] {
            let forms = |rows: usize| -> Vec<String> {
                let form = |d: &chiaro::record::Dispatch| format!("{} {} {:?}", d.label, d.kernel.stem, d.variant);
                record(caps, rows).dispatches.iter().map(form).collect()
            };
            let alone = forms(1);
            for rows in [2, 3, 8] {
                for (alone, together) in alone.iter().zip(&forms(rows)) {
                    assert_eq!(alone, together, "{name}, {rows} rows, {:?}, {:?}", caps.kind, caps.storage);
                }
            }
        }
    }
}
