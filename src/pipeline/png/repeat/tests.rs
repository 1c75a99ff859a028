use super::*;
use crate::models::TokenMerging;
use crate::pipeline::request::Upscale;
use crate::pipeline::request::deep_cache::DeepCache;
use crate::sampling::{RngKind, SigmaSchedule, SolverKind};

#[test]
fn automatic1111_s_text() {
    let text = "a (red:1.2) car, 4k\nsecond line\nNegative prompt: blurry, low quality\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, \
                CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 6ce0161689, Model: \"v1, a: b\", Denoising strength: 0.4, \
                Clip skip: 2, Token merging ratio: 0.9, DeepCache: \"3:1\", Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent, Version: v1.9.0";
    let recipe = infotext::read(text).expect("well formed");
    let r = &recipe.request;
    assert_eq!(r.prompt, "a (red:1.2) car, 4k\nsecond line");
    assert_eq!(r.negative_prompt.as_deref(), Some("blurry, low quality"));
    assert_eq!((r.num_inference_steps, r.seed, r.clip_skip), (20, 965_400_086, 1));
    assert_eq!((r.width, r.height), (Some(512), Some(768)));
    assert_eq!((r.sampler, r.sigmas), (Some(SolverKind::DpmPp2m), Some(SigmaSchedule::Karras)));
    assert_eq!(r.token_merging, Some(TokenMerging { ratio: 0.75, levels: 1 }));
    assert_eq!(r.deep_cache, Some(DeepCache { interval: 3, depth: 1 }));
    assert_eq!(recipe.model.as_deref(), Some("v1, a: b"));
    let hires = r.hires.as_ref().expect("hires");
    assert_eq!((hires.scale, hires.strength, hires.steps, hires.upscale), (2.0, 0.4, Some(10), Upscale::Latent));
}

#[test]
fn broken_text_is_an_error() {
    for text in ["", "just words", "a\nSteps: many, Sampler: Euler", "\n:::,,,\"\"\""] {
        assert!(infotext::read(text).is_err(), "{text:?}");
    }
    // Another sampler can be named in its place.
    let read = infotext::read("a\nSteps: 3, Sampler: Nothing such").expect("its other fields are known");
    assert_eq!((read.unknown_sampler.as_deref(), read.request.sampler), (Some("Nothing such"), None));
}

/// Whatever a file says, reading it ends in a recipe or an error, and what is read is checked or refused.
#[test]
fn damaged_texts_never_panic() {
    let request = Request { prompt: "a (red:1.2) \u{1f980}".into(), seed: 9, ..Request::default() };
    let json = serde_json::json!({ "request": request, "model": "demo", "sha256": { "unet": "00" } }).to_string();
    let text = "a\nNegative prompt: b\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, Model: \"x, y\", Version: v1";
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for source in [json.as_str(), text] {
        for _ in 0..5_000 {
            let mut bytes = source.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"0123456789-.,:\"{}[]eE"[random(21)]),
                }
            }
            let damaged = String::from_utf8_lossy(&bytes);
            let read = serde_json::from_str::<Recipe>(&damaged).ok().or_else(|| infotext::read(&damaged).ok());
            if let Some(recipe) = read {
                // Out of range or not: an answer, not a panic.
                let _ = recipe.request.validate();
            }
        }
    }
}

/// What a PNG with this text says.
pub(super) fn of(keyword: &str, text: &str) -> Result<Recipe> {
    let said = Metadata { texts: vec![(keyword.to_owned(), text.to_owned())], exif: None };
    recipe(&said).map(|found| found.expect("there are parameters"))
}

fn infotext_of(fields: &str) -> Recipe {
    of("parameters", &format!("a\nNegative prompt: b\nSteps: 20, {fields}")).unwrap_or_else(|e| panic!("{fields}: {e}"))
}

#[test]
fn labels_count_at_a_lines_start() {
    let text = "a poster, Negative prompt: none of it\nSteps: up the hill\nNegative prompt: blue\nmore Negative prompt: x\nSteps: 3, Sampler: Euler, CFG scale: 7\n\
                Template: {a|b}\n\nNegative Template: Steps: 9, x: y, z: 1";
    let recipe = of("parameters", text).expect("well formed");
    assert_eq!(recipe.request.prompt, "a poster, Negative prompt: none of it\nSteps: up the hill");
    assert_eq!(recipe.request.negative_prompt.as_deref(), Some("blue\nmore Negative prompt: x"));
    assert_eq!(recipe.request.num_inference_steps, 3);
    assert_eq!(recipe.not_repeated, [] as [&str; 0]);
    let foreign = of("parameters", "a\nSteps: 3, Sampler: Euler, CFG scale: 7\nsomething else").expect("well formed");
    assert_eq!(foreign.not_repeated, ["the text behind them (something else)"]);
}

/// Every field is acted on or told, and those that say nothing are not.
#[test]
fn every_field_of_automatic1111_is_read_or_told() {
    let recipe = infotext_of(
        "Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 64x64, Model hash: 6ce0161689, Model: v1, VAE hash: 63aeecb90f, \
         VAE: vae-ft-mse.safetensors, ENSD: 31337, Eta: 0.5, RNG: NV, Emphasis: Original, Version: v1.10.1, Lora hashes: \"x: 0123456789ab\", \
         TI hashes: \"easyneg: c74b4e810b03\", Hypernet: anime, Hypernet strength: 0.6, NGMS: 2.0, Hashes: {\"model\": \"6ce0161689\", \"a\": \"b, c: d\"}, \
         Skip layers: [7, 8, 9, ], ADetailer model: face_yolov8n.pt, Sigma noise: 1.01, FP8 weight: Disable",
    );
    let r = &recipe.request;
    assert_eq!((r.noise_seed_delta, r.eta, r.rng), (31337, Some(0.5), RngKind::A1111Gpu));
    assert_eq!((recipe.model.as_deref(), recipe.model_hash.as_deref()), (Some("v1"), Some("6ce0161689")));
    assert_eq!(recipe.parts["vae"], "vae-ft-mse");
    assert_eq!(recipe.adapter_hashes["x"], "0123456789ab");
    assert_eq!(recipe.embeddings[0].name, "easyneg");
    assert_eq!(
        recipe.not_repeated,
        [
            "Hypernet anime",
            "Hypernet strength 0.6",
            "NGMS 2.0",
            "Skip layers [7, 8, 9, ]",
            "ADetailer model face_yolov8n.pt",
            "Sigma noise 1.01"
        ]
    );
}

#[test]
fn passes_and_pictures_of_automatic1111() {
    let of = |fields: &str| infotext_of(&format!("Sampler: Euler a, CFG scale: 7, Seed: 5, {fields}"));
    let image = of("Size: 64x64, Denoising strength: 0.57, Mask blur: 4");
    assert_eq!(image.image.as_ref().map(|image| (image.strength, image.mask)), Some((0.57, false)));
    assert_eq!(image.not_repeated, ["Mask blur 4"]);
    let hires = of("Size: 64x64, Denoising strength: 0.4, Hires resize: 128x128, Hires upscaler: R-ESRGAN 4x+");
    let second = hires.request.hires.expect("a second pass");
    assert_eq!((second.scale, second.strength, second.upscale), (2.0, 0.4, Upscale::Image));
    assert!(hires.image.is_none() && hires.not_repeated[0].contains("R-ESRGAN"), "{:?}", hires.not_repeated);
    let old = of("Size: 128x192, First pass size: 64x96, Denoising strength: 0.7").request;
    assert_eq!((old.width, old.height, old.hires.expect("a second pass").scale), (Some(64), Some(96), 2.0));
    let control = of(
        "Size: 64x64, ControlNet 0: \"Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.5, Guidance Start: 0.1, Guidance End: 0.9\"",
    );
    let own = &control.request.controls[0];
    assert_eq!((own.weight, own.start, own.end), (0.5, 0.1, 0.9));
    assert_eq!(control.controls[0].name, "control_v11p_sd15_canny");
    assert!(control.not_repeated[0].contains("ControlNet 0 of canny"), "{:?}", control.not_repeated);
    let net = of(
        "Size: 64x64, AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: fur(8ee0), AddNet Weight A 1: 0.8, AddNet Weight B 1: 0.5",
    );
    assert_eq!((net.adapters[0].name.as_str(), net.adapters[0].weight), ("fur", 0.8));
    assert_eq!((net.adapters[0].text_encoder_weight, net.not_repeated.len()), (Some(0.5), 0));
    // This program's text, where its own parameters were lost.
    let oms = of("Size: 64x64, One More Step: demo, One More Step scale: 1.25, Version: chiaro 0.1.0");
    assert_eq!((oms.oms_module.as_deref(), oms.request.oms.map(|oms| oms.guidance_scale)), (Some("demo"), Some(1.25)));
}

/// Every method and schedule that stable-diffusion.cpp has (`include/stable-diffusion.h`), in all pairs.
#[test]
fn samplers_of_stable_diffusion_cpp() {
    use SigmaSchedule::*;
    use SolverKind::*;
    let solvers = [
        ("euler", Some(Euler)),
        ("euler_a", Some(EulerAncestral)),
        ("heun", Some(Heun)),
        ("dpm2", Some(Dpm2)),
        ("dpm++2s_a", Some(DpmPp2sAncestral)),
        ("dpm++2m", Some(DpmPp2m)),
        ("dpm++2mv2", None),
        ("ipndm", Some(Ipndm)),
        ("ipndm_v", None),
        ("lcm", Some(SolverKind::Lcm)),
        ("ddim_trailing", Some(Ddim)),
        ("tcd", Some(SolverKind::Tcd)),
        ("res_multistep", None),
        ("res_2s", None),
        ("er_sde", None),
        ("euler_cfg_pp", None),
        ("euler_a_cfg_pp", None),
        ("euler_ge", None),
        ("dpm++2m_sde", Some(DpmPp2mSde)),
        ("dpm++2m_sde_bt", None),
        ("lms", Some(Lms)),
    ];
    let schedules = [
        ("discrete", Some(Normal)),
        ("karras", Some(Karras)),
        ("exponential", Some(Exponential)),
        ("ays", Some(AlignYourSteps)),
        ("gits", None),
        ("sgm_uniform", Some(SgmUniform)),
        ("simple", Some(Simple)),
        ("smoothstep", None),
        ("kl_optimal", Some(KlOptimal)),
        ("bong_tangent", None),
        ("ltx2", None),
        ("logit_normal", None),
        ("flux2", None),
        ("flux", None),
        ("beta", Some(Beta)),
    ];
    for (method, kind) in solvers {
        for (schedule, sigmas) in schedules {
            let read = infotext_of(&format!(
                "CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 42, RNG: cuda, Sampler: {method} {schedule}, Version: stable-diffusion.cpp"
            ));
            let r = &read.request;
            let pair = format!("{method} {schedule}");
            assert_eq!((r.sampler, read.unknown_sampler.is_none()), (kind, kind.is_some()), "{pair}");
            assert_eq!(read.unknown_sigmas.is_none(), sigmas.is_some(), "{pair}");
            let takes = kind.is_none_or(SolverKind::takes_sigmas);
            assert_eq!(r.sigmas, sigmas.filter(|_| takes), "{pair}");
            // A schedule that the solver cannot take is told.
            let told = !takes && sigmas.is_some_and(|sigmas| sigmas != Normal);
            assert_eq!(read.not_repeated.len(), usize::from(told), "{pair}: {:?}", read.not_repeated);
            assert_eq!((r.rng, r.guidance_scale, r.num_inference_steps), (RngKind::A1111Gpu, 7.0, 20));
        }
    }
    let lcm = infotext_of("Sampler: lcm lcm, Seed: 1, CFG scale: 1.0, Version: stable-diffusion.cpp");
    assert_eq!((lcm.request.sampler, lcm.unknown_sigmas), (Some(SolverKind::Lcm), None));
    let json = "SDCPP: {\"schema\":\"sdcpp.image.params/v1\",\"prompt\":{\"positive\":\"a, b: c\"},\"list\":[1,2]}";
    let text = format!(
        "Sampler: dpm2 discrete, Seed: 1, CFG scale: 1.0, TE: t5, Hires upscale: Latent, Hires scale: 2.000000, Hires resize: 0x0, Hires steps: 0, Denoising strength: 0.7, Version: stable-diffusion.cpp, {json}"
    );
    let hires = infotext_of(&text);
    assert_eq!(hires.request.hires.map(|hires| (hires.scale, hires.steps)), Some((2.0, None)));
    assert_eq!(hires.not_repeated, ["TE t5"]);
    let packet = "<x><sdcpp:parameters>a &lt;b&gt; &amp;amp;\nSteps: 4, Sampler: euler discrete, Version: stable-diffusion.cpp</sdcpp:parameters></x>";
    assert_eq!(of(XMP, packet).expect("well formed").request.prompt, "a <b> &amp;");
}

#[test]
fn fooocus_s_json() {
    let json = serde_json::json!({
        "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8", "base_model_hash": "aeb7e9e689", "clip_skip": 2, "full_negative_prompt": ["blue", "ugly"],
        "full_prompt": ["a red circle, cinematic", "a red circle, glow"], "guidance_scale": 4.0, "lora_combined_1": "sd_xl_offset : 0.1",
        "lora_combined_2": "True : other.safetensors : 0.5", "lora_combined_3": "False : off : 1", "loras": [["sd_xl_offset", 0.1, "4852686128"]],
        "metadata_scheme": "fooocus", "negative_prompt": "blue", "performance": "Speed", "prompt": "a red circle", "prompt_expansion": "glow",
        "refiner_model": "None", "refiner_switch": 0.5, "resolution": "(896, 1152)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "42",
        "sharpness": 2.0, "steps": 30, "styles": "['Fooocus V2']", "vae": "Default (model)", "version": "Fooocus v2.5.5"
    });
    let recipe = of("parameters", &json.to_string()).expect("well formed");
    let r = &recipe.request;
    assert_eq!(
        (r.prompt.as_str(), r.negative_prompt.as_deref()),
        ("a red circle, cinematic, a red circle, glow", Some("blue, ugly"))
    );
    assert_eq!((r.width, r.height, r.seed, r.clip_skip), (Some(896), Some(1152), 42, 0));
    assert_eq!((r.sampler, r.sigmas), (Some(SolverKind::DpmPp2mSde), Some(SigmaSchedule::Karras)));
    let adapters: Vec<_> = recipe.adapters.iter().map(|a| (a.name.as_str(), a.weight)).collect();
    assert_eq!(adapters, [("sd_xl_offset", 0.1), ("other", 0.5)]);
    let told = [
        "texts of styles in chunks of their own (one text in their place)",
        "adm_guidance (1.5, 0.8, 0.3)",
        "sharpness 2.0",
    ];
    assert_eq!(recipe.not_repeated, told);
    // Its text in the other form.
    let text = infotext_of(
        "Sampler: DPM++ 2M SDE Karras, Seed: 42, Size: 896x1152, CFG scale: 4.0, Sharpness: 2.0, Model: m, Scheduler: karras, \
                            Lora hashes: \"x: 4852686128\", Lora weights: \"x: 0.1\", Version: Fooocus v2.5.5",
    );
    assert_eq!(
        (text.adapters[0].name.as_str(), text.adapters[0].weight, text.request.sigmas),
        ("x", 0.1, Some(SigmaSchedule::Karras))
    );
    assert!(of("parameters", "{\"a\": 1}").expect_err("unknown").to_string().contains("not known here"));
    assert!(of("parameters", "{\"sui_image_params\": {}}").expect_err("another").to_string().contains("SwarmUI"));
}

#[test]
fn invokeai_s_json() {
    let json = serde_json::json!({
        "generation_mode": "img2img", "positive_prompt": "a (red circle)1.3, glow++ [x] (plain)", "negative_prompt": "blue", "width": 512, "height": 512, "seed": 42,
        "rand_device": "cpu", "cfg_scale": 7.5, "cfg_rescale_multiplier": 0.7, "steps": 30, "scheduler": "dpmpp_2m_k", "clip_skip": 1, "strength": 0.6,
        "init_image": "x.png", "model": { "key": "k", "hash": "blake3:0", "name": "Dreamshaper 8", "base": "sd-1" }, "vae": null,
        "loras": [{ "model": { "name": "fur" }, "weight": 0.75 }], "seamless_x": true, "seamless_y": false, "app_version": "4.2.0", "ipAdapters": []
    });
    let recipe = of("invokeai_metadata", &json.to_string()).expect("well formed");
    let r = &recipe.request;
    assert_eq!(r.prompt, "a (red circle:1.3), (glow:1.21) [x] \\(plain\\)");
    assert_eq!((r.sampler, r.sigmas, r.rng), (Some(SolverKind::DpmPp2m), Some(SigmaSchedule::Karras), RngKind::Torch));
    assert_eq!((r.guidance_rescale, r.clip_skip, recipe.image.map(|image| image.strength)), (0.7, 1, Some(0.6)));
    assert_eq!(
        (recipe.adapters[0].name.as_str(), recipe.adapters[0].weight, recipe.model.as_deref()),
        ("fur", 0.75, Some("Dreamshaper 8"))
    );
    assert_eq!(recipe.not_repeated, ["seamless_x true"]);
    let known = [
        ("ddim", true),
        ("deis_k", true),
        ("lms", true),
        ("pndm", true),
        ("heun_k", true),
        ("euler_a", true),
        ("kdpm_2", true),
        ("kdpm_2_a_k", true),
        ("dpmpp_2s", false),
        ("dpmpp_2m_sde_k", true),
        ("dpmpp_3m", false),
        ("dpmpp_3m_k", false),
        ("dpmpp_sde", true),
        ("unipc_k", true),
        ("lcm", true),
        ("tcd", true),
    ];
    for (name, known) in known {
        let json = serde_json::json!({ "positive_prompt": "a", "steps": 4, "scheduler": name });
        let read = of("invokeai_metadata", &json.to_string()).expect("well formed");
        assert_eq!(read.unknown_sampler.is_none(), known, "{name}");
    }
    for (keyword, text) in [
        ("invokeai_metadata", "{\"generation_mode\": \"flux_txt2img\"}"),
        ("sd-metadata", "{}"),
        ("Dream", "\"a\" -s 50"),
    ] {
        assert!(of(keyword, text).expect_err("beyond").to_string().contains("InvokeAI"), "{keyword}");
    }
}

#[test]
fn novelai_s_json() {
    let comment = serde_json::json!({
        "prompt": "{{red}} circle, [dim] (x)", "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "uncond_scale": 1.0, "cfg_rescale": 0.2, "seed": 42,
        "n_samples": 1, "noise_schedule": "karras", "sampler": "k_dpmpp_2s_ancestral", "sm": true, "sm_dyn": false, "uc": "blue", "request_type": "PromptGenerateRequest"
    });
    let texts =
        [("Software", "NovelAI"), ("Source", "Stable Diffusion XL 7BCCAA2C"), ("Comment", &comment.to_string())];
    let said = Metadata { texts: texts.map(|(k, t)| (k.to_owned(), t.to_owned())).to_vec(), exif: None };
    let recipe = recipe(&said).expect("well formed").expect("parameters");
    let r = &recipe.request;
    assert_eq!(r.prompt, "((red:1.05):1.05) circle, (dim:0.952381) \\(x\\)");
    assert_eq!(
        (r.sampler, r.sigmas, r.guidance_rescale),
        (Some(SolverKind::DpmPp2sAncestral), Some(SigmaSchedule::Karras), 0.2)
    );
    assert_eq!(
        (r.negative_prompt.as_deref(), recipe.model.as_deref()),
        (Some("blue"), Some("Stable Diffusion XL 7BCCAA2C"))
    );
    assert_eq!(recipe.not_repeated, ["sm true"]);
}
