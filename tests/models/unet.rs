//! UNets, with and without time.

use std::path::Path;

use chiaro::models::{TextStates, Unet, UnetConfig, names};
use chiaro::record::Outputs;

use super::bench::{Bench, cases, config_text, families, input, taps, weights};
use super::clip;
use crate::support::golden::{Golden, root};

fn load(folder: &Path) -> Unet {
    let (text, origin) = config_text(folder);
    let config = UnetConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let w = weights(folder, "diffusion_pytorch_model.safetensors", "unet");
    Unet::load(config, &w).unwrap_or_else(|e| panic!("{e}"))
}

/// cos(t ωᵢ), then sin(t ωᵢ), ωᵢ = 10000^(-i / half).
pub(super) fn sinusoid(t: f64, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let angles: Vec<f64> = (0..half).map(|i| t * (-(10_000f64).ln() * i as f64 / half as f64).exp()).collect();
    angles.iter().map(|a| a.cos() as f32).chain(angles.iter().map(|a| a.sin() as f32)).collect()
}

/// Runs the network on the inputs of a case; returns the names of the outputs in order, and the outputs.
pub(super) fn run(
    bench: &Bench,
    unet: &Unet,
    golden: &Golden,
    case: &str,
    times: &[f64],
    with_taps: bool,
) -> (Vec<String>, Outputs) {
    let config = unet.config();
    let named = |leaf: &str| format!("{case}/{leaf}");
    let shape = golden.shape(&named("sample"));
    let (n, h, w) = (shape[0], shape[2], shape[3]);
    let tokens = golden.shape(&named("context"))[1];
    let mut inputs = vec![
        (names::SAMPLE, input(golden, &named("sample"))),
        (names::ENCODER_HIDDEN_STATES, golden.f32s(&named("context"))),
    ];
    if config.has_time() {
        assert_eq!(times.len(), n, "a timestep for each row");
        let dim = config.block_out_channels[0];
        inputs.push((names::TIME_PROJ, times.iter().flat_map(|&t| sinusoid(t, dim)).collect()));
    }
    if let Some(dim) = config.time_cond_proj_dim {
        inputs
            .push((names::TIMESTEP_COND, chiaro::models::layout::pad_rows(&golden.f32s(&named("timestep_cond")), dim)));
    }
    if let Some(dim) = config.projection_class_embeddings_input_dim {
        let (pooled, ids) = (golden.f32s(&named("text_embeds")), golden.f64s(&named("time_ids")));
        let size = config.addition_time_embed_dim.expect("SDXL embeds sizes");
        let rows = pooled.chunks(pooled.len() / n).zip(ids.chunks(ids.len() / n));
        let added: Vec<f32> =
            rows.flat_map(|(p, ids)| p.iter().copied().chain(ids.iter().flat_map(|&id| sinusoid(id, size)))).collect();
        inputs.push((names::ADD_EMBEDS, chiaro::models::layout::pad_rows(&added, dim)));
    }
    let recording =
        unet.record(bench.backend.caps(), n, h, w, tokens, with_taps).unwrap_or_else(|e| panic!("{case}: {e}"));
    let taps = taps(&recording);
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (*name, values.as_slice())).collect();
    (taps, bench.run(recording, &inputs))
}

/// The sinusoids of goldens are made on the host; the feed-forward network's result exists only with its residual, as
/// the transformer block's.
fn is_tapped(name: &str) -> bool {
    !matches!(name, "time_proj" | "add_time_proj") && !name.ends_with(".ff")
}

fn check_network(bench: &Bench, golden: &Golden, part: &str) {
    let unet = load(&golden.path().join(part));
    let times = |case: &str| golden.f64s(&format!("{part}/{case}/timesteps"));
    let middle = times("a")[1];
    for case in bench.share(cases(golden, &format!("{part}/"), "/sample"), 3) {
        let rows = golden.shape(&format!("{part}/{case}/sample"))[0];
        let at = format!("{part}/{case}");
        if !unet.config().has_time() || case == "c" {
            let blocks = case == "a";
            let (taps, outputs) = run(bench, &unet, golden, &at, &vec![middle; rows], blocks);
            if blocks {
                bench.check_blocks(golden, &format!("{part}/blocks/"), &taps, &outputs, is_tapped);
            }
            bench.check(golden, &format!("{at}/out"), &outputs[names::OUT]);
        } else if case == "a" {
            let others = times(&case).into_iter().filter(|&t| t != middle && bench.runs_all());
            for t in std::iter::once(middle).chain(others) {
                let blocks = t == middle;
                let (taps, outputs) = run(bench, &unet, golden, &at, &[t], blocks);
                if blocks {
                    bench.check_blocks(golden, &format!("{part}/blocks/"), &taps, &outputs, is_tapped);
                }
                bench.check(golden, &format!("{at}/t{t}/out"), &outputs[names::OUT]);
            }
        } else {
            let (_, outputs) = run(bench, &unet, golden, &at, &times(&case), false);
            bench.check(golden, &format!("{at}/out"), &outputs[names::OUT]);
        }
    }
}

fn check(bench: &Bench) {
    let mut checked = 0;
    for family in families() {
        let golden = Golden::open(&family);
        for part in ["unet", "oms_module"] {
            if golden.has(&format!("{part}/a/sample")) {
                println!("{family}/{part}");
                check_network(bench, &golden, part);
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no family has a UNet");
}

/// The inpainting network has goldens inside runs only: what the UNet was given at the first two calls, one row for both
/// rows of the guidance, and what it returned. Their text is a prompt of the family whose text encoder it uses.
fn check_inpainting(bench: &Bench, golden: &Golden) {
    let unet = load(&golden.path().join("unet"));
    assert_eq!(unet.config().in_channels, 9, "latents, mask, masked latents");
    let text = Golden::open("sd15");
    let (ids, batch, tokens) = clip::ids(&text, "text_encoder/input_ids");
    let encoder = clip::load(&root().join("sd15/text_encoder"));
    let states = TextStates { normed: true, ..TextStates::default() };
    // On the host: one forward at a time is checked.
    let host = Bench::host();
    let recording = encoder.record(host.backend.caps(), batch, tokens, states, false).unwrap_or_else(|e| panic!("{e}"));
    let embeds = encoder.embed(&ids, tokens).unwrap_or_else(|e| panic!("{e}"));
    let states = host.run(recording, &[(names::INPUTS_EMBEDS, &embeds)]).remove(names::ENCODER_HIDDEN_STATES);
    let states = states.expect("the encoder's states");
    let row = states.len() / batch;

    let end = *ids.iter().max().expect("there are ids");
    let empty = (0..batch).find(|b| ids[b * tokens + 1] == end).expect("one prompt is empty");
    let how = text.json["tensors"]["text_encoder/input_ids"]["how"].as_str().expect("the prompts are written down");
    for (name, described) in golden.runs() {
        let prompt = &described["args"]["prompt"];
        let prompt = prompts(how).position(|p| Some(p.as_str()) == prompt.as_str()).expect("the prompt was encoded");
        let context = [&states[empty * row..][..row], &states[prompt * row..][..row]].concat();
        let given = format!("run/{name}/unet_in");
        let &[calls, _, c, h, w] = golden.shape(&given).as_slice() else { panic!("{given}: not calls of images") };
        let (given, times) = (golden.f32s(&given), golden.f64s(&format!("run/{name}/unet_timesteps")));
        let returned = format!("run/{name}/unet_out");
        let mut out = Vec::new();
        for call in 0..calls {
            let image = &given[call * c * h * w..][..c * h * w];
            let sample = chiaro::models::layout::to_channels_last(&[image, image].concat(), 2, c, h * w);
            let time = sinusoid(times[call], unet.config().block_out_channels[0]);
            let recording = unet.record(bench.backend.caps(), 2, h, w, tokens, false).unwrap_or_else(|e| panic!("{e}"));
            let inputs: [(&str, &[f32]); 3] = [
                (names::SAMPLE, &sample),
                (names::ENCODER_HIDDEN_STATES, &context),
                (names::TIME_PROJ, &[time.as_slice(), &time].concat()),
            ];
            let outputs = bench.run(recording, &inputs);
            out.extend(chiaro::models::layout::to_channels_first(
                &outputs[names::OUT],
                2,
                unet.config().out_channels,
                h * w,
            ));
        }
        bench.check(golden, &returned, &out);
    }
}

/// The strings of `prompts: ["…", "…", …`, which may be cut off.
fn prompts(how: &str) -> impl Iterator<Item = String> {
    let mut rest = how.trim_start_matches("prompts: [");
    std::iter::from_fn(move || {
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let prompt = strings.next()?.ok()?;
        rest = rest[strings.byte_offset()..].trim_start_matches([',', ' ']);
        Some(prompt)
    })
}

#[test]
fn unets_on_the_host() {
    check(&Bench::host());
}

#[test]
fn unets_on_the_gpu() {
    check(&Bench::gpu());
}

#[test]
fn unets_on_the_gpu_in_half_precision() {
    check(&Bench::gpu_half());
}

#[test]
fn unets_in_bf16_on_the_host() {
    check(&Bench::host_bf16());
}

#[test]
fn inpainting_unet() {
    check_inpainting(&Bench::host(), &Golden::open("inpaint9"));
}

#[test]
fn inpainting_unet_in_half_precision() {
    check_inpainting(&Bench::gpu_half(), &Golden::open("inpaint9"));
}
