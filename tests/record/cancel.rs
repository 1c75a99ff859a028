//! A run that is asked to stop does so soon, and the next one is whole and right.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chiaro::Error;
use chiaro::gpu::GpuOptions;
use chiaro::ops::{Attention, Conv2d, Epilogue, attention, conv2d, matmul};
use chiaro::record::{
    Backend, Cancel, Caps, Chain, ChainPlan, ChainProgram, Constant, ConstantData, DType, HostBackend, HostCall,
    Kernel, Part, Program, Reach, Recording, Residual, Run, Shape, Span, Tensor, Variant,
};

use crate::support::adapter;

const WIDTH: usize = 64;

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 101) % 41) as f32 / 20.0 - 1.0).collect()
}

/// Gives its bytes, and asks the run to stop the `at`-th time that it does.
struct Asking {
    values: Vec<f32>,
    cancel: Cancel,
    at: Arc<AtomicUsize>,
}

impl ConstantData for Asking {
    fn bytes(&self) -> chiaro::Result<std::borrow::Cow<'_, [u8]>> {
        if self.at.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.cancel.cancel();
        }
        Ok(bytemuck::cast_slice(&self.values).into())
    }
}

/// Products one behind the other with a prologue, whose weights count down as they are read.
fn net(caps: &Caps, cancel: &Cancel, at: &Arc<AtomicUsize>, limit: Option<u64>) -> Recording {
    let mut rec = Recording::new(caps);
    rec.memory_limit = limit;
    let weight = |rec: &mut Recording, seed| {
        let values = values(WIDTH * WIDTH, seed).iter().map(|v| v / 8.0).collect();
        let data = Asking { values, cancel: cancel.clone(), at: Arc::clone(at) };
        let (label, shape) = (format!("layer {seed}"), vec![WIDTH, WIDTH]);
        rec.constant(&Arc::new(Constant { label, shape, dtype: DType::F32, data: Box::new(data) }))
    };
    let text = rec.input("text", Shape::tokens(1, 1, WIDTH));
    let known = rec.once(&[text], |rec| {
        let w = weight(rec, 100);
        matmul(rec, text, w, Epilogue::default()).expect("shapes fit")
    });
    let mut x = rec.input("x", Shape::tokens(1, 16, WIDTH));
    for seed in 0..12 {
        let w = weight(&mut rec, seed);
        let epilogue = Epilogue { image_add: Some(known), ..Epilogue::default() };
        x = matmul(&mut rec, x, w, epilogue).expect("shapes fit");
    }
    rec.output("y", x);
    rec
}

/// Streams that are asked to stop at each of their constants.
#[test]
fn a_gpu_stops_anywhere_and_goes_on_right() {
    let options = GpuOptions { time_budget: Some(Duration::from_nanos(1)), ..adapter::test_options() };
    let backend = adapter::open_with(DType::F32, options);
    let (x, text) = (values(16 * WIDTH, 1), values(WIDTH, 2));
    let inputs = [("x", &x[..]), ("text", &text[..])];
    let never = Arc::new(AtomicUsize::new(0));
    let want = backend.compile(net(backend.caps(), &Cancel::default(), &never, None)).unwrap().run(&inputs).unwrap();
    let mut stopped = 0;
    for first in 1..20 {
        let (cancel, at) = (Cancel::default(), Arc::new(AtomicUsize::new(0)));
        let mut program = backend.compile(net(backend.caps(), &cancel, &at, Some(0))).unwrap();
        let before = backend.allocated_bytes();
        at.store(first, Ordering::SeqCst);
        match program.execute(&inputs, Run { cancel: Some(&cancel), ..Run::default() }) {
            Ok(outputs) => assert_eq!(outputs, want, "{first}"),
            Err(error) => {
                assert!(matches!(error, Error::Cancelled), "{first}: {error}");
                stopped += 1;
            }
        }
        assert_eq!(program.run(&inputs).unwrap(), want, "{first}: the run after it");
        assert_eq!(backend.allocated_bytes(), before, "{first}");
    }
    assert!((10..19).contains(&stopped), "{stopped} runs were stopped");
}

#[test]
fn a_run_that_is_cancelled_before_does_nothing() {
    let cancel = Cancel::default();
    cancel.cancel();
    let gpu = adapter::open(DType::F32);
    for backend in [&gpu as &dyn Backend, &HostBackend::default()] {
        let never = Arc::new(AtomicUsize::new(0));
        let mut program = backend.compile(net(backend.caps(), &cancel, &never, None)).unwrap();
        let (x, text) = (values(16 * WIDTH, 1), values(WIDTH, 2));
        let inputs = [("x", &x[..]), ("text", &text[..])];
        let how = Run { cancel: Some(&cancel), ..Run::default() };
        assert!(matches!(program.execute(&inputs, how), Err(Error::Cancelled)));
        program.run(&inputs).unwrap();
    }
}

/// A dispatch that would take seconds each, of the kinds that take longest.
fn long(kind: &str) -> Recording {
    let mut rec = Recording::new(&Caps::host());
    let out = match kind {
        "product" => {
            let x = rec.input("x", Shape::tokens(1, 8192, 1024));
            let w = rec.constant(&Constant::from_f32("w", &[4096, 1024], &vec![0.5; 4096 * 1024]));
            matmul(&mut rec, x, w, Epilogue::default())
        }
        "attention" => {
            let x = rec.input("x", Shape::tokens(1, 8192, 1024));
            attention(&mut rec, x, x, x, Attention { heads: 16, causal: false })
        }
        _ => {
            let x = rec.input("x", Shape::image(1, 128, 128, 512));
            let w = rec.constant(&Constant::from_f32("w", &[512, 3, 3, 512], &vec![0.5; 9 * 512 * 512]));
            let stride = if kind == "strided" { 2 } else { 1 };
            conv2d(&mut rec, x, w, Conv2d { stride, ..Conv2d::SAME }, Epilogue::default())
        }
    };
    rec.output("y", out.expect("shapes fit"));
    rec
}

#[test]
fn the_host_stops_inside_of_a_dispatch() {
    let backend = HostBackend::default();
    for kind in ["product", "convolution", "strided", "attention"] {
        let mut program = backend.compile(long(kind)).unwrap();
        let x = vec![0.1; 8192 * 1024];
        let cancel = Cancel::default();
        let (result, late) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                cancel.cancel();
                Instant::now()
            });
            let result = program.execute(&[("x", &x)], Run { cancel: Some(&cancel), ..Run::default() });
            let ended = Instant::now();
            (result, ended.saturating_duration_since(asked.join().expect("no panic")))
        });
        assert!(matches!(result, Err(Error::Cancelled)), "{kind} ended before it was asked to");
        println!("{kind}: {late:?}");
        assert!(late < Duration::from_secs(2), "{kind}: {late:?}");
    }
}

static STOPPING: Kernel = Kernel { stem: "stopping", source: "", host: stop };
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Copies; its third call finds the run asked to stop.
fn stop(call: &mut HostCall<'_>) {
    let x = call.read("x");
    call.out().copy_from_slice(x);
    if CALLS.fetch_add(1, Ordering::SeqCst) == 2 {
        call.cancel().cancel();
    }
}

#[test]
fn a_chain_stops_between_bands() {
    let copy = |rec: &mut Recording, x: Tensor| {
        let out = rec.tensor(x.shape);
        rec.dispatch(&STOPPING, Variant::default(), &[0u32; 4], &[("x", x)], out, [1; 3], 0);
        out
    };
    let part = |label: &str| Part {
        label: label.into(),
        span: Span::Rows(Reach::Same),
        residual: Residual::Unused,
        moments: None,
        record: Box::new(move |rec: &mut Recording, band| Ok(copy(rec, band.map))),
    };
    let shape = Shape::image(1, 40, 2, 4);
    let chain = Chain { input: "x", shape, parts: vec![part("one"), part("two")], output: "y" };
    let caps = Caps::host();
    let plan = ChainPlan::of_rows(&chain, &caps, 8).expect("a plan");
    let mut program = ChainProgram::new(Arc::new(HostBackend::default()), caps, chain, plan);
    let (x, cancel) = (values(shape.len(), 3), Cancel::default());
    let stopped = program.execute(&[("x", &x)], Run { cancel: Some(&cancel), ..Run::default() });
    assert!(matches!(stopped, Err(Error::Cancelled)) && CALLS.load(Ordering::SeqCst) == 3);
    assert_eq!(program.run(&[("x", &x)]).expect("it runs")["y"], x);
}
