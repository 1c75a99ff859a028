//! Every row of the table of fields: a request → a picture's texts → the request.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::image::Metadata;
use crate::pipeline::device::{Device, Precision};
use crate::pipeline::files::source::Source;
use crate::pipeline::model::oms_module::OmsSource;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::png::RECORD;
use crate::pipeline::png::parameters::{infotext, parameters};
use crate::pipeline::png::repeat::{Recipe, recipe};
use crate::pipeline::request::Request;
use crate::pipeline::request::fields::REQUEST;
use crate::record::HostBackend;
use crate::text::PromptSyntax;

fn read(keyword: &str, text: &str) -> crate::Result<Recipe> {
    let said = Metadata { texts: vec![(keyword.into(), text.into())], exif: None };
    Ok(recipe(&said)?.expect("a recipe"))
}

fn written(request: &Request) -> Value {
    serde_json::to_value(request).expect("JSON")
}

/// Requests that say each row, as AUTOMATIC1111's program would have to draw them.
fn requests() -> Vec<(&'static str, Request)> {
    let plain = Request { prompt: "a house".into(), prompt_syntax: PromptSyntax::A1111, ..Request::default() };
    // Parts of what is said as a whole.
    let whole = |object: &str| match object {
        "hires" => json!({ "scale": 2.0, "strength": 0.5, "steps": null, "upscale": "latent" }),
        "variation" => json!({ "seed": 3, "strength": 0.5 }),
        "deep_cache" => json!({ "interval": 3, "depth": 1 }),
        "token_merging" => json!({ "ratio": 0.5, "levels": 2 }),
        _ => json!({ "guidance_scale": 1.0 }),
    };
    let value = |key: &str| match key {
        "sampler" => json!("euler_ancestral"),
        "sigmas" => json!("karras"),
        "timestep_spacing" => json!("trailing"),
        "beta_schedule" => json!("linear"),
        // The text says it of this one alone: the GPU's numbers are AUTOMATIC1111's own.
        "rng" => json!("torch"),
        "prompt_syntax" => json!("comfy"),
        "hires.upscale" => json!("image"),
        "oms.form" => json!("official"),
        "place" => json!([1, 3]),
        "guidance_interval" => json!([0.25, 0.5]),
        "width" | "height" => json!(72),
        "seed" | "variation.seed" | "noise_seed_delta" => json!(u64::MAX - 1),
        "zero_terminal_snr" | "paste_back" => json!(true),
        key if key.ends_with("prompt") || key.ends_with("prompt_2") => json!("some: \"words\", and more"),
        key if key.ends_with("size") || key.ends_with("left") => json!([16, 8]),
        key if key.ends_with("steps") || key.ends_with("interval") || key.ends_with("backtrack") => json!(7),
        "clip_skip" | "count" | "batch" | "deep_cache.depth" | "token_merging.levels" => json!(2),
        "hires.scale" | "image_guidance_scale" => json!(1.75),
        _ => json!(0.125),
    };
    let one = |key: &'static str| {
        let mut request = written(&plain);
        if let Some((object, _)) = key.split_once('.') {
            request[object] = whole(object);
        }
        let mut place = &mut request;
        for name in key.split('.') {
            place = &mut place[name];
        }
        *place = value(key);
        if matches!(key, "sigmas" | "eta") {
            request["sampler"] = json!("euler_ancestral");
        }
        (key, serde_json::from_value(request).unwrap_or_else(|e| panic!("{key}: {e}")))
    };
    REQUEST.iter().map(|field| field.key).filter(|key| *key != "oms.form.paper.eta").map(one).collect()
}

fn pipeline() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    Pipeline::load(&Source::DemoModel, Some(&OmsSource::demo()), device).expect("the demo")
}

#[test]
fn every_row_comes_back_from_our_record() {
    let pipeline = pipeline();
    for (key, request) in requests() {
        let record = parameters(&pipeline, &request, (64, 64)).expect("a record").to_string();
        let back = read("chiaro", &record).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(written(&back.request), written(&request), "{key}");
    }
}

#[test]
fn rows_with_a_name_in_the_text_come_back_from_it() {
    let pipeline = pipeline();
    for (key, request) in requests() {
        // The refiner's switch is written with a refiner.
        let named = REQUEST.iter().find(|field| field.key == key).and_then(|field| field.png);
        let Some(name) = named.filter(|_| key != "refiner_start") else { continue };
        let text = infotext(&pipeline, &request, (64, 64)).expect("a text");
        assert!(text.contains(&format!("{name}: ")), "{key}: {text}");
        let back = written(&read("parameters", &text).unwrap_or_else(|e| panic!("{key}: {e}")).request);
        let at = |value: &Value| key.split('.').fold(value.clone(), |value, name| value[name].clone());
        assert_eq!(at(&back), at(&written(&request)), "{key}: {text}");
    }
}

#[test]
fn records_of_other_forms_are_refused_by_name() {
    let record = |form: Value| json!({ "record": form, "version": "9.1.0", "request": { "prompt": "x" } }).to_string();
    for form in [json!(RECORD + 1), json!(0), json!("one"), json!(1.5)] {
        let told = read("chiaro", &record(form.clone())).expect_err("refused").to_string();
        assert!(told.contains(&format!("of form {form}")) && told.contains("chiaro 9.1.0"), "{told}");
    }
    assert_eq!(read("chiaro", &record(json!(RECORD))).expect("this one").request.prompt, "x");
    assert_eq!(read("chiaro", &record(Value::Null)).expect("none").request.prompt, "x");
}
