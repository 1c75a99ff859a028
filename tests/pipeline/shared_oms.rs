//! One OMS module in front of several models of a process, and whose text encoder reads its prompt.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chiaro::models::names;
use chiaro::pipeline::{
    Adapter, Device, Event, OmsModule, OmsRequest, OmsSource, Overrides, Pipeline, Precision, Request, Source,
};
use chiaro::record::{Backend, Caps, Constant, DType, HostBackend, Program, Recording, Role};
use chiaro::sampling::OmsForm;
use chiaro::{Place, Remedy};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::adapter_files::{Format, Tensors, make, read, write};
use super::runs::{committed_folder, draw, request, scheduler};
use crate::support::adapter;
use crate::support::golden::{Golden, assert_close, committed, compare, root};

/// Computes on the host, and keeps the constants of every recording that is an OMS module's: a UNet without time.
#[derive(Default)]
struct Watching {
    host: HostBackend,
    modules: Mutex<Vec<Vec<Arc<Constant>>>>,
}

impl Backend for Watching {
    fn caps(&self) -> &Caps {
        self.host.caps()
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        let has = |wanted: &str| {
            recording.tensors.iter().any(|tensor| matches!(&tensor.role, Role::Input(name) if name == wanted))
        };
        if has(names::SAMPLE) && !has(names::TIME_PROJ) {
            let constants = recording.tensors.iter().filter_map(|tensor| match &tensor.role {
                Role::Constant(constant) => Some(Arc::clone(constant)),
                _ => None,
            });
            self.modules.lock().expect("no test panics in here").push(constants.collect());
        }
        self.host.compile(recording)
    }
}

fn device(backend: Arc<dyn Backend>) -> Device {
    Device::new(backend, Precision::F32).expect("f32 is everywhere")
}

fn golden_source() -> OmsSource {
    source_in(&root())
}

fn source_in(root: &Path) -> OmsSource {
    OmsSource::folder(root.join("oms"))
}

fn oms_request() -> OmsRequest {
    OmsRequest { form: OmsForm::Official, ..OmsRequest::default() }
}

/// Models of one latent space: Stable Diffusion 1.5, 2.1, and an LCM of the former.
fn bases() -> [(&'static str, PathBuf, Overrides); 3] {
    let (sd15, sd21) = (root().join("sd15"), root().join("sd21"));
    let lcm = Overrides { unet: Some(root().join("lcm/unet")), ..Overrides::default() };
    [("sd15", sd15.clone(), Overrides::default()), ("sd21", sd21, Overrides::default()), ("lcm", sd15, lcm)]
}

fn same(a: &[Arc<Constant>], b: &[Arc<Constant>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[test]
fn one_module_serves_three_models() {
    let backend = Arc::new(Watching::default());
    let device = device(backend.clone());
    let open = |base: &Path, overrides: &Overrides, oms: Option<&OmsSource>| {
        Pipeline::load_with(&Source::Folder(base.into()), overrides, oms, device.clone())
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let request = Request {
        prompt: "a lighthouse at night".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 2,
        seed: 3,
        oms: Some(OmsRequest { guidance_scale: 2.0, ..oms_request() }),
        ..Request::default()
    };
    let module = Arc::new(OmsModule::load(&golden_source(), &device).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(Arc::strong_count(&module), 1);
    let mut pipelines = Vec::new();
    for (name, base, overrides) in bases() {
        let mut pipeline = open(&base, &overrides, None);
        assert!(!pipeline.has_oms() && pipeline.generate(request.clone()).is_err(), "{name}: none is attached yet");
        pipeline.attach_oms(Arc::clone(&module)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(pipeline.oms_module().is_some_and(|own| Arc::ptr_eq(own, &module)));
        pipelines.push(pipeline);
    }
    assert_eq!(Arc::strong_count(&module), 4, "one of the test, one of each pipeline");

    let shared: Vec<_> = pipelines.iter().map(|pipeline| draw(pipeline, request.clone())).collect();
    let of_shared = std::mem::take(&mut *backend.modules.lock().expect("unpoisoned"));
    assert!(of_shared.len() == 3 && of_shared[0].len() > 50, "a recording of each pipeline");
    assert!(of_shared.iter().all(|constants| same(constants, &of_shared[0])), "the same weights for all");
    for ((name, base, overrides), shared) in bases().into_iter().zip(&shared) {
        let alone = draw(&open(&base, &overrides, Some(&golden_source())), request.clone());
        assert_eq!(alone.latents, shared.latents, "{name}");
        assert_eq!(alone.parameters, shared.parameters, "{name}: hashes included");
    }
    let of_separate = std::mem::take(&mut *backend.modules.lock().expect("unpoisoned"));
    assert!(!same(&of_separate[0], &of_separate[1]), "the check tells two loads apart");

    drop(pipelines);
    assert_eq!(Arc::strong_count(&module), 1);
}

/// While the first pipeline's module is open, the second finds its weights there.
#[test]
fn the_device_has_the_weights_once() {
    let backend = Arc::new(adapter::open(DType::F32));
    let device = device(backend.clone());
    let run = Request {
        prompt: "a lighthouse at night".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 2,
        count: 2,
        batch: 2,
        oms: Some(oms_request()),
        ..Request::default()
    };
    let begin = |pipeline: &Pipeline| {
        let mut generation = pipeline.generate(run.clone()).expect("the request fits");
        // Two pictures: after the first one's step the module is open still.
        while !matches!(generation.next(), Some(Ok(Event::OneMoreStep { image: 0 }))) {}
        let held = backend.constant_bytes();
        assert!(generation.next().is_some(), "the second picture's step");
        held
    };
    let [(_, sd15, _), (_, sd21, _), _] = bases();
    let open = |base: &Path, oms: Option<&OmsSource>| {
        Pipeline::load(&Source::Folder(base.into()), oms, device.clone()).unwrap_or_else(|e| panic!("{e}"))
    };
    let module = Arc::new(OmsModule::load(&golden_source(), &device).unwrap_or_else(|e| panic!("{e}")));
    let [mut one, mut two] = [open(&sd15, None), open(&sd21, None)];
    for pipeline in [&mut one, &mut two] {
        pipeline.attach_oms(Arc::clone(&module)).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut first = one.generate(run.clone()).expect("the request fits");
    while !matches!(first.next(), Some(Ok(Event::OneMoreStep { image: 0 }))) {}
    let alone = backend.constant_bytes();
    let both = begin(&two);
    assert!(alone > 0 && both == alone, "{alone} bytes for one, {both} for two");
    // Two loads are two copies.
    let third = open(&sd21, Some(&golden_source()));
    assert_eq!(begin(&third), 2 * alone);
}

/// The reference's runs on both bases, with one module.
#[test]
fn the_reference_holds_for_a_shared_module() {
    let golden = Golden::open("oms");
    let device = device(Arc::new(HostBackend::default()));
    let module = Arc::new(OmsModule::load(&golden_source(), &device).unwrap_or_else(|e| panic!("{e}")));
    for (name, run) in
        golden.runs().into_iter().filter(|(name, _)| ["sd15_ddim_1", "sd21_ddim_7"].contains(&name.as_str()))
    {
        let base = root().join(run["base"].as_str().expect("a base"));
        let overrides = Overrides { scheduler: Some(scheduler(&run)), ..Overrides::default() };
        let mut pipeline = Pipeline::load_with(&Source::Folder(base), &overrides, None, device.clone())
            .and_then(|mut pipeline| pipeline.attach_oms(Arc::clone(&module)).map(|()| pipeline))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        pipeline.attach_oms(Arc::clone(&module)).unwrap_or_else(|e| panic!("{name}: again: {e}"));
        let tensor = format!("run/{name}/x_T");
        assert_close(&tensor, &start(&pipeline, &run), &golden.f32s(&tensor), 10.0 * golden.tolerance(&tensor));
    }
}

/// x̃_T of a golden run.
fn start(pipeline: &Pipeline, run: &Value) -> Vec<f32> {
    let args = &run["args"];
    let oms = OmsRequest {
        prompt: args["oms_prompt"].as_str().map(str::to_owned),
        guidance_scale: args["oms_guidance_scale"].as_f64().unwrap_or(1.0),
        ..oms_request()
    };
    let mut generation = pipeline.generate(Request { oms: Some(oms), ..request(run) }).expect("the request fits");
    loop {
        let event = generation.next().expect("the step comes before the end").expect("the run succeeds");
        if matches!(event, Event::OneMoreStep { .. }) {
            return generation.latents(0).expect("there is a picture").to_vec();
        }
    }
}

/// A copy of the module of a folder of goldens, whose index names no text encoder: the base's reads its prompt.
fn without_text_encoder(root: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    crate::support::files::copy(&root.join("oms/oms_module"), &folder.path().join("oms_module"));
    let index =
        json!({ "_class_name": "OMSPipeline", "oms_text_encoder": [null, null], "oms_tokenizer": [null, null] });
    std::fs::write(folder.path().join("model_index.json"), index.to_string()).expect("writable");
    folder
}

/// The module was trained with the encoder as the base's authors made it. Its golden has SD 2.1's, which a LoRA changes here.
#[test]
fn a_lora_of_the_base_does_not_reach_the_module() {
    const TEXT: &str = "text_encoder/model.safetensors";
    let golden = Golden::open("oms");
    let (_, run) = golden.runs().into_iter().find(|(name, _)| name == "sd21_ddim_7").expect("the run is there");
    let tensor = "run/sd21_ddim_7/x_T";
    let (want, bound) = (golden.f32s(tensor), 10.0 * golden.tolerance(tensor));
    let sd21 = root().join("sd21");
    let module = without_text_encoder(&root());
    let source = OmsSource::folder(module.path());

    let base = read(&sd21.join(TEXT));
    let layers: Vec<String> =
        base.keys().filter_map(|name| name.strip_suffix(".fc1.weight").map(|at| format!("{at}.fc1"))).collect();
    let made = make(Format::Lora, &base, &layers, 21);
    let tensors: Tensors = made
        .parts
        .iter()
        .map(|(layer, part, shape, values)| {
            (format!("lora_te_{}.{part}", layer.replace('.', "_")), (shape.clone(), values.clone()))
        })
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lora = folder.path().join("text.safetensors");
    write(&lora, &tensors);
    let merged = folder.path().join("merged");
    crate::support::files::copy(&sd21, &merged);
    let mut changed = read(&merged.join(TEXT));
    changed.extend(made.merged.clone());
    write(&merged.join(TEXT), &changed);

    let open = |base: &Path, weight: Option<f64>, attached_later: bool| {
        let adapters =
            weight.iter().map(|weight| Adapter { path: lora.clone(), weight: *weight, text_encoder_weight: None });
        let overrides =
            Overrides { scheduler: Some(scheduler(&run)), adapters: adapters.collect(), ..Overrides::default() };
        let device = device(Arc::new(HostBackend::default()));
        let oms = Some(&source).filter(|_| !attached_later);
        let mut pipeline = Pipeline::load_with(&Source::Folder(base.into()), &overrides, oms, device.clone())
            .unwrap_or_else(|e| panic!("{e}"));
        if attached_later {
            let module = OmsModule::load(&source, &device).unwrap_or_else(|e| panic!("{e}"));
            pipeline.attach_oms(Arc::new(module)).unwrap_or_else(|e| panic!("{e}"));
        }
        pipeline
    };
    assert_close("no lora", &start(&open(&sd21, None, false), &run), &want, bound);
    for later in [false, true] {
        let pipeline = open(&sd21, Some(1.0), later);
        assert_close("the module under a lora", &start(&pipeline, &run), &want, bound);
        let (with, without) = (draw(&pipeline, request(&run)), draw(&open(&sd21, None, later), request(&run)));
        assert!(compare("the picture", &with.latents, &without.latents, 1e-2).is_err(), "the LoRA changes the picture");
    }
    // Read with the changed encoder, the prompt gives another start.
    let reached = start(&open(&merged, None, false), &run);
    assert!(compare("merged", &reached, &want, 10.0 * bound).is_err(), "the encoder matters to the module");
}

/// The golden module with another number of latent channels.
fn with_channels(channels: usize) -> TempDir {
    const WEIGHTS: &str = "oms_module/diffusion_pytorch_model.safetensors";
    let folder = without_text_encoder(&committed());
    let config = folder.path().join("oms_module/config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).expect("readable")).expect("JSON");
    (json["in_channels"], json["out_channels"]) = (json!(channels), json!(channels));
    std::fs::write(&config, json.to_string()).expect("writable");
    let mut tensors = read(&folder.path().join(WEIGHTS));
    let width = tensors["conv_in.weight"].0[0];
    for (name, shape) in [
        ("conv_in.weight", vec![width, channels, 3, 3]),
        ("conv_out.weight", vec![channels, width, 3, 3]),
        ("conv_out.bias", vec![channels]),
    ] {
        let count = shape.iter().product();
        assert!(tensors.insert(name.into(), (shape, vec![0.0; count])).is_some(), "{name} is in the module");
    }
    write(&folder.path().join(WEIGHTS), &tensors);
    folder
}

#[test]
fn a_module_that_does_not_fit_is_refused_with_the_reason() {
    let device = device(Arc::new(HostBackend::default()));
    let load = |source: &OmsSource, device: &Device| {
        Arc::new(OmsModule::load(source, device).unwrap_or_else(|e| panic!("{e}")))
    };
    let at = |folder: &Path| OmsSource::folder(folder);
    let mut sd15 = Pipeline::load(&Source::Folder(committed().join("sd15")), None, device.clone())
        .unwrap_or_else(|e| panic!("{e}"));
    let good = load(&source_in(&committed()), &device);
    sd15.attach_oms(Arc::clone(&good)).unwrap_or_else(|e| panic!("{e}"));

    let sixteen = with_channels(16);
    let refused = sd15.attach_oms(load(&at(sixteen.path()), &device)).expect_err("16 channels").to_string();
    assert!(refused.contains("16 latent channels") && refused.contains("another latent space"), "{refused}");

    // Of the published modules only their names tell the latent space.
    for (name, wrong) in [("oms_b_openclip_xl", true), ("oms_b_mixclip_xl", true), ("oms_b_openclip_15_21", false)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let module = folder.path().join(name);
        crate::support::files::copy(&committed().join("oms"), &module);
        let config = module.join("oms_module/config.json");
        let pointed = std::fs::read_to_string(&config).expect("a config").replace("../oms", &format!("h1t/{name}"));
        for (folder, text) in [(module.clone(), None), (folder.path().join("module"), Some(pointed))] {
            if let Some(text) = text {
                crate::support::files::copy(&module, &folder);
                std::fs::write(folder.join("oms_module/config.json"), text).expect("written");
            }
            let own = OmsSource { text_encoder: Some(committed().join("sd15")), ..at(&folder) };
            let attached = sd15.attach_oms(load(&own, &device));
            assert_eq!(attached.is_err(), wrong, "{name}");
            if let Err(error) = attached {
                let said = error.to_string();
                assert!(said.contains("latent space of Stable Diffusion XL") && said.contains("sd15"), "{said}");
            }
        }
    }

    sd15.attach_oms(Arc::clone(&good)).unwrap_or_else(|e| panic!("{e}"));

    // SDXL's first encoder is as wide as the module wants, the two together are not.
    let (xl, _guard) = committed_folder("sdxl");
    let named = OmsSource { text_encoder: Some(committed().join("sd15")), ..source_in(&committed()) };
    assert!(Pipeline::load(&Source::Folder(xl.clone()), Some(&named), device.clone()).is_ok());
    let dual = without_text_encoder(&committed());
    let index = json!({ "oms_text_encoder": ["oms", "SDXLTextEncoder"] });
    std::fs::write(dual.path().join("model_index.json"), index.to_string()).expect("writable");
    let dual = load(&at(dual.path()), &device);
    let mut sdxl = Pipeline::load(&Source::Folder(xl), None, device.clone()).unwrap_or_else(|e| panic!("{e}"));
    let refused = sdxl.attach_oms(Arc::clone(&dual)).expect_err("48 and 16");
    assert!(refused.to_string().contains("text states of width 16"), "{refused}");
    assert_eq!(refused.remedies(), [Remedy::Name(Place::OmsTextEncoder)]);
    let refused = sd15.attach_oms(dual).expect_err("one encoder").to_string();
    assert!(refused.contains("two text encoders"), "{refused}");

    let q8_0 = device.clone().with_weights("oms=q8_0".parse().expect("one part"));
    let refused = sd15.attach_oms(load(&source_in(&committed()), &q8_0)).expect_err("other weights").to_string();
    assert!(refused.contains("weights q8_0") && refused.contains("as stored"), "{refused}");
    assert!(sd15.oms_module().is_some_and(|own| Arc::ptr_eq(own, &good)), "what was there stays");
}
