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
        let moments = ops::group_moments(&FeatureMap::from_values(image, one, DType::F32), gamma, norm);
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
