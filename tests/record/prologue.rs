//! What does not change between runs is computed once, and computed again when it does.

use std::sync::atomic::{AtomicUsize, Ordering};

use chiaro::ops::{Activation, Epilogue, concat, elementwise, matmul};
use chiaro::record::{
    Backend, Caps, Constant, DType, HostBackend, HostCall, Kernel, Program, Recording, Shape, Tensor, Variant, plan,
};

use crate::support::adapter;

const TEXT: Shape = Shape::tokens(2, 1, 16);
const X: Shape = Shape::image(2, 5, 4, 16);

fn weight(rec: &mut Recording, seed: usize) -> Tensor {
    let values: Vec<f32> = (0..256).map(|i| ((i * 31 + seed * 17) % 23) as f32 / 46.0 - 0.25).collect();
    rec.constant(&Constant::from_f32("w", &[16, 16], &values))
}

/// A net whose layers each add a product of the text, all read behind many tensors that share memory.
fn net(caps: &Caps, once: bool) -> Recording {
    let mut rec = Recording::new(caps);
    let x = rec.input("x", X);
    let text = rec.input("text", TEXT);
    let mut hidden = x;
    for seed in 0..6 {
        let (w, of_text) = (weight(&mut rec, seed), weight(&mut rec, seed + 10));
        hidden = matmul(&mut rec, hidden, w, Epilogue::default()).expect("shapes fit");
        hidden = elementwise(&mut rec, hidden, Activation::Silu).expect("shapes fit");
        let body = |rec: &mut Recording| {
            let product = matmul(rec, text, of_text, Epilogue::default()).expect("shapes fit");
            elementwise(rec, product, Activation::Gelu).expect("shapes fit")
        };
        let known = if once { rec.once(&[text], body) } else { body(&mut rec) };
        let (a, b) = (weight(&mut rec, seed + 20), weight(&mut rec, seed + 30));
        let added = Epilogue { image_add: Some(known), ..Epilogue::default() };
        let left = matmul(&mut rec, hidden, a, added).expect("shapes fit");
        let joined = concat(&mut rec, left, hidden).expect("shapes fit");
        hidden = matmul(&mut rec, joined.channels(0, 16), b, Epilogue::default()).expect("shapes fit");
    }
    rec.output("out", hidden);
    rec
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 101) % 41) as f32 / 20.0 - 1.0).collect()
}

#[test]
fn results_are_those_of_a_run_that_computes_everything() {
    let gpu = adapter::open(DType::F32);
    for backend in [&gpu as &dyn Backend, &HostBackend::default()] {
        let mut kept = backend.compile(net(backend.caps(), true)).unwrap();
        let mut whole = backend.compile(net(backend.caps(), false)).unwrap();
        let mut last = Vec::new();
        for (x, text) in [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (1, 1)] {
            let (x, text) = (values(X.len(), x), values(TEXT.len(), text));
            let inputs = [("x", &x[..]), ("text", &text[..])];
            let got = kept.run(&inputs).unwrap();
            assert_eq!(got, whole.run(&inputs).unwrap(), "{}", backend.caps().name);
            assert_ne!(got["out"], last);
            last = got["out"].clone();
        }
    }
}

#[test]
fn the_prologue_stands_in_front_and_its_results_stay() {
    let rec = net(&Caps::webgpu(), true);
    assert_eq!(rec.prologue, 12);
    let plan = plan(&rec).expect("it fits");
    let read_later = |storage: usize| {
        rec.dispatches[rec.prologue..].iter().any(|d| d.reads.iter().any(|(_, read)| read.storage() == storage))
    };
    for dispatch in &rec.dispatches[..rec.prologue] {
        let kept = dispatch.write.storage();
        if !read_later(kept) {
            continue;
        }
        let own = plan.placements[kept].expect("placed");
        let shares = |other: usize| {
            plan.placements[other].is_some_and(|p| {
                p.lane == own.lane && p.offset < own.offset + own.bytes && own.offset < p.offset + p.bytes
            })
        };
        assert!((0..rec.tensors.len()).filter(|&other| other != kept).all(|other| !shares(other)), "{kept} is shared");
    }
}

/// A kernel of the host that counts its calls and copies.
static COUNTING: Kernel = Kernel { stem: "counting", source: "", host: count };
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn count(call: &mut HostCall<'_>) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let x = call.read("x");
    call.out().copy_from_slice(x);
}

fn copy(rec: &mut Recording, x: Tensor) -> Tensor {
    let out = rec.tensor(x.shape);
    rec.dispatch(&COUNTING, Variant::default(), &[0u32; 4], &[("x", x)], out, [1; 3], 0);
    out
}

#[test]
fn an_unchanged_prologue_is_left_out() {
    let mut rec = Recording::new(&Caps::host());
    let (x, text) = (rec.input("x", X), rec.input("text", X));
    let known = rec.once(&[text], |rec| copy(rec, text));
    // What depends on a result of a step is no part of it.
    let derived = copy(&mut rec, x);
    let late = rec.once(&[derived, known], |rec| copy(rec, derived));
    let joined = concat(&mut rec, late, known).expect("shapes fit");
    rec.output("out", joined);
    assert_eq!((rec.prologue, rec.dispatches.len()), (1, 4));
    let mut program: Box<dyn Program> = HostBackend::default().compile(rec).unwrap();
    let nan = vec![f32::NAN; X.len()];
    let mut calls = |x: &[f32], text: &[f32]| {
        let before = CALLS.load(Ordering::SeqCst);
        program.run(&[("x", x), ("text", text)]).unwrap();
        CALLS.load(Ordering::SeqCst) - before
    };
    let (a, b) = (values(X.len(), 1), values(X.len(), 2));
    assert_eq!([calls(&a, &a), calls(&b, &a), calls(&b, &b), calls(&a, &b)], [3, 2, 3, 2]);
    // Bit for bit: NaN is itself, zero is not minus zero.
    assert_eq!([calls(&a, &nan), calls(&a, &nan)], [3, 2]);
    assert_eq!([calls(&a, &vec![0.0; X.len()]), calls(&a, &vec![-0.0; X.len()])], [3, 3]);
}
