//! ControlNets alone: what each gives to a UNet's states.

use chiaro::models::original::{Control, Family};
use chiaro::models::{ControlNet, ControlNetConfig, UnetConfig, names};
use chiaro::weights::{TensorSet, WeightFile};
use serde_json::{Map, Value};
use std::sync::Arc;

use super::bench::{Bench, channels_last, config_text, input, weights};
use super::unet::sinusoid;
use crate::support::control::{entries, family, table, write_folder};
use crate::support::golden::{Golden, committed};
use crate::support::single_file::{Entry, write};

const NETS: [&str; 5] = ["sd15_a", "sd15_b", "sd21", "sdxl", "inpaint9"];

fn check(bench: &Bench) {
    let golden = Golden::open_in(&committed(), "control");
    for net in bench.share(NETS.to_vec(), 4) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = write_folder(net, folder.path());
        let (text, origin) = config_text(&at);
        let config = ControlNetConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
        let w = weights(&at, "diffusion_pytorch_model.safetensors", "controlnet");
        let control = ControlNet::load(config, &w).unwrap_or_else(|e| panic!("{e}"));
        let named = |leaf: &str| format!("net/{net}/{leaf}");
        let config = &control.config().unet;
        let shape = golden.shape(&named("sample"));
        let (n, h, w) = (shape[0], shape[2], shape[3]);
        let times = golden.f64s(&named("timesteps"));
        let time: Vec<f32> = times.iter().flat_map(|&t| sinusoid(t, config.block_out_channels[0])).collect();
        let picture: Vec<f32> = golden.f32s(&named("picture_u8")).iter().map(|v| v / 255.0).collect();
        let mut inputs = vec![
            (names::SAMPLE.to_owned(), input(&golden, &named("sample"))),
            (names::ENCODER_HIDDEN_STATES.to_owned(), golden.f32s(&named("context"))),
            (names::TIME_PROJ.to_owned(), time),
            (names::control_image(0), chiaro::models::layout::pad_rows(&picture, 3)),
        ];
        if let Some(dim) = config.projection_class_embeddings_input_dim {
            let (pooled, ids) = (golden.f32s(&named("text_embeds")), golden.f64s(&named("time_ids")));
            let size = config.addition_time_embed_dim.expect("SDXL embeds sizes");
            let rows = pooled.chunks(pooled.len() / n).zip(ids.chunks(ids.len() / n));
            let added: Vec<f32> = rows
                .flat_map(|(p, ids)| p.iter().copied().chain(ids.iter().flat_map(|&id| sinusoid(id, size))))
                .collect();
            inputs.push((names::ADD_EMBEDS.to_owned(), chiaro::models::layout::pad_rows(&added, dim)));
        }
        let tokens = golden.shape(&named("context"))[1];
        let recording =
            control.record(bench.backend.caps(), [n, h, w], tokens, true).unwrap_or_else(|e| panic!("{net}: {e}"));
        let inputs: Vec<(&str, &[f32])> =
            inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        let outputs = bench.run(recording, &inputs);
        bench.check(&golden, &named("embedding"), &outputs["controlnet_cond_embedding"]);
        let sites = control.sites() - 1;
        for site in 0..sites {
            bench.check(&golden, &named(&format!("down.{site}")), &outputs[&format!("controlnet_down_blocks.{site}")]);
        }
        assert!(!golden.has(&named(&format!("down.{sites}"))), "{net}: a result is missing");
        bench.check(&golden, &named("mid"), &outputs["controlnet_mid_block"]);
        // A result of zeros would agree with anything small.
        assert!(channels_last(&golden, &named("mid")).iter().any(|v| v.abs() > 0.1), "{net}");
    }
}

#[test]
fn control_nets_on_the_host() {
    check(&Bench::host());
}

#[test]
fn control_nets_on_the_gpu() {
    check(&Bench::gpu());
}

#[test]
fn control_nets_on_the_gpu_in_half_precision() {
    check(&Bench::gpu_half());
}

#[test]
fn control_nets_in_bf16_on_the_host() {
    check(&Bench::host_bf16());
}

fn recognise(entries: &[Entry]) -> chiaro::Result<Control> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("net.safetensors");
    write(&path, entries);
    let file: TensorSet = Arc::new(WeightFile::open(path)?).into();
    Control::read(&file, &Map::new())
}

fn config(found: &Control) -> ControlNetConfig {
    let text = Value::Object(found.part.config.clone()).to_string();
    ControlNetConfig::from_json(&text, "net").unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_name_of_the_full_size_nets() {
    let families = [("sd15", Family::Sd1, 768), ("sd21", Family::Sd2, 1024), ("sdxl", Family::Xl, 2048)];
    for (section, family, width) in families {
        let rows = table(section);
        let mut originals: Vec<Entry> = rows.iter().map(|(_, entry)| entry.clone()).collect();
        let mut renamed: Vec<(String, Vec<usize>)> =
            rows.into_iter().map(|(name, entry)| (name, entry.shape)).collect();
        if section == "sdxl" {
            // The converter leaves these out; they are named as the UNet's (`tests/golden/single_file`).
            for (old, new, shape) in [
                ("label_emb.0.0", "add_embedding.linear_1", vec![1280, 2816]),
                ("label_emb.0.2", "add_embedding.linear_2", vec![1280, 1280]),
            ] {
                for (leaf, shape) in [("weight", shape.clone()), ("bias", vec![1280])] {
                    originals.push(Entry::hole(format!("control_model.{old}.{leaf}"), &shape));
                    renamed.push((format!("{new}.{leaf}"), shape));
                }
            }
        }
        renamed.sort();
        for bare in [false, true] {
            let entries: Vec<Entry> = originals
                .iter()
                .map(|e| Entry {
                    name: if bare { e.name.replace("control_model.", "") } else { e.name.clone() },
                    ..e.clone()
                })
                .collect();
            let found = recognise(&entries).unwrap_or_else(|e| panic!("{section}: {e}"));
            let shapes: Vec<(String, Vec<usize>)> =
                found.part.tensors.tensors().iter().map(|(name, view)| (name.clone(), view.shape().to_vec())).collect();
            assert_eq!((found.family, shapes), (family, renamed.clone()), "{section}");
            assert!(found.foreign.is_empty(), "{:?}", found.foreign);
            let config = config(&found);
            assert_eq!(config.unet.cross_attention_dim, width);
            assert_eq!(config.conditioning_embedding_out_channels, [16, 32, 96, 256]);
            assert!(!config.is_bgr && config.pixels_per_latent() == 8);
        }
        let holes: Vec<Entry> = renamed.iter().map(|(name, shape)| Entry::hole(name, shape)).collect();
        let found = recognise(&holes).unwrap_or_else(|e| panic!("{section}: {e}"));
        assert_eq!((found.family, found.part.tensors.tensors().len()), (family, renamed.len()), "diffusers' names");
    }
}

/// The configuration that follows from shapes is that of the published full-size nets.
#[test]
fn configurations_of_the_full_size_nets() {
    let of = |section: &str| {
        let entries: Vec<Entry> = table(section).into_iter().map(|(_, entry)| entry).collect();
        config(&recognise(&entries).unwrap_or_else(|e| panic!("{e}"))).unet
    };
    let text = r#"{"_class_name": "ControlNetModel", "cross_attention_dim": 768, "attention_head_dim": 8}"#;
    let sd15 = ControlNetConfig::from_json(text, "published").unwrap_or_else(|e| panic!("{e}")).unet;
    let flat = |config: &UnetConfig| {
        let levels = config.block_out_channels.len();
        let one = |many: &chiaro::models::OneOrMany| match many {
            chiaro::models::OneOrMany::One(v) => vec![*v; levels],
            chiaro::models::OneOrMany::Many(v) => v.clone(),
        };
        (
            config.block_out_channels.clone(),
            config.down_block_types.clone(),
            one(&config.layers_per_block),
            one(&config.transformer_layers_per_block),
            one(&config.attention_head_dim),
            config.use_linear_projection,
        )
    };
    assert_eq!(flat(&of("sd15")), flat(&sd15));
    let sd21 = flat(&of("sd21"));
    assert_eq!((sd21.4, sd21.5), (vec![5, 10, 20, 20], true));
    let sdxl = flat(&of("sdxl"));
    assert_eq!((sdxl.0, sdxl.3, sdxl.4), (vec![320, 640, 1280], vec![1, 2, 10], vec![5, 10, 20]));
}

#[test]
fn relatives_and_strangers_are_refused_by_name() {
    let refusal = |entries: &[Entry]| recognise(entries).err().expect("it is no ControlNet").to_string();
    let hint = Entry::hole("input_hint_block.0.weight", &[16, 3, 3, 3]);
    for (name, words) in [
        ("lora_controlnet", "Control-LoRA"),
        ("lllite_unet_input_blocks_1_0.down.0.weight", "LLLite"),
        ("adapter.body.0.resnets.0.block1.weight", "T2I-Adapter"),
        ("task_embedding", "union"),
        ("difference", "difference"),
    ] {
        let message = refusal(&[hint.clone(), Entry::hole(name, &[1])]);
        assert!(message.contains(words) && message.contains("not supported"), "{message}");
    }
    let message = refusal(&[Entry::hole("conv_in.weight", &[4])]);
    assert!(message.contains("expected a ControlNet") && message.contains("conv_in.weight"), "{message}");
    let mut gap = table("sd15").into_iter().map(|(_, entry)| entry).collect::<Vec<_>>();
    gap.retain(|entry| !entry.name.contains("input_blocks.5."));
    assert!(refusal(&gap).contains("input_blocks.5"));
    for (field, value) in [("global_pool_conditions", "true"), ("conditioning_channels", "6"), ("freq_shift", "1")] {
        let text = format!(r#"{{"_class_name": "ControlNetModel", "{field}": {value}}}"#);
        let message = ControlNetConfig::from_json(&text, "net/config.json").expect_err(field).to_string();
        assert!(message.contains(field), "{message}");
    }
    let message = ControlNetConfig::from_json(r#"{"_class_name": "T2IAdapter"}"#, "x").expect_err("class").to_string();
    assert!(message.contains("ControlNetModel") && message.contains("T2IAdapter"), "{message}");
}

#[test]
fn a_net_of_another_family_does_not_fit() {
    let unet = |family: &str| {
        let (text, origin) = config_text(&committed().join(family).join("unet"));
        UnetConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"))
    };
    for net in NETS {
        let (text, origin) = config_text(&committed().join("control").join(net));
        let config = ControlNetConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
        for other in ["sd15", "sd21", "sdxl"] {
            assert_eq!(config.misfit(&unet(other)).is_none(), other == family(net), "{net} on {other}");
        }
    }
    assert!(entries("sdxl").iter().any(|entry| entry.name.starts_with("add_embedding.")));
}
