//! Faults at every call of a small net: an error with a code, nothing left allocated, and a backend that goes on or says that it cannot.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chiaro::gpu::{DriverFault, GpuBackend, GpuOptions};
use chiaro::ops::{Activation, Epilogue, elementwise, matmul};
use chiaro::record::{
    Backend, Caps, Constant, ConstantData, DType, HostBackend, HostCall, Kernel, Outputs, Recording, Shape, Variant,
};
use chiaro::{ErrorCode, Result, Tier};

use super::executor::values;
use crate::support::adapter;

const WIDTHS: [usize; 9] = [64, 96, 64, 128, 32, 64, 64, 96, 32];

fn weights() -> Vec<Arc<Constant>> {
    // Products keep the size of their inputs.
    let weight = |(i, pair): (usize, &[usize])| {
        let values: Vec<f32> = values(i as u64 + 1, pair[0] * pair[1]).iter().map(|v| v / 6.0).collect();
        Constant::from_f32(format!("layer {i}"), &[pair[1], pair[0]], &values)
    };
    WIDTHS.windows(2).enumerate().map(weight).collect()
}

fn net(caps: &Caps, weights: &[Arc<Constant>], limit: Option<u64>) -> Recording {
    let mut rec = Recording::new(caps);
    rec.memory_limit = limit;
    let mut x = rec.input("x", Shape::tokens(1, 4, WIDTHS[0]));
    for weight in weights {
        let w = rec.constant(weight);
        x = matmul(&mut rec, x, w, Epilogue::default()).expect("shapes fit");
        x = elementwise(&mut rec, x, Activation::Silu).expect("shapes fit");
    }
    rec.output("y", x);
    rec
}

/// Compiles and runs twice, so that a fault may also come between.
fn run(backend: &dyn Backend, weights: &[Arc<Constant>], limit: Option<u64>) -> Result<Outputs> {
    let mut program = backend.compile(net(backend.caps(), weights, limit))?;
    let x = values(9, 4 * WIDTHS[0]);
    program.run(&[("x", &x)])?;
    program.run(&[("x", &x)])
}

/// Every call in turn, until a run ends before the fault comes. Gives how many there were.
fn at_every_call(fault: fn(u64) -> DriverFault, codes: &[ErrorCode], limit: Option<u64>) -> u64 {
    let weights = weights();
    let open =
        |fault| -> GpuBackend { adapter::open_with(DType::F32, GpuOptions { fault, ..adapter::test_options() }) };
    let want = run(&open(None), &weights, limit).expect("it runs");
    for call in 0.. {
        let fault = fault(call);
        let backend = open(Some(fault));
        let error = match run(&backend, &weights, limit) {
            Ok(got) => {
                assert_eq!(got, want, "{fault}");
                return call;
            }
            Err(error) => error,
        };
        assert!(codes.contains(&error.code()) && !error.to_string().contains('\n'), "{fault}: {error:?}");
        assert_eq!(backend.allocated_bytes(), 0, "{fault}: {error}: memory is left");
        match (fault, run(&backend, &weights, limit)) {
            (DriverFault::Loss(_), again) => {
                let again = again.expect_err("a lost device computes nothing");
                assert_eq!(again.code(), ErrorCode::DeviceLost, "{fault}: {again}");
            }
            (_, again) => assert_eq!(again.expect("the backend goes on"), want, "{fault}"),
        }
        assert_eq!(backend.allocated_bytes(), 0, "{fault}: after the run that followed");
    }
    unreachable!("some call is the last")
}

#[test]
fn memory_that_ends_at_any_call() {
    let whole = at_every_call(DriverFault::Memory, &[ErrorCode::OutOfMemory], None);
    let streamed = at_every_call(DriverFault::Memory, &[ErrorCode::OutOfMemory], Some(0));
    assert!(whole > 20 && streamed > whole, "{whole} and {streamed} calls");
}

#[test]
fn any_call_that_is_refused() {
    at_every_call(DriverFault::Refusal, &[ErrorCode::Device, ErrorCode::Kernel], Some(0));
}

#[test]
fn a_device_that_is_lost_at_any_call() {
    at_every_call(DriverFault::Loss, &[ErrorCode::DeviceLost], None);
    at_every_call(DriverFault::Loss, &[ErrorCode::DeviceLost], Some(0));
}

#[test]
fn kernels_that_do_not_compile() {
    let fault = Some(DriverFault::Kernel(Tier::Single));
    let backend = adapter::open_with(DType::F32, GpuOptions { fault, ..adapter::test_options() });
    for _ in 0..2 {
        let error = run(&backend, &weights(), None).expect_err("no kernel compiles");
        assert!(error.code() == ErrorCode::Kernel && !error.remedies().is_empty(), "{error:?}");
        assert_eq!((backend.allocated_bytes(), backend.counters().compiled_pipelines), (0, 0));
    }
}

/// Panics while it is asked to.
struct Panicking {
    bytes: Vec<u8>,
    times: Arc<AtomicUsize>,
}

impl ConstantData for Panicking {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        if self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            panic!("a conversion\nfails");
        }
        Ok(Cow::Borrowed(&self.bytes))
    }
}

#[test]
fn a_conversion_that_panics() {
    let times = Arc::new(AtomicUsize::new(0));
    let sound = weights();
    let want = run(&HostBackend::default(), &sound, None).expect("it runs");
    let fragile = |weight: &Arc<Constant>| {
        let bytes = weight.checked_bytes().expect("readable").into_owned();
        let data = Box::new(Panicking { bytes, times: Arc::clone(&times) });
        let (label, shape) = (weight.label.clone(), weight.shape.clone());
        Arc::new(Constant { label, shape, dtype: DType::F32, data })
    };
    let weights: Vec<Arc<Constant>> = sound.iter().map(fragile).collect();
    let gpu = adapter::open(DType::F32);
    for (backend, limit) in [(&HostBackend::default() as &dyn Backend, None), (&gpu, None), (&gpu, Some(0))] {
        times.store(1, Ordering::SeqCst);
        let error = run(backend, &weights, limit).expect_err("the conversion panics");
        assert_eq!(error.code(), ErrorCode::Internal, "{error:?}");
        let told = error.to_string();
        assert!(
            told.starts_with("layer ") && told.ends_with(": a fault of this program: a conversion fails"),
            "{told}"
        );
        assert_eq!(backend.allocated_bytes(), 0);
        let got = run(backend, &weights, limit).expect("the backend goes on");
        assert!(got["y"].iter().zip(&want["y"]).all(|(got, want)| (got - want).abs() < 1e-4));
    }
    // In a program's second run, when constants pass through.
    let mut program = gpu.compile(net(gpu.caps(), &weights, Some(0))).expect("it compiles");
    let x = values(9, 4 * WIDTHS[0]);
    let first = program.run(&[("x", &x)]).expect("it runs");
    times.store(1, Ordering::SeqCst);
    assert_eq!(program.run(&[("x", &x)]).expect_err("it panics").code(), ErrorCode::Internal);
    assert_eq!(program.run(&[("x", &x)]).expect("it goes on"), first);
}

static FRAGILE: Kernel = Kernel { stem: "fragile", source: "", host: break_once };
static TIMES: AtomicUsize = AtomicUsize::new(0);

fn break_once(call: &mut HostCall<'_>) {
    let x = call.read("x");
    call.out().copy_from_slice(x);
    assert!(TIMES.fetch_add(1, Ordering::SeqCst) != 1, "the second call");
}

#[test]
fn a_host_kernel_that_panics() {
    let backend = HostBackend::default();
    let mut rec = Recording::new(backend.caps());
    let mut x = rec.input("x", Shape::tokens(1, 1, 8));
    for _ in 0..3 {
        let out = rec.tensor(x.shape);
        rec.dispatch(&FRAGILE, Variant::default(), &[0u32; 4], &[("x", x)], out, [1; 3], 0);
        x = out;
    }
    rec.output("y", x);
    let mut program = backend.compile(rec).expect("it compiles");
    let x = values(3, 8);
    let error = program.run(&[("x", &x)]).expect_err("the second kernel panics");
    assert!(error.code() == ErrorCode::Internal && error.to_string().contains("the second call"), "{error}");
    assert_eq!(program.run(&[("x", &x)]).expect("it goes on")["y"], x);
    drop(program);
    assert_eq!(backend.allocated_bytes(), 0);
}
