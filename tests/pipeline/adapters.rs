//! Adapters: what a network becomes, against the same network merged by the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::pipeline::{Adapter, Device, Overrides, Picture, Pipeline, Precision, Request, Source};
use chiaro::record::HostBackend;
use sha2::Digest;
use tempfile::TempDir;

use super::adapter_files::{Format, Made, Noise, Tensors, bytes, make, read, write};
use super::runs::{committed_folder, draw, model_folder};
use crate::support::golden::{assert_close, committed, compare};
use crate::support::part;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";
const TEXT_2: &str = "text_encoder_2/model.safetensors";

fn host() -> Device {
    Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere")
}

fn adapter(path: &Path, weight: f64) -> Adapter {
    Adapter { path: path.into(), weight, text_encoder_weight: None }
}

fn load(model: &Path, adapters: Vec<Adapter>) -> chiaro::Result<Pipeline> {
    let overrides = Overrides { adapters, ..Overrides::default() };
    Pipeline::load_with(&Source::Folder(model.into()), &overrides, None, host())
}

/// One step, so that the latents are the UNet's output scaled and shifted.
fn picture(model: &Path, adapters: Vec<Adapter>) -> Picture {
    let pipeline = load(model, adapters).unwrap_or_else(|e| panic!("{e}"));
    let request = Request {
        prompt: "a lighthouse".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 1,
        guidance_scale: 1.0,
        ..Request::default()
    };
    draw(&pipeline, request)
}

fn latents(model: &Path, adapters: Vec<Adapter>) -> Vec<f32> {
    picture(model, adapters).latents
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())))
}

/// Layers with a matrix or a convolution.
fn layers(base: &Tensors, suffix: &str) -> Vec<String> {
    let weights = base.iter().filter(|(_, (shape, _))| shape.len() > 1);
    weights
        .filter_map(|(name, _)| name.strip_suffix(".weight"))
        .filter(|n| n.ends_with(suffix))
        .map(str::to_owned)
        .collect()
}

/// A copy of a model with some tensors of one file replaced.
fn merged_model(model: &Path, changes: &[(&str, &Tensors)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = folder.path().join("model");
    crate::support::files::copy(model, &whole);
    for (file, merged) in changes {
        let mut tensors = read(&whole.join(file));
        for (name, tensor) in *merged {
            assert!(tensors.insert(name.clone(), tensor.clone()).is_some(), "{name} is in the model");
        }
        write(&whole.join(file), &tensors);
    }
    folder
}

/// kohya's name of a layer.
fn kohya(prefix: &str, layer: &str) -> String {
    format!("{prefix}_{}", layer.replace('.', "_"))
}

pub(super) fn file(folder: &Path, name: &str, made: &Made, key: impl Fn(&str, &str) -> String) -> PathBuf {
    let tensors =
        made.parts.iter().map(|(layer, part, shape, values)| (key(layer, part), (shape.clone(), values.clone())));
    let path = folder.join(name);
    write(&path, &tensors.collect());
    path
}

pub(super) fn kohya_unet(layer: &str, part: &str) -> String {
    format!("{}.{part}", kohya("lora_unet", layer))
}

#[test]
fn every_format_is_the_merged_network() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let plain = latents(&model, vec![]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (i, format) in Format::ALL.into_iter().enumerate() {
        let made = make(format, &base, &layers(&base, ""), i as u64 + 1);
        let path = file(folder.path(), &format!("{i}.safetensors"), &made, kohya_unet);
        let merged = merged_model(&model, &[(UNET, &made.merged)]);
        let want = latents(&merged.path().join("model"), vec![]);
        let got = latents(&model, vec![adapter(&path, 1.0)]);
        let bound = 1e-4 * largest(&want);
        assert!(compare("changed", &want, &plain, 10.0 * bound).is_err(), "{format:?} changes the output");
        assert_close(&format!("{format:?}"), &got, &want, bound);
        assert_eq!(latents(&model, vec![adapter(&path, 0.0)]), plain, "{format:?} at weight 0");
    }
    assert_eq!(latents(&model, vec![]), plain, "without adapters");
}

/// W + Σ weight · (W' − W), for DoRA too.
#[test]
fn adapters_add_up_with_their_weights() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = [make(Format::LoHa, &base, &layers(&base, ""), 1), make(Format::DoraIn, &base, &layers(&base, ""), 2)];
    let paths: Vec<PathBuf> =
        (0..2).map(|i| file(folder.path(), &format!("{i}.safetensors"), &made[i], kohya_unet)).collect();
    let mut sum = Tensors::new();
    for (name, (shape, first)) in &made[0].merged {
        let (own, second) = (&base[name].1, &made[1].merged[name].1);
        let values = (0..own.len()).map(|i| own[i] + 0.6 * (first[i] - own[i]) - 0.3 * (second[i] - own[i]));
        sum.insert(name.clone(), (shape.clone(), values.collect()));
    }
    let want = latents(&merged_model(&model, &[(UNET, &sum)]).path().join("model"), vec![]);
    let got = latents(&model, vec![adapter(&paths[0], 0.6), adapter(&paths[1], -0.3)]);
    assert_close("two adapters", &got, &want, 1e-4 * largest(&want));
}

/// Norms have vectors, not matrices: LyCORIS writes their differences as `w_norm` and `b_norm`.
#[test]
fn norms_take_differences() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut tensors, mut merged) = (Tensors::new(), Tensors::new());
    for (name, (shape, values)) in base.iter().filter(|(name, _)| name.contains("norm")) {
        let (layer, leaf) = name.rsplit_once('.').expect("a layer and a leaf");
        let part = if leaf == "weight" { "w_norm" } else { "b_norm" };
        tensors.insert(kohya_unet(layer, part), (shape.clone(), vec![0.125; values.len()]));
        merged.insert(name.clone(), (shape.clone(), values.iter().map(|v| v + 0.125).collect()));
    }
    let path = folder.path().join("norms.safetensors");
    write(&path, &tensors);
    let want = latents(&merged_model(&model, &[(UNET, &merged)]).path().join("model"), vec![]);
    assert_close("norms", &latents(&model, vec![adapter(&path, 1.0)]), &want, 1e-4 * largest(&want));
}

/// The layers of attention, which every style can name, under each style's names.
#[test]
fn name_styles_are_one_adapter() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let mut attention = layers(&base, "attn2.to_q");
    attention.extend(layers(&base, "attn1.to_out.0"));
    let made = make(Format::LoraWithoutAlpha, &base, &attention, 7);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let up = |part: &str| if part.contains("up") { "up" } else { "down" };
    let letter = |part: &str| if part.contains("up") { "B" } else { "A" };
    type Style<'a> = (&'a str, Box<dyn Fn(&str, &str) -> String + 'a>);
    let styles: [Style<'_>; 8] = [
        ("kohya", Box::new(kohya_unet)),
        ("original", Box::new(|layer, part| format!("{}.{part}", kohya("lora_unet", &original(layer))))),
        ("comfy", Box::new(|layer, part| format!("diffusion_model.{}.{part}", original(layer)))),
        ("diffusers", Box::new(move |layer, part| format!("unet.{layer}.lora.{}.weight", up(part)))),
        (
            "processors",
            Box::new(move |layer, part| {
                let (attention, leaf) = layer.rsplit_once(".to_").expect("a projection");
                format!("unet.{attention}.processor.to_{}_lora.{}.weight", leaf.trim_end_matches(".0"), up(part))
            }),
        ),
        ("peft", Box::new(move |layer, part| format!("unet.{layer}.lora_{}.weight", letter(part)))),
        (
            "peft, wrapped",
            Box::new(move |layer, part| format!("base_model.model.{layer}.lora_{}.weight", letter(part))),
        ),
        (
            "peft, named",
            Box::new(move |layer, part| format!("base_model.model.{layer}.lora_{}.default.weight", letter(part))),
        ),
    ];
    let merged = merged_model(&model, &[(UNET, &made.merged)]);
    let want = latents(&merged.path().join("model"), vec![]);
    let mut first = None;
    for (i, (style, key)) in styles.into_iter().enumerate() {
        let path = file(folder.path(), &format!("{i}.safetensors"), &made, key);
        let got = latents(&model, vec![adapter(&path, 1.0)]);
        assert_close(style, &got, &want, 1e-4 * largest(&want));
        assert_eq!(&got, first.get_or_insert(got.clone()), "{style}");
    }
}

/// The original code's numbers of SD 1.x attention, from the table of its checkpoint's names.
fn original(layer: &str) -> String {
    const PLACES: &[(&str, &str)] = &[
        ("down_blocks.0.attentions.0", "input_blocks.1.1"),
        ("down_blocks.0.attentions.1", "input_blocks.2.1"),
        ("down_blocks.1.attentions.0", "input_blocks.4.1"),
        ("down_blocks.1.attentions.1", "input_blocks.5.1"),
        ("down_blocks.2.attentions.0", "input_blocks.7.1"),
        ("down_blocks.2.attentions.1", "input_blocks.8.1"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("up_blocks.1.attentions.0", "output_blocks.3.1"),
        ("up_blocks.1.attentions.1", "output_blocks.4.1"),
        ("up_blocks.1.attentions.2", "output_blocks.5.1"),
        ("up_blocks.2.attentions.0", "output_blocks.6.1"),
        ("up_blocks.2.attentions.1", "output_blocks.7.1"),
        ("up_blocks.2.attentions.2", "output_blocks.8.1"),
        ("up_blocks.3.attentions.0", "output_blocks.9.1"),
        ("up_blocks.3.attentions.1", "output_blocks.10.1"),
        ("up_blocks.3.attentions.2", "output_blocks.11.1"),
    ];
    let (ours, theirs) = PLACES.iter().find(|(ours, _)| layer.starts_with(ours)).expect("a place with attention");
    layer.replacen(ours, theirs, 1)
}

/// SDXL: both text encoders and the UNet in one file, kohya's way.
#[test]
fn sdxl_takes_both_text_encoders() {
    let (model, _guard) = model_folder("sdxl");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut tensors, mut merged) = (Tensors::new(), Vec::new());
    for (i, (part, prefix, suffix)) in
        [(UNET, "lora_unet", "to_q"), (TEXT, "lora_te1", "fc1"), (TEXT_2, "lora_te2", "q_proj")].into_iter().enumerate()
    {
        let base = read(&model.join(part));
        let mut chosen = layers(&base, suffix);
        // The second encoder's projection, which the host computes.
        chosen.extend(layers(&base, "text_projection"));
        let made = make(Format::Lora, &base, &chosen, i as u64 + 11);
        for (layer, leaf, shape, values) in &made.parts {
            tensors.insert(format!("{}.{leaf}", kohya(prefix, layer)), (shape.clone(), values.clone()));
        }
        merged.push((part, made.merged));
    }
    let path = folder.path().join("xl.safetensors");
    write(&path, &tensors);
    let all: Vec<(&str, &Tensors)> = merged.iter().map(|(part, merged)| (*part, merged)).collect();
    let want = latents(&merged_model(&model, &all).path().join("model"), vec![]);
    let got = latents(&model, vec![adapter(&path, 1.0)]);
    assert_close("sdxl", &got, &want, 1e-4 * largest(&want));
    // The text encoders' weight by itself: at 0 only the UNet's change is left.
    let unet_only = latents(&merged_model(&model, &all[..1]).path().join("model"), vec![]);
    let text_off = Adapter { text_encoder_weight: Some(0.0), ..adapter(&path, 1.0) };
    assert_close("text off", &latents(&model, vec![text_off]), &unet_only, 1e-4 * largest(&unet_only));
    assert!(compare("text counts", &unet_only, &want, 1e-3 * largest(&want)).is_err());
    let pipeline = load(&model, vec![adapter(&path, 1.0)]).unwrap_or_else(|e| panic!("{e}"));
    let report = &pipeline.adapters()[0];
    assert_eq!((report.applied.len(), report.skipped.len(), report.kinds.as_str()), (3, 0, "LoRA rank 3"));
    assert_eq!(report.applied.values().map(Vec::len).sum::<usize>(), all.iter().map(|(_, m)| m.len()).sum::<usize>());
}

/// PEFT keeps α in `adapter_config.json`, diffusers in the header's metadata.
#[test]
fn peft_settings_scale() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let made = make(Format::LoraWithoutAlpha, &base, &layers(&base, "to_q"), 5);
    let with_alpha = tempfile::tempdir().expect("a temporary folder");
    let key = |layer: &str, part: &str| {
        format!("base_model.model.{layer}.lora_{}.weight", if part.contains("up") { "B" } else { "A" })
    };
    let path = file(with_alpha.path(), "adapter_model.safetensors", &made, key);
    let plain = latents(&model, vec![adapter(&path, 2.0)]);
    std::fs::write(with_alpha.path().join("adapter_config.json"), r#"{"r": 3, "lora_alpha": 6}"#).expect("written");
    assert_eq!(latents(&model, vec![adapter(with_alpha.path(), 1.0)]), plain, "α / rank = 2");
}

fn refusal(model: &Path, tensors: &Tensors) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.safetensors");
    write(&path, tensors);
    let message = match load(model, vec![adapter(&path, 1.0)]) {
        Ok(_) => panic!("a bad file was taken"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains("bad.safetensors") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn bad_adapters_name_the_tensor() {
    let (model, _guard) = committed_folder("sd15");
    let base = read(&model.join(UNET));
    let layer = &layers(&base, "attn2.to_k")[0];
    let made = make(Format::Lora, &base, std::slice::from_ref(layer), 1);
    let good: Tensors = made.parts.iter().map(|(l, p, s, v)| (kohya_unet(l, p), (s.clone(), v.clone()))).collect();
    let (up, down) = (kohya_unet(layer, "lora_up.weight"), kohya_unet(layer, "lora_down.weight"));
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = good.clone();
        tensors.insert(name.into(), (shape.to_vec(), vec![0.5; shape.iter().product()]));
        tensors
    };
    let without = |name: &str| good.clone().into_iter().filter(|(n, _)| n != name).collect::<Tensors>();
    for (tensors, words) in [
        (with(&down, &[3, 768]), vec![down.as_str(), "[3, 768]", "[3, 16]", "Stable Diffusion 1.x"]),
        (with(&up, &[32, 5]), vec![&up, "[32, 5]"]),
        (with(&up, &[32]), vec![&up, "a matrix"]),
        (with(&down, &[0, 16]), vec![&down, "rank 0"]),
        (without(&up), vec![&down, "alone"]),
        (without(&down), vec![&up, "down"]),
        (with(&kohya_unet(layer, "alpha"), &[2]), vec!["alpha", "one finite number"]),
        (with(&kohya_unet(layer, "dora_scale"), &[7, 1]), vec!["dora_scale", "[7, 1]"]),
        (with(&kohya_unet(layer, "hada_w1_a"), &[32, 3]), vec!["one format"]),
        (with(&format!("unet.{layer}.lora_A.weight"), &[3, 16]), vec![layer]),
    ] {
        let message = refusal(&model, &tensors);
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    let other = Tensors::from([("transformer.x.lora_A.weight".into(), (vec![1, 4], vec![0.0; 4]))]);
    let message = refusal(&model, &other);
    assert!(
        message.contains("nothing fits") && message.contains("another model") && message.contains("transformer.x"),
        "{message}"
    );
    let message = refusal(&model, &Tensors::from([("emb_params".into(), (vec![1, 4], vec![0.0; 4]))]));
    assert!(message.contains("textual inversion"), "{message}");
    assert!(refusal(&model, &Tensors::new()).contains("no tensors"));
}

/// What does not fit is left out and listed, the rest applied.
#[test]
fn reports_say_what_was_skipped() {
    let (model, _guard) = model_folder("sd15");
    let base = read(&model.join(UNET));
    let made = make(Format::Lora, &base, &layers(&base, "to_v"), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "some.safetensors", &made, kohya_unet);
    let mut tensors = read(&path);
    for name in ["lora_te2_text_model_x.alpha", "lora_unet_no_such.lora_up.weight", "lora_unet_x.oft_blocks"] {
        tensors.insert(name.into(), (vec![1, 1], vec![1.0]));
    }
    write(&path, &tensors);
    let pipeline = load(&model, vec![adapter(&path, 0.5)]).unwrap_or_else(|e| panic!("{e}"));
    let report = &pipeline.adapters()[0];
    assert_eq!(report.applied.values().next().map(Vec::len), Some(made.merged.len()));
    let skipped: Vec<String> = report.skipped.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    assert_eq!(
        skipped,
        [
            "lora_te2_text_model_x: the model has no text encoder 2",
            "lora_unet_no_such: no such layer in the UNet",
            "lora_unet_x.oft_blocks: a format that is not read"
        ]
    );
    let picture = picture(&model, vec![adapter(&path, 0.5)]);
    let bytes = std::fs::read(&path).expect("the file");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let hash: String = sha2::Sha256::digest(&bytes[header..]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(picture.infotext.contains(&format!("Lora hashes: \"some: {}\"", &hash[..12])), "{}", picture.infotext);
    let parameters = picture.parameters;
    assert_eq!(parameters["adapters"][0]["name"], "some");
    assert_eq!(parameters["adapters"][0]["weight"], 0.5);
    assert_eq!(parameters["adapters"][0]["sha256"], report.sha256());
}

/// Damaged files: an error or a load, never a panic. Some of those that load are used, too.
#[test]
fn mutated_files_never_panic() {
    let own = tempfile::tempdir().expect("a temporary folder");
    let model = own.path().to_owned();
    crate::support::files::copy(&model_folder("sd15").0, &model);
    // A vocabulary of specials alone: reading CLIP's takes longer than everything else.
    let specials = serde_json::json!({ "<|startoftext|>": 0, "<|endoftext|>": 1, "!": 2 }).to_string();
    std::fs::write(model.join("tokenizer/vocab.json"), specials).expect("written");
    std::fs::write(model.join("tokenizer/merges.txt"), "#version: 0.2\n").expect("written");
    let base = read(&model.join(UNET));
    let all = layers(&base, "");
    let some: Vec<String> = all
        .iter()
        .filter(|l| l.starts_with("mid_block.resnets.0") || l.ends_with("attn2.to_k"))
        .take(4)
        .cloned()
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut noise = Noise(99);
    let (mut refused, mut taken) = (0, 0);
    for (i, format) in Format::ALL.into_iter().enumerate() {
        let made = make(format, &base, &some, i as u64);
        let tensors = made.parts.iter().map(|(l, p, s, v)| (kohya_unet(l, p), (s.clone(), v.clone())));
        let sound = bytes(&tensors.collect());
        let header = 8 + u64::from_le_bytes(sound[..8].try_into().expect("eight bytes")) as usize;
        for case in part::of(2, 0..CASES / Format::ALL.len()) {
            let mut file = sound.clone();
            match case % 4 {
                0 => file.truncate(noise.next() as usize % sound.len()),
                1 => file[noise.next() as usize % header] = noise.next() as u8,
                // A digit of a shape, an offset or a name.
                2 | 3 => {
                    let digits: Vec<usize> = (8..header).filter(|&at| file[at].is_ascii_digit()).collect();
                    for _ in 0..=case % 3 {
                        file[digits[noise.next() as usize % digits.len()]] = b'0' + (noise.next() % 10) as u8;
                    }
                }
                _ => unreachable!("a remainder of 4"),
            }
            let path = folder.path().join("mutated.safetensors");
            std::fs::write(&path, &file).expect("written");
            match load(&model, vec![adapter(&path, 1.0)]) {
                Ok(pipeline) => {
                    taken += 1;
                    if taken % 40 == 1 {
                        let request = Request { width: Some(64), height: Some(64), ..Request::default() };
                        pipeline.measure(&request).unwrap_or_else(|e| panic!("{e}"));
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
    }
    assert!(refused * part::step(2) > CASES / 4 && taken > 0, "{refused} refused, {taken} taken");
}

const CASES: usize = 10_000;

/// A LoCon whose first convolution was trained on four channels, in front of nine: the same file with zeros for the five others. That is
/// what AUTOMATIC1111's program makes of it (`modules/networks.py`, `network_apply_weights`).
#[test]
fn four_channels_are_padded_to_nine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut noise = Noise(5);
    let mut random = |count: usize| -> Vec<f64> {
        (0..count).map(|_| f64::from((noise.next() % 2001) as f32 / 1000.0 - 1.0)).collect()
    };
    let channels = 16;
    let (up, down) = (random(channels * 2), random(2 * 4 * 9));
    let padded: Vec<f64> = down.chunks(4 * 9).flat_map(|row| row.iter().copied().chain([0.0; 5 * 9])).collect();
    let difference = random(channels * 4 * 9);
    let whole: Vec<f64> = difference.chunks(4 * 9).flat_map(|row| row.iter().copied().chain([0.0; 5 * 9])).collect();
    let file = |name: &str, tensors: Vec<(&str, Vec<usize>, &[f64])>| {
        let named = |(leaf, shape, values): (&str, Vec<usize>, &[f64])| {
            (format!("lora_unet_conv_in.{leaf}"), (shape, values.to_vec()))
        };
        let path = folder.path().join(name);
        write(&path, &tensors.into_iter().map(named).collect());
        path
    };
    let lora = |name, inner, down: &[f64]| {
        let shapes = (vec![channels, 2, 1, 1], vec![2, inner, 3, 3]);
        file(name, vec![("lora_up.weight", shapes.0, &up), ("lora_down.weight", shapes.1, down)])
    };
    let pairs = [
        (lora("four", 4, &down), lora("nine", 9, &padded)),
        (
            file("diff_four", vec![("diff", vec![channels, 4, 3, 3], &difference)]),
            file("diff_nine", vec![("diff", vec![channels, 9, 3, 3], &whole)]),
        ),
    ];
    let draw = |adapters: Vec<Adapter>| {
        let unet = Some(committed().join("inpaint9/unet"));
        let overrides = Overrides { adapters, unet, ..Overrides::default() };
        let model = Source::Folder(committed().join("sd15"));
        let pipeline = Pipeline::load_with(&model, &overrides, None, host()).unwrap_or_else(|e| panic!("{e}"));
        let image = chiaro::pipeline::InitImage {
            width: 64,
            height: 64,
            rgb: vec![0.25; 3 * 64 * 64],
            strength: 1.0,
            mask: Some((0..64 * 64).map(|i| if i % 64 < 32 { 1.0 } else { 0.0 }).collect()),
        };
        let request = Request {
            prompt: "a lighthouse".into(),
            width: Some(64),
            height: Some(64),
            num_inference_steps: 1,
            image: Some(image),
            ..Request::default()
        };
        draw(&pipeline, request).latents
    };
    let plain = draw(Vec::new());
    for (four, nine) in pairs {
        let (got, want) = (draw(vec![adapter(&four, 0.5)]), draw(vec![adapter(&nine, 0.5)]));
        assert_close(&four.display().to_string(), &got, &want, 1e-5 * largest(&want));
        assert!(compare("plain", &got, &plain, 1e-3 * largest(&want)).is_err(), "the change is seen");
    }
}
