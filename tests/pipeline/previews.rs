//! Pictures as they stand: what the network saw, decoded.

use std::sync::Arc;

use chiaro::image::Rgb8Image;
use chiaro::pipeline::{Device, Event, Overrides, Pipeline, Precision, Request, Source};
use chiaro::record::HostBackend;
use chiaro::sampling::{SolverKind, TimestepSpacing};

use super::runs::draw;
use crate::support::golden::committed;

fn pipeline(overrides: &Overrides) -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    Pipeline::load_with(&Source::Folder(committed().join("sd15")), overrides, None, device).expect("the model loads")
}

fn request(steps: usize) -> Request {
    Request {
        prompt: "a lighthouse".into(),
        width: Some(64),
        height: Some(96),
        num_inference_steps: steps,
        sampler: Some(SolverKind::Euler),
        timestep_spacing: Some(TimestepSpacing::Trailing),
        previews: true,
        ..Request::default()
    }
}

/// The previews of a run, by step.
fn previews(pipeline: &Pipeline, request: Request) -> Vec<Option<Rgb8Image>> {
    let mut generation = pipeline.generate(request).expect("it fits");
    assert!(generation.preview(0).expect("nothing yet").is_none());
    let mut seen = Vec::new();
    while let Some(event) = generation.next() {
        if let Event::Step { .. } = event.expect("it runs") {
            seen.push(generation.preview(0).expect("it is decoded"));
        }
    }
    seen
}

/// Both runs begin at the last timestep; Euler's only step of the shorter one ends where the longer one's first saw the picture.
#[test]
fn the_first_preview_is_the_picture_of_one_step() {
    let tiny = Some(committed().join("taesd"));
    let cases = [
        (Overrides::default(), Overrides::default()),
        (
            Overrides { preview_vae: tiny.clone(), ..Overrides::default() },
            Overrides { vae: tiny, ..Overrides::default() },
        ),
    ];
    for (previewing, drawing) in cases {
        let seen = previews(&pipeline(&previewing), request(3));
        let wanted = draw(&pipeline(&drawing), request(1)).image;
        assert_eq!(seen.len(), 3);
        let first = seen[0].as_ref().expect("a preview of the first step");
        assert_eq!((first.width, first.height), (64, 96));
        let furthest = first.data.iter().zip(&wanted.data).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(furthest <= Some(1), "{furthest:?}");
        assert!(seen[1].as_ref().is_some_and(|second| second.data != first.data));
        // After the last step there is the picture itself.
        assert!(seen[2].is_none());
    }
}

#[test]
fn plans_count_what_lies_beside_the_unet() {
    let pipeline = pipeline(&Overrides { preview_vae: Some(committed().join("taesd")), ..Overrides::default() });
    let with = pipeline.plan(&request(2)).expect("a plan");
    let without = pipeline.plan(&Request { previews: false, ..request(2) }).expect("a plan");
    let peak = |plans: &[chiaro::pipeline::StagePlan], name: &str| {
        plans.iter().find(|plan| plan.name == name).map(chiaro::pipeline::StagePlan::peak_bytes)
    };
    let preview = peak(&with, "preview").expect("its own stage");
    assert_eq!(peak(&without, "preview"), None);
    assert_eq!(peak(&with, "UNet"), peak(&without, "UNet").map(|bytes| bytes + preview));
    assert_eq!(peak(&with, "VAE decoder"), peak(&without, "VAE decoder"));
}

#[test]
fn an_autoencoder_of_other_latents_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    crate::support::files::copy(&committed().join("taesd"), folder.path());
    let path = folder.path().join("config.json");
    let config =
        std::fs::read_to_string(&path).expect("a config").replace("\"latent_channels\": 4", "\"latent_channels\": 16");
    std::fs::write(&path, config).expect("written");
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let overrides = Overrides { preview_vae: Some(folder.path().to_owned()), ..Overrides::default() };
    let model = Source::Folder(committed().join("sd15"));
    assert!(Pipeline::load_with(&model, &overrides, None, device).is_err());
}
