//! Token merging by its definition: which tokens are merged, what becomes of them, and that nothing is lost where nothing differs.

use std::collections::BTreeSet;

use chiaro::ops::{self, Attention, match_tokens, merge_tokens, unmerge_tokens};
use chiaro::record::{AdapterKind, Backend, Caps, DType, HostBackend, Recording, Shape};

use super::cases::normal_values;
use crate::support::adapter;

const SEED: u32 = 3;

/// Images, and how many tokens of each are merged: odd sides, a side of one cell, more than one block of tokens and of cells, all that can be.
const CASES: [(Shape, usize); 7] = [
    (Shape { n: 2, h: 9, w: 7, c: 20 }, 17),
    (Shape { n: 1, h: 2, w: 2, c: 4 }, 1),
    (Shape { n: 1, h: 2, w: 2, c: 4 }, 1000),
    (Shape { n: 1, h: 16, w: 16, c: 64 }, 128),
    (Shape { n: 3, h: 5, w: 33, c: 12 }, 100),
    (Shape { n: 1, h: 70, w: 66, c: 8 }, 2310),
    (Shape { n: 2, h: 12, w: 12, c: 324 }, 72),
];

fn values(shape: Shape, seed: u64) -> Vec<f32> {
    normal_values(seed, shape.len(), 0.3, 1.0)
}

/// The token of each cell that others may be merged into: PCG's output of 32 bits (Jarzynski and Olano 2020), two bits of it.
fn destinations(shape: Shape) -> Vec<usize> {
    let pcg = |input: u64| {
        let state = (input * 747_796_405 + 2_891_336_453) % (1 << 32);
        let word = ((state >> ((state >> 28) + 4)) ^ state) * 277_803_737 % (1 << 32);
        (word >> 22) ^ word
    };
    let across = shape.w / 2;
    let cells = 0..(shape.h / 2) * across;
    let chosen = |cell: usize| {
        let bits = pcg(cell as u64 ^ (u64::from(SEED) * 0x9e37_79b9 % (1 << 32))) as usize;
        (cell / across * 2 + (bits & 1)) * shape.w + cell % across * 2 + (bits >> 1 & 1)
    };
    cells.map(chosen).collect()
}

fn run(backend: &dyn Backend, rec: Recording, inputs: &[(&str, &[f32])], output: &str) -> Vec<f32> {
    let mut program = backend.compile(rec).unwrap_or_else(|e| panic!("{e}"));
    program.run(inputs).unwrap_or_else(|e| panic!("{e}")).remove(output).expect("an output")
}

/// The slot of each token.
fn slots(backend: &dyn Backend, caps: &Caps, shape: Shape, merged: usize, x: &[f32]) -> Vec<usize> {
    let mut rec = Recording::new(caps);
    let input = rec.in_f32(|rec| rec.input("x", shape));
    let by = match_tokens(&mut rec, input, merged, SEED).expect("it fits").expect("tokens to merge");
    rec.output("slots", by.slots());
    let found = run(backend, rec, &[("x", x)], "slots");
    found.chunks(4).map(|quad| quad[0] as usize).collect()
}

/// The cosine of a token and the one that is most like it among destinations, and with one of them.
struct Likeness<'a> {
    x: &'a [f32],
    c: usize,
}

impl Likeness<'_> {
    fn of(&self, a: usize, b: usize) -> f64 {
        let row = |token: usize| self.x[token * self.c..(token + 1) * self.c].iter().map(|v| f64::from(*v));
        let dot = |a: usize, b: usize| row(a).zip(row(b)).map(|(a, b)| a * b).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }
}

fn check_slots(backend: &dyn Backend, caps: &Caps) {
    for (shape, merged) in CASES {
        let x = values(shape, 11);
        let (tokens, destinations) = (shape.h * shape.w, destinations(shape));
        let (cells, others) = (destinations.len(), tokens - destinations.len());
        let merged = merged.min(others);
        let found = slots(backend, caps, shape, merged, &x);
        for image in 0..shape.n {
            let like = Likeness { x: &x[image * tokens * shape.c..], c: shape.c };
            let slot = &found[image * tokens..(image + 1) * tokens];
            let best = |token: usize| destinations.iter().map(|&d| like.of(token, d)).fold(f64::MIN, f64::max);
            let (mut least_merged, mut kept) = (f64::MAX, Vec::new());
            for token in 0..tokens {
                if let Some(cell) = destinations.iter().position(|&d| d == token) {
                    assert_eq!(slot[token], cell, "{shape}: a destination stays");
                } else if slot[token] < cells {
                    let own = like.of(token, destinations[slot[token]]);
                    assert!(own >= best(token) - 1e-5, "{shape}: token {token} is more like another");
                    least_merged = least_merged.min(own);
                } else {
                    kept.push((slot[token], best(token)));
                }
            }
            assert_eq!(kept.len(), others - merged, "{shape}");
            kept.sort_by_key(|(slot, _)| *slot);
            let places: Vec<usize> = kept.iter().map(|(slot, _)| *slot).collect();
            assert_eq!(places, (cells..tokens - merged).collect::<Vec<_>>(), "{shape}: each slot has one token");
            assert!(kept.iter().all(|(_, similarity)| *similarity <= least_merged + 1e-5), "{shape}: the most similar");
            assert!(kept.is_sorted_by(|a, b| a.1 >= b.1 - 1e-5), "{shape}: by falling similarity");
        }
    }
}

#[test]
fn the_most_similar_are_merged_on_the_host() {
    let backend = HostBackend::default();
    check_slots(&backend, backend.caps());
}

#[test]
fn the_most_similar_are_merged_on_the_gpu() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    check_slots(&backend, backend.caps());
}

/// All tokens alike: into the first cell, the first tokens first.
#[test]
fn equal_ones_go_in_order() {
    let gpu = adapter::open_with(DType::F32, adapter::test_options());
    let host = HostBackend::default();
    for backend in [&host as &dyn Backend, &gpu] {
        let shape = Shape { n: 1, h: 40, w: 9, c: 12 };
        let x: Vec<f32> = normal_values(1, 12, 0.0, 1.0).repeat(40 * 9);
        let (destinations, merged) = (destinations(shape), 100);
        let slot = slots(backend, backend.caps(), shape, merged, &x);
        let others: Vec<usize> = (0..40 * 9).filter(|token| !destinations.contains(token)).collect();
        let expected: Vec<usize> = (0..others.len()).map(|i| if i < merged { 0 } else { 80 + i - merged }).collect();
        assert_eq!(others.iter().map(|&token| slot[token]).collect::<Vec<_>>(), expected);
    }
}

fn check_means(backend: &dyn Backend, caps: &Caps, limit: f64) {
    for (shape, merged) in CASES {
        let x = values(shape, 5);
        let mut rec = Recording::new(caps);
        let input = rec.input("x", shape);
        let by = match_tokens(&mut rec, input, merged, SEED).expect("it fits").expect("tokens to merge");
        let of_slots = merge_tokens(&mut rec, input, &by).expect("it fits");
        let back = unmerge_tokens(&mut rec, input, of_slots, &by).expect("it fits");
        let (count, tokens) = (by.count(), shape.h * shape.w);
        for (name, tensor) in [("slots", by.slots()), ("merged", of_slots), ("back", back)] {
            rec.output(name, tensor);
        }
        let mut program = backend.compile(rec).unwrap_or_else(|e| panic!("{e}"));
        let found = program.run(&[("x", &x)]).unwrap_or_else(|e| panic!("{e}"));
        let slot = |token: usize| token / tokens * count + found["slots"][4 * token] as usize;
        let (mut sums, mut counts) = (vec![0.0; shape.n * count * shape.c], vec![0.0; shape.n * count]);
        for token in 0..shape.n * tokens {
            counts[slot(token)] += 1.0;
            for i in 0..shape.c {
                sums[slot(token) * shape.c + i] += f64::from(x[token * shape.c + i]);
            }
        }
        let mean = |slot: usize, i: usize| sums[slot * shape.c + i] / counts[slot];
        for (at, value) in found["merged"].iter().enumerate() {
            let expected = mean(at / shape.c, at % shape.c);
            assert!((f64::from(*value) - expected).abs() <= limit, "{shape}: {value} for {expected} at {at}");
        }
        for (at, value) in found["back"].iter().enumerate() {
            let expected = f64::from(x[at]) + mean(slot(at / shape.c), at % shape.c);
            assert!((f64::from(*value) - expected).abs() <= 2.0 * limit, "{shape}: {value} for {expected} at {at}");
        }
    }
}

#[test]
fn merged_tokens_are_means_on_the_host() {
    let backend = HostBackend::default();
    check_means(&backend, backend.caps(), 1e-5);
}

#[test]
fn merged_tokens_are_means_on_the_gpu() {
    let single = adapter::open_with(DType::F32, adapter::test_options());
    check_means(&single, single.caps(), 1e-5);
}

#[test]
fn merged_tokens_are_means_in_half_precision() {
    // Values up to 5, off by 2^-12 of themselves, and x is too.
    let half = adapter::open_with(DType::F16, adapter::test_options());
    check_means(&half, half.caps(), 5e-3);
}

/// Where all tokens are one vector, attention over merged ones is attention over all.
#[test]
fn nothing_is_lost_where_nothing_differs() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    let host = HostBackend::default();
    let gpu = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
    for (backend, caps) in [(&host as &dyn Backend, host.caps()), (&backend, backend.caps()), (&backend, &gpu)] {
        let shape = Shape { n: 2, h: 6, w: 8, c: 16 };
        let x: Vec<f32> = normal_values(2, 16, 0.0, 1.0).repeat(2 * 6 * 8);
        let attention = Attention { heads: 2, causal: false };
        let mut rec = Recording::new(caps);
        let input = rec.input("x", shape);
        let by = match_tokens(&mut rec, input, 24, SEED).expect("it fits").expect("tokens to merge");
        let merged = merge_tokens(&mut rec, input, &by).expect("it fits");
        assert_eq!(merged.shape.w, 24);
        let mixed = ops::attention(&mut rec, merged, merged, merged, attention).expect("it fits");
        let out = unmerge_tokens(&mut rec, input, mixed, &by).expect("it fits");
        rec.output("out", out);
        for (found, x) in run(backend, rec, &[("x", &x)], "out").iter().zip(&x) {
            assert!((found - 2.0 * x).abs() < 1e-5, "{found} for twice {x}");
        }
    }
}

#[test]
fn what_cannot_be_merged_is_left_alone() {
    let host = HostBackend::default();
    let mut rec = Recording::new(host.caps());
    for (shape, merged) in [(Shape::image(1, 8, 8, 4), 0), (Shape::image(1, 1, 8, 4), 3), (Shape::image(2, 9, 1, 4), 3)]
    {
        let x = rec.input("x", shape);
        assert!(match_tokens(&mut rec, x, merged, 0).expect("it fits").is_none(), "{shape}");
    }
    assert!(rec.dispatches.is_empty());
    let (x, other) = (rec.input("x", Shape::image(1, 4, 4, 8)), rec.input("other", Shape::image(1, 4, 5, 8)));
    let by = match_tokens(&mut rec, x, 4, 0).expect("it fits").expect("tokens to merge");
    let mut refused = BTreeSet::new();
    refused.insert(merge_tokens(&mut rec, other, &by).expect_err("another image").to_string());
    refused.insert(unmerge_tokens(&mut rec, x, x, &by).expect_err("not of the slots").to_string());
    assert!(refused.iter().all(|e| e.contains("expected")), "{refused:?}");
}
