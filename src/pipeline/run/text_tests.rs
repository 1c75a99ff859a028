use std::sync::Arc;

use super::*;
use crate::pipeline::device::Precision;
use crate::pipeline::files::source::Source;
use crate::pipeline::model::oms_module::OmsSource;
use crate::pipeline::request::OmsRequest;
use crate::record::HostBackend;

fn demo() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let oms = OmsSource::demo();
    Pipeline::load(&Source::DemoModel, Some(&oms), device).expect("the demo model is whole")
}

fn encode(pipeline: &Pipeline, request: &Request) -> Encoded {
    let plan = TextPlan::new(pipeline, request, (64, 64)).expect("weights are numbers");
    plan.encode(pipeline.device(), &mut KnownTexts::default(), &Watch::default(), &mut Vec::new())
        .expect("the encoder runs")
}

/// The prompt's row at the first step.
fn states(pipeline: &Pipeline, prompt: &str, prompt_syntax: PromptSyntax) -> Vec<f32> {
    let request = Request { prompt: prompt.into(), prompt_syntax, guidance_scale: 1.0, ..Request::default() };
    encode(pipeline, &request).unet(0, 30).states
}

fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "differs by {worst}");
}

#[test]
fn chunks_are_joined_and_the_shorter_row_is_padded() {
    let pipeline = demo();
    let plain = |text: &str| states(&pipeline, text, PromptSyntax::Plain);
    let request = Request {
        prompt: "a red circle BREAK a blue square BREAK a tree".into(),
        negative_prompt: Some("a house".into()),
        prompt_syntax: PromptSyntax::A1111,
        ..Request::default()
    };
    let plan = TextPlan::new(&pipeline, &request, (64, 64)).expect("no weights");
    assert_eq!(plan.unet_tokens(), 3 * 77);
    let negative = [plain("a house"), plain(""), plain("")].concat();
    let prompt = [plain("a red circle"), plain("a blue square"), plain("a tree")].concat();
    assert_close(&encode(&pipeline, &request).unet(0, 30).states, &[negative, prompt].concat());
}

#[test]
fn weights_follow_their_formulas() {
    let pipeline = demo();
    let width = pipeline.text_encoders()[0].model.config().hidden_size;
    let (z, e) = (states(&pipeline, "red circle", PromptSyntax::Plain), states(&pipeline, "", PromptSyntax::Plain));
    let circle = {
        let tokenizer = &pipeline.text_encoders()[0].tokenizer;
        assert_eq!((tokenizer.words("red").len(), tokenizer.words("circle").len()), (1, 1));
        2 * width..3 * width
    };
    // The second word is weighted, and nothing else.
    let mut want = z.clone();
    want[circle.clone()].iter_mut().for_each(|v| *v *= 1.4);
    let scale = z.iter().sum::<f32>() / want.iter().sum::<f32>();
    want.iter_mut().for_each(|v| *v *= scale);
    assert_close(&states(&pipeline, "red (circle:1.4)", PromptSyntax::A1111), &want);

    let mut want = z.clone();
    for i in circle {
        want[i] = e[i] + 1.4 * (z[i] - e[i]);
    }
    assert_close(&states(&pipeline, "red (circle:1.4)", PromptSyntax::Comfy), &want);
    let literal = states(&pipeline, "red (circle:1.4)", PromptSyntax::Plain);
    assert!(literal.iter().zip(&z).any(|(a, b)| (a - b).abs() > 1e-2), "plain takes the marks for words");
}

#[test]
fn every_step_has_its_text() {
    let pipeline = demo();
    let request = Request {
        prompt: "[a circle:a square:2] on [black|white]".into(),
        prompt_syntax: PromptSyntax::A1111,
        num_inference_steps: 4,
        guidance_scale: 1.0,
        ..Request::default()
    };
    let encoded = encode(&pipeline, &request);
    let texts = ["a circle on black", "a circle on white", "a square on black", "a square on white"];
    for (call, text) in texts.iter().enumerate() {
        let want = states(&pipeline, text, PromptSyntax::Plain);
        assert_close(&encoded.unet(call, 4).states, &want);
        // Two calls a step but for the last, as Heun's method makes.
        assert_close(&encoded.unet(2 * call, 7).states, &want);
        if call < 3 {
            assert_close(&encoded.unet(2 * call + 1, 7).states, &want);
        }
    }
}

/// More distinct texts than one batch of the encoder has, some of them more than once.
#[test]
fn distinct_texts_are_encoded_once() {
    let pipeline = demo();
    let words =
        ["red", "blue", "green", "white", "black", "circle", "square", "tree", "house", "red", "", "night", "sea"];
    let request = Request {
        prompt: format!("[{}]", words.join("|")),
        prompt_syntax: PromptSyntax::A1111,
        num_inference_steps: 13,
        oms: Some(OmsRequest { guidance_scale: 2.0, ..OmsRequest::default() }),
        ..Request::default()
    };
    let plan = TextPlan::new(&pipeline, &request, (64, 64)).expect("no weights");
    let runs = plan.runs();
    assert_eq!((runs.len(), runs[0].ids.len()), (1, 12), "the empty prompt is there anyway, red twice");
    let stage = plan.stages().remove(0).plan(pipeline.device()).expect("it fits");
    assert_eq!(stage.runs, 2, "batches of at most {BATCH}");
    let encoded = encode(&pipeline, &request);
    let empty = states(&pipeline, "", PromptSyntax::Plain);
    for (call, word) in words.iter().enumerate() {
        let want = [empty.clone(), states(&pipeline, word, PromptSyntax::Plain)].concat();
        assert_close(&encoded.unet(call, 13).states, &want);
    }
    // The module reads what the first step reads.
    assert_close(encoded.oms(), &[empty, states(&pipeline, "red", PromptSyntax::Plain)].concat());
}

#[test]
fn the_negative_prompt_of_oms_is_read() {
    let pipeline = demo();
    let oms = OmsRequest { negative_prompt: "white".into(), guidance_scale: 2.0, ..OmsRequest::default() };
    let request = Request { prompt: "black".into(), oms: Some(oms.clone()), ..Request::default() };
    let plain = |text: &str| states(&pipeline, text, PromptSyntax::Plain);
    assert_close(encode(&pipeline, &request).oms(), &[plain("white"), plain("black")].concat());
    let unguided = OmsRequest { guidance_scale: 1.0, ..oms };
    let request = Request { oms: Some(unguided), ..request };
    assert_close(encode(&pipeline, &request).oms(), &plain("black"));
    let plan = TextPlan::new(&pipeline, &request, (64, 64)).expect("no weights");
    assert!(plan.warnings().iter().any(|w| w.contains("OMS")), "{:?}", plan.warnings());
}

/// AUTOMATIC1111's program and ComfyUI leave layers out for both rows, diffusers for the prompt alone.
#[test]
fn clip_skip_and_the_negative_prompt() {
    let pipeline = demo();
    let rows = |prompt_syntax, clip_skip| {
        let request = Request {
            prompt: "red".into(),
            negative_prompt: Some("red".into()),
            prompt_syntax,
            clip_skip,
            ..Request::default()
        };
        let states = encode(&pipeline, &request).unet(0, 30).states;
        let (negative, prompt) = states.split_at(states.len() / 2);
        (negative.to_vec(), prompt.to_vec())
    };
    let (whole, _) = rows(PromptSyntax::Plain, 0);
    let (negative, prompt) = rows(PromptSyntax::Plain, 1);
    assert_close(&negative, &whole);
    assert!(prompt.iter().zip(&whole).any(|(a, b)| (a - b).abs() > 1e-2));
    for syntax in [PromptSyntax::A1111, PromptSyntax::Comfy] {
        let (negative, same) = rows(syntax, 1);
        assert_close(&negative, &prompt);
        assert_close(&same, &prompt);
    }
}

/// The tiny SDXL of the goldens. Its tokenizers are those of other families, which are there.
fn xl() -> Pipeline {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to).expect("a new folder");
        for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable").path()) {
            if entry.is_file() {
                std::fs::copy(&entry, to.join(entry.file_name().expect("a name"))).expect("copied");
            }
        }
    };
    for part in ["", "scheduler", "text_encoder", "text_encoder_2", "unet", "vae"] {
        copy(&golden.join("sdxl").join(part), &folder.path().join(part));
    }
    copy(&golden.join("sd15/tokenizer"), &folder.path().join("tokenizer"));
    copy(&golden.join("sd21/tokenizer"), &folder.path().join("tokenizer_2"));
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    // Open files stay readable when the folder goes.
    Pipeline::load(&Source::Folder(folder.path().into()), None, device).expect("the model is whole")
}

/// Both encoders' chunks side by side; the pooled text of the first chunk, then cosines and sines of the six sizes.
#[test]
fn sdxl_joins_encoders_and_takes_the_first_pooled_text() {
    let pipeline = xl();
    let width = joined_width(pipeline.text_encoders());
    let conditioning = |prompt: &str, prompt_2: Option<&str>| {
        let request = Request {
            prompt: prompt.into(),
            prompt_2: prompt_2.map(Into::into),
            prompt_syntax: PromptSyntax::A1111,
            guidance_scale: 1.0,
            original_size: Some((640, 512)),
            crops_coords_top_left: (8, 16),
            ..Request::default()
        };
        encode(&pipeline, &request).unet(0, 30)
    };
    let [a, b, c] = ["a cat", "a dog", "the sea"].map(|text| conditioning(text, None));
    // The second encoder has one chunk less, which is padded.
    let both = conditioning("a cat BREAK a dog", Some("the sea"));
    let empty = conditioning("", None);
    let half = width / 2;
    let want = [(&a, &c), (&b, &empty)].map(|(first, second)| {
        let tokens = first.states.chunks(width).zip(second.states.chunks(width));
        tokens.flat_map(|(first, second)| [&first[..half], &second[half..]].concat()).collect::<Vec<f32>>()
    });
    assert_close(&both.states, &want.concat());
    assert_close(&both.added, &c.added);
    assert_close(&conditioning("the sea BREAK a dog", None).added, &c.added);
    let (pooled, sizes) = c.added.split_at(20);
    assert!(pooled.iter().zip(&a.added).any(|(c, a)| (c - a).abs() > 1e-2), "other texts pool to other rows");
    let want = [640.0, 512.0, 8.0, 16.0, 64.0, 64.0].map(|size: f64| {
        let angles = (0..4).map(|i| size * 10_000f64.powf(-f64::from(i) / 4.0));
        angles.clone().map(f64::cos).chain(angles.map(f64::sin)).map(|v| v as f32).collect::<Vec<f32>>()
    });
    assert_close(sizes, &want.concat());
}

/// No negative prompt at all is zeros, an empty one is a text.
#[test]
fn sdxl_tells_no_negative_prompt_from_an_empty_one() {
    let pipeline = xl();
    let negative = |negative_prompt: Option<&str>, negative_prompt_2: Option<&str>| {
        let request = Request {
            prompt: "a cat BREAK a dog".into(),
            negative_prompt: negative_prompt.map(Into::into),
            negative_prompt_2: negative_prompt_2.map(Into::into),
            prompt_syntax: PromptSyntax::A1111,
            ..Request::default()
        };
        let Conditioning { mut states, mut added } = encode(&pipeline, &request).unet(0, 30);
        states.truncate(states.len() / 2);
        added.truncate(20);
        (states, added)
    };
    let (states, pooled) = negative(None, None);
    assert_eq!(states.len(), 2 * 77 * joined_width(pipeline.text_encoders()));
    assert!(states.iter().chain(&pooled).all(|v| *v == 0.0));
    let (empty, pooled) = negative(Some(""), None);
    assert!(empty.iter().any(|v| *v != 0.0) && pooled.iter().any(|v| *v != 0.0));
    let (second_only, _) = negative(None, Some(""));
    assert_close(&second_only, &empty);
}
