use std::sync::Arc;
use std::time::Duration;

use chiaro::gpu::{GpuBackend, GpuOptions};
use chiaro::ops::{Activation, Conv2d, Epilogue, conv2d, matmul};
use chiaro::record::{Backend, Caps, Constant, DType, HostBackend, Outputs, Program, Recording, Shape};

use crate::support::adapter::{open, open_restricted, open_with, test_options};

/// Values of no particular order in -1..1, the same for the same seed.
pub(super) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Weights whose products keep the size of their inputs.
fn weight(seed: u64, shape: &[usize], dtype: DType) -> Arc<Constant> {
    let inner: usize = shape[1..].iter().product();
    let scale = (3.0 / inner as f32).sqrt();
    let values: Vec<f32> = values(seed, shape.iter().product()).iter().map(|v| v * scale).collect();
    match dtype {
        DType::F32 => Constant::from_f32("weight", shape, &values),
        DType::F16 => Constant::from_f32_as_f16("weight", shape, &values),
        blocks => Constant::from_f32_quantized("weight", shape, &values, blocks).expect("whole blocks"),
    }
}

fn assert_close(what: &str, got: &Outputs, expected: &Outputs, tolerance: f32) {
    assert!(got.keys().eq(expected.keys()), "{what}: {:?} against {:?}", got.keys(), expected.keys());
    for (name, expected) in expected {
        let got = &got[name];
        assert_eq!(got.len(), expected.len(), "{what}: {name}");
        // Written so that a NaN fails too.
        let worst = got.iter().zip(expected).enumerate().map(|(i, (g, e))| (i, *g, *e, (g - e).abs()));
        let worst = worst.max_by(|a, b| a.3.total_cmp(&b.3)).expect("outputs are not empty");
        assert!(
            worst.3 <= tolerance,
            "{what}: {name}[{}]: {} instead of {} (± {tolerance})",
            worst.0,
            worst.1,
            worst.2
        );
    }
}

/// Records for both executors, runs both, and compares.
fn compare(what: &str, backend: &GpuBackend, record: impl Fn(&mut Recording), inputs: &[(&str, &[f32])]) {
    let recorded = |caps: &Caps| {
        let mut recording = Recording::new(caps);
        record(&mut recording);
        recording
    };
    let mut gpu = backend.compile_program(recorded(backend.caps())).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut host = HostBackend::default().compile(recorded(&Caps::host())).unwrap();
    let tolerance = if backend.caps().storage == DType::F16 { 4e-3 } else { 2e-5 };
    assert_close(what, &gpu.run(inputs).unwrap(), &host.run(inputs).unwrap(), tolerance);
    let (planned, allocated) = (gpu.plan().peak_bytes(), gpu.allocated_bytes());
    assert!(allocated.abs_diff(planned) * 50 <= planned, "{what}: planned {planned} bytes, allocated {allocated}");
}

/// One device of each sort that results must not depend on.
fn devices() -> Vec<(&'static str, GpuBackend)> {
    let mut devices = vec![("f32", open(DType::F32)), ("webgpu", open_restricted())];
    if devices[0].1.caps().shader_f16 {
        devices.push(("f16", open(DType::F16)));
    }
    devices
}

#[test]
fn the_check_refuses_one_wrong_value() {
    let outputs = |v: f32| Outputs::from([("y".to_owned(), vec![1.0, v])]);
    for wrong in [1.1, f32::NAN] {
        let refused = std::panic::catch_unwind(|| assert_close("check", &outputs(wrong), &outputs(1.0), 1e-3));
        assert!(refused.is_err(), "{wrong} was accepted");
    }
}

#[test]
fn matmul_equals_the_host() {
    // (rows, inner, columns): SD's own, odd ones, and one for the large tiles.
    let shapes = [(77, 768, 320), (1, 320, 1280), (64, 64, 64), (33, 36, 20), (515, 260, 516), (2, 4, 4)];
    for (device, backend) in devices() {
        for (index, (rows, inner, columns)) in shapes.into_iter().enumerate() {
            for dtype in [DType::F32, DType::F16] {
                let what = format!("{device}: {rows}×{inner}×{columns}, weights {dtype:?}");
                let weight = weight(index as u64, &[columns, inner], dtype);
                let bias = Constant::from_f32("bias", &[columns], &values(7, columns));
                let (x, residual) = (values(8, rows * inner), values(9, rows * columns));
                let record = |rec: &mut Recording| {
                    let x = rec.input("x", Shape::tokens(1, rows, inner));
                    let residual = rec.input("residual", Shape::tokens(1, rows, columns));
                    let (weight, bias) = (rec.constant(&weight), rec.constant(&bias));
                    let epilogue = Epilogue {
                        residual: Some(residual),
                        activation: Activation::Gelu,
                        ..Epilogue::bias(Some(bias))
                    };
                    let y = matmul(rec, x, weight, epilogue).unwrap();
                    rec.output("y", y);
                };
                compare(&what, &backend, record, &[("x", &x), ("residual", &residual)]);
            }
        }
    }
}

#[test]
fn conv2d_equals_the_host() {
    let strided = Conv2d { stride: 2, ..Conv2d::SAME };
    let enlarged = Conv2d { upsample_to: Some((11, 14)), ..Conv2d::SAME };
    let pointwise = Conv2d { kernel: 1, pad_before: 0, pad_after: 0, ..Conv2d::SAME };
    let lopsided = Conv2d { stride: 2, pad_before: 0, pad_after: 1, ..Conv2d::SAME };
    for (device, backend) in devices() {
        for (geometry, (n, h, w, c_in, c_out)) in [
            (Conv2d::SAME, (2, 9, 7, 8, 12)),
            (Conv2d::SAME, (1, 16, 16, 64, 320)),
            (strided, (1, 13, 10, 16, 16)),
            (lopsided, (1, 8, 8, 16, 16)),
            (enlarged, (2, 6, 7, 8, 8)),
            (pointwise, (2, 5, 5, 20, 36)),
        ] {
            let what = format!("{device}: {geometry:?} on [{n}, {h}, {w}, {c_in}] to {c_out}");
            let weight = weight(3, &[c_out, geometry.kernel, geometry.kernel, c_in], DType::F16);
            let (x, add) = (values(4, n * h * w * c_in), values(5, n * c_out));
            let record = |rec: &mut Recording| {
                let x = rec.input("x", Shape::image(n, h, w, c_in));
                let add = rec.input("add", Shape::image(n, 1, 1, c_out));
                let weight = rec.constant(&weight);
                let epilogue = Epilogue { image_add: Some(add), activation: Activation::Silu, ..Epilogue::default() };
                let y = conv2d(rec, x, weight, geometry, epilogue).unwrap();
                rec.output("y", y);
            };
            compare(&what, &backend, record, &[("x", &x), ("add", &add)]);
        }
    }
}

/// `depth` products in a row, so that lanes are reused; every second one reads half the channels of a wide one.
fn chain(rec: &mut Recording, depth: usize, weights: &[Arc<Constant>; 2]) {
    let mut x = rec.input("x", Shape::tokens(1, 48, 32));
    let [wide, narrow] = weights.each_ref().map(|w| rec.constant(w));
    for step in 0..depth {
        x = rec.scoped(format!("layers.{step}"), |rec| {
            let both = matmul(rec, x, wide, Epilogue::default()).unwrap();
            matmul(rec, both.channels(32, 32), narrow, Epilogue::default()).unwrap()
        });
    }
    rec.output("y", x);
    rec.output("part", x.channels(8, 12));
}

fn chain_weights() -> [Arc<Constant>; 2] {
    [weight(11, &[64, 32], DType::F32), weight(12, &[32, 32], DType::F32)]
}

#[test]
fn a_program_replays_with_other_inputs() {
    let weights = chain_weights();
    let backend = open(DType::F32);
    let mut recording = Recording::new(backend.caps());
    chain(&mut recording, 3, &weights);
    let mut gpu = backend.compile(recording).unwrap();
    let mut recording = Recording::new(&Caps::host());
    chain(&mut recording, 3, &weights);
    let mut host = HostBackend::default().compile(recording).unwrap();
    let mut seen = Vec::new();
    for seed in [21, 22, 21] {
        let x = values(seed, 48 * 32);
        let got = gpu.run(&[("x", &x)]).unwrap();
        assert_close("replay", &got, &host.run(&[("x", &x)]).unwrap(), 2e-5);
        seen.push(got);
    }
    assert_eq!(seen[0], seen[2]);
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn many_dispatches_are_cut_to_the_time_budget() {
    let weights = chain_weights();
    let x = values(31, 48 * 32);
    let mut results = Vec::new();
    for budget in [Duration::from_nanos(1), Duration::from_secs(3600)] {
        let backend = open_with(DType::F32, GpuOptions { time_budget: Some(budget), ..test_options() });
        let mut recording = Recording::new(backend.caps());
        chain(&mut recording, 40, &weights);
        let mut program = backend.compile_program(recording).unwrap();
        results.push((program.run(&[("x", &x)]).unwrap(), program.submissions()));
    }
    // Too short for any dispatch: one each. Long enough for all: one.
    assert_eq!([results[0].1, results[1].1], [80, 1]);
    assert_eq!(results[0].0, results[1].0);
}

#[test]
fn programs_share_constants_and_a_device() {
    let weights = chain_weights();
    let backend = open(DType::F32);
    let compiled = |depth| {
        let mut recording = Recording::new(backend.caps());
        chain(&mut recording, depth, &weights);
        backend.compile(recording).unwrap()
    };
    let (mut short, mut long) = (compiled(1), compiled(2));
    let x = values(41, 48 * 32);
    // On two threads, since a host app may generate while it loads.
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| short.run(&[("x", &x)]).unwrap());
        let second = scope.spawn(|| long.run(&[("x", &x)]).unwrap());
        (first.join().unwrap(), second.join().unwrap())
    });
    let again = long.run(&[("x", &first["y"])]).unwrap();
    assert_eq!(second, long.run(&[("x", &x)]).unwrap());
    let mut three = compiled(3);
    assert_eq!(again, three.run(&[("x", &x)]).unwrap());
}

#[test]
fn profiling_times_every_dispatch_and_changes_no_result() {
    let weights = chain_weights();
    let backend = open(DType::F32);
    let mut recording = Recording::new(backend.caps());
    chain(&mut recording, 2, &weights);
    let mut program = backend.compile_program(recording).unwrap();
    let x = values(51, 48 * 32);
    let (outputs, times) = match program.run_profiled(&[("x", &x)]) {
        Err(error) if error.to_string().contains("no timestamps") => return,
        result => result.unwrap(),
    };
    assert_eq!(outputs, program.run(&[("x", &x)]).unwrap());
    let labels: Vec<&str> = times.iter().map(|t| t.label.as_str()).collect();
    assert_eq!(labels, ["layers.0.matmul", "layers.0.matmul", "layers.1.matmul", "layers.1.matmul"]);
    assert!(times.iter().all(|t| t.kernel == "matmul" && t.flops > 0 && (0.0..10.0).contains(&t.seconds)));
    assert!(times.iter().any(|t| t.seconds > 0.0));
}

#[test]
fn profiling_on_the_host_times_every_dispatch_and_changes_no_result() {
    let weights = chain_weights();
    let backend = HostBackend::default();
    let mut recording = Recording::new(backend.caps());
    chain(&mut recording, 2, &weights);
    let mut program = backend.compile_program(recording).unwrap();
    let x = values(51, 48 * 32);
    let (outputs, times) = program.run_profiled(&[("x", &x)]).unwrap();
    assert_eq!(outputs, program.run(&[("x", &x)]).unwrap());
    let labels: Vec<&str> = times.iter().map(|t| t.label.as_str()).collect();
    assert_eq!(labels, ["layers.0.matmul", "layers.0.matmul", "layers.1.matmul", "layers.1.matmul"]);
    assert!(times.iter().all(|t| t.kernel == "matmul" && t.flops > 0 && t.seconds < 10.0));
    assert!(times.iter().any(|t| t.seconds > 0.0));
}

#[test]
fn an_input_can_be_an_output_and_a_constant_too() {
    let backend = open(DType::F32);
    let mut recording = Recording::new(backend.caps());
    let x = recording.input("x", Shape::tokens(1, 2, 4));
    let constant = recording.constant(&Constant::from_f32("c", &[4], &[1.0, 2.0, 3.0, 4.0]));
    recording.output("x", x);
    recording.output("c", constant);
    let mut program = backend.compile(recording).unwrap();
    let outputs = program.run(&[("x", &[0.5; 8])]).unwrap();
    assert_eq!(
        (outputs["x"].as_slice(), outputs["c"].as_slice()),
        ([0.5; 8].as_slice(), [1.0, 2.0, 3.0, 4.0].as_slice())
    );
}
