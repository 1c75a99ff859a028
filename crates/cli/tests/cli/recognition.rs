//! What a file is: `inspect` and the options that take files say the same, and where it belongs.

use std::path::Path;

use super::{chiaro, fails, json, stderr};
use crate::support::files::copy;
use crate::support::golden::committed;
use crate::support::single_file::{Entry, holes, write};

fn floats(count: usize, seed: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (((i * 7 + seed * 3) % 11) as f32 / 22.0 - 0.25).to_le_bytes()).collect()
}

fn solid(name: String, shape: &[usize], seed: usize) -> Entry {
    Entry { name, dtype: "F32", shape: shape.to_vec(), bytes: Some(floats(shape.iter().product(), seed)) }
}

/// The same factors for one attention of sd15's UNet, under names that `name` makes of a projection and `down` or `up`.
fn attention(name: impl Fn(&str, &str) -> String) -> Vec<Entry> {
    let projections = ["to_q", "to_k", "to_v", "to_out"];
    projections
        .iter()
        .enumerate()
        .flat_map(|(i, projection)| {
            let factor = |half: &str, shape: [usize; 2]| solid(name(projection, half), &shape, 2 * i + shape[0] % 2);
            [factor("down", [4, 32]), factor("up", [32, 4])]
        })
        .collect()
}

const BLOCK: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn1";

/// diffusers' own writers' names of 2023 (`attn_procs`), and those that it writes now.
#[test]
fn names_of_2023_are_those_of_today() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let old = attention(|projection, half| format!("{BLOCK}.processor.{projection}_lora.{half}.weight"));
    let new = attention(|projection, half| {
        let layer = if projection == "to_out" { "to_out.0" } else { projection };
        format!("unet.{BLOCK}.{layer}.lora.{half}.weight")
    });
    write(&at.join("old.safetensors"), &old);
    write(&at.join("new.safetensors"), &new);
    for name in ["old.safetensors", "new.safetensors"] {
        let report = json(at, &["inspect", name, "--json"]);
        assert_eq!((&report["kind"], &report["lora"]["names"]), (&"LoRA".into(), &"diffusers".into()), "{report}");
        assert_eq!(report["lora"]["layers"], serde_json::json!({"unet": 4}));
        assert_eq!(report["lora"]["unread"], serde_json::Value::Null);
    }
    let model = committed().join("sd15").display().to_string();
    let draw = |name: &str, lora: &[&str]| {
        let common = ["a cat", "--model", &model, "-d", "cpu", "-W", "64", "-H", "64", "-s", "1", "--json", "-o", name];
        json(at, &[&common[..], lora].concat());
        ::chiaro::image::open_picture(&at.join(name)).expect("a picture").data
    };
    let plain = draw("plain.png", &[]);
    let drawn = draw("old.png", &["--lora", "old.safetensors"]);
    assert_eq!(drawn, draw("new.png", &["--lora", "new.safetensors"]));
    assert_ne!(drawn, plain, "the LoRA changes the picture");
}

/// Adapters that are not applied are named alike by `inspect` and by `--lora`.
#[test]
fn adapters_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let model = committed().join("sd15").display().to_string();
    let pair = |layer: &str| {
        [
            Entry::hole(format!("{layer}.lora_down.weight"), &[4, 64]),
            Entry::hole(format!("{layer}.lora_up.weight"), &[64, 4]),
        ]
    };
    let peft = |layer: &str| {
        [
            Entry::hole(format!("{layer}.lora_A.weight"), &[4, 64]),
            Entry::hole(format!("{layer}.lora_B.weight"), &[64, 4]),
        ]
    };
    let cases: Vec<(&str, Vec<Entry>, &[&str])> = vec![
        ("flux", pair("lora_unet_double_blocks_0_img_attn_proj").into(), &["made for Flux", "not read here"]),
        ("flux_diffusers", peft("transformer.single_transformer_blocks.0.attn.to_q").into(), &["made for Flux"]),
        ("qwen", peft("transformer.transformer_blocks.0.img_mlp.net.0.proj").into(), &["made for Qwen-Image"]),
        ("qwen_bare", peft("diffusion_model.transformer_blocks.9.attn.to_k").into(), &["Qwen-Image", "not read"]),
        ("sd3", pair("lora_unet_joint_blocks_0_x_block_attn_qkv").into(), &["made for Stable Diffusion 3"]),
        ("wan", peft("diffusion_model.blocks.0.cross_attn.k").into(), &["made for Wan"]),
        ("z_image", peft("diffusion_model.layers.0.attention.to_q").into(), &["made for Z-Image"]),
        (
            "flux_t5",
            pair("lora_te2_encoder_block_0_layer_0_SelfAttention_k").into(),
            &["made for Flux", "text encoder alone"],
        ),
        (
            "numbers",
            ["up", "down"].map(|half| Entry::hole(format!("unet:0:{half}"), &[4, 4])).into(),
            &["cloneofsimo", "numbers in place of names"],
        ),
        ("oft", vec![Entry::hole("lora_unet_mid_block_proj_in.oft_blocks", &[4, 8, 8])], &["OFT", "not read here"]),
    ];
    for (name, entries, words) in cases {
        let file = format!("{name}.safetensors");
        write(&at.join(&file), &entries);
        let report = json(at, &["inspect", &file, "--json"]);
        assert_eq!(report["kind"], "LoRA", "{name}: {report}");
        let output = chiaro(at, &["inspect", &file]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("--lora applies it"), "{name}: {text}");
        let common = ["a cat", "--model", &model, "-d", "cpu", "-s", "1"];
        fails(at, &[&common[..], &["--lora", &file]].concat(), 1, words);
        let reason = report["lora"]["unread"].as_str().unwrap_or_else(|| panic!("{name}: {report}"));
        assert!(text.contains(reason), "{name}: {text}");
        fails(at, &[&common[..], &["--lora", &file]].concat(), 1, &[reason]);
    }
}

/// A LoRA of Flux that changes CLIP alone would fit Stable Diffusion's; its metadata say what it is.
#[test]
fn metadata_name_the_family() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let layer = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj";
    let with = |key: &str, said: &str| {
        let metadata = std::collections::HashMap::from([(key.to_owned(), said.to_owned())]);
        let (down, up) = (floats(4 * 16, 0), floats(16 * 4, 1));
        let view = |shape: [usize; 2], data| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).expect("fits its shape")
        };
        let tensors = [
            (format!("{layer}.lora_down.weight"), view([4, 16], &down)),
            (format!("{layer}.lora_up.weight"), view([16, 4], &up)),
        ];
        safetensors::serialize(tensors, Some(metadata)).expect("serializes")
    };
    std::fs::write(at.join("flux.safetensors"), with("modelspec.architecture", "flux-1-dev/lora")).expect("written");
    std::fs::write(at.join("own.safetensors"), with("ss_base_model_version", "sd_v1")).expect("written");
    let model = committed().join("sd15").display().to_string();
    let common = ["a cat", "--model", &model, "-d", "cpu", "-W", "64", "-H", "64", "-s", "1", "-o", "a.png"];
    let words = ["made for Flux", "not read here", "text encoder alone"];
    fails(at, &[&common[..], &["--lora", "flux.safetensors"]].concat(), 1, &words);
    assert_eq!(json(at, &["inspect", "flux.safetensors", "--json"])["lora"]["made_for"], "Flux");
    assert_eq!(json(at, &["inspect", "own.safetensors", "--json"])["lora"]["unread"], serde_json::Value::Null);
    let output = chiaro(at, &[&common[..], &["--lora", "own.safetensors"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Sound files in the place of others.
#[test]
fn what_is_given_to_another_option_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let golden = |name: &str| committed().join(name).display().to_string();
    let (sd15, oms) = (golden("sd15"), golden("oms"));
    copy(&committed().join("sd15/vae"), &at.join("vae"));
    write(&at.join("lora.safetensors"), &attention(|p, half| format!("unet.{BLOCK}.{p}.lora.{half}.weight")));
    write(&at.join("embedding.safetensors"), &[Entry::hole("emb_params", &[8, 768])]);
    write(&at.join("vae.safetensors"), &holes("vae"));
    write(&at.join("unet.safetensors"), &holes("sd15_unet"));
    write(&at.join("flux.safetensors"), &[Entry::hole("double_blocks.0.img_attn.qkv.weight", &[8, 8])]);
    write(&at.join("t5.safetensors"), &[Entry::hole("encoder.block.0.layer.0.SelfAttention.q.weight", &[8, 8])]);
    let hint = Entry::hole("control_model.input_hint_block.0.weight", &[16, 3, 3, 3]);
    write(&at.join("control.safetensors"), &[hint]);
    std::fs::write(at.join("page.pt"), "\n\n<!DOCTYPE html>\n<html><head></head></html>").expect("written");
    std::fs::copy(committed().join("sd15/vae/config.json"), at.join("text.ckpt")).expect("copied");
    let picture = ::chiaro::image::Rgb8Image { width: 2, height: 2, data: vec![0; 12] };
    ::chiaro::image::write_png(&at.join("picture.safetensors"), &picture, &[], false).expect("written");
    std::fs::create_dir(at.join("empty")).expect("made");
    tiny(&at.join("taef1.safetensors"), 16);

    let common = ["a cat", "-d", "cpu", "-s", "1", "-o", "no.png"];
    let refused = |arguments: &[&str], words: &[&str]| fails(at, &[&common[..], arguments].concat(), 1, words);
    let model = ["--model", sd15.as_str()];
    let beside = |option: &str, file: &str, words: &[&str]| {
        refused(&[model[0], model[1], option, file], words);
    };
    refused(&["--model", "lora.safetensors"], &["expected a model, got a LoRA", "(--lora)"]);
    refused(&["--model", "embedding.safetensors"], &["got a textual inversion embedding", "1.x", "(--embedding)"]);
    refused(&["--model", "vae.safetensors"], &["expected a model, got a", "autoencoder", "(--vae)"]);
    refused(&["--model", "control.safetensors"], &["got a ControlNet", "(--control)"]);
    refused(&["--model", "flux.safetensors"], &["another family (Flux)", "not supported"]);
    refused(&["--model", "t5.safetensors"], &["T5 text encoder"]);
    refused(&["--model", "page.pt"], &["page.pt", "an HTML page, not the file"]);
    refused(&["--model", "picture.safetensors"], &["a PNG picture"]);
    refused(&["--model", "text.ckpt"], &["JSON that begins"]);
    refused(&["--model", &oms], &["expected a model, got an OMS module", "(--oms)"]);
    refused(&["--model", "vae"], &["autoencoder", "(--vae)"]);
    refused(&["--model", "empty"], &["empty", "expected a model", "nothing in it that is known"]);
    beside("--oms", &sd15, &["expected an OMS module, got a model", "(--model)"]);
    beside("--oms", "lora.safetensors", &["expected an OMS module, got a LoRA", "(--lora)"]);
    beside("--oms", "empty", &["expected an OMS module", "nothing in it that is known"]);
    beside("--vae", "embedding.safetensors", &["expected an autoencoder, got a textual", "(--embedding)"]);
    beside("--vae", "unet.safetensors", &["expected an autoencoder, got a UNet", "(--unet)"]);
    beside("--vae", "page.pt", &["an HTML page, not the file"]);
    beside("--vae", "taef1.safetensors", &["latents of 4 channels", "16, as Flux"]);
    beside("--unet", "vae.safetensors", &["expected a UNet, got a", "autoencoder"]);
    beside("--unet", "vae", &["expected a UNet, got a", "autoencoder", "(--vae)"]);
    beside("--text-encoder", "lora.safetensors", &["expected a text encoder, got a LoRA", "(--lora)"]);
    beside("--lora", "unet.safetensors", &["expected a LoRA, got a UNet", "(--unet)"]);
    beside("--lora", "embedding.safetensors", &["expected a LoRA, got a textual inversion embedding", "(--embedding)"]);
    beside("--lora", "page.pt", &["an HTML page, not the file"]);
    beside("--lora", &sd15, &["expected a LoRA, got a model", "(--model)"]);
    beside("--embedding", "lora.safetensors", &["expected an embedding, got a LoRA", "(--lora)"]);
    beside("--embedding", "vae.safetensors", &["expected an embedding, got a", "autoencoder"]);

    for (file, says) in [
        ("flux.safetensors", "another family (Flux)"),
        ("t5.safetensors", "T5 text encoder"),
        ("taef1.safetensors", "tiny autoencoder (for --vae), Flux"),
    ] {
        let output = chiaro(at, &["inspect", file]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(says) && !text.contains("chiaro inspect"), "{file}: {text}");
    }
    for file in ["page.pt", "picture.safetensors"] {
        let output = chiaro(at, &["inspect", file]);
        assert!(!output.status.success() && !stderr(&output).contains("chiaro inspect"), "{}", stderr(&output));
    }
}

/// A tiny autoencoder's file for latents of so many channels: the committed one's names.
fn tiny(path: &Path, channels: usize) {
    let bytes = std::fs::read(committed().join("taesd/diffusion_pytorch_model.safetensors")).expect("readable");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
    let mut names: Vec<(String, Vec<usize>)> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect();
    names.sort();
    let last =
        names.iter().filter_map(|(n, _)| n.strip_prefix("encoder.layers.")?.split('.').next()?.parse::<usize>().ok());
    let last = last.max().expect("layers");
    let entries: Vec<Entry> = names
        .into_iter()
        .map(|(name, mut shape)| {
            if name == "decoder.layers.0.weight" {
                shape[1] = channels;
            } else if name.starts_with(&format!("encoder.layers.{last}.")) {
                shape[0] = channels;
            }
            Entry::hole(name, &shape)
        })
        .collect();
    write(path, &entries);
}
