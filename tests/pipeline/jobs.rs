//! Jobs that own what they need: cancelled, side by side, from threads and from rayon's tasks.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use chiaro::engine::{Engine, JobEvent, JobHandle, ModelKey};
use chiaro::gpu::{DriverFault, GpuBackend, GpuOptions};
use chiaro::pipeline::{Device, Event, OmsSource, Pipeline, Precision, Request, Residency, Source};
use chiaro::record::DType;
use chiaro::{Error, ErrorCode};

use super::resident::devices;
use super::runs::draw;
use crate::support::adapter;

fn demo(device: &Device) -> Pipeline {
    Pipeline::load(&Source::DemoModel, Some(&OmsSource::demo()), device.clone()).expect("the demo model")
}

fn request(prompt: &str) -> Request {
    Request {
        prompt: prompt.into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 3,
        oms: Some(OmsSource::demo().request()),
        ..Request::default()
    }
}

fn pixels(pipeline: &Pipeline, request: Request) -> Vec<u8> {
    draw(pipeline, request).image.data
}

/// Two at once are what they are alone, wherever they are called from.
#[test]
fn two_jobs_at_once_are_right() {
    for (on, device) in devices() {
        for residency in [Residency::Off, Residency::On] {
            device.set_residency(residency);
            let pipeline = demo(&device);
            let prompts = ["a red ball", "a blue house"];
            let wanted = prompts.map(|prompt| pixels(&pipeline, request(prompt)));
            let threads = std::thread::scope(|scope| {
                let started = prompts.map(|prompt| scope.spawn(|| pixels(&pipeline, request(prompt))));
                started.map(|thread| thread.join().expect("no panic"))
            });
            assert_eq!(threads, wanted, "{on}, {residency:?}: from two threads");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool of two");
            let (a, b) = pool.install(|| {
                rayon::join(|| pixels(&pipeline, request(prompts[0])), || pixels(&pipeline, request(prompts[1])))
            });
            assert_eq!([a, b], wanted, "{on}, {residency:?}: from two tasks");
        }
    }
}

/// Cancelled after a random while, inside of whatever runs then: it ends with the one error, gives everything back, and the next is right.
fn cancels(on: &str, device: &Device, times: u64) {
    let pipeline = demo(device);
    let wanted = pixels(&pipeline, request("a red ball"));
    let started = std::time::Instant::now();
    pixels(&pipeline, request("a red ball"));
    let whole = started.elapsed();
    let base = device.statistics().allocated_bytes;
    let (mut cancelled, mut seed) = (0, 1u64);
    for _ in 0..times {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = whole.mul_f64((seed >> 40) as f64 / f64::from(1 << 24));
        let mut generation = pipeline.generate(request("a red ball")).expect("the request fits");
        let token = generation.cancel_token();
        let other = std::thread::spawn(move || {
            std::thread::sleep(wait);
            token.cancel();
        });
        match generation.find_map(Result::err) {
            Some(Error::Cancelled) => cancelled += 1,
            Some(error) => panic!("{on}: {error}"),
            None => {}
        }
        assert!(generation.next().is_none(), "{on}: it went on");
        other.join().expect("no panic");
        drop(generation);
        assert_eq!(device.statistics().allocated_bytes, base, "{on}: bytes after {cancelled} cancels");
    }
    assert!(cancelled > times / 5, "{on}: only {cancelled} of {times} were cancelled");
    assert_eq!(pixels(&pipeline, request("a red ball")), wanted, "{on}");
}

/// `CHIARO_TEST_CANCELS` asks for more.
#[test]
fn what_is_cancelled_leaves_nothing_behind() {
    let times = std::env::var("CHIARO_TEST_CANCELS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    for (on, device) in devices() {
        cancels(on, &device, times);
    }
}

#[test]
fn jobs_tell_what_they_do_and_end_when_they_are_dropped() {
    for (on, device) in devices() {
        let engine = Engine::new(device, Residency::On);
        let key = ModelKey::new(Source::DemoModel).with_oms(OmsSource::demo());
        let pipeline = engine.load(&key).expect("the demo model");
        let wanted = pixels(&pipeline, request("a red ball"));
        let (tell, told) = mpsc::channel();
        let job = engine.start(&pipeline, request("a red ball"), move |event| drop(tell.send(event))).expect("it fits");
        job.wait();
        assert!(job.has_ended());
        let told: Vec<JobEvent> = told.iter().collect();
        let drawn = told.iter().find_map(|event| match event {
            JobEvent::Done(Event::Picture(picture)) => Some(&picture.image.data),
            _ => None,
        });
        assert_eq!(drawn, Some(&wanted), "{on}");
        assert!(matches!(told.last(), Some(JobEvent::Finished)), "{on}: {told:?}");
        // Loaded once.
        let before = engine.statistics();
        assert_eq!(pixels(&engine.load(&key).expect("it is there"), request("a red ball")), wanted);
        assert_eq!(engine.statistics().uploaded_bytes, before.uploaded_bytes, "{on}");
        // Dropped while it runs: it has told its last by then.
        let (tell, told) = mpsc::channel();
        let many = Request { count: 50, ..request("a red ball") };
        let job = engine.start(&pipeline, many, move |event| drop(tell.send(event))).expect("it fits");
        told.recv_timeout(Duration::from_secs(60)).expect("it has begun");
        drop(job);
        let last = told.iter().last();
        assert!(matches!(last, Some(JobEvent::Failed(Error::Cancelled))), "{on}: {last:?}");
    }
}

/// Who waits for its turn can be cancelled too, and turns are fair: of two jobs neither ends long before the other.
#[test]
fn jobs_take_turns() {
    let device = devices().remove(0).1;
    let pipeline = demo(&device);
    let steps = Request { num_inference_steps: 12, ..request("a red ball") };
    let (tell, told) = mpsc::channel();
    let engine = Engine::new(device, Residency::On);
    let jobs: Vec<_> = (0..2)
        .map(|job| {
            let tell = tell.clone();
            let told = move |event| {
                if let JobEvent::Done(Event::Step { step, .. }) = event {
                    let _ = tell.send((job, step));
                }
            };
            engine.start(&pipeline, steps.clone(), told).expect("it fits")
        })
        .collect();
    drop(tell);
    let (mut at, mut last, mut run) = ([0, 0], 0, 0);
    for (job, step) in told.iter() {
        at[job] = step;
        // Between the later one's begin and the earlier one's end.
        let both = at.iter().all(|step| *step > 0 && *step < 12);
        run = if both && job == last { run + 1 } else { 0 };
        last = job;
        // What a job tells may be heard a little later than it was done.
        assert!(run <= 4, "job {job} did {run} steps while the other waited: {at:?}");
    }
    assert_eq!(at, [12, 12]);
    jobs.iter().for_each(JobHandle::wait);
}

/// A device that is lost says so, and the engine goes on with it opened anew.
#[test]
fn an_engine_recovers_from_a_lost_device() {
    let opened = adapter::open_with(DType::F32, adapter::test_options());
    let wanted = pixels(&demo(&device_of(opened)), request("a red ball"));
    for call in [40, 200, 900] {
        let options = GpuOptions { fault: Some(DriverFault::Loss(call)), ..adapter::test_options() };
        let engine = Engine::new(device_of(adapter::open_with(DType::F32, options)), Residency::On);
        let key = ModelKey::new(Source::DemoModel).with_oms(OmsSource::demo());
        let pipeline = engine.load(&key).expect("the demo model");
        let many = Request { count: 50, ..request("a red ball") };
        let error = pipeline.generate(many).expect("it fits").find_map(Result::err).expect("the device is lost");
        assert_eq!(error.code(), ErrorCode::DeviceLost, "{error}");
        // Nothing more can be had of it.
        let error = pipeline.generate(request("a red ball")).expect("it fits").find_map(Result::err);
        assert_eq!(error.map(|error| error.code()), Some(ErrorCode::DeviceLost));
        engine.recover().expect("it opens again");
        assert_eq!(pixels(&engine.load(&key).expect("it is loaded again"), request("a red ball")), wanted);
    }
}

fn device_of(backend: GpuBackend) -> Device {
    Device::new(Arc::new(backend), Precision::F32).expect("f32 is everywhere")
}

/// A picture that stays on the device has the pixels of the one in host memory; the processor has none.
#[test]
fn pictures_stay_on_the_device_where_it_is_asked() {
    for (on, device) in devices() {
        let picture = draw(&demo(&device), Request { on_device: true, ..request("a red ball") });
        assert_eq!(picture.on_device.is_some(), on == "gpu");
        assert!(picture.on_device.is_none_or(|there| there.size() == (64, 64) && there.non_finite() == 0));
        let plain = draw(&demo(&device), request("a red ball"));
        assert!(plain.on_device.is_none() && plain.image.data == picture.image.data, "{on}");
    }
}
