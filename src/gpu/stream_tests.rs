//! Constants that pass through give the same bits as constants that stay, and what goes wrong on their way shows.

use super::stream::Fault;
use super::{GpuBackend, GpuOptions, GpuProgram, adapters, choose_adapter};
use crate::record::{Constant, DType, Kernel, Outputs, Program, Recording, Shape, Variant, plan};

const WIDTHS: [usize; 12] = [64, 128, 96, 256, 64, 64, 192, 32, 64, 320, 64, 128];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    columns: u32,
    rows: u32,
    unused: [u32; 2],
}

/// `out = weight · x + bias`, a row an invocation.
static PRODUCT: Kernel = Kernel {
    stem: "product",
    source: "struct Params { columns: u32, rows: u32, a: u32, b: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.rows { return; }
    var sum = bias[at.x];
    for (var i = 0u; i < params.columns; i++) { sum += weight[at.x * params.columns + i] * x[i]; }
    out[at.x] = sum;
}",
    host: |_| {},
};

fn backend() -> GpuBackend {
    let wanted = std::env::var("CHIARO_TEST_ADAPTER").ok();
    let chosen = choose_adapter(wanted.as_deref()).expect("CHIARO_TEST_ADAPTER names an adapter");
    let adapter = chosen.or_else(|| adapters().into_iter().next()).expect("no GPU driver was found");
    let options = GpuOptions { checks: true, poison: true, ..GpuOptions::default() };
    GpuBackend::open(&adapter, DType::F32, options).expect("the device opens")
}

fn values(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed * 13) as f32 * 0.618).sin() * 0.2).collect()
}

/// Matrices of many sizes one behind the other.
fn net(backend: &GpuBackend, limit: Option<u64>) -> Recording {
    let mut rec = Recording::new(&backend.shared.gpu.caps);
    rec.memory_limit = limit;
    let mut x = rec.input("x", Shape::tokens(1, 1, WIDTHS[0]));
    for (i, pair) in WIDTHS.windows(2).enumerate() {
        let (columns, rows) = (pair[0], pair[1]);
        let weight = Constant::from_f32(format!("layer {i}"), &[rows, columns], &values(i, rows * columns));
        let (weight, bias) =
            (rec.constant(&weight), rec.constant(&Constant::from_f32("bias", &[rows], &values(i, rows))));
        let out = rec.tensor(Shape::tokens(1, 1, rows));
        let params = Params { columns: columns as u32, rows: rows as u32, unused: [0; 2] };
        let reads = [("x", x), ("weight", weight), ("bias", bias)];
        let grid = [rows.div_ceil(64) as u32, 1, 1];
        rec.dispatch(&PRODUCT, Variant::default(), &params, &reads, out, grid, 2 * (rows * columns) as u64);
        x = out;
    }
    rec.output("y", x);
    rec
}

fn run(program: &mut GpuProgram, seed: usize) -> crate::Result<Outputs> {
    program.run(&[("x", &values(seed, WIDTHS[0]))])
}

fn open(backend: &GpuBackend, limit: u64) -> GpuProgram {
    backend.compile_program(net(backend, Some(limit))).expect("the net compiles")
}

#[test]
fn streamed_and_resident_agree_in_every_bit() {
    let backend = backend();
    let mut resident = backend.compile_program(net(&backend, None)).expect("the net compiles");
    let all = resident.allocated_bytes();
    let least = plan(&net(&backend, Some(0))).expect("the net is planned").peak_bytes();
    assert!(least < all, "{least} of {all}");
    let mut counts = Vec::new();
    for limit in [0, least, (least + all) / 2, all - 1, all] {
        let mut program = open(&backend, limit);
        let (planned, allocated) = (program.plan().peak_bytes(), program.allocated_bytes());
        assert_eq!(planned, allocated, "limit {limit}");
        assert!(planned <= limit.max(least), "limit {limit}: {planned}");
        counts.push(program.plan().stream.as_ref().map_or(0, |stream| stream.chunks.len()));
        for seed in 0..4 {
            assert_eq!(
                run(&mut program, seed).expect("it runs"),
                run(&mut resident, seed).expect("it runs"),
                "{limit}"
            );
        }
        assert_eq!(program.allocated_bytes(), planned, "limit {limit}: after runs");
        if backend.shared.gpu.timestamp_period.is_some() {
            let (timed, times) = program.run_profiled(&[("x", &values(1, WIDTHS[0]))]).expect("it runs");
            assert_eq!(
                (timed, times.len()),
                (run(&mut resident, 1).expect("it runs"), WIDTHS.len() - 1),
                "{limit}: timed"
            );
        }
    }
    assert!(counts[0] > 3 && counts[1] == counts[0] && counts[3] > 1 && counts[4] == 0, "{counts:?}");
}

#[test]
fn two_programs_take_turns() {
    let backend = backend();
    let mut resident = backend.compile_program(net(&backend, None)).expect("the net compiles");
    let (mut one, mut two) = (open(&backend, 0), open(&backend, 0));
    for seed in 0..3 {
        let want = run(&mut resident, seed).expect("it runs");
        assert_eq!(run(&mut one, seed).expect("it runs"), want);
        assert_eq!(run(&mut two, seed).expect("it runs"), want);
    }
}

#[test]
fn faults_on_the_way_are_seen() {
    let backend = backend();
    let mut resident = backend.compile_program(net(&backend, None)).expect("the net compiles");
    let want = run(&mut resident, 0).expect("it runs");
    for fault in [Fault::Offset, Fault::Arena] {
        let mut program = open(&backend, 0);
        program.stream.as_mut().expect("constants pass through").fault = fault;
        let wrong = run(&mut program, 0).map_or(true, |got| got != want);
        assert!(wrong, "{fault:?} is not seen");
        program.stream.as_mut().expect("it is put back").fault = Fault::None;
        assert_eq!(run(&mut program, 0).expect("it runs"), want, "after {fault:?}");
    }
}

/// Without the wait, the host is refused the stage that the device may still read. One stage and not two: a software driver has done its work
/// when the next is handed over.
#[test]
fn a_stage_is_waited_for() {
    let backend = backend();
    let want = run(&mut backend.compile_program(net(&backend, None)).expect("the net compiles"), 0).expect("it runs");
    let mut program = open(&backend, 0);
    for (skips_waiting, works) in [(false, true), (true, false)] {
        program.stream.as_mut().expect("constants pass through").set_stage(4096, skips_waiting);
        match run(&mut program, 0) {
            Ok(got) => assert!(works && got == want),
            Err(error) => assert!(!works && error.to_string().contains("not mapped"), "{error}"),
        }
    }
}
