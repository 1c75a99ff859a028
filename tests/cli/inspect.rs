//! `chiaro inspect`: what files are, without reading their weights.

use super::{chiaro, fails, json, stderr};
use crate::support::golden::root;
use crate::support::single_file::{Entry, full_size, holes, write};

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
    let path = |name: &str| root().join(format!("embeddings/{name}.safetensors")).display().to_string();
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
    let golden = |family: &str| root().join(family).display().to_string();
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
