//! Batches, second passes, seeds of other programs, and pictures repeated from their parameters, on the demo model.

use std::sync::Arc;

use chiaro::pipeline::{
    Device, Event, Hires, InitImage, OmsRequest, OmsSource, Picture, Pipeline, Precision, Request, Source, Upscale,
};
use chiaro::record::HostBackend;
use chiaro::sampling::{RngKind, SolverKind, TimestepSpacing, Variation};

use crate::support::golden::compare;
use crate::support::part;

fn demo() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let oms = OmsSource::demo();
    Pipeline::load(&Source::DemoModel, Some(&oms), device).expect("the demo model is whole")
}

/// Small and short: what is checked does not depend on quality.
fn short(prompt: &str) -> Request {
    Request {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 4,
        guidance_scale: 4.0,
        sampler: Some(SolverKind::EulerAncestral),
        seed: 11,
        oms: Some(OmsRequest::default()),
        ..Request::default()
    }
}

fn draw(pipeline: &Pipeline, request: &Request) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let mut units = 0;
    for event in pipeline.generate(request.clone()).expect("the request fits") {
        let event = event.expect("the run succeeds");
        units += 1;
        if let Event::Picture(picture) = event {
            pictures.push(*picture);
        }
    }
    assert_eq!(units, pipeline.units(request), "what the progress bar was told");
    pictures
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64
}

#[test]
fn a_batch_is_its_pictures() {
    let pipeline = demo();
    let single = draw(&pipeline, &Request { count: 3, ..short("a red circle") });
    let batched = draw(&pipeline, &Request { count: 3, batch: 2, ..short("a red circle") });
    assert_eq!(batched.iter().map(|p| p.seed).collect::<Vec<_>>(), [11, 12, 13]);
    for (one, other) in single.iter().zip(&batched) {
        compare("batched latents", &other.latents, &one.latents, 1e-4).unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(compare("other seeds", &single[0].latents, &single[1].latents, 0.1).is_err());
}

/// Each picture is whole before the next is begun, and of those before nothing is kept.
#[test]
fn pictures_are_drawn_in_groups() {
    let pipeline = demo();
    let hires = |upscale| Some(Hires { scale: 1.5, strength: 0.5, steps: None, upscale });
    for request in [
        Request { count: 4, ..short("a house") },
        Request { count: 5, batch: 2, ..short("a house") },
        Request { count: 3, hires: hires(Upscale::Latent), ..short("a house") },
        Request { count: 3, hires: hires(Upscale::Image), ..short("a house") },
    ] {
        let mut generation = pipeline.generate(request.clone()).expect("the request fits");
        assert!(generation.is_idle());
        let (mut drawn, mut encoded) = (0, 0);
        while let Some(event) = generation.next() {
            let begun = match event.expect("the run succeeds") {
                Event::Encoded => {
                    encoded += 1;
                    continue;
                }
                Event::Picture(picture) => {
                    assert_eq!(picture.seed, 11 + drawn as u64);
                    drawn += 1;
                    assert_eq!(generation.is_idle(), drawn % request.batch == 0 || drawn == request.count);
                    continue;
                }
                Event::OneMoreStep { image } | Event::Step { image, .. } | Event::Enlarged { image } => image,
                other => panic!("{other:?} is not counted here"),
            };
            let group = drawn / request.batch * request.batch;
            assert!((group..group + request.batch).contains(&begun), "picture {begun} while {drawn} are drawn");
            assert!(generation.latents(begun).is_some());
            assert!(group == 0 || generation.latents(group - 1).is_none(), "picture {} is kept", group - 1);
        }
        assert_eq!((drawn, encoded), (request.count, if request.hires.is_some() { 2 } else { 1 }));
    }
}

/// What groups share (the text, the picture to start from) and what they do not (draws) leaves each picture as it is alone.
#[test]
fn a_group_changes_no_picture() {
    let pipeline = demo();
    let rgb: Vec<f32> = (0..3 * 64 * 64).map(|i| (i % 97) as f32 / 96.0).collect();
    let image = Some(InitImage { width: 64, height: 64, rgb, strength: 0.7, mask: None });
    for request in
        [Request { count: 3, ..short("[a house:a tree:0.5]") }, Request { count: 3, image, ..short("a house") }]
    {
        for (i, picture) in draw(&pipeline, &request).into_iter().enumerate() {
            let alone = Request { count: 1, seed: request.seed + i as u64, ..request.clone() };
            let alone = draw(&pipeline, &alone).pop().expect("one picture");
            assert!(picture.image == alone.image && picture.latents == alone.latents, "picture {i}");
        }
    }
}

#[test]
fn every_picture_tells_how_to_draw_it_again() {
    let pipeline = demo();
    let variation = Some(Variation { seed: 5, strength: 0.4 });
    let hires = Some(Hires { scale: 2.0, strength: 0.6, steps: Some(3), upscale: Upscale::Latent });
    for request in [
        Request { count: 2, ..short("a house") },
        Request { count: 2, rng: RngKind::A1111Gpu, variation, ..short("a house") },
        Request { count: 2, rng: RngKind::Comfy, offset_noise: 0.2, ..short("a house") },
        Request { hires, negative_prompt: Some("night".into()), ..short("a house") },
    ] {
        for picture in draw(&pipeline, &request) {
            let told = picture.parameters["request"].clone();
            let again: Request = serde_json::from_value(told).expect("a request");
            assert_eq!(again.count, 1);
            let repeated = draw(&pipeline, &again).pop().expect("one picture");
            assert!(repeated.image == picture.image, "seed {}, {:?}", picture.seed, request.rng);
            assert_eq!(repeated.parameters, picture.parameters);
        }
    }
}

#[test]
fn programs_draw_other_noise_from_the_same_seed() {
    let pipeline = demo();
    let of = |rng: RngKind| {
        let request = Request { count: 2, rng, oms: None, sampler: Some(SolverKind::Ddim), ..short("a tree") };
        draw(&pipeline, &request).into_iter().map(|p| p.latents).collect::<Vec<_>>()
    };
    let (torch, a1111, comfy) = (of(RngKind::Torch), of(RngKind::A1111Gpu), of(RngKind::Comfy));
    // ComfyUI's first picture of a batch has a batch of one's noise, as PyTorch fills its blocks of 16 in order.
    assert_eq!(torch[0], comfy[0]);
    for (a, b) in [(&torch[1], &comfy[1]), (&torch[0], &a1111[0])] {
        assert!(compare("noise", a, b, 0.1).is_err());
    }
}

#[test]
fn a_second_pass_keeps_the_picture() {
    let pipeline = demo();
    let first = Request {
        num_inference_steps: 10,
        guidance_scale: 7.5,
        oms: None,
        ..short("a red circle on a black background")
    };
    let small = draw(&pipeline, &first).pop().expect("one picture");
    for upscale in [Upscale::Latent, Upscale::Image] {
        let hires = Some(Hires { scale: 1.5, strength: 0.3, steps: None, upscale });
        let large = draw(&pipeline, &Request { hires, ..first.clone() }).pop().expect("one picture");
        assert_eq!((large.image.width, large.image.height), (96, 96));
        let shrunk = large.image.resized(64, 64).expect("a size");
        let difference: f64 =
            shrunk.data.iter().zip(&small.image.data).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>()
                / shrunk.data.len() as f64;
        assert!(difference < 25.0, "{upscale:?}: mean difference {difference:.1} of 255");
        assert_eq!(large.parameters["request"]["hires"]["scale"], 1.5);
    }
}

#[test]
fn strength_and_mask_say_what_changes() {
    let pipeline = demo();
    let base = Request { oms: None, ..short("a white square") };
    // Grey on the left, blue on the right.
    let rgb: Vec<f32> = (0..64 * 64).flat_map(|i| if i % 64 < 32 { [0.5; 3] } else { [0.1, 0.2, 0.9] }).collect();
    let init =
        |strength: f64, mask: Option<Vec<f32>>| InitImage { width: 64, height: 64, rgb: rgb.clone(), strength, mask };
    let run = |image: InitImage| {
        let request = Request { image: Some(image), num_inference_steps: 10, ..base.clone() };
        draw(&pipeline, &request).pop().expect("one picture").latents
    };
    let (little, much) = (run(init(0.1, None)), run(init(0.9, None)));
    let distance = |a: &[f32], b: &[f32]| mean(&a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>());
    let right = |latents: &[f32]| -> Vec<f32> { latents.chunks(8).flat_map(|row| row[4..].to_vec()).collect() };
    assert!(distance(&much, &little) > 0.1, "strength has no effect");
    let mask: Vec<f32> = (0..64 * 64).map(|i| if i % 64 < 32 { 1.0 } else { 0.0 }).collect();
    let painted = run(init(0.9, Some(mask)));
    // What is kept is the picture's own latents, which a run of hardly any strength is near to.
    assert!(distance(&right(&painted), &right(&little)) < distance(&right(&much), &right(&little)) / 2.0);
    assert!(distance(&painted, &little) > 0.05, "the mask repaints nothing");
}

#[test]
fn what_cannot_be_started_is_refused() {
    let pipeline = demo();
    let rgb = vec![0.5; 3 * 64 * 64];
    let init = InitImage { width: 64, height: 64, rgb, strength: 0.5, mask: None };
    let refused = |request: Request, says: &str| {
        let Err(error) = pipeline.generate(request) else { panic!("taken; expected {says}") };
        assert!(error.to_string().contains(says), "{error}");
    };
    let with = |image: InitImage| Request { image: Some(image), ..short("x") };
    for strength in [-0.1, 0.0, 1.01, f64::NAN] {
        refused(with(InitImage { strength, ..init.clone() }), "strength");
    }
    refused(with(InitImage { mask: Some(vec![1.0; 7]), ..init.clone() }), "mask");
    refused(with(InitImage { rgb: vec![0.0; 5], ..init.clone() }), "image");
    refused(Request { width: Some(128), ..with(init.clone()) }, "128x64");
    refused(Request { num_inference_steps: 1, ..with(InitImage { strength: 0.1, ..init.clone() }) }, "too few");
    refused(
        Request {
            hires: Some(Hires { scale: 0.5, strength: 0.5, steps: None, upscale: Upscale::Latent }),
            ..short("x")
        },
        "hires",
    );
    let spacing = Some(TimestepSpacing::Trailing);
    refused(Request { zero_terminal_snr: true, timestep_spacing: spacing, ..short("x") }, "zero SNR");
    refused(Request { batch: 0, ..short("x") }, "batch");
    refused(Request { guidance_rescale: 2.0, ..short("x") }, "guidance_rescale");
}

/// One More Step restores the means of black and white pictures under every solver as under DDIM.
fn one_more_step_under_every_solver(prompt: &str) {
    let pipeline = demo();
    let mean_of = |sampler: SolverKind| {
        // Solvers for distilled networks want little guidance, and on an ordinary network more steps than 4.
        let distilled = matches!(sampler, SolverKind::Lcm | SolverKind::Tcd);
        let request = Request {
            width: None,
            height: None,
            num_inference_steps: 12,
            guidance_scale: if distilled { 3.0 } else { 7.5 },
            sampler: Some(sampler),
            oms: Some(OmsRequest { guidance_scale: 1.25, ..OmsRequest::default() }),
            ..short(prompt)
        };
        draw(&pipeline, &request).pop().expect("one picture").image.mean()
    };
    let mut wrong = Vec::new();
    let ddim = mean_of(SolverKind::Ddim);
    for (kind, ..) in part::of(4, SolverKind::all()) {
        let mean = mean_of(kind);
        if std::env::var_os("CHIARO_TEST_VERBOSE").is_some() {
            eprintln!("{prompt}: {kind} {mean:.3}, ddim {ddim:.3}");
        }
        if (mean - ddim).abs() > 0.05 {
            wrong.push(format!("{prompt}: {kind} has mean {mean:.3}, DDIM {ddim:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn black_is_black_under_every_solver() {
    one_more_step_under_every_solver("a solid black image");
}

#[test]
fn white_is_white_under_every_solver() {
    one_more_step_under_every_solver("a solid white image");
}
