//! What must come back as an error, and never as a panic.

use chiaro::ops::{Epilogue, matmul};
use chiaro::record::{AdapterKind, Backend, Caps, Constant, DType, Kernel, Recording, Shape, Variant};
use chiaro::{Error, ErrorCode};

use super::executor::values;
use crate::support::adapter::{open, open_restricted};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    len: [u32; 4],
}

/// Compiles one dispatch of `kernel` on the test device and returns the error's message.
fn refusal(kernel: &'static Kernel, variant: Variant, grid: [u32; 3]) -> String {
    let backend = open(DType::F32);
    let mut recording = Recording::new(backend.caps());
    let x = recording.input("x", Shape::tokens(1, 1, 4));
    let out = recording.tensor(Shape::tokens(1, 1, 4));
    recording.dispatch(kernel, variant, &Params { len: [1; 4] }, &[("x", x)], out, grid, 0);
    recording.output("y", out);
    let result = backend.compile(recording).and_then(|mut program| program.run(&[("x", &[0.0; 4])]));
    let error = result.expect_err("a broken kernel is refused");
    assert!(
        matches!(error.code(), ErrorCode::Device | ErrorCode::Kernel) && !error.to_string().contains('\n'),
        "{error}"
    );
    // The device stays usable.
    let mut recording = Recording::new(backend.caps());
    let x = recording.input("x", Shape::tokens(1, 1, 4));
    recording.output("x", x);
    backend.compile(recording).unwrap().run(&[("x", &[1.0; 4])]).unwrap();
    error.to_string()
}

const HEAD: &str = "struct Params { len: u32, a: u32, b: u32, c: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
";

fn kernel(stem: &'static str, body: &str) -> &'static Kernel {
    Box::leak(Box::new(Kernel { stem, source: String::leak(format!("{HEAD}{body}")), host: |_| {} }))
}

#[test]
fn a_kernel_that_does_not_parse() {
    let kernel = kernel("unparsable", "@compute @workgroup_size(1) fn main() { out[0] = ; }");
    let message = refusal(kernel, Variant::default(), [1, 1, 1]);
    assert!(message.contains("kernel unparsable"), "{message}");
}

#[test]
fn a_kernel_that_does_not_validate() {
    let kernel = kernel("invalid", "@compute @workgroup_size(1) fn main() { out[0] = x[0] * vec2<f32>(1.0); }");
    let message = refusal(kernel, Variant::default(), [1, 1, 1]);
    assert!(message.contains("kernel invalid"), "{message}");
}

#[test]
fn a_workgroup_that_is_too_large() {
    let kernel = kernel("large", "@compute @workgroup_size(65536) fn main() { out[0] = x[0] * f32(params.len); }");
    let message = refusal(kernel, Variant::default(), [1, 1, 1]);
    assert!(message.contains("kernel large"), "{message}");
}

#[test]
fn a_grid_that_is_too_large() {
    let kernel = kernel("wide", "@compute @workgroup_size(1) fn main() { out[0] = x[0] * f32(params.len); }");
    let message = refusal(kernel, Variant::default(), [1 << 20, 1, 1]);
    assert!(message.contains("wide"), "{message}");
}

#[test]
fn a_binding_that_nothing_was_recorded_for() {
    let body = "@group(0) @binding(3) var<storage, read> y: array<vec4<f32>>;
        @compute @workgroup_size(1) fn main() { out[0] = x[0] * y[0] * f32(params.len); }";
    let message = refusal(kernel("unbound", body), Variant::default(), [1, 1, 1]);
    assert_eq!(message, "unbound: nothing was recorded for binding y");
}

#[test]
fn an_override_that_does_not_exist() {
    let kernel = kernel("plain", "@compute @workgroup_size(1) fn main() { out[0] = x[0] * f32(params.len); }");
    let variant = Variant { overrides: vec![("WIDTH", 4)], ..Variant::default() };
    let message = refusal(kernel, variant, [1, 1, 1]);
    assert!(message.contains("kernel plain") && message.contains("WIDTH"), "{message}");
}

#[test]
fn inputs_that_do_not_fit() {
    let backend = open(DType::F32);
    let mut recording = Recording::new(backend.caps());
    let x = recording.input("x", Shape::tokens(1, 2, 4));
    recording.output("x", x);
    let mut program = backend.compile(recording).unwrap();
    assert!(program.run(&[]).is_err());
    assert!(program.run(&[("x", &[0.0; 4])]).is_err());
    assert!(program.run(&[("x", &[0.0; 8]), ("z", &[0.0; 8])]).is_err());
    program.run(&[("x", &[0.0; 8])]).unwrap();
}

#[test]
fn a_tensor_larger_than_a_binding() {
    let backend = open_restricted();
    let mut recording = Recording::new(backend.caps());
    let x = recording.input("x", Shape::tokens(1, 1 << 20, 64));
    recording.output("x", x);
    let error = backend.compile(recording).err().expect("256 MiB exceed a binding of 128 MiB");
    assert!(error.code() == ErrorCode::Unsupported && error.is_too_large(), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("input x needs 256 MiB") && error.contains("allows 128 MiB"), "{error}");
}

#[test]
fn a_recording_for_more_than_the_device_has() {
    let backend = open_restricted();
    let record = |caps: &Caps| {
        let mut recording = Recording::new(caps);
        let x = recording.input("x", Shape::tokens(1, 4, 4));
        let weight = recording.constant(&Constant::from_f32_as_f16("weight", &[4, 4], &values(1, 16)));
        let y = matmul(&mut recording, x, weight, Epilogue::default()).unwrap();
        recording.output("y", y);
        backend.compile(recording)
    };
    record(backend.caps()).unwrap();
    let with_f16 = Caps { shader_f16: true, kind: AdapterKind::Integrated, ..backend.caps().clone() };
    let error = record(&with_f16).err().expect("native f16 weights need a feature");
    assert!(error.code() == ErrorCode::Unsupported && !error.is_too_large(), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("kernel matmul") && error.contains("16-bit"), "{error}");
    assert!(record(&Caps::host()).is_err());
}

#[test]
fn a_lost_device() {
    let backend = open(DType::F32);
    let record = || {
        let mut recording = Recording::new(backend.caps());
        let x = recording.input("x", Shape::tokens(1, 4, 4));
        let weight = recording.constant(&Constant::from_f32("weight", &[4, 4], &values(1, 16)));
        let y = matmul(&mut recording, x, weight, Epilogue::default()).unwrap();
        recording.output("y", y);
        recording
    };
    let mut program = backend.compile(record()).unwrap();
    program.run(&[("x", &[0.0; 16])]).unwrap();
    backend.destroy();
    for _ in 0..2 {
        let lost = |error: Option<Error>| assert_eq!(error.map(|error| error.code()), Some(ErrorCode::DeviceLost));
        lost(program.run(&[("x", &[0.0; 16])]).err());
        lost(backend.compile(record()).err());
    }
}
