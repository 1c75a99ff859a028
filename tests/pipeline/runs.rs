//! Every run of the goldens, on both executors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::pipeline::{
    Device, Event, InitImage, OmsRequest, OmsSource, Overrides, Picture, Pipeline, Precision, Request, Source,
};
use chiaro::record::{Backend, DType, HostBackend};
use chiaro::sampling::OmsForm;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden::{Golden, committed, compare, root};
use crate::support::{adapter, part};

/// The scheduler of a run as a `scheduler_config.json`.
pub(super) fn scheduler(run: &Value) -> String {
    let mut config = run["scheduler"]["config"].clone();
    config["_class_name"] = run["scheduler"]["cls"].clone();
    config.to_string()
}

/// The picture that a run starts from: a tensor `[1, 3, h, w]`.
pub(super) fn init_image(golden: &Golden, strength: f64) -> InitImage {
    let shape = golden.shape("run/init_image");
    let (height, width) = (shape[2], shape[3]);
    let planes = golden.f32s("run/init_image");
    let rgb = (0..height * width).flat_map(|i| [0, 1, 2].map(|c| planes[c * height * width + i])).collect();
    InitImage { width, height, rgb, strength, mask: None }
}

fn text(args: &Value, key: &str) -> Option<String> {
    args[key].as_str().map(str::to_owned)
}

/// Two numbers in the order of diffusers: (height, width) or (top, left).
fn pair(args: &Value, key: &str) -> Option<(usize, usize)> {
    let number = |i: usize| args[key][i].as_u64().map(|v| v as usize);
    Some((number(0)?, number(1)?))
}

pub(super) fn request(run: &Value) -> Request {
    let args = &run["args"];
    Request {
        prompt: text(args, "prompt").expect("a prompt"),
        negative_prompt: text(args, "negative_prompt"),
        prompt_2: text(args, "prompt_2"),
        negative_prompt_2: text(args, "negative_prompt_2"),
        original_size: pair(args, "original_size"),
        crops_coords_top_left: pair(args, "crops_coords_top_left").unwrap_or((0, 0)),
        target_size: pair(args, "target_size"),
        width: args["width"].as_u64().map(|v| v as usize),
        height: args["height"].as_u64().map(|v| v as usize),
        num_inference_steps: run["steps"].as_u64().expect("a number") as usize,
        guidance_scale: args["guidance_scale"].as_f64().expect("a number"),
        image_guidance_scale: args["image_guidance_scale"].as_f64().unwrap_or(1.5),
        refiner_start: args["refiner_start"].as_f64().unwrap_or(0.8),
        eta: args["eta"].as_f64(),
        guidance_rescale: args["guidance_rescale"].as_f64().unwrap_or(0.0),
        seed: run["seed"].as_u64().expect("a number"),
        clip_skip: args["clip_skip"].as_u64().unwrap_or(0) as usize,
        ..Request::default()
    }
}

pub(super) fn draw(pipeline: &Pipeline, request: Request) -> Picture {
    let mut pictures = Vec::new();
    for event in pipeline.generate(request).expect("the request fits") {
        if let Event::Picture(picture) = event.expect("the run succeeds") {
            pictures.push(*picture);
        }
    }
    pictures.pop().expect("one picture")
}

/// Final latents within 1e-3 of their largest, pixels equal but for ±1 in 1 % of the bytes.
///
/// Random weights under guidance can amplify rounding beyond that: in some v-prediction runs the reference's own f32 and f64 results
/// differ by 7e-4 of the largest. Where they differ by more than 1e-5, the share of the bytes grows with it (10 % at 1e-4: a value of
/// 255 steps that is off by that falls on the other side of a half so often). From 1e-4 on, latents may differ by ten times the
/// reference's difference, and pixels by ±3.
pub(super) fn check(golden: &Golden, name: &str, at: usize, picture: &Picture) -> Result<(), String> {
    let steps = golden.f32s(&format!("run/{name}/step_latents"));
    let shape = golden.shape(&format!("run/{name}/step_latents"));
    let len: usize = shape[2..].iter().product();
    let last = &steps[steps.len() - shape[1] * len..][at * len..(at + 1) * len];
    let largest = last.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let bound = 1e-3 * f64::from(largest);
    let rounding = 10.0 * golden.f64_max_abs_diff(&format!("run/{name}/step_latents"));
    let off = compare(&format!("{name}: final latents"), &picture.latents, last, bound.max(rounding))?;
    println!(
        "{name}: latents off by {:.1e} of the largest, the reference by {:.1e}",
        off / bound * 1e-3,
        rounding / bound * 1e-4
    );
    let image = format!("run/{name}/image_u8");
    if !golden.has(&image) {
        return Ok(());
    }
    let want = golden.f64s(&image);
    let want = &want[at * picture.image.data.len()..(at + 1) * picture.image.data.len()];
    let differences: Vec<f64> = picture.image.data.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).collect();
    let off = differences.iter().filter(|d| **d > 0.0).count();
    let worst = differences.iter().fold(0.0f64, |m, d| m.max(*d));
    println!("{name}: {off} of {} bytes differ, by up to {worst}", differences.len());
    let amplified = rounding > bound;
    let share = (0.1 * rounding / bound).max(0.01) * differences.len() as f64;
    if worst > if amplified { 3.0 } else { 1.0 } || (!amplified && off as f64 > share) {
        return Err(format!("{name}: {off} of {} bytes differ, by up to {worst}", differences.len()));
    }
    Ok(())
}

/// The folder of a family's model. Families whose tokenizers are others' too are kept without them; those are put beside a copy.
pub(super) fn model_folder(family: &str) -> (PathBuf, Option<TempDir>) {
    model_folder_in(&root(), family)
}

/// The folder of a committed family's model, for what was made with it.
pub(crate) fn committed_folder(family: &str) -> (PathBuf, Option<TempDir>) {
    model_folder_in(&committed(), family)
}

pub(super) fn model_folder_in(root: &Path, family: &str) -> (PathBuf, Option<TempDir>) {
    let folder = root.join(family);
    if folder.join("tokenizer").is_dir() || !folder.join("text_encoder").is_dir() {
        return (folder, None);
    }
    let whole = tempfile::tempdir().expect("a temporary folder");
    crate::support::files::copy(&folder, whole.path());
    for (from, to) in [("sd15", "tokenizer"), ("sd21", "tokenizer_2")] {
        crate::support::files::copy(&root.join(from).join("tokenizer"), &whole.path().join(to));
    }
    (whole.path().to_owned(), Some(whole))
}

/// Does what a family's golden describes, each so-and-so-many-th of it if not everything is tested; gives what is wrong.
fn run_family(family: &str, device: &Device, every: usize) -> Vec<String> {
    let golden = Golden::open(family);
    let (own, _guard) = model_folder(family);
    let mut wrong = Vec::new();
    for (name, run) in part::of(every, golden.runs().into_iter()) {
        let args = &run["args"];
        let base = match family {
            "lcm" | "inpaint9" => root().join("sd15"),
            "oms" => root().join(run["base"].as_str().expect("a base")),
            _ => own.clone(),
        };
        let own_unet = ["lcm", "inpaint9"].contains(&family);
        let overrides = Overrides {
            scheduler: Some(scheduler(&run)),
            unet: own_unet.then(|| golden.path().join("unet")),
            ..Overrides::default()
        };
        let oms = (family == "oms").then(|| OmsSource::folder(golden.path()));
        let pipeline = Pipeline::load_with(&Source::Folder(base), &overrides, oms.as_ref(), device.clone())
            .unwrap_or_else(|e| panic!("{family}/{name}: {e}"));
        let mut request = request(&run);
        if let Some(strength) = args["strength"].as_f64() {
            let init = init_image(&golden, strength);
            let mask = (family == "inpaint9" || name.starts_with("inpaint")).then(|| golden.f32s("run/mask"));
            request.image = Some(InitImage { mask, ..init });
            // As the reference: the decoder's pixels everywhere.
            request.paste_back = Some(false);
        }
        if family == "oms" {
            request.oms = Some(OmsRequest {
                prompt: args["oms_prompt"].as_str().map(str::to_owned),
                guidance_scale: args["oms_guidance_scale"].as_f64().unwrap_or(1.0),
                form: OmsForm::Official,
                ..OmsRequest::default()
            });
        }
        let images = args["num_images_per_prompt"].as_u64().unwrap_or(1) as usize;
        for at in 0..images {
            let mut request = request.clone();
            if images > 1 {
                // diffusers draws the noise of a batch at once.
                let noise = golden.f32s(&format!("run/{name}/noise_0"));
                let len = noise.len() / images;
                request.latents = Some(noise[at * len..(at + 1) * len].to_vec());
            }
            if let Err(message) = check(&golden, &name, at, &draw(&pipeline, request)) {
                wrong.push(message);
            }
        }
    }
    assert!(!golden.runs().is_empty(), "{family} has runs");
    wrong
}

fn run_all(backend: Arc<dyn Backend>, families: &[&str], every: usize) {
    let device = Device::new(backend, Precision::F32).expect("f32 is everywhere");
    let wrong: Vec<String> = families.iter().flat_map(|family| run_family(family, &device, every)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// In two halves, so that two tests run side by side.
const HALVES: [&[&str]; 2] = [&["sd15", "sd21", "lcm"], &["sdxl", "oms", "inpaint9"]];

#[test]
fn golden_runs_on_the_host() {
    run_all(Arc::new(HostBackend::default()), &HALVES.concat(), 2);
}

#[test]
fn golden_runs_on_the_gpu() {
    run_all(Arc::new(adapter::open_as_released(DType::F32)), HALVES[0], 3);
}

#[test]
fn more_golden_runs_on_the_gpu() {
    run_all(Arc::new(adapter::open_as_released(DType::F32)), HALVES[1], 3);
}
