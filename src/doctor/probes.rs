//! Kernels that ask one thing of a driver, so that what is wrong gets its name. `shaders/probes` has their texts; none is part of a network.

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::Result;
use crate::record::{Backend, Caps, DType, HostCall, Kernel, Outputs, Recording, Shape, Variant};

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Right,
    Wrong(String),
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    pad: [u32; 3],
}

fn never(_: &mut HostCall<'_>) {
    unreachable!("probes run on GPUs alone");
}

macro_rules! probe {
    ($stem:literal) => {
        Kernel { stem: $stem, source: include_str!(concat!("../../shaders/", $stem, ".wgsl")), host: never }
    };
}

static HALF_MATH: Kernel = probe!("probes/half_math");
static SUBGROUPS: Kernel = probe!("probes/subgroups");
static MATRICES: Kernel = probe!("probes/matrices");
static WORKGROUP_MEMORY: Kernel = probe!("probes/workgroup_memory");
static BINDING: Kernel = probe!("probes/binding");

/// One dispatch of one workgroup of a probe over `x`.
fn probe(
    caps: &Caps,
    kernel: &'static Kernel,
    variant: Variant,
    count: u32,
    x: (usize, DType),
    out: usize,
) -> Recording {
    let mut rec = Recording::new(caps);
    let x = rec.in_type(x.1, |rec| rec.input("x", Shape::tokens(1, x.0, 4)));
    let out = rec.scratch(Shape::tokens(1, out, 4));
    let params = Params { count, pad: [0; 3] };
    rec.dispatch(kernel, variant, &params, &[("x", x)], out, [1, 1, 1], 0);
    rec.output("out", out);
    rec
}

/// A recording of every probe, for tests of their texts.
#[doc(hidden)]
pub fn probes(caps: &Caps) -> Vec<Recording> {
    let size = caps.subgroup_size.1.max(1);
    let mut all = vec![
        all_workgroup_memory(caps),
        zeroed_workgroup_memory(caps),
        binding_recording(caps, caps.max_binding_bytes.min(1 << 30)),
    ];
    if caps.shader_f16 {
        all.push(half_math_recording(caps));
    }
    if caps.subgroups {
        all.push(subgroups_recording(caps, size));
    }
    all.extend(caps.matrix_size().map(|matrix| matrices_recording(caps, matrix)));
    all
}

fn run(backend: &dyn Backend, recording: Recording, x: &[f32]) -> Result<Vec<f32>> {
    let mut outputs: Outputs = backend.compile(recording)?.run(&[("x", x)])?;
    Ok(outputs.remove("out").unwrap_or_default())
}

/// Values of f16 that functions are tried on: the range of what stands before a softmax and in an activation.
fn half_values() -> Vec<f32> {
    (-256..256).map(|i| f16::from_f32(i as f32 / 25.6).to_f32()).collect()
}

const HALF_VECTORS: usize = 128;

fn half_math_recording(caps: &Caps) -> Recording {
    let mut rec = Recording::new(caps);
    let x = rec.in_type(DType::F16, |rec| rec.input("x", Shape::tokens(1, HALF_VECTORS, 4)));
    let out = rec.scratch(Shape::tokens(1, 5 * HALF_VECTORS, 4));
    let params = Params { count: HALF_VECTORS as u32, pad: [0; 3] };
    let grid = [HALF_VECTORS as u32 / 64, 1, 1];
    rec.dispatch(&HALF_MATH, Variant::default(), &params, &[("x", x)], out, grid, 0);
    rec.output("out", out);
    rec
}

/// The functions of 16-bit values that WGSL has, within twice the error that it allows (WGSL, "Accuracy of concrete floating-point expressions").
pub(super) fn half_math(backend: &dyn Backend) -> Result<Answer> {
    type Function = (&'static str, fn(f64) -> f64, fn(f64) -> f64);
    let functions: [Function; 5] = [
        ("exp", f64::exp, |x| 1.0 + 2.0 * x.abs()),
        ("exp2", f64::exp2, |x| 1.0 + 2.0 * x.abs()),
        ("sqrt", |x| x.abs().sqrt(), |_| 3.0),
        ("fma", |x| x * x + x, |x| 1.0 + x * x),
        ("tanh", f64::tanh, |_| 16.0),
    ];
    let x = half_values();
    let out = run(backend, half_math_recording(backend.caps()), &x)?;
    for ((name, function, ulps), got) in functions.iter().zip(out.chunks(x.len())) {
        for (&x, &got) in x.iter().zip(got) {
            let expected = function(f64::from(x));
            if expected.abs() > 65_504.0 {
                continue;
            }
            // Of a subnormal result, and near zero: what f16 can tell apart there.
            let ulp = (expected.abs() * f64::from(f16::EPSILON)).max(2f64.powi(-14));
            let off = (f64::from(got) - expected).abs();
            if off.is_nan() || off > 2.0 * ulps(f64::from(x)) * ulp {
                return Ok(Answer::Wrong(format!(
                    "{name} of 16-bit values: expected {expected:.4} for {x:.4}, got {got}"
                )));
            }
        }
    }
    Ok(Answer::Right)
}

fn subgroups_recording(caps: &Caps, size: u32) -> Recording {
    let invocations = (2 * size).min(caps.max_invocations);
    let variant = Variant { constants: vec![("INVOCATIONS", invocations)], ..Variant::default() };
    probe(caps, &SUBGROUPS, variant, invocations, (1, DType::F32), invocations as usize)
}

/// Whether kernels run in subgroups of the size that the driver says, and shuffles bring what they should.
pub(super) fn subgroups(backend: &dyn Backend) -> Result<Answer> {
    let caps = backend.caps();
    let (least, most) = caps.subgroup_size;
    let out = run(backend, subgroups_recording(caps, most.max(1)), &[0.0; 4])?;
    for (invocation, seen) in out.chunks_exact(4).enumerate() {
        let (size, lane, first, neighbour) = (seen[0], seen[1], seen[2], seen[3]);
        if size < least as f32 || size > most as f32 {
            let said = if least == most { format!("{most}") } else { format!("{least} to {most}") };
            return Ok(Answer::Wrong(format!(
                "the driver says subgroups of {said}, kernels run in subgroups of {size}"
            )));
        }
        let own = invocation as f32;
        if (first, neighbour) != (own - lane, if lane % 2.0 == 0.0 { own + 1.0 } else { own - 1.0 }) {
            return Ok(Answer::Wrong(format!(
                "shuffles: invocation {invocation}, lane {lane} of {size}, got the values of {first} and {neighbour}"
            )));
        }
    }
    Ok(Answer::Right)
}

fn matrices_recording(caps: &Caps, size: u32) -> Recording {
    let mut flags = vec!["COOP"];
    flags.extend((size == 16).then_some("MATRIX_16"));
    flags.extend(caps.matrix_quads.then_some("MATRIX_QUADS"));
    let variant = Variant { flags, constants: vec![("INVOCATIONS", caps.subgroup_size.1)], ..Variant::default() };
    let quads = (size * size / 4) as usize;
    probe(caps, &MATRICES, variant, quads as u32, (2 * quads, DType::F32), quads)
}

/// One product of matrices; a transposed operand gets its name.
pub(super) fn matrices(backend: &dyn Backend) -> Result<Answer> {
    let caps = backend.caps();
    let Some(size) = caps.matrix_size() else { return Ok(Answer::Right) };
    let n = size as usize;
    let value = |seed: usize, i: usize, k: usize| ((i * 7 + k * 3 + i * k * seed) % 11) as f32 - 5.0;
    let operand = |seed: usize| move |i: usize, k: usize| value(seed, i, k);
    let x: Vec<f32> = [1, 2].iter().flat_map(|&seed| (0..n * n).map(move |at| value(seed, at / n, at % n))).collect();
    let out = run(backend, matrices_recording(caps, size), &x)?;
    let (a, b) = (operand(1), operand(2));
    let is_product = |a: &dyn Fn(usize, usize) -> f32, b: &dyn Fn(usize, usize) -> f32, flipped: bool| {
        (0..n * n).all(|at| {
            let (i, j) = if flipped { (at % n, at / n) } else { (at / n, at % n) };
            out.get(at) == Some(&(0..n).map(|k| a(i, k) * b(k, j)).sum::<f32>())
        })
    };
    let (a_t, b_t) = (|i, k| a(k, i), |k, j| b(j, k));
    let what = match () {
        () if is_product(&a, &b, false) => return Ok(Answer::Right),
        () if is_product(&a_t, &b_t, false) => "both operands are transposed",
        () if is_product(&a_t, &b, false) => "the first operand is transposed",
        () if is_product(&a, &b_t, false) => "the second operand is transposed",
        () if is_product(&a, &b, true) => "the sum is transposed",
        () if is_product(&a_t, &b_t, true) => "operands and sum are transposed",
        () => "the product is wrong",
    };
    Ok(Answer::Wrong(format!("a matrix of {size}×{size}: {what}")))
}

/// Vectors of workgroup memory, and the invocations that share them.
fn workgroup_memory_recording(caps: &Caps, quads: u32, invocations: u32, flags: &[&'static str]) -> Recording {
    let constants = vec![("QUADS", quads), ("INVOCATIONS", invocations)];
    let variant = Variant { flags: flags.to_vec(), constants, ..Variant::default() };
    probe(caps, &WORKGROUP_MEMORY, variant, quads, (1, DType::F32), quads as usize)
}

/// All that there should be.
fn all_workgroup_memory(caps: &Caps) -> Recording {
    workgroup_memory_recording(caps, caps.max_workgroup_bytes / 16, caps.max_invocations, &[])
}

fn zeroed_workgroup_memory(caps: &Caps) -> Recording {
    workgroup_memory_recording(caps, 64, 64, &["ZEROED"])
}

/// Whether all the workgroup memory that there should be holds what a full workgroup writes.
pub(super) fn workgroup_memory(backend: &dyn Backend) -> Result<Answer> {
    let caps = backend.caps();
    let out = run(backend, all_workgroup_memory(caps), &[0.0; 4])?;
    Ok(match out.iter().position(|&off| off != 0.0) {
        None => Answer::Right,
        Some(at) => Answer::Wrong(format!(
            "{} KiB of workgroup memory with {} invocations: what was written to byte {} is not there",
            caps.max_workgroup_bytes >> 10,
            caps.max_invocations,
            4 * at
        )),
    })
}

/// Whether workgroup memory is zero at first where that is asked for. No kernel of a network asks for it, and none relies on it.
pub(super) fn is_zeroed(backend: &dyn Backend) -> Result<bool> {
    let out = run(backend, zeroed_workgroup_memory(backend.caps()), &[0.0; 4])?;
    Ok(out.iter().all(|&before| before == 0.0))
}

/// Places of a binding that are tried.
const PLACES: usize = 16;

fn binding_recording(caps: &Caps, bytes: u64) -> Recording {
    let vectors = (bytes / 16) as usize;
    let step = (vectors - 1) / (PLACES - 1);
    let mut rec = Recording::new(caps);
    let x = rec.in_type(DType::F32, |rec| rec.input("x", Shape::tokens(1, 1, 4)));
    let params = Params { count: step as u32, pad: [0; 3] };
    let large = rec.scratch(Shape::tokens(1, vectors, 4));
    rec.dispatch(&BINDING, Variant::default(), &params, &[("x", x)], large, [1, 1, 1], 0);
    let out = rec.scratch(Shape::tokens(1, PLACES, 4));
    let reads = Variant { flags: vec!["READS"], ..Variant::default() };
    rec.dispatch(&BINDING, reads, &params, &[("x", large)], out, [1, 1, 1], 0);
    rec.output("out", out);
    rec
}

/// Whether a binding of so many bytes holds what is written from its start to its end.
pub(super) fn binding(backend: &dyn Backend, bytes: u64) -> Result<Answer> {
    let out = run(backend, binding_recording(backend.caps(), bytes), &[1.0; 4])?;
    let wrong = out.chunks_exact(4).enumerate().find(|(place, seen)| seen.iter().any(|&v| v != *place as f32 + 1.0));
    Ok(match wrong {
        None => Answer::Right,
        Some((place, seen)) => Answer::Wrong(format!(
            "a binding of {} MiB: expected {} at part {place} of {PLACES}, got {seen:?}",
            bytes >> 20,
            place + 1
        )),
    })
}
