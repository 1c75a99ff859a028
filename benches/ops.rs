//! Kernels at SD1.5's layer shapes (256×256 pixels, two rows), each checked against the host executor before it is timed.
//!
//! `CHIARO_BENCH_DEVICES=cpu,0 cargo bench --bench ops`. The share is of the best large product that the same run measures.

mod support;

use std::sync::Arc;

use chiaro::gpu::{GpuBackend, GpuOptions, choose_adapter};
use chiaro::ops::{self, Attention, Conv2d, Epilogue, GroupNorm};
use chiaro::record::{Backend, Caps, Constant, DType, HostBackend, Outputs, Recording, Shape, Tensor};

/// One layer: a name, its input, and how it is recorded.
struct Case {
    name: &'static str,
    input: Shape,
    record: fn(&mut Recording, Tensor) -> chiaro::Result<Tensor>,
}

fn weight(rec: &mut Recording, shape: &[usize]) -> Tensor {
    let values = noise(shape.iter().product(), 7);
    let constant: Arc<Constant> = Constant::from_f32_as_f16("weight", shape, &values);
    rec.constant(&constant)
}

fn vector(rec: &mut Recording, len: usize) -> Tensor {
    let constant = Constant::from_f32("vector", &[len], &vec![1.0; len]);
    rec.constant(&constant)
}

const CASES: &[Case] = &[
    Case {
        name: "conv3x3 320→320 at 32²",
        input: Shape::image(2, 32, 32, 320),
        record: |rec, x| {
            let w = weight(rec, &[320, 3, 3, 320]);
            ops::conv2d(rec, x, w, Conv2d::SAME, Epilogue::default())
        },
    },
    Case {
        name: "conv3x3 1280→1280 at 8²",
        input: Shape::image(2, 8, 8, 1280),
        record: |rec, x| {
            let w = weight(rec, &[1280, 3, 3, 1280]);
            ops::conv2d(rec, x, w, Conv2d::SAME, Epilogue::default())
        },
    },
    Case {
        name: "matmul 2048×320×960 (qkv)",
        input: Shape::tokens(2, 1024, 320),
        record: |rec, x| {
            let w = weight(rec, &[960, 320]);
            ops::matmul(rec, x, w, Epilogue::default())
        },
    },
    Case {
        name: "matmul 128×1280×10240 (ff)",
        input: Shape::tokens(2, 64, 1280),
        record: |rec, x| {
            let w = weight(rec, &[10240, 1280]);
            ops::matmul(rec, x, w, Epilogue::default())
        },
    },
    Case {
        name: "attention 8×40, 1024 tokens",
        input: Shape::tokens(2, 1024, 320),
        record: |rec, x| ops::attention(rec, x, x, x, Attention { heads: 8, causal: false }),
    },
    Case {
        name: "group norm + SiLU 320 at 32²",
        input: Shape::image(2, 32, 32, 320),
        record: |rec, x| {
            let (gamma, beta) = (vector(rec, 320), vector(rec, 320));
            ops::group_norm(rec, x, gamma, beta, GroupNorm { groups: 32, eps: 1e-5, silu: true })
        },
    },
    Case {
        name: "layer norm 640, 256 tokens",
        input: Shape::tokens(2, 256, 640),
        record: |rec, x| {
            let (gamma, beta) = (vector(rec, 640), vector(rec, 640));
            ops::layer_norm(rec, x, gamma, beta, 1e-5)
        },
    },
];

/// The large product whose speed the others are told as a share of.
const PEAK: Case = Case {
    name: "matmul 1024×1024×1024 (peak)",
    input: Shape::tokens(1, 1024, 1024),
    record: |rec, x| {
        let w = weight(rec, &[1024, 1024]);
        ops::matmul(rec, x, w, Epilogue::default())
    },
};

/// Uniform values from -1 to 1 of a linear congruential generator, over the square root of 1000.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) / 31.6
        })
        .collect()
}

fn recording(case: &Case, caps: &Caps) -> chiaro::Result<Recording> {
    let mut rec = Recording::new(caps);
    let x = rec.input("x", case.input);
    let out = (case.record)(&mut rec, x)?;
    rec.output("out", out);
    Ok(rec)
}

fn backend(name: &str) -> chiaro::Result<Box<dyn Backend>> {
    if name == "cpu" {
        return Ok(Box::new(HostBackend::default()));
    }
    let adapter = choose_adapter(Some(name))?.expect("a named adapter is found or an error");
    Ok(Box::new(GpuBackend::open(&adapter, DType::F32, GpuOptions::default())?))
}

/// GFLOP/s of a case, after its result was found right.
fn measure(case: &Case, backend: &dyn Backend, peak: Option<f64>) -> chiaro::Result<f64> {
    let x = noise(case.input.len(), 1);
    let inputs: [(&str, &[f32]); 1] = [("x", &x)];
    let host = HostBackend::default();
    let want: Outputs = host.compile(recording(case, host.caps())?)?.run(&inputs)?;
    let rec = recording(case, backend.caps())?;
    let (flops, variant) = (rec.flops() as f64, format!("{:?}", rec.dispatches[rec.dispatches.len() - 1].variant));
    let mut program = backend.compile(rec)?;
    let error = support::nmse(&program.run(&inputs)?["out"], &want["out"]);
    if error.is_nan() || error > 1e-5 {
        return Err(chiaro::Error::Device(format!("{}: wrong by NMSE {error:.2e}", case.name)));
    }
    let mut failed = None;
    let seconds = support::time(support::setting("CHIARO_BENCH_RUNS", 5), || {
        failed = program.run(&inputs).err();
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let [least, median, most] = support::spread(seconds);
    let rate = flops / median / 1e9;
    let share = peak.map_or(String::new(), |peak| format!(", {:.0} % of peak", 100.0 * rate / peak));
    println!(
        "  {:30} {:9.3} ms ({:.3} to {:.3}), {rate:7.1} GFLOP/s{share}",
        case.name,
        median * 1e3,
        least * 1e3,
        most * 1e3
    );
    println!("  {:30} {variant}", "");
    Ok(rate)
}

fn main() -> chiaro::Result<()> {
    for name in support::devices() {
        let backend = backend(&name)?;
        println!("{} (input and output transfers included)", backend.caps().name);
        let peak = measure(&PEAK, &*backend, None)?;
        for case in CASES {
            measure(case, &*backend, Some(peak))?;
        }
    }
    Ok(())
}
