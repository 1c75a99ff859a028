//! Autoencoders.

use chiaro::models::{AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig, names};

use super::bench::{Bench, cases, channels_last, config_text, families, input, taps, weights};
use crate::support::golden::Golden;

const FILE: &str = "diffusion_pytorch_model.safetensors";

fn extent(golden: &Golden, name: &str) -> (usize, usize, usize) {
    let shape = golden.shape(name);
    (shape[0], shape[2], shape[3])
}

fn check_kl(bench: &Bench, golden: &Golden) {
    let folder = golden.path().join("vae");
    let (text, origin) = config_text(&folder);
    let config = AutoencoderKlConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let vae = AutoencoderKl::load(config, &weights(&folder, FILE, "vae")).unwrap_or_else(|e| panic!("{e}"));
    for case in bench.share(cases(golden, "vae/", "/image"), 1) {
        let at = |leaf: &str| format!("vae/{case}/{leaf}");
        let has_blocks = case == "blk" && golden.has("vae/blocks/encoder.conv_in");
        let blocks = |taps: &[String], outputs: &_, halves: [&str; 2]| {
            if has_blocks {
                let mine = |name: &str| halves.iter().any(|half| name.starts_with(half));
                bench.check_blocks(golden, "vae/blocks/", taps, outputs, mine);
            }
        };

        let (n, h, w) = extent(golden, &at("image"));
        let recording = vae.record_encode(bench.backend.caps(), n, h, w, has_blocks).unwrap_or_else(|e| panic!("{e}"));
        let order = taps(&recording);
        let image = vae.image_input(&channels_last(golden, &at("image")));
        let outputs = bench.run(recording, &[(names::IMAGE, &image)]);
        blocks(&order, &outputs, ["encoder.", "quant_conv"]);
        bench.check(golden, &at("moments"), &outputs[names::OUT]);

        let (n, h, w) = extent(golden, &at("z"));
        let recording = vae.record_decode(bench.backend.caps(), n, h, w, has_blocks).unwrap_or_else(|e| panic!("{e}"));
        let order = taps(&recording);
        let outputs = bench.run(recording, &[(names::LATENTS, &input(golden, &at("z")))]);
        blocks(&order, &outputs, ["decoder.", "post_quant_conv"]);
        bench.check(golden, &at("decoded"), &outputs[names::OUT]);
    }
}

fn check_tiny(bench: &Bench, golden: &Golden) {
    let (text, origin) = config_text(&golden.path());
    let config = AutoencoderTinyConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let vae = AutoencoderTiny::load(config, &weights(&golden.path(), FILE, "vae")).unwrap_or_else(|e| panic!("{e}"));
    for case in bench.share(cases(golden, "", "/image"), 1) {
        let at = |leaf: &str| format!("{case}/{leaf}");
        let blocks = |taps: &[String], outputs: &_, half: &str| {
            if case == "s0" {
                bench.check_blocks(golden, "blocks/", taps, outputs, |name: &str| name.starts_with(half));
            }
        };

        let (n, h, w) = extent(golden, &at("image"));
        let recording = vae.record_encode(bench.backend.caps(), n, h, w, true).unwrap_or_else(|e| panic!("{e}"));
        let order = taps(&recording);
        let image = vae.image_input(&channels_last(golden, &at("image")));
        let outputs = bench.run(recording, &[(names::IMAGE, &image)]);
        blocks(&order, &outputs, "encoder.");
        bench.check(golden, &at("latents"), &outputs[names::OUT]);

        let (n, h, w) = extent(golden, &at("z"));
        let recording = vae.record_decode(bench.backend.caps(), n, h, w, true).unwrap_or_else(|e| panic!("{e}"));
        let order = taps(&recording);
        let mut outputs = bench.run(recording, &[(names::LATENTS, &input(golden, &at("z")))]);
        blocks(&order, &outputs, "decoder.");
        let mut image = outputs.remove(names::OUT).expect("the image");
        vae.image_output(&mut image);
        bench.check(golden, &at("decoded"), &image);

        let mut scaled = channels_last(golden, &at("image"));
        vae.config().scale_latents(&mut scaled);
        bench.check(golden, &at("scaled"), &scaled);
    }
}

fn check(bench: &Bench) {
    let mut checked = 0;
    for family in families() {
        let golden = Golden::open(&family);
        if !cases(&golden, "vae/", "/image").is_empty() {
            println!("{family}/vae");
            check_kl(bench, &golden);
            checked += 1;
        }
        if !cases(&golden, "", "/image").is_empty() {
            println!("{family}");
            check_tiny(bench, &golden);
            checked += 1;
        }
    }
    assert!(checked > 0, "no family has an autoencoder");
}

#[test]
fn autoencoders_on_the_host() {
    check(&Bench::host());
}

#[test]
fn autoencoders_on_the_gpu() {
    check(&Bench::gpu());
}

#[test]
fn autoencoders_on_the_gpu_in_half_precision() {
    check(&Bench::gpu_half());
}

#[test]
fn autoencoders_in_bf16_on_the_host() {
    check(&Bench::host_bf16());
}

/// Latents to the UNet's scale and back.
#[test]
fn latents_scale_and_unscale() {
    let config =
        AutoencoderKlConfig { scaling_factor: 0.25, shift_factor: Some(0.5), ..AutoencoderKlConfig::default() };
    let mut latents = [0.5, 2.5, -1.5];
    config.scale_latents(&mut latents);
    assert_eq!(latents, [0.0, 0.5, -0.5]);
    config.unscale_latents(&mut latents);
    assert_eq!(latents, [0.5, 2.5, -1.5]);
}
