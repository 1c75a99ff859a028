//! Kernels at SD1.5's layer shapes (256×256 pixels, two rows of the network), each checked against the host executor before it is timed.
//!
//! `CHIARO_BENCH_DEVICES=cpu,0 cargo bench --bench ops`; `CHIARO_BENCH_ONLY=conv3x3` takes the cases whose name has that. The share is of a
//! large product that the same run measures. For what computes on the host's cores, GFLOP per second of processor time stand beside it (Linux):
//! what other programs take from the cores does not count there. `CHIARO_BENCH_ROWS=8` has so many rows (four pictures under guidance); names tell those of
//! two.
//! `CHIARO_BENCH_PRECISION=f16` keeps activations in half precision, `bf16` multiplies so on the processor. On a GPU with
//! timestamps the time is the device's own, on others transfers of input and result are part of it.

mod support;

use std::sync::Arc;

use chiaro::gpu::{GpuBackend, GpuOptions, GpuProgram, choose_adapter};
use chiaro::ops::{self, Attention, Conv2d, Epilogue, GroupNorm};
use chiaro::pipeline::Precision;
use chiaro::record::{
    AdapterKind, Backend, Caps, Constant, DType, HostBackend, HostProgram, Outputs, Products, Program, Recording, Role,
    Shape, Tensor,
};

/// How a layer is recorded.
type Record = Box<dyn Fn(&mut Recording, Tensor) -> chiaro::Result<Tensor>>;

/// One layer: a name, its input, and how it is recorded.
struct Case {
    name: String,
    input: Shape,
    record: Record,
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

/// Attention of SD1.5 at 512×512 and 256×256, of its text (77 keys) and of its autoencoder: images, queries, keys, heads, channels per head.
const ATTENTIONS: &[(usize, usize, usize, usize, usize)] = &[
    (2, 4096, 4096, 8, 40),
    (2, 1024, 1024, 8, 40),
    (2, 1024, 1024, 8, 80),
    (2, 1024, 1024, 8, 64),
    (2, 256, 256, 8, 160),
    (2, 64, 64, 8, 160),
    (2, 4096, 77, 8, 40),
    (2, 1024, 77, 8, 80),
    (2, 256, 77, 8, 160),
    (1, 4096, 4096, 1, 512),
    (1, 1024, 1024, 1, 512),
];

/// Rows that are computed together, of a case that has `own`.
fn rows(own: usize) -> usize {
    support::setting("CHIARO_BENCH_ROWS", own)
}

fn attention(&(images, queries, keys, heads, head_dim): &(usize, usize, usize, usize, usize)) -> Case {
    Case {
        name: format!("attention {heads}×{head_dim}, {queries} of {keys}"),
        input: Shape::tokens(images, queries, heads * head_dim),
        record: Box::new(move |rec, x| {
            let context = Shape::tokens(rows(images), keys, heads * head_dim);
            let (k, v) = (rec.input("k", context), rec.input("v", context));
            ops::attention(rec, x, k, v, Attention { heads, causal: false })
        }),
    }
}

fn others() -> Vec<Case> {
    vec![
        Case {
            name: "group norm + SiLU 320 at 32²".into(),
            input: Shape::image(2, 32, 32, 320),
            record: Box::new(|rec, x| {
                let (gamma, beta) = (vector(rec, 320), vector(rec, 320));
                ops::group_norm(rec, x, gamma, beta, GroupNorm { groups: 32, eps: 1e-5, silu: true })
            }),
        },
        Case {
            name: "layer norm 640, 256 tokens".into(),
            input: Shape::tokens(2, 256, 640),
            record: Box::new(|rec, x| {
                let (gamma, beta) = (vector(rec, 640), vector(rec, 640));
                ops::layer_norm(rec, x, gamma, beta, 1e-5)
            }),
        },
    ]
}

/// Every distinct convolution of SD1.5's UNet at 256×256: side of the input, channels in and out, kernel, stride, whether it is doubled first.
const CONVOLUTIONS: &[(usize, usize, usize, usize, usize, bool)] = &[
    (32, 4, 320, 3, 1, false),
    (32, 320, 320, 3, 1, false),
    (32, 640, 320, 3, 1, false),
    (32, 960, 320, 3, 1, false),
    (32, 640, 320, 1, 1, false),
    (32, 960, 320, 1, 1, false),
    (32, 320, 320, 3, 2, false),
    (32, 320, 4, 3, 1, false),
    (16, 320, 640, 3, 1, false),
    (16, 320, 640, 1, 1, false),
    (16, 640, 640, 3, 1, false),
    (16, 960, 640, 3, 1, false),
    (16, 1280, 640, 3, 1, false),
    (16, 1920, 640, 3, 1, false),
    (16, 960, 640, 1, 1, false),
    (16, 1280, 640, 1, 1, false),
    (16, 1920, 640, 1, 1, false),
    (16, 640, 640, 3, 2, false),
    (16, 640, 640, 3, 1, true),
    (8, 640, 1280, 3, 1, false),
    (8, 640, 1280, 1, 1, false),
    (8, 1280, 1280, 3, 1, false),
    (8, 1920, 1280, 3, 1, false),
    (8, 2560, 1280, 3, 1, false),
    (8, 1920, 1280, 1, 1, false),
    (8, 2560, 1280, 1, 1, false),
    (8, 1280, 1280, 3, 2, false),
    (8, 1280, 1280, 3, 1, true),
    (4, 1280, 1280, 3, 1, false),
    (4, 2560, 1280, 3, 1, false),
    (4, 2560, 1280, 1, 1, false),
    (4, 1280, 1280, 3, 1, true),
];

/// Every distinct product of its transformers and embeddings: rows of both images, inner extent, columns.
const PRODUCTS: &[(usize, usize, usize)] = &[
    (2, 320, 1280),
    (2, 1280, 1280),
    (2, 1280, 320),
    (2, 1280, 640),
    (154, 768, 640),
    (154, 768, 1280),
    (154, 768, 2560),
    (2048, 320, 320),
    (2048, 320, 960),
    (2048, 320, 2560),
    (2048, 1280, 320),
    (512, 640, 640),
    (512, 640, 1920),
    (512, 640, 5120),
    (512, 2560, 640),
    (128, 1280, 1280),
    (128, 1280, 3840),
    (128, 1280, 10240),
    (128, 5120, 1280),
    (32, 1280, 1280),
    (32, 1280, 3840),
    (32, 1280, 10240),
    (32, 5120, 1280),
];

fn convolutions() -> impl Iterator<Item = Case> {
    CONVOLUTIONS.iter().map(|&(side, c_in, c_out, kernel, stride, doubled)| {
        let pad = kernel / 2;
        let upsample_to = doubled.then_some((2 * side, 2 * side));
        let geometry = Conv2d { kernel, stride, pad_before: pad, pad_after: pad, upsample_to };
        let twice = if doubled { ", doubled" } else { "" };
        Case {
            name: format!("conv{kernel}x{kernel}/{stride} {c_in}→{c_out} at {side}²{twice}"),
            input: Shape::image(2, side, side, c_in),
            record: Box::new(move |rec, x| {
                let w = weight(rec, &[c_out, kernel, kernel, c_in]);
                ops::conv2d(rec, x, w, geometry, Epilogue::default())
            }),
        }
    })
}

fn product(rows: usize, inner: usize, columns: usize) -> Case {
    Case {
        name: format!("matmul {rows}×{inner}×{columns}"),
        input: Shape::tokens(2, rows / 2, inner),
        record: Box::new(move |rec, x| {
            let w = weight(rec, &[columns, inner]);
            ops::matmul(rec, x, w, Epilogue::default())
        }),
    }
}

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

/// An input's name and values.
fn filled(role: &Role, len: usize) -> Option<(String, Vec<f32>)> {
    match role {
        Role::Input(name) => Some((name.clone(), noise(len, name.bytes().map(u64::from).sum()))),
        _ => None,
    }
}

fn recording(case: &Case, caps: &Caps) -> chiaro::Result<Recording> {
    let mut rec = Recording::new(caps);
    let x = rec.input("x", Shape { n: rows(case.input.n), ..case.input });
    let out = (case.record)(&mut rec, x)?;
    rec.output("out", out);
    Ok(rec)
}

/// What is measured: a device, and whether it tells the time itself.
enum Device {
    Host(HostBackend),
    Gpu { backend: GpuBackend, timestamps: bool },
}

enum Compiled {
    Host(Box<HostProgram>),
    Gpu { program: Box<GpuProgram>, timestamps: bool },
}

impl Device {
    fn open(name: &str) -> chiaro::Result<Self> {
        if name == "cpu" {
            let bf16 = support::precision() == Precision::Bf16;
            return Ok(Device::Host(HostBackend::new(if bf16 { Products::Bf16 } else { Products::F32 })));
        }
        let adapter = choose_adapter(Some(name))?.expect("a named adapter is found or an error");
        let storage = if support::precision() == Precision::F16 { DType::F16 } else { DType::F32 };
        let timestamps = adapter.timestamps && adapter.kind != AdapterKind::Software;
        Ok(Device::Gpu { backend: GpuBackend::open(&adapter, storage, GpuOptions::default())?, timestamps })
    }

    fn caps(&self) -> &Caps {
        match self {
            Device::Host(backend) => backend.caps(),
            Device::Gpu { backend, .. } => backend.caps(),
        }
    }

    fn tells(&self) -> &'static str {
        match self {
            Device::Gpu { timestamps: true, .. } => "time on the device",
            _ => "input and output transfers included",
        }
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Compiled> {
        Ok(match self {
            Device::Host(backend) => Compiled::Host(Box::new(backend.compile_program(recording)?)),
            Device::Gpu { backend, timestamps } => {
                Compiled::Gpu { program: Box::new(backend.compile_program(recording)?), timestamps: *timestamps }
            }
        })
    }
}

impl Compiled {
    /// The result, and seconds where the device tells them.
    fn run(&mut self, inputs: &[(&str, &[f32])]) -> chiaro::Result<(Outputs, Option<f64>)> {
        match self {
            Compiled::Host(program) => Ok((program.run(inputs)?, None)),
            Compiled::Gpu { program, timestamps: false } => Ok((program.run(inputs)?, None)),
            Compiled::Gpu { program, timestamps: true } => {
                let (outputs, times) = program.run_profiled(inputs)?;
                Ok((outputs, Some(times.iter().map(|t| t.seconds).sum())))
            }
        }
    }
}

/// GFLOP/s of a case, after its result was found right.
fn measure(case: &Case, device: &Device, peak: Option<f64>) -> chiaro::Result<f64> {
    let host = HostBackend::default();
    let rec = recording(case, host.caps())?;
    let inputs: Vec<(String, Vec<f32>)> = rec.tensors.iter().filter_map(|t| filled(&t.role, t.len)).collect();
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let want: Outputs = host.compile(rec)?.run(&inputs)?;
    let rec = recording(case, device.caps())?;
    let (flops, variant) = (rec.flops() as f64, format!("{:?}", rec.dispatches[rec.dispatches.len() - 1].variant));
    let mut program = device.compile(rec)?;
    let error = support::nmse(&program.run(&inputs)?.0["out"], &want["out"]);
    if error.is_nan() || error > 1e-5 {
        return Err(chiaro::Error::Device(format!("{}: wrong by NMSE {error:.2e}", case.name)));
    }
    let (mut failed, mut told) = (None, Vec::new());
    let (runs, before) = (support::setting("CHIARO_BENCH_RUNS", 5), processor_seconds());
    let seconds = support::time(runs, || match program.run(&inputs) {
        Ok((_, seconds)) => told.extend(seconds),
        Err(error) => failed = Some(error),
    });
    let busy = processor_seconds().zip(before).map(|(after, before)| after - before);
    if let Some(error) = failed {
        return Err(error);
    }
    let seconds = if told.is_empty() { seconds } else { told };
    let [least, median, most] = support::spread(seconds);
    let rate = flops / median / 1e9;
    let share = peak.map_or(String::new(), |peak| format!(", {:.0} % of peak", 100.0 * rate / peak));
    let on_cores = matches!(device.caps().kind, AdapterKind::Software | AdapterKind::Host);
    // Processor time is counted in hundredths of a second, over all runs and the one that warms up.
    let busy = busy
        .filter(|&busy| on_cores && busy >= 0.1)
        .map_or(String::new(), |busy| format!(", {:.1} per processor", flops * (runs + 1) as f64 / busy / 1e9));
    println!(
        "  {:30} {:9.3} ms ({:.3} to {:.3}), {rate:7.1} GFLOP/s{busy}{share}",
        case.name,
        median * 1e3,
        least * 1e3,
        most * 1e3
    );
    println!("  {:30} {variant}", "");
    Ok(rate)
}

/// Seconds that all threads of this process have computed.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in brackets: user and system time are the 12th and 13th, in ticks of which Linux tells 100 a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn main() -> chiaro::Result<()> {
    let only = std::env::var("CHIARO_BENCH_ONLY").unwrap_or_default();
    for name in support::devices() {
        let device = Device::open(&name)?;
        println!("{} ({})", device.caps().name, device.tells());
        let peak = measure(&product(1024, 1024, 1024), &device, None)?;
        let products = PRODUCTS.iter().map(|&(rows, inner, columns)| product(rows, inner, columns));
        let cases = convolutions().chain(products).chain(ATTENTIONS.iter().map(attention)).chain(others());
        for case in cases.filter(|case| case.name.contains(&only)) {
            measure(&case, &device, Some(peak))?;
        }
        // What GPUs are compared by; minutes of a processor together with the others.
        let large = product(4096, 1280, 1280);
        if !only.is_empty() && large.name.contains(&only)
            || only.is_empty() && device.caps().kind == AdapterKind::Discrete
        {
            measure(&large, &device, Some(peak))?;
        }
    }
    Ok(())
}
