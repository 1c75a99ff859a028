//! Generations that share forwards, join and leave between two steps: each draws what it draws alone, to the bit.

use std::sync::Arc;

use chiaro::engine::Together;
use chiaro::pipeline::{Device, Event, Generation, Picture, Pipeline, Precision, Request};
use chiaro::record::DType;
use chiaro::sampling::SolverKind;
use chiaro::{ErrorCode, OmsSource, Source};

use crate::support::adapter;

/// A generation under way, and what it drew.
struct Member {
    generation: Generation,
    pictures: Vec<Picture>,
    has_ended: bool,
}

impl Member {
    fn new(pipeline: &Pipeline, request: &Request) -> Self {
        let generation = pipeline.generate(request.clone()).unwrap_or_else(|e| panic!("{e}"));
        Member { generation, pictures: Vec::new(), has_ended: false }
    }

    fn heard(&mut self, event: Event) {
        if let Event::Picture(picture) = event {
            self.pictures.push(*picture);
        }
    }

    /// Goes on by itself until its next unit is a step that others can share.
    fn reach_a_step(&mut self) {
        while !self.has_ended && !Together::could(&self.generation) {
            match self.generation.next() {
                Some(event) => self.heard(event.unwrap_or_else(|e| panic!("{e}"))),
                None => self.has_ended = true,
            }
        }
    }
}

fn requests(pipeline: &Pipeline) -> Vec<Request> {
    let base = |prompt: &str, seed, steps| Request {
        prompt: prompt.into(),
        seed,
        num_inference_steps: steps,
        width: Some(64),
        height: Some(64),
        sampler: Some(SolverKind::EulerAncestral),
        ..Request::default()
    };
    let oms = OmsSource::demo().request();
    vec![
        base("a red circle", 1, 5),
        Request { oms: Some(oms.clone()), ..base("a solid black image", 2, 7) },
        Request {
            guidance_scale: 2.0,
            sampler: Some(SolverKind::DpmPp2m),
            ..base("a blue square on a white background", 3, 4)
        },
        Request {
            oms: pipeline.has_oms().then_some(oms),
            negative_prompt: Some("fog".into()),
            count: 3,
            batch: 2,
            ..base("a house", 4, 3)
        },
        // Without guidance a picture has one row: it cannot share, and goes on alone.
        Request { guidance_scale: 1.0, ..base("a star", 5, 4) },
    ]
}

/// Draws all: `enters[i]` is how many shared steps are done when request i comes. Gives what each drew and how many pictures a forward had at most.
fn drawn(pipeline: &Pipeline, requests: &[Request], enters: &[usize]) -> (Vec<Vec<Picture>>, usize) {
    let mut members: Vec<Option<Member>> = requests.iter().map(|_| None).collect();
    let (mut together, mut steps, mut most) = (Together::new(), 0, 0);
    loop {
        for (at, member) in members.iter_mut().enumerate().filter(|(at, _)| enters[*at] <= steps) {
            member.get_or_insert_with(|| Member::new(pipeline, &requests[at])).reach_a_step();
        }
        let mut ready: Vec<&mut Member> = members.iter_mut().flatten().filter(|member| !member.has_ended).collect();
        if ready.is_empty() {
            if members.iter().all(Option::is_some) {
                break;
            }
            steps += 1;
            continue;
        }
        let first = ready.remove(0);
        let mut group = vec![first];
        for member in ready {
            if Together::can(&group[0].generation, &member.generation) {
                group.push(member);
            }
        }
        most = most.max(group.len());
        steps += 1;
        if let [alone] = &mut group[..] {
            let event = alone.generation.next().expect("a step comes").unwrap_or_else(|e| panic!("{e}"));
            alone.heard(event);
            continue;
        }
        let mut generations: Vec<&mut Generation> = group.iter_mut().map(|member| &mut member.generation).collect();
        let seen: Vec<&Generation> = generations.iter().map(|generation| &**generation).collect();
        assert!(Together::peak_bytes(&seen).unwrap_or_else(|e| panic!("{e}")) > 0);
        let events = together.step(&mut generations).unwrap_or_else(|e| panic!("{e}"));
        for (member, event) in group.iter_mut().zip(events) {
            member.heard(event.unwrap_or_else(|e| panic!("{e}")));
        }
    }
    (members.into_iter().map(|member| member.expect("all came").pictures).collect(), most)
}

fn check(device: Device) {
    let pipeline =
        Pipeline::load(&Source::DemoModel, Some(&OmsSource::demo()), device).unwrap_or_else(|e| panic!("{e}"));
    let requests = requests(&pipeline);
    let alone: Vec<Vec<Picture>> = requests
        .iter()
        .map(|request| {
            let mut member = Member::new(&pipeline, request);
            while let Some(event) = member.generation.next() {
                member.heard(event.unwrap_or_else(|e| panic!("{e}")));
            }
            member.pictures
        })
        .collect();
    for enters in [[0, 0, 0, 0, 0], [0, 2, 3, 1, 5], [4, 0, 1, 2, 0]] {
        let (drawn, most) = drawn(&pipeline, &requests, &enters);
        assert!(most >= 3, "{most} shared a forward");
        for (own, shared) in alone.iter().zip(&drawn) {
            assert_eq!(own.len(), shared.len());
            for (one, other) in own.iter().zip(shared) {
                assert!(one.image == other.image && one.latents == other.latents, "{} {enters:?}", one.infotext);
                assert_eq!(one.parameters, other.parameters);
            }
        }
    }
}

#[test]
fn company_changes_no_bit_on_the_processor() {
    check(Device::choose("cpu", Precision::Auto).unwrap_or_else(|e| panic!("{e}")));
}

#[test]
fn company_changes_no_bit_on_a_gpu() {
    check(Device::new(Arc::new(adapter::open(DType::F32)), Precision::F32).expect("f32 is everywhere"));
}

/// Who is stopped, or cannot share, leaves the others as they were.
#[test]
fn a_forward_that_fails_is_done_again() {
    let device = Device::choose("cpu", Precision::Auto).unwrap_or_else(|e| panic!("{e}"));
    let pipeline =
        Pipeline::load(&Source::DemoModel, Some(&OmsSource::demo()), device).unwrap_or_else(|e| panic!("{e}"));
    let requests = requests(&pipeline);
    let [mut one, mut other, mut unguided] = [0, 2, 4].map(|at| Member::new(&pipeline, &requests[at]));
    for member in [&mut one, &mut other, &mut unguided] {
        member.reach_a_step();
    }
    let mut together = Together::new();
    let refused = together.step(&mut [&mut one.generation, &mut unguided.generation]);
    assert!(refused.is_err_and(|error| error.code() == ErrorCode::Request));
    together.cancel_token().cancel();
    let cancelled = together.step(&mut [&mut one.generation, &mut other.generation]);
    assert!(cancelled.is_err_and(|error| error.code() == ErrorCode::Cancelled));
    assert!(!together.cancel_token().is_cancelled(), "a new one");
    // One leaves; the rest is as if nothing had been.
    drop(other);
    while let Some(event) = one.generation.next() {
        one.heard(event.unwrap_or_else(|e| panic!("{e}")));
    }
    let mut again = Member::new(&pipeline, &requests[0]);
    while let Some(event) = again.generation.next() {
        again.heard(event.unwrap_or_else(|e| panic!("{e}")));
    }
    assert!(one.pictures[0].image == again.pictures[0].image);
}
