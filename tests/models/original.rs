//! Single-file checkpoints: every name of the full-size models, and what their configuration must be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chiaro::models::original::{Checkpoint, Family, Patches};
use chiaro::models::{AutoencoderKlConfig, ClipTextConfig, HiddenAct, OneOrMany, UnetConfig};
use chiaro::text::clip_vocabulary;
use chiaro::weights::{TensorSet, WeightFile};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::golden::root;
use crate::support::single_file::{Entry, clip_holes, full_size, holes, table, write};

fn file(entries: &[Entry]) -> (TensorSet, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = folder.path().join("model.safetensors");
    write(&path, entries);
    (Arc::new(WeightFile::open(path).unwrap_or_else(|e| panic!("{e}"))).into(), folder)
}

fn recognise(entries: &[Entry]) -> Checkpoint {
    let (file, _guard) = file(entries);
    Checkpoint::read(&file, &Patches::new()).unwrap_or_else(|e| panic!("{e}"))
}

fn shapes(set: &TensorSet) -> BTreeMap<String, Vec<usize>> {
    set.tensors().iter().map(|(name, view)| (name.clone(), view.shape().to_vec())).collect()
}

fn of_table(section: &str) -> BTreeMap<String, Vec<usize>> {
    table(section).into_iter().map(|(name, (_, shape))| (name, shape)).collect()
}

fn unet(found: &Checkpoint) -> UnetConfig {
    let text = Value::Object(found.parts["unet"].config.clone()).to_string();
    UnetConfig::from_json(&text, "unet").unwrap_or_else(|e| panic!("{e}"))
}

fn text(found: &Checkpoint, component: &str) -> ClipTextConfig {
    let text = Value::Object(found.parts[component].config.clone()).to_string();
    ClipTextConfig::from_json(&text, component).unwrap_or_else(|e| panic!("{e}"))
}

fn vae(found: &Checkpoint) -> AutoencoderKlConfig {
    let text = Value::Object(found.parts["vae"].config.clone()).to_string();
    AutoencoderKlConfig::from_json(&text, "vae").unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_name_of_the_full_size_models() {
    for family in ["sd15", "sd21", "sdxl"] {
        let found = recognise(&full_size(family));
        assert_eq!(shapes(&found.parts["unet"].tensors), of_table(&format!("{family}_unet")), "{family}");
        assert_eq!(shapes(&found.parts["vae"].tensors), of_table("vae"), "{family}");
        assert!(found.foreign.is_empty(), "{family}: {:?}", found.foreign);
        let expected = match family {
            "sd21" => clip_holes(1024, 4096, 23, None),
            _ => clip_holes(768, 3072, 12, None),
        };
        let expected: BTreeMap<_, _> = expected.into_iter().map(|e| (e.name, e.shape)).collect();
        assert_eq!(shapes(&found.parts["text_encoder"].tensors), expected, "{family}");
        if family == "sdxl" {
            let expected = clip_holes(1280, 5120, 32, Some(1280)).into_iter().map(|e| (e.name, e.shape)).collect();
            assert_eq!(shapes(&found.parts["text_encoder_2"].tensors), expected);
        }
    }
}

/// The published configurations: `runwayml/stable-diffusion-v1-5`, `stabilityai/stable-diffusion-2-1` and
/// `stabilityai/stable-diffusion-xl-base-1.0`.
#[test]
fn configurations_of_the_full_size_models() {
    use chiaro::models::{DownBlockType as Down, UpBlockType as Up};
    let found = recognise(&full_size("sd15"));
    assert_eq!((found.family, found.predicts_v, found.prediction_is_known), (Family::Sd1, false, true));
    let sd15 = UnetConfig {
        sample_size: Some(OneOrMany::One(64)),
        cross_attention_dim: 768,
        attention_head_dim: OneOrMany::One(8),
        layers_per_block: OneOrMany::Many(vec![2; 4]),
        transformer_layers_per_block: OneOrMany::Many(vec![1; 4]),
        ..UnetConfig::default()
    };
    assert_eq!(unet(&found), sd15);
    let kl = AutoencoderKlConfig { layers_per_block: 2, ..AutoencoderKlConfig::default() };
    assert_eq!(vae(&found), kl);
    let clip = ClipTextConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        num_attention_heads: 12,
        projection_dim: 768,
        ..ClipTextConfig::default()
    };
    assert_eq!(text(&found, "text_encoder"), clip);

    let found = recognise(&full_size("sd21"));
    assert_eq!((found.family, found.predicts_v, found.prediction_is_known), (Family::Sd2, true, false));
    let sd21 = UnetConfig {
        sample_size: Some(OneOrMany::One(96)),
        cross_attention_dim: 1024,
        attention_head_dim: OneOrMany::Many(vec![5, 10, 20, 20]),
        use_linear_projection: true,
        ..sd15.clone()
    };
    assert_eq!(unet(&found), sd21);
    let open_clip = ClipTextConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_attention_heads: 16,
        num_hidden_layers: 23,
        hidden_act: HiddenAct::Gelu,
        projection_dim: 1024,
        ..ClipTextConfig::default()
    };
    assert_eq!(text(&found, "text_encoder"), open_clip);

    let found = recognise(&full_size("sdxl"));
    assert_eq!((found.family, found.predicts_v, found.prediction_is_known), (Family::Xl, false, true));
    let sdxl = UnetConfig {
        sample_size: Some(OneOrMany::One(128)),
        cross_attention_dim: 2048,
        block_out_channels: vec![320, 640, 1280],
        down_block_types: vec![Down::DownBlock2D, Down::CrossAttnDownBlock2D, Down::CrossAttnDownBlock2D],
        up_block_types: vec![Up::CrossAttnUpBlock2D, Up::CrossAttnUpBlock2D, Up::UpBlock2D],
        attention_head_dim: OneOrMany::Many(vec![5, 10, 20]),
        layers_per_block: OneOrMany::Many(vec![2; 3]),
        transformer_layers_per_block: OneOrMany::Many(vec![1, 2, 10]),
        use_linear_projection: true,
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(2816),
        ..sd15
    };
    assert_eq!(unet(&found), sdxl);
    assert_eq!(vae(&found), AutoencoderKlConfig { scaling_factor: 0.13025, ..kl });
    assert_eq!(text(&found, "text_encoder"), clip);
    let big = ClipTextConfig {
        architectures: vec!["CLIPTextModelWithProjection".into()],
        hidden_size: 1280,
        intermediate_size: 5120,
        num_attention_heads: 20,
        num_hidden_layers: 32,
        projection_dim: 1280,
        ..open_clip
    };
    assert_eq!(text(&found, "text_encoder_2"), big);
}

#[test]
fn marks_twins_and_strangers() {
    let mut entries = full_size("sdxl");
    entries.push(Entry { dtype: "F32", ..Entry::hole("v_pred", &[0]) });
    entries.push(Entry { dtype: "F32", ..Entry::hole("ztsnr", &[0]) });
    entries.push(Entry::hole("alphas_cumprod", &[1000]));
    entries.push(Entry::hole("model_ema.diffusion_modelinput_blocks00weight", &[320, 4, 3, 3]));
    entries.push(Entry::hole("model.diffusion_model.something.else", &[4]));
    entries.push(Entry::hole("first_stage_model.loss.logvar", &[1]));
    let found = recognise(&entries);
    assert!(found.predicts_v && found.prediction_is_known && found.zero_terminal_snr);
    assert_eq!(found.ema, 1);
    assert_eq!(found.foreign, ["first_stage_model.loss.logvar", "model.diffusion_model.something.else"]);
}

#[test]
fn parts_alone_are_recognised() {
    let found = recognise(&holes("sdxl_unet"));
    assert_eq!((found.family, found.parts.len()), (Family::Xl, 1));
    assert_eq!(recognise(&holes("sd21_unet")).family, Family::Sd2);
    assert_eq!(recognise(&holes("sd15_unet")).family, Family::Sd1);
    let mut bare = holes("vae");
    for entry in &mut bare {
        entry.name = entry.name.replace("first_stage_model.", "");
    }
    assert_eq!(recognise(&bare).parts.keys().collect::<Vec<_>>(), [&"vae"]);
    // Inpainting and instruction models have other inputs.
    let mut nine = holes("sd21_unet");
    let at = nine.iter().position(|e| e.name.ends_with("input_blocks.0.0.weight")).expect("the first convolution");
    nine[at].shape[1] = 9;
    let found = recognise(&nine);
    assert_eq!((found.in_channels(), found.predicts_v, found.prediction_is_known), (Some(9), false, false));
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let refusal = |entries: &[Entry]| {
        let (file, _guard) = file(entries);
        let message = Checkpoint::read(&file, &Patches::new()).err().expect("it is not whole").to_string();
        assert!(!message.contains('\n') && message.contains("model.safetensors"), "{message}");
        message
    };
    assert!(refusal(&[]).contains("no tensors"));
    assert!(refusal(&[Entry::hole("transformer.h.0.weight", &[4])]).contains("transformer.h.0.weight"));
    let mut gap = holes("sd15_unet");
    gap.retain(|e| !e.name.contains("input_blocks.5."));
    assert!(refusal(&gap).contains("input_blocks.5"), "{}", refusal(&gap));
    let mut odd = holes("sd21_unet");
    for entry in odd.iter_mut().filter(|e| e.name.ends_with("input_blocks.1.0.in_layers.2.weight")) {
        entry.shape[0] = 48;
    }
    assert!(refusal(&odd).contains("multiples of 64"), "{}", refusal(&odd));
    let mut fused = full_size("sd21");
    for entry in fused.iter_mut().filter(|e| e.name.ends_with("resblocks.0.attn.in_proj_weight")) {
        entry.shape[0] += 1;
    }
    assert!(refusal(&fused).contains("three projections"));
}

/// What the program derives from the merges is the vocabulary that transformers ships.
#[test]
fn the_embedded_vocabulary_is_clips() {
    let folder = root().join("sd15/tokenizer");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the golden's tokenizer");
    let own: BTreeMap<String, u32> = serde_json::from_slice(&clip_vocabulary().vocab).expect("JSON");
    let published: BTreeMap<String, u32> = serde_json::from_str(&read("vocab.json")).expect("JSON");
    assert_eq!(own.len(), 49_408);
    assert!(own == published, "the vocabularies differ");
    let merges = String::from_utf8(clip_vocabulary().merges.clone()).expect("text");
    let published = read("merges.txt");
    assert!(merges.lines().eq(published.lines().skip(1)), "the merges differ");
}
