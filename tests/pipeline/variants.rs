//! Models that change a picture by instruction, and refiners: the runs of tests/golden/variants.py.

use std::path::Path;
use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Hires, InitImage, Overrides, Pipeline, Precision, Request, Source, Upscale};
use chiaro::record::{Backend, DType, HostBackend};
use serde_json::Value;

use super::runs::{check, draw, init_image, request, scheduler};
use crate::support::adapter;
use crate::support::golden::{Golden, committed};
use crate::support::xl_folder::{refiner, sdxl};

fn device(backend: impl Backend + 'static) -> Device {
    Device::new(Arc::new(backend), Precision::F32).expect("f32 is everywhere")
}

fn open(folder: &Path, overrides: Overrides, device: &Device) -> Pipeline {
    Pipeline::load_with(&Source::Folder(folder.to_owned()), &overrides, None, device.clone())
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn instructed(golden: &Golden, run: &Value, device: &Device) -> (Pipeline, Request) {
    let overrides =
        Overrides { scheduler: Some(scheduler(run)), unet: Some(golden.path().join("unet")), ..Overrides::default() };
    // What is changed by instruction is drawn from noise, whatever the strength.
    let request = Request { image: Some(init_image(golden, InitImage::STRENGTH)), ..request(run) };
    (open(&committed().join("sd15"), overrides, device), request)
}

fn check_instructions(device: &Device) {
    let golden = Golden::open_in(&committed(), "pix2pix");
    for (name, run) in golden.runs() {
        let (pipeline, request) = instructed(&golden, &run, device);
        check(&golden, &name, 0, &draw(&pipeline, request)).unwrap_or_else(|message| panic!("{message}"));
    }
}

fn check_refiners(device: &Device) {
    let golden = Golden::open_in(&committed(), "refiner");
    let (base, refiner) = (sdxl(), refiner());
    for (name, run) in golden.runs() {
        let behind = !run["args"]["refiner_start"].is_null();
        let overrides = Overrides {
            scheduler: Some(scheduler(&run)),
            refiner: behind.then(|| refiner.path().to_owned()),
            ..Overrides::default()
        };
        let pipeline = open(if behind { base.path() } else { refiner.path() }, overrides, device);
        let strength = run["args"]["strength"].as_f64();
        let request = Request { image: strength.map(|strength| init_image(&golden, strength)), ..request(&run) };
        check(&golden, &name, 0, &draw(&pipeline, request)).unwrap_or_else(|message| panic!("{message}"));
    }
}

#[test]
fn instructions_change_a_picture_on_the_host() {
    check_instructions(&device(HostBackend::default()));
}

#[test]
fn instructions_change_a_picture_on_the_gpu() {
    check_instructions(&device(adapter::open(DType::F32)));
}

fn check_tiny_autoencoders(device: &Device) {
    let golden = Golden::open_in(&committed(), "tiny_vae");
    for (name, run) in golden.runs() {
        let overrides = Overrides {
            scheduler: Some(scheduler(&run)),
            vae: Some(committed().join("taesd")),
            ..Overrides::default()
        };
        let pipeline = open(&committed().join("sd15"), overrides, device);
        let strength = run["args"]["strength"].as_f64();
        let request = Request { image: strength.map(|strength| init_image(&golden, strength)), ..request(&run) };
        check(&golden, &name, 0, &draw(&pipeline, request)).unwrap_or_else(|message| panic!("{message}"));
    }
}

#[test]
fn tiny_autoencoders_on_the_host() {
    check_tiny_autoencoders(&device(HostBackend::default()));
}

#[test]
fn tiny_autoencoders_on_the_gpu() {
    check_tiny_autoencoders(&device(adapter::open(DType::F32)));
}

/// A tiny autoencoder as its authors' files have it, each half alone, gives the pictures of the folder.
#[test]
fn halves_of_a_tiny_autoencoder() {
    let stored = std::fs::read(committed().join("taesd/diffusion_pytorch_model.safetensors")).expect("it is there");
    let stored = safetensors::SafeTensors::deserialize(&stored).expect("it is whole");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let half = |half: &str, clamp: usize| {
        let prefix = format!("{half}.layers.");
        let renamed = stored.tensors().into_iter().filter_map(|(name, view)| {
            let (layer, rest) = name.strip_prefix(&prefix)?.split_once('.')?;
            Some((format!("{}.{rest}", layer.parse::<usize>().ok()? + clamp), view))
        });
        let path = folder.path().join(format!("taesd_{half}.safetensors"));
        safetensors::serialize_to_file(renamed.collect::<Vec<_>>(), None, &path).expect("it is written");
        path
    };
    let (encoder, decoder) = (half("encoder", 0), half("decoder", 1));
    let host = device(HostBackend::default());
    let with = |vae: &Path| {
        let overrides = Overrides { vae: Some(vae.to_owned()), ..Overrides::default() };
        open(&committed().join("sd15"), overrides, &host)
    };
    let request = Request { width: Some(64), height: Some(64), num_inference_steps: 2, ..Request::default() };
    let whole = draw(&with(&committed().join("taesd")), request.clone());
    let single = with(&committed().join("taesd/diffusion_pytorch_model.safetensors"));
    assert_eq!(draw(&single, request.clone()).image.data, whole.image.data);
    assert_eq!(draw(&with(&decoder), request.clone()).image.data, whole.image.data);
    let error = refusal(&with(&encoder), request);
    assert!(error.contains("the autoencoder's file has no decoder"), "{error}");
}

#[test]
fn refiners_on_the_host() {
    check_refiners(&device(HostBackend::default()));
}

#[test]
fn refiners_on_the_gpu() {
    check_refiners(&device(adapter::open(DType::F32)));
}

fn refusal(pipeline: &Pipeline, request: Request) -> String {
    match pipeline.generate(request) {
        Ok(_) => panic!("it is accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let host = device(HostBackend::default());
    let golden = Golden::open_in(&committed(), "pix2pix");
    let (_, run) = golden.runs().pop().expect("a run");
    let (pipeline, asked) = instructed(&golden, &run, &host);
    let none = refusal(&pipeline, Request { image: None, ..asked.clone() });
    assert!(none.contains("`image.file`"), "{none}");
    let image =
        asked.image.clone().map(|image| InitImage { mask: Some(vec![1.0; image.width * image.height]), ..image });
    let masked = refusal(&pipeline, Request { image, ..asked.clone() });
    assert!(masked.contains("leave the mask out"), "{masked}");
    let weak = refusal(&pipeline, Request { image_guidance_scale: 0.5, ..asked });
    assert!(weak.contains("image_guidance_scale: expected a number from 1 to 100"), "{weak}");

    let (base, refiner) = (sdxl(), refiner());
    let overrides = Overrides { refiner: Some(refiner.path().to_owned()), ..Overrides::default() };
    let pipeline = open(base.path(), overrides.clone(), &host);
    let request = |refiner_start| Request { refiner_start, num_inference_steps: 4, ..Request::default() };
    for (start, message) in [(0.9999, "none is left for the refiner"), (0.01, "none is left for the base")] {
        let error = refusal(&pipeline, request(start));
        assert!(error.contains(message), "{error}");
    }
    let error = refusal(&pipeline, request(1.0));
    assert!(error.contains("refiner_start: expected a number above 0 and below 1, got 1"), "{error}");
    let sd15 = Source::Folder(committed().join("sd15"));
    let Err(error) = Pipeline::load_with(&sd15, &overrides, None, host) else { panic!("it is accepted") };
    assert!(error.to_string().contains("expected a refiner of the latent space of"), "{error}");
}

/// The base draws 3 of the first pass's steps; the second pass begins below the switch and is the refiner's alone. Each step is told once.
#[test]
fn a_refiner_in_both_passes() {
    let (base, refiner) = (sdxl(), refiner());
    let overrides = Overrides { refiner: Some(refiner.path().to_owned()), ..Overrides::default() };
    let pipeline = open(base.path(), overrides, &device(HostBackend::default()));
    for upscale in [Upscale::Latent, Upscale::Image] {
        both_passes(&pipeline, Hires { scale: 1.5, strength: 0.7, steps: None, upscale });
    }
}

fn both_passes(pipeline: &Pipeline, hires: Hires) {
    let request = Request {
        width: Some(64),
        height: Some(64),
        num_inference_steps: 8,
        refiner_start: 0.4,
        hires: Some(hires),
        ..Request::default()
    };
    let units = pipeline.units(&request);
    let mut steps = Vec::new();
    let mut events = 0;
    for event in pipeline.generate(request).expect("it fits") {
        events += 1;
        if let Event::Step { step, of, .. } = event.expect("it runs") {
            steps.push((step, of));
        }
    }
    let pass = |of: usize| (1..=of).map(move |step| (step, of));
    assert_eq!(steps, pass(8).chain(pass(5)).collect::<Vec<_>>());
    assert_eq!(events, units);
}
