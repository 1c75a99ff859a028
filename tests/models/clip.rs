//! Text encoders.

use std::path::Path;

use chiaro::models::{ClipTextConfig, ClipTextModel, TextStates, names};
use chiaro::weights::EmbeddingFile;

use super::bench::{Bench, config_text, families, taps, weights};
use crate::support::golden::{Golden, committed};

pub(super) fn load(folder: &Path) -> ClipTextModel {
    let (text, origin) = config_text(folder);
    let config = ClipTextConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let w = weights(folder, "model.safetensors", "text_encoder");
    ClipTextModel::load(config, &w).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) fn ids(golden: &Golden, name: &str) -> (Vec<u32>, usize, usize) {
    let ids = golden.f32s(name).iter().map(|&id| id as u32).collect();
    let shape = golden.shape(name);
    (ids, shape[0], shape[1])
}

fn check_encoder(bench: &Bench, golden: &Golden, part: &str) {
    let model = load(&golden.path().join(part));
    let (ids, batch, tokens) = ids(golden, &format!("{part}/input_ids"));
    let embeds = model.embed(&ids, tokens).unwrap_or_else(|e| panic!("{e}"));
    bench.check(golden, &format!("{part}/hidden_0"), &embeds);

    let run = |states: TextStates, with_taps: bool| {
        let recording =
            model.record(bench.backend.caps(), batch, tokens, states, with_taps).unwrap_or_else(|e| panic!("{e}"));
        let taps = taps(&recording);
        (taps, bench.run(recording, &[(names::INPUTS_EMBEDS, &embeds)]))
    };
    let (taps, outputs) = run(TextStates { skip: 0, normed: true, pooled: true }, true);
    let mut layer = 0;
    for tap in taps.iter().filter(|tap| tap.contains("layers")) {
        layer += 1;
        let name =
            if layer == model.config().num_hidden_layers { "last_layer".into() } else { format!("hidden_{layer}") };
        bench.check(golden, &format!("{part}/{name}"), &outputs[tap]);
    }
    assert_eq!(layer, model.config().num_hidden_layers, "every layer is tapped");
    bench.check(golden, &format!("{part}/last_hidden_state"), &outputs[names::ENCODER_HIDDEN_STATES]);

    let (_, outputs) = run(TextStates { skip: 1, normed: false, pooled: true }, false);
    bench.check(golden, &format!("{part}/penultimate"), &outputs[names::ENCODER_HIDDEN_STATES]);
    bench.check(golden, &format!("{part}/last_hidden_state"), &outputs[names::LAST_HIDDEN_STATE]);
    let pooled = model.pool(&ids, tokens, &outputs[names::LAST_HIDDEN_STATE]).unwrap_or_else(|e| panic!("{e}"));
    let name = if model.config().has_projection() { "text_embeds" } else { "pooler_output" };
    bench.check(golden, &format!("{part}/{name}"), &pooled);

    let (_, outputs) = run(TextStates { skip: 1, normed: true, pooled: false }, false);
    bench.check(golden, &format!("{part}/clip_skip_1"), &outputs[names::ENCODER_HIDDEN_STATES]);
    assert_eq!(outputs.len(), 1, "pooling was not asked for");
}

fn check(bench: &Bench) {
    let mut checked = 0;
    for family in families() {
        let golden = Golden::open(&family);
        for part in ["text_encoder", "text_encoder_2"] {
            if golden.has(&format!("{part}/input_ids")) {
                check_encoder(bench, &golden, part);
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no family has a text encoder");
}

#[test]
fn text_encoders_on_the_host() {
    check(&Bench::host());
}

#[test]
fn text_encoders_on_the_gpu() {
    check(&Bench::gpu());
}

#[test]
fn text_encoders_on_the_gpu_in_half_precision() {
    check(&Bench::gpu_half());
}

#[test]
fn text_encoders_in_bf16_on_the_host() {
    check(&Bench::host_bf16());
}

/// What a caller can get wrong is refused in words.
#[test]
fn text_encoders_refuse_what_they_cannot_take() {
    let family = families().into_iter().find(|f| Golden::open(f).has("text_encoder/input_ids"));
    let golden = Golden::open(&family.expect("a family has a text encoder"));
    let model = load(&golden.path().join("text_encoder"));
    let (vocabulary, most) = (model.config().vocab_size, model.config().max_position_embeddings);
    let error = model.embed(&[0, vocabulary as u32], 2).expect_err("there is no such id").to_string();
    assert!(error.contains("token_embedding.weight") && error.contains(&vocabulary.to_string()), "{error}");
    let error = model.embed(&vec![0; most + 1], most + 1).expect_err("there are no such positions").to_string();
    assert!(error.contains(&most.to_string()), "{error}");
    let states = TextStates { skip: model.config().num_hidden_layers + 1, ..TextStates::default() };
    let caps = chiaro::record::Caps::host();
    let error = model.record(&caps, 1, 2, states, false).err().expect("there are no such layers").to_string();
    assert!(error.contains("clip skip"), "{error}");
}

/// Rows behind the token table: diffusers' ids and states for names that stand for one and for three vectors.
#[test]
fn states_of_added_vectors() {
    let golden = Golden::open_in(&committed(), "embeddings");
    let mut model = load(&committed().join("sd15/text_encoder"));
    for name in ["easyneg", "learned_embeds"] {
        let file =
            EmbeddingFile::open(&golden.path().join(format!("{name}.safetensors"))).unwrap_or_else(|e| panic!("{e}"));
        let vectors = file.vectors().unwrap_or_else(|e| panic!("{e}")).remove(0);
        model.add_embeddings(vectors).unwrap_or_else(|e| panic!("{e}"));
    }
    let (ids, batch, tokens) = ids(&golden, "sd15/ids");
    for bench in [Bench::host(), Bench::gpu()] {
        let embeds = model.embed(&ids, tokens).unwrap_or_else(|e| panic!("{e}"));
        let states = TextStates { normed: true, ..TextStates::default() };
        let recording =
            model.record(bench.backend.caps(), batch, tokens, states, false).unwrap_or_else(|e| panic!("{e}"));
        let outputs = bench.run(recording, &[(names::INPUTS_EMBEDS, &embeds)]);
        bench.check(&golden, "sd15/states", &outputs[names::ENCODER_HIDDEN_STATES]);
    }
    assert!(model.embed(&[49_412; 77], 77).is_err(), "four vectors were added");
    assert!(model.add_embeddings(vec![vec![0.0; 15]]).is_err());
    // The pooled row is at the end of text, whatever ids there are behind the vocabulary.
    let states: Vec<f32> = (0..77 * 16).map(|i| (i / 16) as f32).collect();
    let pooled = model.pool(&ids[..77], 77, &states).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pooled[0], 10.0);
}
