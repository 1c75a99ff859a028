//! One More Step in front of an SDXL model: with the module's own text encoder, and with SDXL's two ("mixclip").

use std::path::Path;
use std::sync::Arc;

use chiaro::models::layout::{to_channels_first, to_channels_last};
use chiaro::models::{Unet, UnetConfig, names};
use chiaro::pipeline::{Device, Event, OmsRequest, OmsSource, Overrides, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, Caps, HostBackend};
use chiaro::sampling::{OmsForm, guide, oms};
use chiaro::weights::{WeightFile, WeightType, Weights};
use chiaro::{Place, Remedy};
use serde_json::{Value, json};

use super::runs::{committed_folder, request, scheduler};
use crate::support::golden::{Golden, assert_close, committed};

const RUN: &str = "sd15_ddim_0";

fn device() -> Device {
    Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere")
}

/// The pipeline of a golden OMS run, on another base.
fn open(base: &Path, run: &Value, module: &Path, text_encoder: Option<&Path>) -> chiaro::Result<Pipeline> {
    let overrides = Overrides { scheduler: Some(scheduler(run)), ..Overrides::default() };
    let oms = OmsSource { text_encoder: text_encoder.map(Into::into), ..OmsSource::folder(module) };
    Pipeline::load_with(&Source::Folder(base.into()), &overrides, Some(&oms), device())
}

/// x̃_T of a request.
fn starting_latents(pipeline: &Pipeline, request: Request) -> Vec<f32> {
    let mut generation = pipeline.generate(request).expect("the request fits");
    loop {
        let event = generation.next().expect("the step comes before the end").expect("the run succeeds");
        if matches!(event, Event::OneMoreStep { .. }) {
            return generation.latents(0).expect("there is a picture").to_vec();
        }
    }
}

fn oms_run(guidance_scale: f64) -> (Golden, Value, Request) {
    let golden = Golden::open_in(&committed(), "oms");
    let (_, run) = golden.runs().into_iter().find(|(name, _)| name == RUN).expect("the run is there");
    let oms = OmsRequest { guidance_scale, form: OmsForm::Official, ..OmsRequest::default() };
    let request = Request { oms: Some(oms), ..request(&run) };
    (golden, run, request)
}

/// The step sees neither the base's UNet nor its text encoders, so the reference's x̃_T holds on any base.
#[test]
fn with_the_modules_own_text_encoder() {
    let (golden, run, request) = oms_run(1.0);
    let (xl, _guard) = committed_folder("sdxl");
    let pipeline = open(&xl, &run, &golden.path(), None).unwrap_or_else(|e| panic!("{e}"));
    let name = format!("run/{RUN}/x_T");
    assert_close(&name, &starting_latents(&pipeline, request), &golden.f32s(&name), 10.0 * golden.tolerance(&name));
}

/// The golden module with text states twice as wide: keys and values see the first half as before and the second half times -½.
fn write_dual_module(folder: &Path, pointer: &Value) {
    let from = committed().join("oms/oms_module");
    let to = folder.join("oms_module");
    std::fs::create_dir_all(&to).expect("a new folder");
    std::fs::create_dir_all(folder.join("oms_text_encoder")).expect("a new folder");
    let index = json!({ "_class_name": "OMSPipeline", "oms_text_encoder": ["oms", "SDXLTextEncoder"] });
    std::fs::write(folder.join("model_index.json"), index.to_string()).expect("writable");
    std::fs::write(folder.join("oms_text_encoder/config.json"), pointer.to_string()).expect("writable");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(from.join("config.json")).expect("readable")).expect("JSON");
    let width = config["cross_attention_dim"].as_u64().expect("a width") as usize;
    config["cross_attention_dim"] = json!(2 * width);
    std::fs::write(to.join("config.json"), config.to_string()).expect("writable");

    let bytes = std::fs::read(from.join("diffusion_pytorch_model.safetensors")).expect("readable");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = file
        .iter()
        .map(|(name, tensor)| {
            let values: Vec<f32> =
                bytemuck::pod_collect_to_vec::<u8, half::f16>(tensor.data()).iter().map(|v| v.to_f32()).collect();
            if !name.contains("attn2.to_k") && !name.contains("attn2.to_v") {
                return (name.to_owned(), tensor.shape().to_vec(), values);
            }
            let wide = values.chunks(width).flat_map(|row| row.iter().copied().chain(row.iter().map(|v| -0.5 * v)));
            (name.to_owned(), vec![tensor.shape()[0], 2 * width], wide.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let data = bytemuck::cast_slice(data);
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.expect("the size fits"))
    });
    safetensors::serialize_to_file(views, None, &to.join("diffusion_pytorch_model.safetensors")).expect("writable");
}

/// x̃_T of the wide module on the reference's states of the empty prompt and of the prompt, under ω_ψ = 2.
fn expected(golden: &Golden, run: &Value, folder: &Path) -> Vec<f32> {
    let xl = Golden::open_in(&committed(), "sdxl");
    let halves = ["text_encoder", "text_encoder_2"].map(|part| xl.f32s(&format!("{part}/penultimate")));
    let how = xl.json["tensors"]["text_encoder/input_ids"]["how"].as_str().expect("the prompts are written down");
    assert!(
        how.contains("van Gogh\", \"a (red:1.2) car, [blue] sky\", \"\", \"word"),
        "the empty prompt is the fourth"
    );
    let width = halves[0].len() / 5 / 77;
    let joined = |row: usize| {
        let halves = &halves;
        (0..77).flat_map(move |t| halves.iter().flat_map(move |h| h[(row * 77 + t) * width..][..width].to_vec()))
    };
    let context: Vec<f32> = joined(3).chain(joined(0)).collect();
    assert_close("prompt 0", &context[77 * 2 * width..], &xl.f32s("run/prompt_embeds"), 1e-6);

    let read = |name: &str| std::fs::read_to_string(folder.join("oms_module").join(name)).expect("readable");
    let config = UnetConfig::from_json(&read("config.json"), "oms_module").unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(folder.join("oms_module/diffusion_pytorch_model.safetensors")).expect("whole");
    let weights = Weights::new(Arc::new(file), "oms_module", WeightType::Keep);
    let module = Unet::load(config, &weights).unwrap_or_else(|e| panic!("{e}"));
    let noises = golden.f32s(&format!("run/{RUN}/noises"));
    let (x, z) = noises.split_at(noises.len() / 2);
    let sample = to_channels_last(&[x, x].concat(), 2, 4, 16 * 16);
    let recording = module.record(&Caps::host(), 2, 16, 16, 77, false).unwrap_or_else(|e| panic!("{e}"));
    let inputs: [(&str, &[f32]); 2] = [(names::SAMPLE, &sample), (names::ENCODER_HIDDEN_STATES, &context)];
    let mut program = HostBackend::default().compile(recording).unwrap_or_else(|e| panic!("{e}"));
    let outputs = program.run(&inputs).unwrap_or_else(|e| panic!("{e}"));
    let rows = to_channels_first(&outputs[names::OUT], 2, 4, 16 * 16);
    let rows: Vec<&[f32]> = rows.chunks(x.len()).collect();
    let alpha_bar = run["alpha_bar_used"].as_f64().expect("a number");
    oms::x_t(OmsForm::Official, &guide(&rows, 2.0).expect("two rows"), x, Some(z), alpha_bar)
        .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn with_both_text_encoders_of_sdxl() {
    let (golden, run, request) = oms_run(2.0);
    let (xl, _guard) = committed_folder("sdxl");
    let module = tempfile::tempdir().expect("a temporary folder");
    write_dual_module(module.path(), &json!({ "_class_name": "SDXLTextEncoder", "_name_or_path": "nobody/knows" }));
    let want = expected(&golden, &run, module.path());
    let check = |what: &str, pipeline: chiaro::Result<Pipeline>| {
        let pipeline = pipeline.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_close(what, &starting_latents(&pipeline, request.clone()), &want, 1e-4);
    };
    check("the base's own", open(&xl, &run, module.path(), None));
    // The pointer leads nowhere, and that is said.
    let warnings = |pipeline: &Pipeline, request: Request| {
        pipeline.generate(request).expect("the request fits").warnings().join("\n")
    };
    let lost = open(&xl, &run, module.path(), None).unwrap_or_else(|e| panic!("{e}"));
    let said = warnings(&lost, request.clone());
    assert!(said.contains("nobody/knows") && said.contains("`model.oms_text_encoder`"), "{said}");
    assert!(!warnings(&lost, Request { oms: None, ..request.clone() }).contains("nobody"), "it is not used then");
    let named = open(&xl, &run, module.path(), Some(&xl)).unwrap_or_else(|e| panic!("{e}"));
    assert!(!warnings(&named, request.clone()).contains("nobody"), "others were named");
    write_dual_module(module.path(), &json!({ "_class_name": "SDXLTextEncoder" }));
    let meant = open(&xl, &run, module.path(), None).unwrap_or_else(|e| panic!("{e}"));
    assert!(!warnings(&meant, request.clone()).contains("text encoders are said"), "nothing else was named");
    let sd15 = committed().join("sd15");
    check("a named folder's, in front of SD 1.5", open(&sd15, &run, module.path(), Some(&xl)));
    let refused = open(&sd15, &run, module.path(), None).err().expect("SD 1.5 has one encoder");
    assert!(refused.to_string().contains("two text encoders"), "{refused}");
    assert_eq!(refused.remedies(), [Remedy::Name(Place::OmsTextEncoder)]);
    write_dual_module(module.path(), &json!({ "_name_or_path": xl }));
    check("a pointer's, in front of SD 1.5", open(&sd15, &run, module.path(), None));
}

#[test]
fn what_only_sdxl_has_is_refused_elsewhere() {
    let sd15 =
        Pipeline::load(&Source::Folder(committed().join("sd15")), None, device()).unwrap_or_else(|e| panic!("{e}"));
    let requests = [
        ("prompt-2", Request { prompt_2: Some("x".into()), ..Request::default() }),
        ("negative-2", Request { negative_prompt_2: Some("x".into()), ..Request::default() }),
        ("original-size", Request { original_size: Some((64, 64)), ..Request::default() }),
        ("crop", Request { crops_coords_top_left: (0, 1), ..Request::default() }),
        ("target-size", Request { target_size: Some((64, 64)), ..Request::default() }),
    ];
    for (option, request) in requests {
        let message = sd15.plan(&request).expect_err("SD 1.5 has no such thing").to_string();
        assert!(message.contains(option) && message.contains("SDXL"), "{message}");
    }
    let (xl, _guard) = committed_folder("sdxl");
    let xl = Pipeline::load(&Source::Folder(xl), None, device()).unwrap_or_else(|e| panic!("{e}"));
    for size in [(0, 64), (64, 1 << 20)] {
        let message = xl.plan(&Request { original_size: Some(size), ..Request::default() }).expect_err("out of range");
        assert!(message.to_string().contains("original_size"), "{message}");
    }
    let message = xl.plan(&Request { clip_skip: 2, ..Request::default() }).expect_err("three layers").to_string();
    assert!(message.contains("clip skip") && message.contains("last 1 layers, not without 2"), "{message}");
}
