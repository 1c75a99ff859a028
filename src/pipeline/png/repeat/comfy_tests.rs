//! ComfyUI's graphs, as it ran and as it was drawn.

use super::tests::of;
use super::*;
use crate::pipeline::request::Upscale;
use crate::sampling::{RngKind, SigmaSchedule, SolverKind, TimestepSpacing};
use crate::text::PromptSyntax;

fn graph(nodes: Value) -> Result<Recipe> {
    of("prompt", &nodes.to_string())
}

/// The graph that ComfyUI starts with.
fn default_graph() -> Value {
    serde_json::json!({
        "3": { "class_type": "KSampler", "inputs": {
            "seed": 156680208700286u64, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0] } },
        "4": { "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "sd/v1-5-pruned-emaonly.ckpt" } },
        "5": { "class_type": "EmptyLatentImage", "inputs": { "width": 512, "height": 768, "batch_size": 1 } },
        "6": { "class_type": "CLIPTextEncode", "inputs": { "text": "a (red:1.2) circle", "clip": ["4", 1] } },
        "7": { "class_type": "CLIPTextEncode", "inputs": { "text": "text, watermark", "clip": ["4", 1] } },
        "8": { "class_type": "VAEDecode", "inputs": { "samples": ["3", 0], "vae": ["4", 2] } },
        "9": { "class_type": "SaveImage", "inputs": { "filename_prefix": "ComfyUI", "images": ["8", 0] } }
    })
}

#[test]
fn comfyui_s_own_graph() {
    let recipe = graph(default_graph()).expect("well formed");
    let r = &recipe.request;
    assert_eq!((r.prompt.as_str(), r.negative_prompt.as_deref()), ("a (red:1.2) circle", Some("text, watermark")));
    assert_eq!((r.width, r.height, r.num_inference_steps, r.seed), (Some(512), Some(768), 20, 156680208700286));
    assert_eq!((r.sampler, r.sigmas, r.guidance_scale), (Some(SolverKind::Euler), Some(SigmaSchedule::Normal), 8.0));
    assert_eq!(
        (r.rng, r.prompt_syntax, r.timestep_spacing),
        (RngKind::Comfy, PromptSyntax::Comfy, Some(TimestepSpacing::Linspace))
    );
    assert_eq!((recipe.model.as_deref(), recipe.not_repeated.len()), (Some("v1-5-pruned-emaonly"), 0));
    // Python's JSON has numbers that JSON has not.
    let text = default_graph()
        .to_string()
        .replace("\"class_type\":\"VAEDecode\"", "\"class_type\":\"VAEDecode\",\"is_changed\":[NaN, -Infinity]");
    assert!(text.contains("NaN") && of("prompt", &text.replace("watermark", "NaN \\\" NaN")).is_ok());
}

#[test]
fn parts_of_comfyui_s_graph() {
    let mut nodes = default_graph();
    nodes["10"] = serde_json::json!({ "class_type": "LoraLoader", "inputs": {
        "lora_name": "styles\\fur.safetensors", "strength_model": 0.8, "strength_clip": 0.5, "model": ["4", 0], "clip": ["4", 1] } });
    nodes["11"] = serde_json::json!({ "class_type": "LoraLoaderModelOnly", "inputs": {
        "lora_name": "lcm.safetensors", "strength_model": 1.0, "model": ["10", 0] } });
    nodes["12"] = serde_json::json!({ "class_type": "CLIPSetLastLayer", "inputs": { "stop_at_clip_layer": -2, "clip": ["10", 1] } });
    nodes["13"] = serde_json::json!({ "class_type": "VAELoader", "inputs": { "vae_name": "ema.safetensors" } });
    nodes["14"] = serde_json::json!({ "class_type": "FreeU", "inputs": { "b1": 1.1, "model": ["11", 0] } });
    nodes["15"] = serde_json::json!({ "class_type": "PrimitiveInt", "inputs": { "value": 7 } });
    nodes["16"] =
        serde_json::json!({ "class_type": "ControlNetLoader", "inputs": { "control_net_name": "canny.pth" } });
    nodes["17"] = serde_json::json!({ "class_type": "LoadImage", "inputs": { "image": "edges.png" } });
    nodes["18"] = serde_json::json!({ "class_type": "ControlNetApplyAdvanced", "inputs": {
        "strength": 0.7, "start_percent": 0.0, "end_percent": 0.5, "positive": ["6", 0], "negative": ["7", 0], "control_net": ["16", 0], "image": ["17", 0] } });
    nodes["19"] = serde_json::json!({ "class_type": "VAEEncode", "inputs": { "pixels": ["17", 0], "vae": ["13", 0] } });
    for (node, input, link) in [
        ("6", "clip", "12"),
        ("7", "clip", "12"),
        ("3", "model", "14"),
        ("3", "seed", "15"),
        ("8", "vae", "13"),
        ("3", "latent_image", "19"),
    ] {
        nodes[node]["inputs"][input] = serde_json::json!([link, 0]);
    }
    nodes["3"]["inputs"]["positive"] = serde_json::json!(["18", 0]);
    nodes["3"]["inputs"]["negative"] = serde_json::json!(["18", 1]);
    nodes["3"]["inputs"]["denoise"] = 0.6.into();
    let recipe = graph(nodes).expect("well formed");
    let adapters: Vec<_> = recipe.adapters.iter().map(|a| (a.name.as_str(), a.weight, a.text_encoder_weight)).collect();
    assert_eq!(adapters, [("fur", 0.8, Some(0.5)), ("lcm", 1.0, Some(0.0))]);
    let r = &recipe.request;
    assert_eq!((r.clip_skip, r.seed, r.prompt.as_str()), (1, 7, "a (red:1.2) circle"));
    // 20 steps of the last 0.6 are all that is done: a run of 33.
    assert_eq!(r.num_inference_steps, 33);
    let strength = recipe.image.expect("a picture to start from").strength;
    assert_eq!((33.0 * strength) as usize, 20);
    assert_eq!((r.controls[0].weight, r.controls[0].end, recipe.controls[0].name.as_str()), (0.7, 0.5, "canny"));
    assert_eq!(recipe.parts["vae"], "ema");
    assert_eq!(recipe.not_repeated, ["ControlNet 0 (canny)", "node FreeU (14)"]);
}

#[test]
fn two_samplers_of_comfyui() {
    let mut nodes = default_graph();
    nodes["20"] = serde_json::json!({ "class_type": "LatentUpscaleBy", "inputs": { "upscale_method": "nearest-exact", "scale_by": 1.5, "samples": ["3", 0] } });
    nodes["21"] = nodes["3"].clone();
    nodes["21"]["inputs"]["latent_image"] = serde_json::json!(["20", 0]);
    nodes["21"]["inputs"]["denoise"] = 0.5.into();
    nodes["8"]["inputs"]["samples"] = serde_json::json!(["21", 0]);
    let recipe = graph(nodes.clone()).expect("well formed");
    let hires = recipe.request.hires.expect("a second pass");
    assert_eq!((hires.scale, hires.strength, hires.steps, hires.upscale), (1.5, 0.5, Some(40), Upscale::Latent));
    assert_eq!(recipe.not_repeated, ["upscale_method nearest-exact", "seed 156680208700286 of the second pass"]);
    // SDXL's base and refiner.
    let mut nodes = default_graph();
    let advanced = |model: &str, latent: &str, start: usize, end: usize, noise: &str| {
        serde_json::json!({ "class_type": "KSamplerAdvanced", "inputs": {
        "noise_seed": 5, "steps": 25, "cfg": 8.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "start_at_step": start, "end_at_step": end,
        "add_noise": noise, "return_with_leftover_noise": "enable", "model": [model, 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": [latent, 0] } })
    };
    nodes["3"] = advanced("4", "5", 0, 20, "enable");
    nodes["22"] =
        serde_json::json!({ "class_type": "CheckpointLoaderSimple", "inputs": { "ckpt_name": "refiner.safetensors" } });
    nodes["23"] = advanced("22", "3", 20, 10000, "disable");
    nodes["8"]["inputs"]["samples"] = serde_json::json!(["23", 0]);
    let recipe = graph(nodes).expect("well formed");
    assert_eq!((recipe.parts["refiner"].as_str(), recipe.request.refiner_start), ("refiner", 0.8));
    assert_eq!((recipe.request.num_inference_steps, recipe.request.seed, recipe.not_repeated.len()), (25, 5, 0));
}

#[test]
fn the_newer_samplers_of_comfyui() {
    let mut nodes = default_graph();
    nodes["3"] = serde_json::json!({ "class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["30", 0], "guider": ["31", 0], "sampler": ["32", 0], "sigmas": ["33", 0], "latent_image": ["5", 0] } });
    nodes["30"] = serde_json::json!({ "class_type": "RandomNoise", "inputs": { "noise_seed": 9 } });
    nodes["31"] = serde_json::json!({ "class_type": "CFGGuider", "inputs": { "cfg": 4.5, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0] } });
    nodes["32"] =
        serde_json::json!({ "class_type": "KSamplerSelect", "inputs": { "sampler_name": "dpmpp_2m_sde_gpu" } });
    nodes["33"] = serde_json::json!({ "class_type": "BasicScheduler", "inputs": { "scheduler": "sgm_uniform", "steps": 12, "denoise": 1.0, "model": ["4", 0] } });
    let recipe = graph(nodes).expect("well formed");
    let r = &recipe.request;
    assert_eq!((r.seed, r.num_inference_steps, r.guidance_scale), (9, 12, 4.5));
    assert_eq!(
        (r.sampler, r.sigmas, recipe.not_repeated.len()),
        (Some(SolverKind::DpmPp2mSde), Some(SigmaSchedule::SgmUniform), 0)
    );
}

/// What is not read is an error that names the program and the node.
#[test]
fn what_comfyui_has_beyond() {
    let check = |change: &dyn Fn(&mut Value), words: &[&str]| {
        let mut nodes = default_graph();
        change(&mut nodes);
        let message = graph(nodes).expect_err("beyond").to_string();
        assert!(message.contains("ComfyUI") && words.iter().all(|word| message.contains(word)), "{message}");
    };
    check(&|nodes| nodes["3"]["class_type"] = "FaceDetailer".into(), &[]);
    check(
        &|nodes| nodes["6"] = serde_json::json!({ "class_type": "Efficient Loader", "inputs": { "x": 1 } }),
        &["Efficient Loader (6)"],
    );
    check(&|nodes| nodes["3"]["inputs"]["start_at_step"] = 5.into(), &["KSampler (3)"]);
    check(&|nodes| nodes["3"]["inputs"]["steps"] = "many".into(), &["steps", "many"]);
    check(&|nodes| nodes["3"]["inputs"]["seed"] = serde_json::json!(["6", 0]), &["seed"]);
    check(
        &|nodes| nodes["5"] = serde_json::json!({ "class_type": "VAEEncode", "inputs": { "pixels": ["5", 0] } }),
        &["circle"],
    );
    check(&|nodes| nodes["5"] = serde_json::json!(7), &["(5)"]);
    check(
        &|nodes| {
            nodes["13"] = nodes["3"].clone();
            nodes["18"] = serde_json::json!({ "class_type": "VAEDecode", "inputs": { "samples": ["13", 0] } });
            nodes["19"] = serde_json::json!({ "class_type": "SaveImage", "inputs": { "images": ["18", 0] } });
        },
        &["several pictures", "KSampler (13)"],
    );
    assert!(of("prompt", "{").expect_err("no JSON").to_string().contains("ComfyUI"));
}

#[test]
fn comfyui_s_drawn_graph() {
    let node = |id: u64, class: &str, widgets: Value, inputs: &[(&str, u64)], mode: u64| {
        let inputs: Vec<_> =
            inputs.iter().map(|(name, link)| serde_json::json!({ "name": name, "link": link })).collect();
        serde_json::json!({ "id": id, "type": class, "mode": mode, "widgets_values": widgets, "inputs": inputs })
    };
    let drawn = serde_json::json!({
        "nodes": [
            node(3, "KSampler", serde_json::json!([42, "randomize", 4, 7.0, "euler", "karras", 1.0]), &[("model", 1), ("positive", 4), ("negative", 6), ("latent_image", 2)], 0),
            node(4, "CheckpointLoaderSimple", serde_json::json!(["x.safetensors"]), &[], 0),
            node(5, "EmptyLatentImage", serde_json::json!([64, 64, 1]), &[], 0),
            node(6, "CLIPTextEncode", serde_json::json!(["a red circle"]), &[("clip", 3)], 0),
            node(7, "CLIPTextEncode", serde_json::json!(["blue"]), &[("clip", 5)], 0),
            // Bypassed: its model goes through.
            node(10, "LoraLoader", serde_json::json!(["y.safetensors", 1.0, 1.0]), &[("model", 10), ("clip", 11)], 4),
            node(8, "VAEDecode", serde_json::json!([]), &[("samples", 7), ("vae", 8)], 0),
            node(9, "SaveImage", serde_json::json!(["x"]), &[("images", 9)], 0),
            node(11, "Note", serde_json::json!(["hello"]), &[], 0)
        ],
        "links": [
            [1, 10, 0, 3, 0, "MODEL"], [2, 5, 0, 3, 3, "LATENT"], [3, 10, 1, 6, 0, "CLIP"], [4, 6, 0, 3, 1, "CONDITIONING"],
            [5, 4, 1, 7, 0, "CLIP"], [6, 7, 0, 3, 2, "CONDITIONING"], [7, 3, 0, 8, 0, "LATENT"], [8, 4, 2, 8, 1, "VAE"],
            [9, 8, 0, 9, 0, "IMAGE"], [10, 4, 0, 10, 0, "MODEL"], [11, 4, 1, 10, 1, "CLIP"]
        ]
    });
    let recipe = of("workflow", &drawn.to_string()).expect("well formed");
    let r = &recipe.request;
    assert_eq!((r.prompt.as_str(), r.seed, r.num_inference_steps), ("a red circle", 42, 4));
    assert_eq!((r.sigmas, recipe.model.as_deref(), recipe.adapters.len()), (Some(SigmaSchedule::Karras), Some("x"), 0));
    assert!(of("workflow", "{\"nodes\":[],\"links\":[]}").expect_err("empty").to_string().contains("ComfyUI"));
}
