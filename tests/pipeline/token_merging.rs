//! Pixels that attend to each other as means of several.

use std::collections::BTreeSet;
use std::sync::Arc;

use chiaro::models::{Shortcuts, TokenMerging, Unet, UnetConfig, names};
use chiaro::pipeline::{Device, Event, Picture, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, HostBackend, Recording};
use chiaro::sampling::SolverKind;
use chiaro::weights::{WeightFile, WeightType, Weights};

use crate::support::golden::root;

fn unet(family: &str) -> Unet {
    let folder = root().join(family).join("unet");
    let text = std::fs::read_to_string(folder.join("config.json")).expect("readable");
    let config = UnetConfig::from_json(&text, "unet").unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(folder.join("diffusion_pytorch_model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    Unet::load(config, &Weights::new(Arc::new(file), "unet", WeightType::Keep)).unwrap_or_else(|e| panic!("{e}"))
}

fn record(unet: &Unet, merging: Option<TokenMerging>) -> chiaro::Result<Recording> {
    let shortcuts = Shortcuts { merging, depth: None };
    unet.record_shortened(HostBackend::default().caps(), [2, 16, 24], 77, &[], shortcuts, false)
}

fn run(recording: Recording) -> Vec<f32> {
    let values = |(name, len): (&str, usize)| (name.to_owned(), (0..len).map(|i| (i as f32 * 0.71).sin()).collect());
    let inputs: Vec<(String, Vec<f32>)> = recording.inputs().map(values).collect();
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let mut program = HostBackend::default().compile(recording).unwrap_or_else(|e| panic!("{e}"));
    program.run(&inputs).unwrap_or_else(|e| panic!("{e}")).remove(names::OUT).expect("an output")
}

/// Blocks that merge, by their modules, and the pixels of each.
fn merging_blocks(recording: &Recording) -> BTreeSet<(String, usize)> {
    let of = recording.dispatches.iter().filter(|dispatch| dispatch.kernel.stem == "token_match");
    of.map(|d| (d.label.split('.').take(2).collect::<Vec<_>>().join("."), d.write.shape.w)).collect()
}

#[test]
fn the_finest_levels_that_attend_merge() {
    let blocks = |found: &[(&str, usize)]| found.iter().map(|&(block, pixels)| (block.to_owned(), pixels)).collect();
    for (family, levels, expected) in [
        ("sd15", 1, vec![("down_blocks.0", 384), ("up_blocks.3", 384)]),
        ("sd15", 2, vec![("down_blocks.0", 384), ("down_blocks.1", 96), ("up_blocks.2", 96), ("up_blocks.3", 384)]),
        // The finest level has no attention.
        ("sdxl", 1, vec![("down_blocks.1", 96), ("up_blocks.1", 96)]),
    ] {
        let unet = unet(family);
        let half = record(&unet, Some(TokenMerging { ratio: 0.5, levels })).unwrap_or_else(|e| panic!("{e}"));
        let expected: BTreeSet<(String, usize)> = blocks(&expected);
        assert_eq!(merging_blocks(&half), expected, "{family}, {levels}");
        let whole = record(&unet, None).unwrap_or_else(|e| panic!("{e}"));
        assert!(merging_blocks(&whole).is_empty());
        // Attention over half of the pixels is a quarter of the work, and half as many rows pass its projections.
        let flops = |recording: &Recording, stem: &str| -> u64 {
            let of = recording.dispatches.iter().filter(|d| d.kernel.stem == stem && d.label.contains("attn1"));
            of.map(|d| d.flops).sum()
        };
        for stem in ["attention", "matmul"] {
            assert!(flops(&half, stem) < flops(&whole, stem), "{family}: {stem}");
        }
    }
}

#[test]
fn a_share_of_no_pixel_is_the_full_run() {
    let unet = unet("sd15");
    let none = record(&unet, Some(TokenMerging { ratio: 1e-4, levels: 1 })).unwrap_or_else(|e| panic!("{e}"));
    let whole = run(record(&unet, None).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(run(none), whole);
    // Some pixels: another result, and near it.
    let some = run(record(&unet, Some(TokenMerging { ratio: 0.1, levels: 1 })).unwrap_or_else(|e| panic!("{e}")));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
    let error = square(&mut some.iter().zip(&whole).map(|(a, b)| a - b)) / square(&mut whole.iter().copied());
    assert!(error > 0.0 && error < 0.1, "{error}");
}

#[test]
fn what_is_out_of_range_is_refused() {
    let unet = unet("sdxl");
    for (ratio, levels, expected) in [
        (0.0, 1, "a share above 0 and up to 0.75"),
        (0.8, 1, "a share above 0 and up to 0.75"),
        (f32::NAN, 1, "a share above 0 and up to 0.75"),
        (0.5, 0, "1 level or more"),
        (0.5, 3, "1 to 2 levels for this model, got 3"),
    ] {
        let merging = TokenMerging { ratio, levels };
        let refused = record(&unet, Some(merging)).err().expect("refused").to_string();
        assert!(refused.contains("token-merging: expected ") && refused.contains(expected), "{refused}");
    }
    assert_eq!("0.5".parse(), Ok(TokenMerging { ratio: 0.5, levels: 1 }));
    assert_eq!("0.25:2".parse(), Ok(TokenMerging { ratio: 0.25, levels: 2 }));
    for text in ["", "half", "0.5:", "0.5:x", ":1"] {
        assert!(text.parse::<TokenMerging>().is_err(), "{text:?}");
    }
}

/// The demo model still draws what it is asked for, with fewer operations planned.
#[test]
fn a_red_circle_stays_one() {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let pipeline = Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole");
    let request = |token_merging| Request {
        prompt: "a red circle on a black background".into(),
        num_inference_steps: 12,
        sampler: Some(SolverKind::Ddim),
        token_merging,
        ..Request::default()
    };
    let draw = |request: Request| -> Picture {
        let mut events = pipeline.generate(request).unwrap_or_else(|e| panic!("{e}"));
        events
            .find_map(|event| match event.unwrap_or_else(|e| panic!("{e}")) {
                Event::Picture(picture) => Some(*picture),
                _ => None,
            })
            .expect("a picture")
    };
    let whole = draw(request(None));
    let merged = draw(request(Some(TokenMerging { ratio: 0.5, levels: 1 })));
    let image = &merged.image;
    let at = |x: usize, y: usize| &image.data[(y * image.width + x) * 3..][..3];
    let middle = at(image.width / 2, image.height / 2);
    assert!(middle[0] > 140 && middle[0] > 2 * middle[1].max(middle[2]), "the middle is {middle:?}");
    // Without the module it is not black.
    let corner = at(3, 3).iter().zip(&whole.image.data[(3 * image.width + 3) * 3..]);
    assert!(corner.clone().all(|(a, b)| a.abs_diff(*b) < 32), "the corner: {:?}", corner.collect::<Vec<_>>());
    assert_ne!(whole.latents, merged.latents);
    let too_many = request(Some(TokenMerging { ratio: 0.5, levels: 9 }));
    let refused = pipeline.generate(too_many).err().expect("refused").to_string();
    assert!(refused.contains("levels for this model"), "{refused}");
}
