//! `--like` on other programs' pictures: what is read, asked for, told. The files are written here, by the formats' specifications.

use std::path::Path;

use serde_json::{Value, json};

use super::{chiaro, fails, report, stderr};
use crate::support::control::write_folder;
use crate::support::files::copy;
use crate::support::golden::committed;
use crate::support::picture_file::{chunk, comment, jpeg, png, webp};
use ::chiaro::image::read_png;

/// A picture with one text.
fn write(folder: &Path, name: &str, keyword: &str, text: &str) {
    let data = [keyword.as_bytes(), b"\0", text.as_bytes()].concat();
    std::fs::write(folder.join(name), png(&[chunk(b"tEXt", &data)])).expect("writable");
}

const COMMON: [&str; 6] = ["-d", "cpu", "--overwrite", "-o", "out.png", "--json"];

/// What a repeated picture says of itself, what was told beside it, and the messages.
fn like(folder: &Path, file: &str, more: &[&str]) -> (Value, Vec<String>, String) {
    let sd15 = committed().join("sd15").display().to_string();
    let arguments = [&["--like", file, "--model", &sd15], more, &COMMON].concat();
    let output = chiaro(folder, &arguments);
    let said = stderr(&output);
    assert!(output.status.success(), "{file}: {said}");
    let report = report(&output.stdout);
    let told = report["not_repeated"].as_array().expect("a list");
    let told: Vec<String> = told.iter().map(|field| field.as_str().expect("text").to_owned()).collect();
    let line = said.lines().filter(|line| line.starts_with("not repeated: ")).count();
    assert_eq!(line, usize::from(!told.is_empty()), "{file}: one line: {said}");
    (report["pictures"][0]["parameters"][0]["request"].clone(), told, said)
}

const FIELDS: &str = "Steps: 2, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 64x64";

fn text(more: &str) -> String {
    format!("a red circle\nNegative prompt: blue\n{FIELDS}{more}")
}

fn is_usual(request: &Value) {
    let own = ["prompt", "negative_prompt", "num_inference_steps", "sampler", "seed", "width"]
        .map(|name| request[name].clone());
    let want = [json!("a red circle"), json!("blue"), json!(2), json!("euler_ancestral"), json!(5), json!(64)];
    assert_eq!(own, want);
}

#[test]
fn automatic1111_s_text_in_every_container() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let block = comment(&text(""));
    let prefixed = [b"Exif\0\0", &block[..]].concat();
    let files = [
        ("a.jpg", jpeg(&[(0xe1, prefixed)])),
        ("a.webp", webp(&[(b"EXIF", &block)])),
        ("b.png", png(&[chunk(b"eXIf", &block)])),
        ("c.png", png(&[chunk(b"tEXt", format!("parameters\0{}", text("")).as_bytes())])),
    ];
    for (name, bytes) in files {
        std::fs::write(at.join(name), bytes).expect("writable");
        let (request, told, _) = like(at, name, &[]);
        is_usual(&request);
        assert_eq!(told, [] as [&str; 0], "{name}");
    }
    write(at, "utf8.png", "parameters", &text("").replace("a red circle", "红色的圆 é"));
    assert_eq!(like(at, "utf8.png", &[]).0["prompt"], "红色的圆 é");
    write(at, "template.png", "parameters", &text("\nTemplate:a {red|blue} circle"));
    is_usual(&like(at, "template.png", &[]).0);
}

#[test]
fn fields_are_acted_on_asked_for_or_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    write(at, "ensd.png", "parameters", &text(", ENSD: 31337"));
    let (request, told, _) = like(at, "ensd.png", &[]);
    assert_eq!((&request["noise_seed_delta"], told.len()), (&json!(31337), 0));
    let pixels = || read_png(&at.join("out.png")).expect("a picture").data;
    let with = pixels();
    write(at, "plain.png", "parameters", &text(""));
    like(at, "plain.png", &[]);
    assert_ne!(with, pixels(), "draws after the first noise come from elsewhere");
    like(at, "plain.png", &["--ensd", "31337"]);
    assert_eq!(with, pixels());

    let control = ", ControlNet 0: \"Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.5\"";
    write(at, "control.png", "parameters", &text(control));
    let (request, told, said) = like(at, "control.png", &[]);
    is_usual(&request);
    assert!(told.len() == 1 && said.contains("ControlNet 0"), "{said}");
    // With a net that is typed, its numbers are repeated, and nothing is left to tell.
    write_folder("sd15_a", &at.join("nets"));
    let net = at.join("nets/sd15_a").display().to_string();
    let (request, told, _) = like(at, "control.png", &["--control", &net, "--control-image", "out.png"]);
    assert_eq!((&request["controls"][0]["weight"], told.len()), (&json!(0.5), 0));

    let image = ", Denoising strength: 0.57, Mask blur: 4";
    write(at, "image.png", "parameters", &text(image));
    fails(
        at,
        &["--like", "image.png", "--model", &committed().join("sd15").display().to_string(), "-d", "cpu"],
        2,
        &["--image"],
    );
    let output = chiaro(
        at,
        &[
            "--like",
            "image.png",
            "--model",
            &committed().join("sd15").display().to_string(),
            "--image",
            "out.png",
            "-d",
            "cpu",
            "-o",
            "i.png",
            "--json",
        ],
    );
    let report = report(&output.stdout);
    assert_eq!(report["pictures"][0]["parameters"][0]["image"]["strength"], 0.57, "{}", stderr(&output));
    assert_eq!(report["not_repeated"], json!(["Mask blur 4"]));

    write(at, "odd.png", "parameters", &text("").replace("Euler a", "DPM adaptive"));
    fails(
        at,
        &["--like", "odd.png", "--model", &committed().join("sd15").display().to_string(), "-d", "cpu"],
        2,
        &["DPM adaptive", "--sampler"],
    );
    let (request, told, _) = like(at, "odd.png", &["--sampler", "euler"]);
    assert_eq!((&request["sampler"], told), (&json!("euler"), vec!["sampler DPM adaptive".to_owned()]));
    write(at, "lora.png", "parameters", &text("").replace("a red circle", "a red circle <lora:nowhere:1>"));
    fails(
        at,
        &["--like", "lora.png", "--model", &committed().join("sd15").display().to_string(), "-d", "cpu"],
        2,
        &["nowhere", "--lora-dir"],
    );
}

/// The model and its parts are looked up where --model looks.
#[test]
fn models_are_found_by_their_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    copy(&committed().join("sd15"), &at.join("models/checkpoints/some model"));
    write(at, "named.png", "parameters", &text(", Model: some model"));
    write(at, "path.png", "parameters", &text(", Model: ../models/checkpoints/some model"));
    let run = |file: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(["--like", file, "-d", "cpu", "--overwrite", "-o", "out.png"])
            .current_dir(at)
            .env("HF_HUB_CACHE", at)
            .env("CHIARO_MODELS", at.join("models"))
            .output()
            .expect("the binary under test starts")
    };
    let output = run("named.png");
    assert!(output.status.success(), "{}", stderr(&output));
    // A picture's maker does not choose paths.
    let output = run("path.png");
    assert!(output.status.success(), "the name alone counts: {}", stderr(&output));
    fails(at, &["--like", "named.png", "-d", "cpu"], 2, &["some model", "--model"]);
}

#[test]
fn other_programs_are_read_or_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let graph = json!({
        "3": { "class_type": "KSampler", "inputs": { "cfg": 7.0, "denoise": 1.0, "latent_image": ["5", 0], "model": ["4", 0], "negative": ["7", 0],
            "positive": ["6", 0], "sampler_name": "euler", "scheduler": "normal", "seed": 42, "steps": 2 } },
        "4": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "x.safetensors" } },
        "5": { "class_type": "EmptyLatentImage", "inputs": { "batch_size": 1, "height": 64, "width": 64 } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "clip": ["4", 1], "text": "a red circle" } },
        "7": { "class_type": "CLIPTextEncode", "inputs": { "clip": ["4", 1], "text": "blue" } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["4", 2] } },
        "9": { "class_type": "SaveImage", "inputs": { "filename_prefix": "x", "images": ["8", 0] } }
    });
    let fooocus = json!({ "prompt": "a red circle", "negative_prompt": "blue", "steps": 2, "guidance_scale": 4.0, "seed": "42", "sampler": "euler",
        "scheduler": "karras", "resolution": "(64, 64)", "base_model": "x", "version": "Fooocus v2.2.1" });
    let invoke = json!({ "generation_mode": "txt2img", "positive_prompt": "a red circle", "negative_prompt": "blue", "width": 64, "height": 64, "seed": 42,
        "rand_device": "cpu", "cfg_scale": 7.5, "steps": 2, "scheduler": "euler", "model": { "model_name": "x" } });
    for (keyword, json) in [("prompt", &graph), ("parameters", &fooocus), ("invokeai_metadata", &invoke)] {
        write(at, "a.png", keyword, &json.to_string());
        let (request, told, _) = like(at, "a.png", &[]);
        let own = ["prompt", "negative_prompt", "num_inference_steps", "seed"].map(|name| request[name].clone());
        assert_eq!(own, [json!("a red circle"), json!("blue"), json!(2), json!(42)], "{keyword}");
        assert_eq!(told, [] as [&str; 0], "{keyword}");
    }
    // ComfyUI keeps a WebP's graph in EXIF texts.
    let value = [format!("prompt:{graph}").as_bytes(), b"\0"].concat();
    let count = (value.len() as u32).to_be_bytes();
    let block = [&b"MM\0\x2a\0\0\0\x08\0\x01\x01\x10\0\x02"[..], &count, &[0, 0, 0, 26, 0, 0, 0, 0], &value].concat();
    std::fs::write(at.join("a.webp"), webp(&[(b"EXIF", &block)])).expect("writable");
    assert_eq!(like(at, "a.webp", &[]).0["prompt"], "a red circle");
    let sd15 = committed().join("sd15").display().to_string();
    for (keyword, text, words) in [
        ("prompt", "{}", ["ComfyUI", "sampler"]),
        ("workflow", "{\"nodes\":[]}", ["ComfyUI", "no nodes"]),
        ("Dream", "\"a\" -s 50", ["InvokeAI", "older"]),
        ("sd-metadata", "{}", ["InvokeAI", "older"]),
        ("parameters", "{\"sui_image_params\":{}}", ["SwarmUI", "type them"]),
        ("Title", "nothing", ["a.png", "no parameters"]),
    ] {
        write(at, "a.png", keyword, text);
        fails(at, &["--like", "a.png", "--model", &sd15, "-d", "cpu"], 2, &words);
    }
}

/// The files that were handed over with what is right for them, where they are at hand.
#[test]
fn the_faults_that_were_found() {
    let faults = Path::new(crate::ROOT).join("../shared/faults");
    if !faults.is_dir() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let path = |name: &str| faults.join(name).display().to_string();
    is_usual(&like(at, &path("like_a1111.jpg"), &[]).0);
    is_usual(&like(at, &path("like_template_line.png"), &[]).0);
    assert_eq!(like(at, &path("like_utf8_in_text.png"), &[]).0["prompt"], "红色的圆 é");
    assert!(like(at, &path("like_controlnet.png"), &[]).2.contains("ControlNet 0"));
    assert_eq!(like(at, &path("like_ensd.png"), &[]).0["noise_seed_delta"], 31337);
    for (file, sampler) in [("like_sdcpp_lcm.png", "lcm"), ("like_sdcpp_dpm2.png", "dpm_2")] {
        assert_eq!(like(at, &path(file), &[]).0["sampler"], sampler);
    }
    for file in ["like_comfyui.png", "like_fooocus.png", "like_invokeai.png"] {
        let request = like(at, &path(file), &[]).0;
        let own = ["prompt", "negative_prompt", "num_inference_steps", "seed", "width", "height"]
            .map(|name| request[name].clone());
        assert_eq!(own, [json!("a red circle"), json!("blue"), json!(4), json!(42), json!(64), json!(64)], "{file}");
    }
}
