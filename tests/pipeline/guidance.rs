//! Guidance in a part of the steps, on the demo model.

use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Pipeline, Precision, Request, Source};
use chiaro::record::HostBackend;
use chiaro::sampling::SolverKind;

fn demo() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole")
}

fn within(start: f64, end: f64) -> Request {
    Request {
        prompt: "a red circle".into(),
        negative_prompt: Some("a blue square".into()),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 4,
        guidance_scale: 4.0,
        guidance_interval: (start, end),
        sampler: Some(SolverKind::EulerAncestral),
        seed: 5,
        ..Request::default()
    }
}

/// The first picture's latents after each step.
fn trace(pipeline: &Pipeline, request: &Request) -> Vec<Vec<f32>> {
    let mut run = pipeline.generate(request.clone()).expect("the request fits");
    let mut trace = Vec::new();
    while let Some(event) = run.next() {
        if matches!(event.expect("the run succeeds"), Event::Step { .. }) {
            trace.push(run.latents(0).expect("a picture").to_vec());
        }
    }
    assert_eq!(trace.len(), 4);
    trace
}

#[test]
fn outside_of_its_interval_guidance_is_off() {
    let pipeline = demo();
    let whole = trace(&pipeline, &within(0.0, 1.0));
    let off = trace(&pipeline, &Request { guidance_scale: 1.0, ..within(0.0, 1.0) });
    assert_ne!(whole[0], off[0]);
    // No whole step lies in it.
    assert_eq!(trace(&pipeline, &within(0.3, 0.45)), off);
    let early = trace(&pipeline, &within(0.0, 0.5));
    assert_eq!(early[..2], whole[..2]);
    assert!(early[2] != whole[2] && early[2] != off[2]);
    let late = trace(&pipeline, &within(0.4, 1.0));
    assert_eq!(late[..2], off[..2]);
    assert!(late[2] != whole[2] && late[2] != off[2]);
}

#[test]
fn the_plan_counts_both_forms() {
    let pipeline = demo();
    let unets = |request: &Request| -> Vec<(usize, u64)> {
        let plans = pipeline.plan(request).expect("it fits");
        plans.iter().filter(|plan| plan.name == "UNet").map(|plan| (plan.runs, plan.flops)).collect()
    };
    let [(4, two_rows)] = unets(&within(0.0, 1.0))[..] else { panic!("one form") };
    let [(4, one_row)] = unets(&Request { guidance_scale: 1.0, ..within(0.0, 1.0) })[..] else { panic!("one form") };
    assert_eq!(unets(&within(0.25, 0.5)), [(3, one_row), (1, two_rows)]);
    assert!((1.9..2.1).contains(&(two_rows as f64 / one_row as f64)));
}

#[test]
fn intervals_that_are_none_are_refused() {
    let pipeline = demo();
    for (start, end) in [(0.5, 0.5), (0.6, 0.2), (-0.1, 1.0), (0.0, 1.1), (f64::NAN, 1.0)] {
        let error = pipeline.plan(&within(start, end)).expect_err("refused").to_string();
        assert!(error.starts_with("guidance_interval: expected"), "{start}, {end}: {error}");
    }
}

/// What a picture says of itself draws it again.
#[test]
fn pictures_know_their_interval() {
    let pipeline = demo();
    let request = within(0.25, 0.75);
    let picture = pipeline.generate(request).expect("the request fits").find_map(|event| match event {
        Ok(Event::Picture(picture)) => Some(picture),
        _ => None,
    });
    let parameters = &picture.expect("a picture").parameters;
    let again: Request = serde_json::from_value(parameters["request"].clone()).expect("a request");
    assert_eq!(again.guidance_interval, (0.25, 0.75));
    let older: Request = serde_json::from_str(r#"{ "prompt": "x" }"#).expect("a request of an older version");
    assert_eq!(older.guidance_interval, (0.0, 1.0));
}
