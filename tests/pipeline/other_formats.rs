//! The goldens' models as GGUF files and PyTorch's archives give the latents of the same values in safetensors, bit for bit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::pipeline::{Adapter, Device, Overrides, Picture, Pipeline, Precision, SingleFile, Source, WeightTypes};
use chiaro::record::DType;

use super::runs::draw;
use super::single_files::{Family, committed_family, device, entries, family, patches, request};
use crate::support::adapter;
use crate::support::gguf_file::{Tensor, gguf, q4_0, q8_0, unpacked};
use crate::support::single_file::{Entry, open_clip, read, transposed, write};
use crate::support::torch_file::torch;

fn load(path: &Path, files: &Family, device: Device) -> Pipeline {
    let single = SingleFile::open(path, &patches(&files.base, &files.unet))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(single.checkpoint().foreign.is_empty(), "{:?}", single.checkpoint().foreign);
    Pipeline::load(&Source::File(single), None, device).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn own(files: &Family) -> Pipeline {
    Pipeline::load(&Source::Folder(files.base.clone()), None, device()).unwrap_or_else(|e| panic!("{e}"))
}

fn same(a: &Picture, b: &Picture) {
    assert!(a.latents.iter().any(|v| *v != 0.0) && a.latents.iter().all(|v| v.is_finite()));
    assert!(a.latents == b.latents, "the latents differ");
    assert_eq!(a.image.data, b.image.data);
}

fn save(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the file is written");
    path
}

fn plain(entries: &[Entry]) -> Vec<u8> {
    gguf(&entries.iter().map(Tensor::of).collect::<Vec<_>>(), &[])
}

#[test]
fn sd15_as_gguf_and_ckpt() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let entries = entries("sd15", &files.base, &files.unet);
    let wanted = draw(&own(&files), request(false));
    for (name, bytes) in [("model.gguf", plain(&entries)), ("model.ckpt", torch(&entries, true))] {
        let path = save(folder.path(), name, &bytes);
        let pipeline = load(&path, &files, device());
        same(&draw(&pipeline, request(false)), &wanted);
        let hashes = pipeline.hashes().unwrap_or_else(|e| panic!("{e}"));
        let hash = hashes.values().next().expect("a file");
        assert!(hash.len() == 64 && hashes.values().all(|other| other == hash), "{name}: one file has one hash");
    }
}

fn values(entry: &Entry) -> Vec<f32> {
    let bytes = entry.bytes.as_ref().expect("no hole");
    match entry.dtype {
        "F32" => bytemuck::pod_collect_to_vec(bytes),
        _ => bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes).into_iter().map(f32::from).collect(),
    }
}

/// What stable-diffusion.cpp makes blocks of (`model_loader.cpp`, `tensor_should_be_converted`), as far as these networks have it:
/// everything whose rows are whole blocks but biases, embeddings and the time path.
fn becomes_blocks(entry: &Entry) -> bool {
    let kept = [".bias", "embedding", "time_embed.", "label_emb.", "position_ids"];
    entry.shape.last().is_some_and(|row| row.is_multiple_of(32)) && !kept.iter().any(|part| entry.name.contains(part))
}

/// The entries as GGUF with blocks, and as safetensors with the blocks' values.
fn in_blocks(entries: Vec<Entry>, kind: u32) -> (Vec<Tensor>, Vec<Entry>) {
    let both = |entry: Entry| {
        if !becomes_blocks(&entry) {
            return (Tensor::of(&entry), entry);
        }
        let values = values(&entry);
        let blocks = if kind == 8 { q8_0(&values) } else { q4_0(&values) };
        let bytes = bytemuck::cast_slice(&unpacked(kind, &blocks)).to_vec();
        (Tensor::new(&entry.name, kind, &entry.shape, blocks), Entry { dtype: "F32", bytes: Some(bytes), ..entry })
    };
    entries.into_iter().map(both).unzip()
}

/// Norms and matrices in blocks: matrices stay so on the device, and nothing is rounded on the way.
#[test]
fn blocks_stay_blocks() {
    let (files, _) = committed_family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (kind, dtype, word) in [(8, DType::Q8_0, "q8_0"), (2, DType::Q4_0, "q4_0")] {
        let (tensors, twin) = in_blocks(entries("sd15", &files.base, &files.unet), kind);
        let matrices: Vec<&Tensor> = tensors.iter().filter(|t| t.kind == kind && t.shape.len() == 2).collect();
        assert!(matrices.len() > 50, "only {} matrices in blocks", matrices.len());
        let path = save(folder.path(), "model.gguf", &gguf(&tensors, &[]));
        let other = folder.path().join("model.safetensors");
        write(&other, &twin);
        let (blocks, values) = (load(&path, &files, device()), load(&other, &files, device()));
        let plans = blocks.plan(&request(false)).unwrap_or_else(|e| panic!("{e}"));
        let stored = |stage: &str| {
            let plan = plans.iter().find(|plan| plan.name == stage).expect("a stage");
            plan.weights.iter().find(|(stored, _)| *stored == dtype).map_or(0, |(_, bytes)| *bytes)
        };
        assert!(stored("UNet") > 0 && stored("text encoder") > 0, "{word}: {plans:?}");
        let wanted = draw(&values, request(false));
        same(&draw(&blocks, request(false)), &wanted);
        // Asked for f16, they are widened, and rounded.
        let halves = device().with_weights("f16".parse::<WeightTypes>().expect("a type"));
        let halves = load(&path, &files, halves);
        let plans = halves.plan(&request(false)).unwrap_or_else(|e| panic!("{e}"));
        assert!(plans.iter().all(|plan| plan.weights.iter().all(|(stored, _)| !stored.is_quantized())));
        assert!(draw(&halves, request(false)).latents != wanted.latents);
    }
}

/// A GPU unpacks a file's blocks as the host does.
#[test]
fn blocks_reach_the_gpu() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (tensors, _) = in_blocks(entries("sd15", &files.base, &files.unet), 2);
    let path = save(folder.path(), "model.gguf", &gguf(&tensors, &[]));
    let gpu = || Device::new(Arc::new(adapter::open(DType::F32)), Precision::F32).expect("f32 is everywhere");
    let (host, gpu) =
        (draw(&load(&path, &files, device()), request(false)), draw(&load(&path, &files, gpu()), request(false)));
    // With storage in f16, where auto would make other weights f16, the blocks stay.
    let halves = Device::new(Arc::new(adapter::open(DType::F16)), Precision::F16).expect("the adapter has f16");
    let plans = load(&path, &files, halves).plan(&request(false)).unwrap_or_else(|e| panic!("{e}"));
    let unet = plans.iter().find(|plan| plan.name == "UNet").expect("a stage");
    let types: Vec<DType> = unet.weights.iter().map(|(dtype, _)| *dtype).collect();
    assert!(types.contains(&DType::Q4_0) && types.contains(&DType::F16), "{types:?}");
    let largest = host.latents.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let off = host.latents.iter().zip(&gpu.latents).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(off <= 1e-3 * largest, "off by {off} of {largest}");
}

/// OpenCLIP's names as stable-diffusion.cpp changes them (`name_conversion.cpp`, `convert_open_clip_to_hf_clip_name`).
fn converted(entry: Entry) -> Entry {
    const PAIRS: [(&str, &str); 11] = [
        ("conditioner.embedders.1.model.", "cond_stage_model.1.transformer."),
        (".transformer.resblocks.", ".text_model.encoder.layers."),
        ("ln_final", "text_model.final_layer_norm"),
        (".positional_embedding", ".text_model.embeddings.position_embedding.weight"),
        (".token_embedding", ".text_model.embeddings.token_embedding"),
        (".text_projection", ".text_model.text_projection"),
        ("attn.in_proj_", "self_attn.in_proj."),
        ("attn.out_proj", "self_attn.out_proj"),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
    ];
    let name = PAIRS.iter().fold(entry.name, |name, (old, new)| name.replace(old, new));
    Entry { name: name.replace("mlp.c_proj", "mlp.fc2"), ..entry }
}

/// SDXL under the names and in the shapes of stable-diffusion.cpp: until November 2025, and since then with `--convert-name`.
#[test]
fn sdxl_as_stable_diffusion_cpp_writes_it() {
    let (files, _) = family("sdxl");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let second = read(&files.base.join("text_encoder_2").join("model.safetensors"));
    let mut original = entries("sdxl", &files.base, &files.unet);
    for entry in &mut original {
        entry.name = entry.name.replace("conditioner.embedders.0.", "cond_stage_model.");
    }
    let first_only = |entry: &Entry| !entry.name.starts_with("conditioner.embedders.1.");
    let mut old: Vec<Entry> = original.iter().filter(|entry| first_only(entry)).cloned().collect();
    for entry in &mut old {
        let ends = ["proj_in.weight", "proj_out.weight"].iter().any(|end| entry.name.ends_with(end));
        if entry.name.starts_with("model.diffusion_model.") && ends && entry.shape.len() == 2 {
            entry.shape.extend([1, 1]);
        }
    }
    assert!(
        old.iter().any(|e| e.name.ends_with("proj_in.weight") && e.shape.len() == 4),
        "SDXL has linear projections"
    );
    old.extend(second.iter().filter(|e| !e.name.ends_with("position_ids")).map(|entry| match entry.name.as_str() {
        "text_projection.weight" => {
            Entry { name: "cond_stage_model.1.transformer.text_model.text_projection".into(), ..transposed(entry) }
        }
        name => Entry { name: format!("cond_stage_model.1.transformer.{name}"), ..entry.clone() },
    }));
    let mut new: Vec<Entry> = original.into_iter().filter(first_only).collect();
    let open = open_clip(second, "conditioner.embedders.1.model.", false);
    new.extend(open.into_iter().filter(|e| !e.name.ends_with("logit_scale")).map(converted));
    assert!(new.iter().any(|entry| entry.name.ends_with("layers.0.self_attn.in_proj.weight")));
    let wanted = draw(&own(&files), request(false));
    for (name, entries) in [("old.gguf", old), ("new.gguf", new)] {
        let path = save(folder.path(), name, &plain(&entries));
        same(&draw(&load(&path, &files, device()), request(false)), &wanted);
    }
}

/// Networks under diffusers' names in one file, as stable-diffusion.cpp joins a folder.
#[test]
fn a_folder_joined_in_one_file() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stem = "diffusion_pytorch_model.safetensors";
    let mut entries = Vec::new();
    for (component, file, prefix) in
        [("unet", stem, "unet."), ("vae", stem, "vae."), ("text_encoder", "model.safetensors", "te.")]
    {
        let part = read(&files.base.join(component).join(file)).into_iter();
        entries.extend(part.map(|entry| Entry { name: format!("{prefix}{}", entry.name), ..entry }));
    }
    let path = save(folder.path(), "joined.gguf", &plain(&entries));
    same(&draw(&load(&path, &files, device()), request(false)), &draw(&own(&files), request(false)));
}

/// Diffusers folders from before safetensors; a safetensors file beside is preferred.
#[test]
fn folders_of_pickles_open() {
    let (files, _) = family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    crate::support::files::copy(&files.base, folder.path());
    let (network, text) = ("diffusion_pytorch_model", "pytorch_model");
    for (component, old, new) in
        [("unet", network, network), ("vae", network, network), ("text_encoder", "model", text)]
    {
        let old = folder.path().join(component).join(format!("{old}.safetensors"));
        save(&folder.path().join(component), &format!("{new}.bin"), &torch(&read(&old), false));
        std::fs::remove_file(old).expect("the safetensors file goes");
    }
    let open =
        || Pipeline::load(&Source::Folder(folder.path().into()), None, device()).unwrap_or_else(|e| panic!("{e}"));
    let wanted = draw(&own(&files), request(false));
    same(&draw(&open(), request(false)), &wanted);
    // A .bin that cannot be read does not matter where there is a better file.
    let vae = files.base.join("vae").join(format!("{network}.safetensors"));
    std::fs::copy(vae, folder.path().join("vae").join(format!("{network}.safetensors"))).expect("copied");
    save(&folder.path().join("vae"), &format!("{network}.bin"), b"nothing");
    same(&draw(&open(), request(false)), &wanted);
    std::fs::remove_file(folder.path().join("unet").join(format!("{network}.bin"))).expect("gone");
    let gone =
        Pipeline::load(&Source::Folder(folder.path().into()), None, device()).err().expect("no UNet").to_string();
    assert!(
        gone.contains("diffusion_pytorch_model.safetensors") && gone.contains("diffusion_pytorch_model.bin"),
        "{gone}"
    );
}

/// A UNet alone as ComfyUI-GGUF has it, an autoencoder of Lightning's, and an adapter in a pickle.
#[test]
fn parts_of_other_formats() {
    let (files, _) = committed_family("sd15");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = entries("sd15", &files.base, &files.unet);
    let part = |prefix: &str| -> Vec<Entry> {
        let own = all.iter().filter_map(|e| Some((e.name.strip_prefix(prefix)?, e)));
        own.map(|(name, entry)| Entry { name: name.into(), ..entry.clone() }).collect()
    };
    let unet = part("model.diffusion_model.");
    // A convolution in rows of 256, as tools/convert.py cuts those that ggml could not make blocks of.
    let mut tensors: Vec<Tensor> = unet.iter().map(Tensor::of).collect();
    let mut shapes = Vec::new();
    for (tensor, entry) in tensors.iter_mut().zip(&unet) {
        let count: usize = entry.shape.iter().product();
        if entry.shape.len() == 4 && count.is_multiple_of(256) {
            tensor.shape = vec![count / 256, 256];
            shapes.push((entry.name.as_str(), entry.shape.clone()));
        }
    }
    assert!(shapes.len() > 10, "{} convolutions", shapes.len());
    let unet = save(folder.path(), "unet.gguf", &gguf(&tensors, &shapes));
    let base = Source::Folder(files.base.clone());
    let parts = |source: &Source, overrides: Overrides| Pipeline::load_with(source, &overrides, None, device());
    let picture =
        |pipeline: chiaro::Result<Pipeline>| draw(&pipeline.unwrap_or_else(|e| panic!("{e}")), request(false));
    let plain = picture(parts(&base, Overrides::default()));
    // What it lacks comes from the folder.
    let single = SingleFile::open(&unet, &patches(&files.base, &files.unet)).unwrap_or_else(|e| panic!("{e}"));
    let (vae, text_encoder) = (Some(files.base.join("vae")), Some(files.base.clone()));
    same(&picture(parts(&Source::File(single), Overrides { vae, text_encoder, ..Overrides::default() })), &plain);
    // No option says how many groups this tiny autoencoder's norms have: its file gets as far as that in each format.
    let vae = part("first_stage_model.");
    write(&folder.path().join("vae.safetensors"), &vae);
    save(folder.path(), "vae.ckpt", &torch(&vae, true));
    save(folder.path(), "vae.gguf", &gguf(&vae.iter().map(Tensor::of).collect::<Vec<_>>(), &[]));
    let [wanted, ckpt, gguf] = ["safetensors", "ckpt", "gguf"].map(|ending| {
        let vae = Some(folder.path().join(format!("vae.{ending}")));
        let refused = parts(&base, Overrides { vae, ..Overrides::default() }).err().expect("32 groups of 16 channels");
        refused.to_string().replace(&format!("vae.{ending}"), "FILE")
    });
    assert!(wanted.contains("32") && ckpt == wanted && gguf == wanted, "{wanted}\n{ckpt}\n{gguf}");
    let lora = [("lora_down", [2, 32]), ("lora_up", [32, 2])].map(|(leaf, shape)| {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
        let name = format!("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.{leaf}.weight");
        Entry { name, dtype: "F32", shape: shape.to_vec(), bytes: Some(bytemuck::cast_slice(&values).to_vec()) }
    });
    let path = folder.path().join("lora.safetensors");
    write(&path, &lora);
    let pickled = save(folder.path(), "lora.pt", &torch(&lora, false));
    let adapted = |path: PathBuf| {
        let adapters = vec![Adapter { path, weight: 0.7, text_encoder_weight: None }];
        picture(parts(&base, Overrides { adapters, ..Overrides::default() }))
    };
    let (adapted, wanted) = (adapted(pickled), adapted(path));
    same(&adapted, &wanted);
    assert!(plain.latents != wanted.latents, "the adapter changes nothing");
}
