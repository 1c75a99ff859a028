//! `chiaro inspect`: what files are, without reading their weights.

use super::{chiaro, fails, json, stderr};
use crate::support::gguf_file::{Tensor, gguf};
use crate::support::golden::committed;
use crate::support::single_file::{Entry, clip_holes, full_size, holes, write};
use crate::support::smallest::{attentions, smallest};
use crate::support::torch_file::torch;

/// Networks with their numbers of parameters.
type Counts = &'static [(&'static str, u64)];

/// Parameters of the published networks, as diffusers and transformers count them.
const PUBLISHED: [(&str, &str, Counts); 3] = [
    ("sd15", "Stable Diffusion 1.x", &[("text_encoder", 123_060_480), ("unet", 859_520_964), ("vae", 83_653_863)]),
    ("sd21", "Stable Diffusion 2.x", &[("text_encoder", 340_387_840), ("unet", 865_910_724), ("vae", 83_653_863)]),
    (
        "sdxl",
        "Stable Diffusion XL",
        &[("text_encoder", 123_060_480), ("text_encoder_2", 694_659_840), ("unet", 2_567_463_684), ("vae", 83_653_863)],
    ),
];

#[test]
fn full_size_files_are_named_and_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (model, family, components) in PUBLISHED {
        let name = "model.safetensors";
        write(&folder.path().join(name), &full_size(model));
        let report = json(folder.path(), &["inspect", name, "--json"]);
        assert_eq!((&report["kind"], &report["family"]), (&"single file".into(), &family.into()), "{model}");
        let prediction = if model == "sd21" { ("v", false) } else { ("epsilon", true) };
        assert_eq!(report["prediction"], prediction.0);
        assert_eq!(report["prediction_is_known"], prediction.1);
        let found: Vec<(&str, u64)> = report["components"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| (c["name"].as_str().expect("text"), c["parameters"].as_u64().expect("a number")))
            .collect();
        assert_eq!(found, components, "{model}");
        assert_eq!(report["problems"], serde_json::json!([]), "{model}");
        assert_eq!(report["missing"], serde_json::json!([]), "{model}");
        let memory = report["memory"].as_array().expect("a list");
        assert_eq!(memory.len(), 6, "three sizes in two types");
        for entry in memory.iter().filter(|entry| entry["storage"] == "f16" && entry["side"] == 512) {
            // No less than the largest network's weights.
            let weights = 2 * components.iter().map(|c| c.1).max().expect("networks");
            assert!(entry["peak_bytes"].as_u64().expect("a number") > weights, "{model}: {entry}");
        }
        let output = chiaro(folder.path(), &["inspect", name]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(text.contains(family) && text.contains("1024×1024 in f16"), "{text}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut entries = holes("sdxl_unet");
    entries.push(Entry::hole("model_ema.decay", &[1]));
    entries.push(Entry::hole("strange", &[1]));
    write(&folder.path().join("unet.safetensors"), &entries);
    let report = json(folder.path(), &["inspect", "unet.safetensors", "--json"]);
    assert_eq!(report["missing"], serde_json::json!(["text_encoder", "text_encoder_2", "vae"]));
    assert_eq!((&report["ema_tensors"], &report["foreign"]), (&1.into(), &serde_json::json!(["strange"])));
    write(&folder.path().join("other.safetensors"), &[Entry::hole("transformer.h.0.weight", &[4])]);
    let report = json(folder.path(), &["inspect", "other.safetensors", "--json"]);
    assert_eq!(report["kind"], "tensors");
    assert!(report["problems"][0].as_str().is_some_and(|p| p.contains("transformer.h.0.weight")), "{report}");
    std::fs::write(folder.path().join("cut.safetensors"), b"12345").expect("a file");
    fails(folder.path(), &["inspect", "cut.safetensors"], 1, &["cut.safetensors", "cut short"]);
    fails(folder.path(), &["inspect", "nowhere"], 1, &["nowhere", "no such file or folder"]);
}

#[test]
fn adapters_are_recognised() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |names: &[(&str, &[usize])], kind: &str, style: &str, layers: serde_json::Value, ranks: &[usize]| {
        let entries: Vec<Entry> = names.iter().map(|(name, shape)| Entry::hole(*name, shape)).collect();
        write(&folder.path().join("lora.safetensors"), &entries);
        let report = json(folder.path(), &["inspect", "lora.safetensors", "--json"]);
        assert_eq!(report["kind"], "LoRA");
        let found = &report["lora"];
        assert_eq!((&found["kind"], &found["names"]), (&kind.into(), &style.into()), "{found}");
        assert_eq!((&found["layers"], &found["ranks"]), (&layers, &serde_json::json!(ranks)), "{found}");
    };
    let kohya: &[(&str, &[usize])] = &[
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", &[16, 320, 1, 1]),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", &[320, 16, 1, 1]),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.alpha", &[]),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", &[8, 768]),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", &[8, 1280]),
    ];
    check(kohya, "LoRA", "kohya", serde_json::json!({"text_encoder": 1, "text_encoder_2": 1, "unet": 1}), &[8, 16]);
    let peft: &[(&str, &[usize])] = &[
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", &[4, 1280]),
        ("unet.mid_block.attentions.0.proj_in.lora_B.weight", &[1280, 4]),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", &[1280]),
    ];
    check(peft, "DoRA", "PEFT", serde_json::json!({"unet": 1}), &[4]);
    let hada: &[(&str, &[usize])] = &[("lora_unet_mid_block_attentions_0_proj_in.hada_w1_b", &[6, 1280])];
    check(hada, "LoHa", "kohya", serde_json::json!({"unet": 1}), &[6]);
}

#[test]
fn control_nets_are_recognised() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for net in ["sd15_a", "sd21", "sdxl"] {
        crate::support::control::write_folder(net, folder.path());
    }
    for (net, family) in
        [("sd15_a", "Stable Diffusion 1.x"), ("sd21", "Stable Diffusion 2.x"), ("sdxl", "Stable Diffusion XL")]
    {
        let report = json(folder.path(), &["inspect", net, "--json"]);
        assert_eq!((&report["kind"], &report["family"]), (&"ControlNet".into(), &family.into()), "{report}");
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    }
    let hint = Entry::hole("control_model.input_hint_block.0.weight", &[16, 3, 3, 3]);
    write(&folder.path().join("lora.safetensors"), &[hint, Entry::hole("lora_controlnet", &[1])]);
    let report = json(folder.path(), &["inspect", "lora.safetensors", "--json"]);
    assert_eq!(report["kind"], "ControlNet");
    assert!(report["problems"][0].as_str().is_some_and(|p| p.contains("Control-LoRA")), "{report}");
}

#[test]
fn embeddings_are_recognised() {
    let here = std::env::current_dir().expect("a folder");
    let path = |name: &str| committed().join(format!("embeddings/{name}.safetensors")).display().to_string();
    for (name, vectors, widths, token) in [
        ("easyneg", 3, vec![16], None),
        ("learned_embeds", 1, vec![16], Some("<cat-toy>")),
        ("zzpair", 2, vec![16; 2], None),
    ] {
        let report = json(&here, &["inspect", &path(name), "--json"]);
        assert_eq!(report["kind"], "embedding", "{report}");
        let want = serde_json::json!({ "vectors": vectors, "widths": widths, "token": token });
        assert_eq!(report["embedding"], want, "{name}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(&folder.path().join("sd.safetensors"), &[Entry::hole("emb_params", &[8, 1024])]);
    assert_eq!(json(folder.path(), &["inspect", "sd.safetensors", "--json"])["family"], "Stable Diffusion 2.x");
    let output = chiaro(folder.path(), &["inspect", "sd.safetensors"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("8 vectors of width 1024"), "{}", stderr(&output));
}

#[test]
fn folders_and_modules() {
    let here = std::env::current_dir().expect("a folder");
    let golden = |family: &str| committed().join(family).display().to_string();
    let report = json(&here, &["inspect", &golden("sd15"), "--json"]);
    assert_eq!((&report["kind"], &report["family"]), (&"model folder".into(), &"Stable Diffusion 1.x".into()));
    assert_eq!(report["memory"].as_array().map(Vec::len), Some(6), "{report}");
    assert_eq!(json(&here, &["inspect", &golden("sd21"), "--json"])["prediction"], "v");
    // The golden is kept without its tokenizers.
    let report = json(&here, &["inspect", &golden("sdxl"), "--json"]);
    assert_eq!(report["family"], "Stable Diffusion XL");
    let unet = format!("{}/unet", golden("lcm"));
    assert_eq!(json(&here, &["inspect", &unet, "--json"])["kind"], "component folder");
    let report = json(&here, &["inspect", &golden("oms"), "--json"]);
    assert_eq!(report["kind"], "OMS module");
    assert_eq!((&report["oms"]["latent_channels"], &report["oms"]["text_width"]), (&4.into(), &16.into()), "{report}");
}

/// Refiners, models of instructions and of inpainting, and autoencoders alone.
#[test]
fn variants_of_models() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inspect = |name: &str| json(folder.path(), &["inspect", name, "--json"]);
    for (channels, says) in [(8, "for instructions"), (9, "for inpainting")] {
        let mut entries = full_size("sd15");
        let first = "model.diffusion_model.input_blocks.0.0.weight";
        for entry in entries.iter_mut().filter(|entry| entry.name == first) {
            entry.shape[1] = channels;
        }
        write(&folder.path().join("other.safetensors"), &entries);
        let report = inspect("other.safetensors");
        assert_eq!((&report["in_channels"], &report["problems"]), (&channels.into(), &serde_json::json!([])));
        assert_eq!(report["memory"].as_array().map(Vec::len), Some(6), "{report}");
        let output = chiaro(folder.path(), &["inspect", "other.safetensors"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(says), "{text}");
    }
    write(&folder.path().join("vae.safetensors"), &holes("vae"));
    assert_eq!(inspect("vae.safetensors")["kind"], "autoencoder");
    let tiny = committed().join("taesd/diffusion_pytorch_model.safetensors");
    let report = inspect(&tiny.display().to_string());
    assert_eq!((&report["kind"], &report["missing"]), (&"tiny autoencoder".into(), &serde_json::json!([])));
    let refiner = crate::support::xl_folder::refiner();
    let report = inspect(&refiner.path().display().to_string());
    assert_eq!(
        (&report["family"], &report["problems"]),
        (&"Stable Diffusion XL refiner".into(), &serde_json::json!([]))
    );
    assert_eq!(report["memory"].as_array().map(Vec::len), Some(6), "{report}");
}

/// Networks, numbers and types of the same tensors are the same in each format.
#[test]
fn formats_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut entries = [smallest(), attentions()].concat();
    for entry in &mut entries {
        entry.bytes = Some(vec![0; entry.len()]);
    }
    let tensors = |kind: u32| -> Vec<Tensor> {
        let of = |entry: &Entry| match (kind, entry.shape[..].len()) {
            (8, 2) => {
                Tensor::new(&entry.name, 8, &entry.shape, vec![0; entry.shape.iter().product::<usize>() / 32 * 34])
            }
            _ => Tensor::of(entry),
        };
        entries.iter().map(of).collect()
    };
    write(&folder.path().join("model.safetensors"), &entries);
    std::fs::write(folder.path().join("model.ckpt"), torch(&entries, true)).expect("written");
    std::fs::write(folder.path().join("model.gguf"), gguf(&tensors(1), &[])).expect("written");
    std::fs::write(folder.path().join("blocks.gguf"), gguf(&tensors(8), &[])).expect("written");
    let inspect = |name: &str| json(folder.path(), &["inspect", name, "--json"]);
    let wanted = inspect("model.safetensors");
    assert_eq!((&wanted["format"], &wanted["components"][0]["name"]), (&"safetensors".into(), &"text_encoder".into()));
    for (name, format) in [("model.ckpt", "PyTorch"), ("model.gguf", "GGUF"), ("blocks.gguf", "GGUF")] {
        let report = inspect(name);
        assert_eq!(report["format"], format);
        for key in ["kind", "family", "missing", "foreign"] {
            assert_eq!(report[key], wanted[key], "{name}: {key}");
        }
        if name != "blocks.gguf" {
            assert_eq!(report["components"], wanted["components"], "{name}");
        }
        let output = chiaro(folder.path(), &["inspect", name]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(&format!("({format}), ")), "{text}{}", stderr(&output));
    }
    let blocks = inspect("blocks.gguf");
    for (component, wanted) in [0, 1, 2].map(|i| (&blocks["components"][i], &wanted["components"][i])) {
        let counts = ["F16", "Q8_0"].map(|name| component["types"][name].as_u64().unwrap_or(0));
        assert_eq!(counts[0] + counts[1], wanted["parameters"].as_u64().expect("a number"), "{component}");
        assert_eq!(counts[1] > 0, component["name"] != "vae", "{component}");
    }
    let golden = committed().join("formats");
    let report = json(&golden, &["inspect", "types.gguf", "--json"]);
    assert_eq!((&report["kind"], &report["components"][0]["types"]["Q4_K"]), (&"tensors".into(), &1536.into()));
}

/// Stable Diffusion 2.x under the names that stable-diffusion.cpp gives its OpenCLIP: all 24 layers, of which one is never read.
#[test]
fn renamed_text_encoders_are_named_and_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut entries = holes("sd21_unet");
    // As convolutions of one pixel, as it stored them until November 2025.
    for entry in &mut entries {
        if entry.name.ends_with("proj_in.weight") || entry.name.ends_with("proj_out.weight") {
            entry.shape.extend([1, 1]);
        }
    }
    entries.extend(holes("vae"));
    let text = clip_holes(1024, 4096, 24, None).into_iter();
    entries.extend(text.map(|entry| Entry { name: format!("cond_stage_model.transformer.{}", entry.name), ..entry }));
    write(&folder.path().join("sd2.safetensors"), &entries);
    write(&folder.path().join("original.safetensors"), &full_size("sd21"));
    let report = json(folder.path(), &["inspect", "sd2.safetensors", "--json"]);
    let wanted = json(folder.path(), &["inspect", "original.safetensors", "--json"]);
    assert_eq!(report["family"], "Stable Diffusion 2.x");
    for key in ["prediction", "components", "missing", "foreign", "problems", "memory"] {
        assert_eq!(report[key], wanted[key], "{key}");
    }
    // The two encoders of SDXL.
    let mut entries = holes("sdxl_unet");
    entries.extend(holes("vae"));
    for (prefix, encoder) in [("", clip_holes(768, 3072, 12, None)), ("1.", clip_holes(1280, 5120, 32, None))] {
        let renamed = encoder
            .into_iter()
            .map(|e| Entry { name: format!("cond_stage_model.{prefix}transformer.{}", e.name), ..e });
        entries.extend(renamed);
    }
    entries.push(Entry::hole("cond_stage_model.1.transformer.text_model.text_projection", &[1280, 1280]));
    write(&folder.path().join("xl.safetensors"), &entries);
    write(&folder.path().join("original.safetensors"), &full_size("sdxl"));
    let report = json(folder.path(), &["inspect", "xl.safetensors", "--json"]);
    let wanted = json(folder.path(), &["inspect", "original.safetensors", "--json"]);
    for key in ["family", "components", "missing", "foreign", "problems", "memory"] {
        assert_eq!(report[key], wanted[key], "{key}");
    }
}

/// A pickle that would run a command: inspect reads past it, or says what it is, and runs nothing.
#[test]
fn hostile_pickles_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["beside.ckpt", "among.ckpt", "instead.ckpt"] {
        std::fs::copy(committed().join("formats").join(name), folder.path().join(name)).expect("copied");
    }
    assert_eq!(json(folder.path(), &["inspect", "beside.ckpt", "--json"])["format"], "PyTorch");
    fails(folder.path(), &["inspect", "among.ckpt"], 1, &["among.ckpt", "posix.system", "never called"]);
    fails(folder.path(), &["inspect", "instead.ckpt"], 1, &["instead.ckpt", "posix.system", "torch.load("]);
    assert!(!folder.path().join("pickle-was-executed").exists());
}
