//! Bytes counted by hand.

use std::sync::Arc;

use chiaro::ops::{Activation, Attention, Epilogue, GroupNorm, attention, concat, elementwise, group_norm, matmul};
use chiaro::record::{Caps, Constant, DType, Recording, Shape, Tensor, Traffic};

fn vector(rec: &mut Recording, len: usize) -> Tensor {
    rec.constant(&Constant::from_f32("v", &[len], &vec![1.0; len]))
}

fn matrix(rec: &mut Recording, rows: usize, columns: usize) -> Tensor {
    rec.constant(&Constant::from_f32("w", &[rows, columns], &vec![0.5; rows * columns]))
}

const PIXELS: usize = 2 * 6 * 5;

fn image(c: usize) -> Shape {
    Shape::image(2, 6, 5, c)
}

fn of(record: impl FnOnce(&mut Recording) -> Tensor) -> Traffic {
    let mut rec = Recording::new(&Caps { storage: DType::F16, ..Caps::webgpu() });
    let out = record(&mut rec);
    rec.output("out", out);
    rec.traffic()
}

#[test]
fn a_layer_moves_its_weights_inputs_and_results() {
    // f16 activations, f32 weights; the residual is an input, of a view its part counts.
    let traffic = of(|rec| {
        let (x, residual) = (rec.input("x", image(24)), rec.input("residual", image(8)));
        let (w, bias) = (matrix(rec, 8, 16), vector(rec, 8));
        let epilogue = Epilogue { bias: Some(bias), residual: Some(residual), ..Epilogue::default() };
        rec.layer(|rec| matmul(rec, x.channels(4, 16), w, epilogue)).expect("shapes fit")
    });
    let bytes = (PIXELS * (16 + 8 + 8) * 2 + (8 * 16 + 8) * 4) as u64;
    assert_eq!(traffic, Traffic { dispatches: 1, flops: (2 * PIXELS * 8 * 16) as u64, moved: bytes, least: bytes });
}

#[test]
fn parts_of_one_layer_count_once() {
    let traffic = of(|rec| {
        let x = rec.input("x", image(8));
        let (gamma, beta) = (vector(rec, 8), vector(rec, 8));
        let norm = GroupNorm { groups: 2, eps: 1e-5, silu: true };
        rec.layer(|rec| group_norm(rec, x, gamma, beta, norm)).expect("shapes fit")
    });
    assert_eq!(traffic.least, (2 * PIXELS * 8 * 2 + 2 * 8 * 4) as u64);
    // The statistics read x once more.
    assert!(traffic.moved >= traffic.least + (PIXELS * 8 * 2) as u64, "{traffic:?}");
}

#[test]
fn queries_keys_and_values_are_inputs_apart() {
    let traffic = of(|rec| {
        let qkv = rec.input("qkv", Shape::tokens(2, 9, 48));
        let part = |i: usize| qkv.channels(16 * i, 16);
        rec.layer(|rec| attention(rec, part(0), part(1), part(2), Attention { heads: 2, causal: false })).expect("fits")
    });
    assert_eq!((traffic.moved, traffic.least), (2 * 9 * 64 * 2, 2 * 9 * 64 * 2));
}

#[test]
fn copies_and_activations_are_above_the_least() {
    let traffic = of(|rec| {
        let (x, y) = (rec.input("x", image(8)), rec.input("y", image(4)));
        let joined = concat(rec, x, y).expect("shapes fit");
        let active = elementwise(rec, joined, Activation::Silu).expect("shapes fit");
        let w = matrix(rec, 4, 12);
        rec.layer(|rec| matmul(rec, active, w, Epilogue::default())).expect("shapes fit")
    });
    let product = (PIXELS * (12 + 4) * 2 + 4 * 12 * 4) as u64;
    assert_eq!((traffic.dispatches, traffic.least), (3, product));
    assert_eq!(traffic.moved, product + (2 * PIXELS * 24 * 2) as u64);
}

#[test]
fn what_is_computed_once_is_counted_apart() {
    let mut rec = Recording::new(&Caps::webgpu());
    let (x, text) = (rec.input("x", image(8)), rec.input("text", image(8)));
    let w = Constant::from_f32("w", &[8, 8], &[0.5; 64]);
    let shared = rec.constant(&Arc::clone(&w));
    let known = rec.once(&[text], |rec| rec.layer(|rec| matmul(rec, text, shared, Epilogue::default()))).expect("fits");
    let epilogue = Epilogue { residual: Some(known), ..Epilogue::default() };
    let out = rec.layer(|rec| matmul(rec, x, shared, epilogue)).expect("shapes fit");
    rec.output("out", out);
    let image = (PIXELS * 8 * 4) as u64;
    let (run, once) = (rec.traffic(), rec.prologue_traffic());
    assert_eq!((run.dispatches, run.moved, run.least), (1, 3 * image + 256, 3 * image + 256));
    assert_eq!((once.dispatches, once.moved, once.least), (1, 2 * image + 256, 2 * image + 256));
}
