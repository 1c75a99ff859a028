//! Runs with ControlNets against diffusers' pipelines.

use std::path::Path;
use std::sync::Arc;

use chiaro::image::Rgb8Image;
use chiaro::pipeline::{ControlRequest, Device, InitImage, Overrides, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, DType, HostBackend};
use serde_json::Value;

use super::runs::{check, committed_folder, draw, request, scheduler};
use crate::support::adapter;
use crate::support::control::{entries, write_folder};
use crate::support::golden::{Golden, committed};
use crate::support::single_file::{Entry, write};

fn picture(golden: &Golden, name: &str) -> Rgb8Image {
    let name = format!("run/picture/{name}");
    let shape = golden.shape(&name);
    let data = golden.f64s(&name).into_iter().map(|v| v as u8).collect();
    Rgb8Image { width: shape[1], height: shape[0], data }
}

/// What a run asks for, and the nets in the order in which it numbers them.
fn of_run(golden: &Golden, run: &Value, folder: &Path) -> (Request, Overrides) {
    let controls = run["controls"].as_array().expect("a run has controls");
    let text = |control: &Value, key: &str| control[key].as_str().expect("a name").to_owned();
    let number = |control: &Value, key: &str| control[key].as_f64().expect("a number");
    let one = |(net, control): (usize, &Value)| ControlRequest {
        net,
        image: Some(Arc::new(picture(golden, &text(control, "picture")))),
        weight: number(control, "weight"),
        start: number(control, "start"),
        end: number(control, "end"),
        guess_mode: run["guess_mode"] == true,
    };
    let mut request = request(run);
    request.controls = controls.iter().enumerate().map(one).collect();
    if let Some(strength) = run["args"]["strength"].as_f64() {
        let mask =
            (run["family"] == "inpaint9").then(|| golden.f64s("run/mask").iter().flat_map(|&v| [v as u8; 3]).collect());
        let start = picture(golden, "start");
        let mask = mask.map(|data| Rgb8Image { data, ..start });
        request.image = Some(InitImage::new(&picture(golden, "start"), mask.as_ref(), strength).expect("whole"));
    }
    let nets = controls.iter().map(|control| write_folder(&text(control, "net"), folder));
    let unet = (run["family"] == "inpaint9").then(|| committed().join("inpaint9/unet"));
    let overrides =
        Overrides { scheduler: Some(scheduler(run)), controls: nets.collect(), unet, ..Overrides::default() };
    (request, overrides)
}

fn runs_on(backend: Arc<dyn Backend>, only: &[&str]) {
    let device = Device::new(backend, Precision::F32).expect("f32 is everywhere");
    let golden = Golden::open_in(&committed(), "control");
    let mut wrong = Vec::new();
    for (name, run) in golden.runs().into_iter().filter(|(name, _)| only.is_empty() || only.contains(&name.as_str())) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let family = run["family"].as_str().expect("a family");
        let (base, _guard) = committed_folder(if family == "inpaint9" { "sd15" } else { family });
        let (request, overrides) = of_run(&golden, &run, folder.path());
        let pipeline = Pipeline::load_with(&Source::Folder(base), &overrides, None, device.clone())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Err(message) = check(&golden, &name, 0, &draw(&pipeline, request.clone())) {
            wrong.push(message);
        }
        // Without its controls the same request draws another picture.
        if request.controls.len() == 1 && only.is_empty() {
            let free = Request { controls: Vec::new(), ..request };
            assert!(check(&golden, &name, 0, &draw(&pipeline, free)).is_err(), "{name}: its control has no effect");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn controlled_runs_on_the_host() {
    runs_on(Arc::new(HostBackend::default()), &[]);
}

#[test]
fn controlled_runs_on_the_gpu() {
    runs_on(Arc::new(adapter::open(DType::F32)), &["sd15_two", "sdxl_one"]);
}

/// In half precision errors grow over steps; without guidance they stay small.
#[test]
fn a_controlled_run_in_half_precision() {
    let device = Device::new(Arc::new(adapter::open(DType::F16)), Precision::F16).expect("16-bit types");
    let golden = Golden::open_in(&committed(), "control");
    let name = "sd15_unguided";
    let (_, run) = golden.runs().into_iter().find(|(other, _)| other == name).expect("a run of that name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (request, overrides) = of_run(&golden, &run, folder.path());
    let (base, _guard) = committed_folder("sd15");
    let pipeline =
        Pipeline::load_with(&Source::Folder(base), &overrides, None, device).unwrap_or_else(|e| panic!("{e}"));
    let got = draw(&pipeline, request).latents;
    let steps = golden.f32s(&format!("run/{name}/step_latents"));
    let want = &steps[steps.len() - got.len()..];
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let error = error / want.iter().map(|w| square(*w)).sum::<f64>();
    // Not `error > 1e-4`: that lets NaN pass.
    assert!(error < 1e-4, "normalised mean squared error {error:.3e}");
}

/// diffusers' names without a config, and the original names: heads and groups are the UNet's.
#[test]
fn single_files_draw_the_same() {
    let golden = Golden::open_in(&committed(), "control");
    let (_, run) = golden.runs().into_iter().find(|(name, _)| name == "sd15_one").expect("a run of that name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (request, overrides) = of_run(&golden, &run, folder.path());
    let device = || Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("the host");
    let (base, _guard) = committed_folder("sd15");
    let source = Source::Folder(base);
    let draw_with = |path: &Path| {
        let overrides = Overrides { controls: vec![path.to_owned()], ..overrides.clone() };
        let pipeline = Pipeline::load_with(&source, &overrides, None, device()).unwrap_or_else(|e| panic!("{e}"));
        draw(&pipeline, request.clone()).latents
    };
    let want = draw_with(&overrides.controls[0]);
    let same = folder.path().join("diffusers.safetensors");
    write(&same, &entries("sd15_a"));
    assert_eq!(draw_with(&same), want);
    let original = folder.path().join("original.safetensors");
    write(&original, &originals(entries("sd15_a")));
    assert_eq!(draw_with(&original), want);
}

/// A net of two blocks a level under its original names (`cldm/cldm.py`, `ControlNet`).
fn originals(entries: Vec<Entry>) -> Vec<Entry> {
    let rename = |entry: Entry| {
        let parts: Vec<&str> = entry.name.split('.').collect();
        let leaf = parts[parts.len() - 1];
        let name = match (parts[0], parts[1]) {
            ("controlnet_down_blocks", i) => format!("zero_convs.{i}.0.{leaf}"),
            ("controlnet_mid_block", _) => format!("middle_block_out.0.{leaf}"),
            ("controlnet_cond_embedding", "conv_in") => format!("input_hint_block.0.{leaf}"),
            ("controlnet_cond_embedding", "conv_out") => format!("input_hint_block.14.{leaf}"),
            ("controlnet_cond_embedding", _) => {
                format!("input_hint_block.{}.{leaf}", 2 * parts[2].parse::<usize>().expect("a number") + 2)
            }
            _ => {
                let renamed = crate::support::single_file::renamed(vec![entry.clone()], "sd15_unet").remove(0).name;
                renamed.replace("model.diffusion_model.", "")
            }
        };
        Entry { name: format!("control_model.{name}"), ..entry }
    };
    entries.into_iter().map(rename).collect()
}

/// Stages come by the sets of nets that act together; their memory is that of all networks in them.
#[test]
fn the_plan_has_a_stage_for_each_set() {
    let golden = Golden::open_in(&committed(), "control");
    let (_, run) = golden.runs().into_iter().find(|(name, _)| name == "sd15_two").expect("a run of that name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut request, overrides) = of_run(&golden, &run, folder.path());
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("the host");
    let (base, _guard) = committed_folder("sd15");
    let pipeline =
        Pipeline::load_with(&Source::Folder(base), &overrides, None, device).unwrap_or_else(|e| panic!("{e}"));
    for control in &mut request.controls {
        control.image = None;
    }
    let plans = pipeline.plan(&request).expect("a plan needs no pictures");
    let unets: Vec<_> = plans.iter().filter(|plan| plan.name.starts_with("UNet")).collect();
    let runs: Vec<_> = unets.iter().map(|plan| (plan.name, plan.runs)).collect();
    let with = "UNet with ControlNet";
    assert_eq!(runs, [(with, 1), (with, 2), (with, 1), ("UNet", 1)]);
    let weights: Vec<usize> = unets.iter().map(|plan| plan.memory.constant_bytes).collect();
    assert_eq!(weights[1], weights[0] + weights[2] - weights[3], "both nets beside one UNet");
    assert!(weights[0] > weights[3] && unets[1].peak_bytes() > unets[0].peak_bytes());
    let error = pipeline.generate(request.clone()).err().expect("no picture was given").to_string();
    assert!(error.contains("`controls[].image`"), "{error}");
    request.controls[1].net = 2;
    let error = pipeline.plan(&request).expect_err("there is no third net").to_string();
    assert!(error.contains("one of 2 ControlNets"), "{error}");
}

#[test]
fn a_net_of_another_family_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (base, _guard) = committed_folder("sd15");
    let overrides = Overrides { controls: vec![write_folder("sd21", folder.path())], ..Overrides::default() };
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("the host");
    let error = Pipeline::load_with(&Source::Folder(base), &overrides, None, device).err().expect("another family");
    let message = error.to_string();
    for words in ["sd21", "Stable Diffusion 1.x", "Stable Diffusion 2.x", "UNet has"] {
        assert!(message.contains(words), "{message}");
    }
}
