//! What backends say of themselves: what was brought to the device, what is there, what is missing.

use std::sync::Arc;
use std::sync::Barrier;

use chiaro::ops::{Epilogue, matmul};
use chiaro::record::{Backend, Constant, Counters, DType, HostBackend, Recording, Shape, plan};

use crate::support::adapter;

const WIDTHS: [usize; 9] = [64, 96, 64, 128, 32, 64, 64, 96, 32];

fn weights() -> Vec<Arc<Constant>> {
    let weight = |(i, pair): (usize, &[usize])| {
        let values: Vec<f32> = (0..pair[0] * pair[1]).map(|k| ((k * 31 + i) % 23) as f32 / 200.0).collect();
        Constant::from_f32(format!("layer {i}"), &[pair[1], pair[0]], &values)
    };
    WIDTHS.windows(2).enumerate().map(weight).collect()
}

fn net(backend: &dyn Backend, weights: &[Arc<Constant>], limit: Option<u64>) -> Recording {
    let mut rec = Recording::new(backend.caps());
    rec.memory_limit = limit;
    let mut x = rec.input("x", Shape::tokens(1, 4, WIDTHS[0]));
    for weight in weights {
        let w = rec.constant(weight);
        x = matmul(&mut rec, x, w, Epilogue::default()).expect("shapes fit");
    }
    rec.output("y", x);
    rec
}

fn bytes(weights: &[Arc<Constant>]) -> u64 {
    weights.iter().map(|weight| weight.byte_len() as u64).sum()
}

#[test]
fn weights_are_counted_once_and_loaded_once() {
    let (gpu, weights) = (adapter::open(DType::F32), weights());
    for backend in [&gpu as &dyn Backend, &HostBackend::default()] {
        let net = |count: usize| net(backend, &weights[..count], None);
        assert_eq!((backend.counters(), backend.allocated_bytes()), (Counters::default(), 0));
        assert_eq!(backend.missing_constant_bytes(&net(8)), bytes(&weights));
        let one = backend.compile(net(5)).unwrap();
        assert_eq!(backend.allocated_bytes(), one.allocated_bytes());
        assert_eq!(backend.missing_constant_bytes(&net(8)), bytes(&weights[5..]));
        let two = backend.compile(net(8)).unwrap();
        let shared = bytes(&weights[..5]);
        assert_eq!(backend.allocated_bytes(), one.allocated_bytes() + two.allocated_bytes() - shared);
        let counters = backend.counters();
        assert_eq!((counters.uploaded_bytes, counters.streamed_bytes), (bytes(&weights), 0));
        assert_eq!(counters.compiled_programs, 2);
        let kept = two.weights();
        drop(one);
        assert_eq!((backend.allocated_bytes(), backend.missing_constant_bytes(&net(8))), (bytes(&weights), 0));
        let mut again = backend.compile(net(8)).unwrap();
        again.run(&[("x", &[0.5; 4 * 64])]).unwrap();
        let (before, counters) = (counters, backend.counters());
        assert_eq!(counters, Counters { compiled_programs: 3, ..before }, "{}", backend.caps().name);
        drop((again, kept));
        assert_eq!((backend.allocated_bytes(), backend.missing_constant_bytes(&net(8))), (0, bytes(&weights)));
    }
}

#[test]
fn what_passes_through_is_told_apart() {
    let (gpu, weights) = (adapter::open(DType::F32), weights());
    let rec = net(&gpu, &weights, Some(0));
    let planned = plan(&rec).unwrap();
    let stream = planned.stream.clone().expect("nothing fits");
    assert_eq!(gpu.missing_constant_bytes(&rec), planned.constant_bytes as u64);
    let mut program = gpu.compile(rec).unwrap();
    assert_eq!(gpu.allocated_bytes(), planned.peak_bytes());
    for runs in 1..3 {
        program.run(&[("x", &[0.5; 4 * 64])]).unwrap();
        let counters = gpu.counters();
        assert_eq!(counters.uploaded_bytes, planned.constant_bytes as u64);
        assert_eq!(counters.streamed_bytes, runs * stream.bytes_per_run());
        assert_eq!(gpu.allocated_bytes(), planned.peak_bytes());
    }
    drop(program);
    assert_eq!(gpu.allocated_bytes(), 0);
}

/// Two jobs, called from two tasks of a pool of two: one loads what both want, and neither takes the other up while it waits.
#[test]
fn two_callers_load_a_weight_once() {
    let callers = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
    let (gpu, weights) = (adapter::open(DType::F32), weights());
    for backend in [&gpu as &dyn Backend, &HostBackend::default()] {
        for _ in 0..8 {
            let before = backend.counters().uploaded_bytes;
            let barrier = Barrier::new(2);
            let job = || {
                barrier.wait();
                let mut program = backend.compile(net(backend, &weights, None)).unwrap();
                let outputs = program.run(&[("x", &[0.5; 4 * 64])]).unwrap();
                // The other one finds them before they are given up.
                barrier.wait();
                outputs
            };
            let (one, two) = callers.join(job, job);
            assert_eq!(one, two);
            assert_eq!(backend.counters().uploaded_bytes - before, bytes(&weights), "{}", backend.caps().name);
            assert_eq!(backend.allocated_bytes(), 0);
        }
    }
}
