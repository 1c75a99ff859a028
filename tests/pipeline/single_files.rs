//! The goldens' models as single files give the latents of their folders, bit for bit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::models::original::Patches;
use chiaro::pipeline::{Device, InitImage, Overrides, Pipeline, Precision, Request, SingleFile, Source};
use chiaro::record::HostBackend;
use chiaro::sampling::PredictionType;
use chiaro::{Place, Remedy};
use serde_json::Value;

use super::runs::{draw, model_folder_in};
use crate::support::golden::{committed, root};
use crate::support::single_file::{Entry, open_clip, read, renamed, small_unet, write};

/// A family's tensors as one file, with its UNet from `unet`.
pub(super) fn entries(family: &str, base: &Path, unet: &Path) -> Vec<Entry> {
    let stem = "diffusion_pytorch_model.safetensors";
    let networks = read(&unet.join(stem));
    let is_small = !networks.iter().any(|entry| entry.name.contains("down_blocks.0.resnets.1."));
    let mut entries = if is_small { small_unet(networks, 1) } else { renamed(networks, &format!("{family}_unet")) };
    entries.extend(renamed(read(&base.join("vae").join(stem)), "vae"));
    let text = |component: &str| read(&base.join(component).join("model.safetensors"));
    match family {
        "refiner" => entries.extend(open_clip(text("text_encoder_2"), "conditioner.embedders.0.model.", false)),
        "sd15" => entries.extend(renamed(text("text_encoder"), "sd15_text_encoder")),
        "sd21" => entries.extend(open_clip(text("text_encoder"), "cond_stage_model.model.", true)),
        _ => {
            let mut first = renamed(text("text_encoder"), "sd15_text_encoder");
            for entry in &mut first {
                entry.name = entry.name.replace("cond_stage_model.", "conditioner.embedders.0.");
            }
            entries.extend(first);
            entries.extend(open_clip(text("text_encoder_2"), "conditioner.embedders.1.model.", false));
        }
    }
    entries
}

/// What no shape tells: heads, groups, and the size that these tiny models were made at.
pub(super) fn patches(base: &Path, unet: &Path) -> Patches {
    let mut patches = Patches::new();
    let components = [
        ("unet", unet.to_owned(), &["attention_head_dim", "norm_num_groups", "sample_size"][..]),
        ("vae", base.join("vae"), &["norm_num_groups"][..]),
        ("text_encoder", base.join("text_encoder"), &["num_attention_heads"][..]),
        ("text_encoder_2", base.join("text_encoder_2"), &["num_attention_heads"][..]),
    ];
    for (component, folder, fields) in components {
        let Ok(text) = std::fs::read_to_string(folder.join("config.json")) else { continue };
        let config: Value = serde_json::from_str(&text).expect("config.json is JSON");
        let fields = fields.iter().map(|field| ((*field).to_owned(), config[*field].clone())).collect();
        patches.insert(component.into(), fields);
    }
    patches
}

pub(super) fn device() -> Device {
    Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere")
}

pub(super) fn request(inpaints: bool) -> Request {
    let size = 64;
    let rgb = (0..size * size * 3).map(|i| (i % 29) as f32 / 28.0).collect();
    let mask = (0..size * size).map(|i| if i % size < 32 { 1.0 } else { 0.0 }).collect();
    let image = InitImage { width: size, height: size, rgb, strength: 1.0, mask: Some(mask) };
    Request {
        prompt: "a (lighthouse) at night, 3 boats".into(),
        negative_prompt: Some("fog".into()),
        width: Some(size),
        height: Some(size),
        num_inference_steps: 2,
        seed: 7,
        image: inpaints.then_some(image),
        ..Request::default()
    }
}

pub(super) struct Family {
    pub(super) base: PathBuf,
    pub(super) unet: PathBuf,
    _guard: Option<tempfile::TempDir>,
}

pub(super) fn family(name: &str) -> (Family, &'static str) {
    family_in(&root(), name)
}

/// A committed family, for what asks for its widths.
pub(super) fn committed_family(name: &str) -> (Family, &'static str) {
    family_in(&committed(), name)
}

fn family_in(root: &Path, name: &str) -> (Family, &'static str) {
    let (layout, from) = match name {
        "lcm" | "inpaint9" => ("sd15", "sd15"),
        "sd21" => ("sd21", "sd21"),
        "sdxl" => ("sdxl", "sdxl"),
        _ => ("sd15", "sd15"),
    };
    let (base, guard) = model_folder_in(root, from);
    (Family { base, unet: root.join(name).join("unet"), _guard: guard }, layout)
}

fn same_latents(name: &str) {
    let (files, layout) = family(name);
    let scheduler = root().join(name).join("scheduler/scheduler_config.json");
    same(name, &files, layout, std::fs::read_to_string(scheduler).ok(), request(name == "inpaint9"));
}

fn same(name: &str, files: &Family, layout: &str, scheduler: Option<String>, request: Request) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(&path, &entries(layout, &files.base, &files.unet));
    let single = SingleFile::open(&path, &patches(&files.base, &files.unet)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(single.checkpoint().foreign.is_empty(), "{name}: {:?}", single.checkpoint().foreign);
    let overrides = Overrides { unet: Some(files.unet.clone()), scheduler, ..Overrides::default() };
    let own = Pipeline::load_with(&Source::Folder(files.base.clone()), &overrides, None, device())
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let seen =
        Pipeline::load(&Source::File(single), None, device()).unwrap_or_else(|e| panic!("{name}, one file: {e}"));
    let (own, seen) = (draw(&own, request.clone()), draw(&seen, request));
    assert!(own.latents.iter().any(|v| *v != 0.0) && own.latents.iter().all(|v| v.is_finite()));
    assert!(own.latents == seen.latents, "{name}: the latents differ");
    assert_eq!(own.image.data, seen.image.data, "{name}");
}

#[test]
fn sd15_in_one_file() {
    same_latents("sd15");
}

#[test]
fn sd21_in_one_file() {
    same_latents("sd21");
}

#[test]
fn sdxl_in_one_file() {
    same_latents("sdxl");
}

#[test]
fn lcm_in_one_file() {
    same_latents("lcm");
}

#[test]
fn inpainting_in_one_file() {
    same_latents("inpaint9");
}

#[test]
fn instructions_in_one_file() {
    let files = Family { base: committed().join("sd15"), unet: committed().join("pix2pix/unet"), _guard: None };
    let image = request(true).image.map(|image| InitImage { mask: None, ..image });
    same("pix2pix", &files, "sd15", None, Request { image, ..request(false) });
}

#[test]
fn refiners_in_one_file() {
    let whole = crate::support::xl_folder::refiner();
    let files = Family { base: whole.path().to_owned(), unet: whole.path().join("unet"), _guard: Some(whole) };
    let image = request(true).image.map(|image| InitImage { mask: None, ..image });
    same("refiner", &files, "refiner", None, Request { image, ..request(false) });
}

/// A file without an autoencoder and one without text say what is missing, and take it from elsewhere.
#[test]
fn missing_parts_come_from_elsewhere() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("unet.safetensors");
    let mut unet = entries("sd15", &files.base, &files.unet);
    unet.retain(|entry| entry.name.starts_with("model."));
    write(&path, &unet);
    let single = SingleFile::open(&path, &patches(&files.base, &files.unet)).unwrap_or_else(|e| panic!("{e}"));
    let source = Source::File(single);
    let ways = |overrides: &Overrides| {
        let error = Pipeline::load_with(&source, overrides, None, device()).err();
        error.expect("something is missing").remedies()
    };
    let mut overrides = Overrides::default();
    assert_eq!(ways(&overrides), [Remedy::Name(Place::TextEncoder)]);
    overrides.text_encoder = Some(files.base.clone());
    assert_eq!(ways(&overrides), [Remedy::Name(Place::Vae)]);
    overrides.vae = Some(files.base.join("vae"));
    let pipeline = Pipeline::load_with(&source, &overrides, None, device()).unwrap_or_else(|e| panic!("{e}"));
    let own = Pipeline::load(&Source::Folder(files.base.clone()), None, device()).unwrap_or_else(|e| panic!("{e}"));
    assert!(draw(&pipeline, request(false)).latents == draw(&own, request(false)).latents);
    // The other prediction is another picture.
    overrides.prediction = Some(PredictionType::VPrediction);
    let pipeline = Pipeline::load_with(&source, &overrides, None, device()).unwrap_or_else(|e| panic!("{e}"));
    assert!(draw(&pipeline, request(false)).latents != draw(&own, request(false)).latents);
}

/// A sharded folder is the whole one.
#[test]
fn shards_give_the_same_latents() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    crate::support::files::copy(&files.base, folder.path());
    let unet = folder.path().join("unet");
    let stem = "diffusion_pytorch_model";
    let whole = unet.join(format!("{stem}.safetensors"));
    let tensors = read(&whole);
    std::fs::remove_file(&whole).expect("the whole file goes");
    let mut map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len() / 3 + 1).enumerate() {
        let name = format!("{stem}-{:05}-of-00003.safetensors", index + 1);
        write(&unet.join(&name), part);
        map.extend(part.iter().map(|entry| (entry.name.clone(), name.clone().into())));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(unet.join(format!("{stem}.safetensors.index.json")), index.to_string()).expect("the index");
    let open = |folder: &Path| {
        Pipeline::load(&Source::Folder(folder.into()), None, device()).unwrap_or_else(|e| panic!("{e}"))
    };
    let (own, sharded) = (open(&files.base), open(folder.path()));
    assert!(draw(&own, request(false)).latents == draw(&sharded, request(false)).latents);
}
