//! Group norm of an image that comes in parts: moments over the whole from the host, applied to each part.

use chiaro::Result;
use chiaro::ops::{self, GroupNorm};
use chiaro::record::{Backend, Constant, DType, FeatureMap, HostBackend, Recording, Shape};

use super::cases::{Case, Operands};
use super::{check, solved};
use crate::support::adapter;

fn apply(backend: &dyn Backend, x: &[f32], shape: Shape, moments: &[f32], beta: &[f32], silu: bool) -> Vec<f32> {
    let record = || -> Result<Recording> {
        let mut rec = Recording::new(backend.caps());
        let x = rec.input("x", shape);
        let moments = rec.in_type(DType::F32, |rec| rec.input("moments", Shape::image(1, 1, 2, shape.c)));
        let beta = rec.constant(&Constant::from_f32("beta", &[shape.c], beta));
        let out = ops::group_norm_by(&mut rec, x, moments, beta, silu)?;
        rec.output("out", out);
        Ok(rec)
    };
    let mut program = record().and_then(|rec| backend.compile(rec)).unwrap_or_else(|e| panic!("{shape}: {e}"));
    let mut outputs = program.run(&[("x", x), ("moments", moments)]).unwrap_or_else(|e| panic!("{shape}: {e}"));
    outputs.remove("out").expect("a result")
}

/// Every image of a case, one row at a time, but for a first part of two rows where there are so many.
fn in_parts(backend: &dyn Backend, x: Shape, norm: GroupNorm, operands: &Operands) -> Vec<f32> {
    let (values, gamma, beta) = (operands.of("x"), operands.of("gamma"), operands.of("beta"));
    let (one, row) = (Shape { n: 1, ..x }, x.w * x.c);
    let mut out = Vec::new();
    for image in values.chunks(one.len()) {
        let moments =
            ops::group_moments(&FeatureMap::from_values(image, one, DType::F32), gamma, norm).expect("gamma fits");
        let (first, rest) = image.split_at(row * x.h.min(2));
        for part in std::iter::once(first).chain(rest.chunks(row)) {
            let shape = Shape { h: part.len() / row, ..one };
            out.extend(apply(backend, part, shape, &moments, beta, norm.silu));
        }
    }
    out
}

fn run(backend: &dyn Backend, most: usize) {
    let mut checked = 0;
    for (case, operands, expected) in solved() {
        let Case::GroupNorm { x, norm, .. } = *case else { continue };
        // One dispatch a row: tall images would take long.
        if x.h > 64 || x.len() > most {
            continue;
        }
        let out = in_parts(backend, x, norm, operands);
        check(case, DType::F32, &out, expected).unwrap_or_else(|e| panic!("{e}"));
        checked += 1;
    }
    assert!(checked >= 3, "only {checked} cases");
}

#[test]
fn norms_in_parts_on_the_host() {
    run(&HostBackend::default(), usize::MAX);
}

#[test]
fn norms_in_parts_on_the_gpu() {
    run(&adapter::open_with(DType::F32, adapter::test_options()), 20_000);
}

/// A part of the channels of a tensor is normed as the same values without gaps.
#[test]
fn a_view_is_normed_as_a_copy() {
    let (shape, before, after) = (Shape::image(2, 9, 7, 40), 8, 12);
    let norm = GroupNorm { groups: 4, eps: 1e-5, silu: true };
    let wide = Shape { c: before + shape.c + after, ..shape };
    let values: Vec<f32> = (0..wide.len()).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
    let dense: Vec<f32> = values.chunks(wide.c).flat_map(|row| row[before..before + shape.c].iter().copied()).collect();
    let of_channels = |rec: &mut Recording, label: &str, from: f32| {
        let values: Vec<f32> = (0..shape.c).map(|c| from + c as f32 / 16.0).collect();
        rec.constant(&Constant::from_f32(label, &[shape.c], &values))
    };
    let normed = |backend: &dyn Backend, storage: Shape, offset: usize, x: &[f32]| {
        let mut rec = Recording::new(backend.caps());
        let input = rec.input("x", storage).channels(offset, shape.c);
        let (gamma, beta) = (of_channels(&mut rec, "gamma", 0.5), of_channels(&mut rec, "beta", -1.0));
        let whole = ops::group_norm(&mut rec, input, gamma, beta, norm).expect("shapes fit");
        let moments = rec.in_type(DType::F32, |rec| rec.input("moments", Shape::image(2, 1, 2, shape.c)));
        let given = ops::group_norm_by(&mut rec, input, moments, beta, true).expect("shapes fit");
        rec.output("whole", whole);
        rec.output("given", given);
        let moments: Vec<f32> = (0..4 * shape.c).map(|i| i as f32 / 64.0).collect();
        backend.compile(rec).and_then(|mut program| program.run(&[("x", x), ("moments", &moments)])).expect("it runs")
    };
    let gpu = adapter::open(DType::F32);
    for backend in [&gpu as &dyn Backend, &HostBackend::default()] {
        let of_view = normed(backend, wide, before, &values);
        assert_eq!(of_view, normed(backend, shape, 0, &dense), "{}", backend.caps().name);
        assert_ne!(of_view, normed(backend, wide, before + 4, &values));
    }
}
