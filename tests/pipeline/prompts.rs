//! Prompts with marks, from request to latents.

use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Pipeline, Precision, PromptSyntax, Request, Source};
use chiaro::record::HostBackend;

use super::runs::{draw, model_folder};
use crate::support::golden::compare;

fn open(source: &Source) -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    Pipeline::load(source, None, device).unwrap_or_else(|e| panic!("{e}"))
}

fn request(prompt: &str, prompt_syntax: PromptSyntax) -> Request {
    Request {
        prompt: prompt.into(),
        prompt_syntax,
        width: Some(64),
        height: Some(64),
        num_inference_steps: 3,
        guidance_scale: 3.0,
        ..Request::default()
    }
}

/// Final latents of a prompt as AUTOMATIC1111 reads it, and of another as it is.
fn same(pipeline: &Pipeline, marked: Request, plain: Request) -> bool {
    let (marked, plain) = (draw(pipeline, marked).latents, draw(pipeline, plain).latents);
    let largest = plain.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    compare("latents", &marked, &plain, 1e-4 * f64::from(largest)).is_ok()
}

/// One encoder, and the two of SDXL.
#[test]
fn marks_become_the_texts_that_they_mean() {
    let (xl, _guard) = model_folder("sdxl");
    for source in [Source::DemoModel, Source::Folder(xl)] {
        let pipeline = open(&source);
        let a1111 = |prompt: &str| request(prompt, PromptSyntax::A1111);
        let plain = |prompt: &str| request(prompt, PromptSyntax::Plain);
        for (marked, meant) in [
            ("a red circle", "a red circle"),
            ("a [red:blue:0] circle", "a blue circle"),
            ("a [red:blue:3] circle", "a red circle"),
            ("a [red|red] circle", "a red circle"),
            ("(a red:1.0) circle", "a red circle"),
            ("a \\(red\\) circle", "a (red) circle"),
        ] {
            assert!(same(&pipeline, a1111(marked), plain(meant)), "{source}: {marked:?} is {meant:?}");
        }
        for (marked, other) in [
            ("a [red:blue:1] circle", "a red circle"),
            ("a [red:blue:1] circle", "a blue circle"),
            ("a [red|blue] circle", "a red circle"),
            ("a (red:1.6) circle", "a red circle"),
            ("a red circle BREAK", "a red circle BREAK"),
        ] {
            assert!(!same(&pipeline, a1111(marked), plain(other)), "{source}: {marked:?} is not {other:?}");
        }
        // A negative prompt that changes.
        let negative =
            |text: &str, syntax| Request { negative_prompt: Some(text.into()), ..request("a red circle", syntax) };
        let marked = || negative("[blue:green:0]", PromptSyntax::A1111);
        assert!(same(&pipeline, marked(), negative("green", PromptSyntax::Plain)), "{source}");
        assert!(!same(&pipeline, marked(), negative("blue", PromptSyntax::Plain)), "{source}");
    }
}

/// Long prompts go through, where plain drops words and says so; SDXL without a negative prompt takes zeros of the same length.
#[test]
fn long_prompts() {
    let (xl, _guard) = model_folder("sdxl");
    for source in [Source::DemoModel, Source::Folder(xl)] {
        let pipeline = open(&source);
        let long = vec!["red"; 100].join(" ");
        for syntax in [PromptSyntax::A1111, PromptSyntax::Comfy] {
            let generation = pipeline.generate(request(&long, syntax)).expect("the request fits");
            assert!(generation.warnings().is_empty(), "{:?}", generation.warnings());
            let pictures = generation.filter(|e| matches!(e.as_ref().expect("it runs"), Event::Picture(_))).count();
            assert_eq!(pictures, 1);
        }
        let generation = pipeline.generate(request(&long, PromptSyntax::Plain)).expect("the request fits");
        assert!(generation.warnings()[0].contains("dropped"), "{:?}", generation.warnings());
    }
}

#[test]
fn what_is_wrong_or_without_effect_is_said() {
    let pipeline = open(&Source::DemoModel);
    let error = |request: Request| pipeline.generate(request).err().expect("it is wrong").to_string();
    let message = error(request("a (b:1.2.3)", PromptSyntax::A1111));
    assert!(message.contains("weight") && message.contains("1.2.3"), "{message}");
    let message = error(request(&"x".repeat(40_000), PromptSyntax::Plain));
    assert!(message.contains("prompt") && message.contains("32768"), "{message}");
    let message = error(Request { clip_skip: 99, ..request("a", PromptSyntax::A1111) });
    assert!(message.contains("clip skip") && message.contains("99"), "{message}");
    let warnings = |request: Request| pipeline.generate(request).expect("it is right").warnings().join("; ");
    let unguided = Request {
        negative_prompt: Some("b".into()),
        guidance_scale: 1.0,
        ..request("a AND b <lora:x:1>", PromptSyntax::A1111)
    };
    let said = warnings(unguided);
    for word in ["negative prompt has no effect", "AND", "<lora:"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // Words alone, of which the demo model knows none.
    let said = warnings(request("a SAND, <lora", PromptSyntax::A1111));
    assert!(
        said.starts_with("the demo model does not know \"SAND\", \"lora\"") && !said.contains("left out"),
        "{said}"
    );
}
