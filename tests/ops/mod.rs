//! Every op on every backend against a scalar reference.

#![allow(unreachable_pub, reason = "benches/ops.rs includes the table, so its items are public")]

pub mod cases;
mod company;
mod errors;
mod halves;
mod long;
mod merging;
mod parts;
mod reference;
mod unrolled;

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Instant;

use chiaro::ops::{Activation, Trial};
use chiaro::record::{AdapterKind, Backend, Caps, DType, HostBackend, Role, Shape, Tuning, Vendor};

use cases::{Case, Operands, Wide, table};
use reference::reference;

use crate::support::{adapter, part};

/// How far a result is from the reference.
#[derive(Debug, Clone, Copy)]
pub struct Deviation {
    /// Largest error relative to the largest magnitude of the reference.
    max: f64,
    /// Sum of squared errors over sum of squares of the reference.
    nmse: f64,
}

/// The largest normalised mean squared error that half-precision storage explains.
const HALF_NMSE: f64 = 1e-5;

/// Runs a case, recorded for `caps`, twice: first on NaN, which leaves NaN wherever a kernel writes, so that the second run shows what it did
/// not write again. Returns the result and how it was stored.
pub fn run_case(backend: &dyn Backend, caps: &Caps, case: &Case, operands: &Operands, wide: Wide) -> (Vec<f32>, DType) {
    let recording = case.record(caps, operands, wide).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    let stored = recording.dtype(recording.outputs[0].tensor);
    let is_input =
        |name: &str| recording.tensors.iter().any(|t| matches!(&t.role, Role::Input(input) if input == name));
    let inputs: Vec<(&str, &[f32])> =
        operands.0.iter().filter(|(name, _)| is_input(name)).map(|(name, values)| (*name, values.as_slice())).collect();
    let poison: Vec<(&str, Vec<f32>)> =
        inputs.iter().map(|(name, values)| (*name, vec![f32::NAN; values.len()])).collect();
    let poison: Vec<(&str, &[f32])> = poison.iter().map(|(name, values)| (*name, values.as_slice())).collect();
    let mut program = backend.compile(recording).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    program.run(&poison).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    let mut outputs = program.run(&inputs).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    (outputs.remove("out").expect("the case names its result"), stored)
}

/// Compares a result with the reference.
///
/// # Errors
/// When a value is missing, not finite, or further off than the storage type explains.
#[must_use = "a comparison that nobody looks at checks nothing"]
pub fn check(case: &Case, storage: DType, out: &[f32], expected: &[f64]) -> Result<Deviation, String> {
    if out.len() != expected.len() {
        return Err(format!("{case:?}: expected {} values, got {}", expected.len(), out.len()));
    }
    if let Some(i) = out.iter().position(|v| !v.is_finite()) {
        return Err(format!("{case:?}: value {i} of {} is {}, expected {}", out.len(), out[i], expected[i]));
    }
    let (mut worst, mut worst_at, mut largest, mut errors, mut squares) = (0.0f64, 0, 0.0f64, 0.0, 0.0);
    for (i, (&out, &expected)) in out.iter().zip(expected).enumerate() {
        let error = (f64::from(out) - expected).abs();
        if error > worst {
            (worst, worst_at) = (error, i);
        }
        largest = largest.max(expected.abs());
        errors += error * error;
        squares += expected * expected;
    }
    let deviation = Deviation { max: worst / largest.max(1e-30), nmse: errors / squares.max(1e-30) };
    // One wrong value among millions hardly shows in the mean: half precision has a limit for each value too.
    let fits = match storage {
        DType::F32 => deviation.max <= case.tolerance(),
        _ => deviation.nmse <= HALF_NMSE && deviation.max <= 1e-2,
    };
    if fits {
        Ok(deviation)
    } else {
        Err(format!(
            "{case:?}: {deviation:?}, tolerance {:e}; worst at {worst_at}: {} for {}",
            case.tolerance(),
            out[worst_at],
            expected[worst_at]
        ))
    }
}

/// The table with operands and results, made once for all tests of the process.
fn solved() -> &'static [(Case, Operands, Vec<f64>)] {
    static SOLVED: LazyLock<Vec<(Case, Operands, Vec<f64>)>> = LazyLock::new(|| {
        let solve = |case: Case| {
            let operands = case.operands();
            let expected = reference(&case, &operands);
            (case, operands, expected)
        };
        table().into_iter().map(solve).collect()
    });
    &SOLVED
}

/// Runs the cases that `wanted` picks on a backend, recorded for `caps`, and reports every failure at once.
fn run_table(backend: &dyn Backend, caps: &Caps, wanted: impl Fn(&Case) -> bool) {
    run_table_with(backend, caps, Wide::default(), 1, wanted);
}

/// [`run_table`] with some tensors in f32, with each so-and-so-many-th case if not everything is tested.
fn run_table_with(backend: &dyn Backend, caps: &Caps, wide: Wide, every: usize, wanted: impl Fn(&Case) -> bool) {
    let mut failures = Vec::new();
    for (case, operands, expected) in part::of(every, solved().iter().filter(|(case, ..)| wanted(case))) {
        let start = Instant::now();
        let (out, stored) = run_case(backend, caps, case, operands, wide);
        let seconds = start.elapsed().as_secs_f64();
        match check(case, stored, &out, expected) {
            Ok(d) => {
                println!("{:9.1e} of {:8.1e}, nmse {:8.1e}, {seconds:6.3} s  {case:?}", d.max, case.tolerance(), d.nmse)
            }
            Err(failure) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "{} on {}:\n{}", failures.len(), caps.name, failures.join("\n"));
}

#[test]
fn host() {
    let backend = HostBackend::default();
    run_table(&backend, backend.caps(), |_| true);
}

#[test]
fn gpu_with_single_precision() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    run_table(&backend, backend.caps(), |_| true);
}

/// Storage only changes how values are loaded and stored, so one case of several alike is enough: compiling takes most of
/// the time on a software driver.
#[test]
fn gpu_with_half_precision() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    run_table(&backend, backend.caps(), |case| match case {
        Case::Matmul { stored, .. } | Case::Conv2d { stored, .. } => *stored == DType::F16,
        Case::Attention { fused, spread, .. } => *fused || *spread > 1.0,
        _ => true,
    });
}

/// Every product whose sums are whole blocks long, with weights in blocks: exactly the values that the definition gives, so the
/// limits are those of f32. Cheap cases in f16 too, and with only what WebGPU guarantees.
fn run_blocks(backend: &dyn Backend, most: usize) {
    run_blocks_for(backend, backend.caps(), most, 1);
}

/// [`run_blocks`], recorded for `caps`, with each so-and-so-many-th case if not everything is tested.
fn run_blocks_for(backend: &dyn Backend, caps: &Caps, most: usize, every: usize) {
    let cases = table().into_iter().flat_map(|case| [DType::Q8_0, DType::Q4_0].map(|stored| case.in_blocks(stored)));
    let (mut failures, mut checked) = (Vec::new(), 0);
    for case in part::of(every, cases.flatten().filter(|case| case.operands().of("weight").len() <= most)) {
        let operands = case.operands();
        let expected = reference(&case, &operands);
        let (out, stored) = run_case(backend, caps, &case, &operands, Wide::default());
        failures.extend(check(&case, stored, &out, &expected).err());
        checked += 1;
    }
    assert!(failures.is_empty(), "{} on {}:\n{}", failures.len(), backend.caps().name, failures.join("\n"));
    assert!(checked * part::step(every) >= 10, "only {checked} cases have whole blocks");
}

#[test]
fn blocks_on_the_host() {
    run_blocks(&HostBackend::default(), usize::MAX);
}

#[test]
fn blocks_on_the_gpu() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    run_blocks_for(&backend, backend.caps(), usize::MAX, 2);
}

#[test]
fn blocks_in_shared_tiles() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    let caps = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
    run_blocks_for(&backend, &caps, 60_000, 2);
}

#[test]
fn blocks_on_the_gpu_with_half_precision() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    run_blocks_for(&backend, backend.caps(), 300_000, 3);
}

#[test]
fn blocks_on_the_gpu_with_only_what_webgpu_guarantees() {
    run_blocks(&adapter::open_restricted(), 300_000);
}

/// What a network mixes: a norm of an f32 stream, a product added to one, a joined skip. Results in f32 must be as near as
/// in single precision, since all operands are exact in both types.
#[test]
fn gpu_with_mixed_precision() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    // GPUs' kernels round weights of attention, and short sums, to f16 whatever the result's type is.
    let caps = &Caps { kind: AdapterKind::Software, ..backend.caps().clone() };
    for wide in [&["x", "q", "qkv", "a"] as &[_], &["k", "v", "b"], &["residual", "image_add"], &["out"]].map(Wide) {
        run_table_with(&backend, caps, wide, 4, |case| {
            let operands = case.operands().0;
            let concerned = wide.0 == ["out"] || operands.iter().any(|(name, _)| wide.0.contains(name));
            concerned && operands.iter().all(|(_, values)| values.len() <= 20_000)
        });
    }
}

/// No optional feature and 16 KiB of workgroup memory: attention has smaller tiles, weights are unpacked by bits.
#[test]
fn gpu_with_only_what_webgpu_guarantees() {
    let backend = adapter::open_restricted();
    run_table(&backend, backend.caps(), |case| match case {
        Case::Attention { head_dim, causal, .. } => *head_dim >= 40 && !causal,
        Case::Matmul { stored, .. } => *stored == DType::F16,
        _ => false,
    });
}

/// The products and the attention of real GPUs, which a software adapter does not choose.
#[test]
fn gpu_with_shared_tiles() {
    // With 16 KiB there are fewer slices, with less none.
    for (storage, most, max_workgroup_bytes) in [
        (DType::F32, 100_000, 32 << 10),
        (DType::F16, 25_000, 32 << 10),
        (DType::F32, 25_000, 16 << 10),
        (DType::F32, 5_000, 8 << 10),
    ] {
        let backend = adapter::open_with(storage, adapter::test_options());
        let caps = &Caps {
            kind: AdapterKind::Integrated,
            matrices: Vec::new(),
            max_workgroup_bytes,
            ..backend.caps().clone()
        };
        let small = |case: &Case| case.operands().0.iter().all(|(_, values)| values.len() <= most);
        let attends = |case: &Case| matches!(case, Case::Attention { .. }) && small(case);
        run_table_with(&backend, caps, Wide::default(), 2, |case| is_product(most)(case) || attends(case));
    }
}

/// What GPUs of Intel's are given: values of f16 in words, loops that are kept apart, fewer sums of an invocation.
#[test]
fn gpu_of_intel() {
    for (storage, max_workgroup_bytes) in [(DType::F16, 32 << 10), (DType::F16, 16 << 10), (DType::F32, 32 << 10)] {
        let backend = adapter::open_with(storage, adapter::test_options());
        let caps = &Caps {
            kind: AdapterKind::Integrated,
            vendor: Vendor::Intel,
            max_workgroup_bytes,
            ..backend.caps().clone()
        };
        let small = |case: &Case| case.operands().0.iter().all(|(_, values)| values.len() <= 25_000);
        let attends = |case: &Case| matches!(case, Case::Attention { .. }) && small(case);
        run_table_with(&backend, caps, Wide::default(), 3, |case| is_product(25_000)(case) || attends(case));
    }
}

/// Cooperative matrices, where the device has them; a software adapter does not choose them by itself.
#[test]
fn gpu_with_cooperative_matrices() {
    let adapter = adapter::test_adapter();
    if adapter.caps.matrix_size().is_none() {
        println!("{adapter} has no cooperative matrices: nothing was checked");
        return;
    }
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    let caps = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
    run_table(&backend, &caps, is_product(1_000_000));
    // Blocks are rounded to f16, which shows where all else is f32.
    let rounded = |case: &Case| matches!(case, Case::Geglu { stored, .. } if stored.is_quantized());
    let exact = |case: &Case| is_product(20_000)(case) && !rounded(case);
    for wide in [&["residual", "image_add"] as &[_], &["out"]].map(Wide) {
        run_table_with(&backend, &caps, wide, 1, exact);
    }
    // An x of f32 is multiplied in two parts.
    let mut checked = 0;
    for (case, operands, _) in solved().iter().filter(|(case, ..)| exact(case)) {
        let operands = operands.finer("x");
        let (out, stored) = run_case(&backend, &caps, case, &operands, Wide(&["x", "out"]));
        assert_eq!(stored, DType::F32);
        check(case, stored, &out, &reference(case, &operands)).unwrap_or_else(|failure| panic!("{failure}"));
        checked += 1;
    }
    assert!(checked > 5, "{checked} cases");
    // As Metal loads them.
    run_table(&backend, &Caps { matrix_quads: false, ..caps }, is_product(60_000));
}

/// Attention in cooperative matrices, of f16 operands and of f32 ones in two parts, as Vulkan and as Metal load them.
#[test]
fn gpu_attention_in_cooperative_matrices() {
    let adapter = adapter::test_adapter();
    if adapter.caps.matrix_size().is_none() {
        println!("{adapter} has no cooperative matrices: nothing was checked");
        return;
    }
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    let caps = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
    let attends = |most: usize| {
        move |case: &Case| {
            matches!(case, Case::Attention { .. }) && case.operands().0.iter().all(|(_, values)| values.len() <= most)
        }
    };
    run_table(&backend, &caps, attends(1_000_000));
    for wide in [&["q"] as &[_], &["k", "v"], &["q", "k", "v", "qkv"]].map(Wide) {
        run_table_with(&backend, &caps, wide, 1, attends(60_000));
    }
    run_table(&backend, &Caps { matrix_quads: false, ..caps.clone() }, attends(60_000));
    // As near as in f32, where operands and results are.
    let mut checked = 0;
    for (case, operands, _) in solved().iter().filter(|(case, ..)| attends(60_000)(case)) {
        let finer = operands.0.iter().fold(operands.clone(), |finer, (name, _)| finer.finer(name));
        let (out, stored) = run_case(&backend, &caps, case, &finer, Wide(&["q", "k", "v", "qkv", "out"]));
        assert_eq!(stored, DType::F32);
        check(case, stored, &out, &reference(case, &finer)).unwrap_or_else(|failure| panic!("{failure}"));
        checked += 1;
    }
    assert!(checked > 5, "{checked} cases");
}

/// Every tile that `chiaro tune` could choose on a GPU, and on a software adapter.
#[test]
fn gpu_with_every_tile() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    let software = Caps { kind: AdapterKind::Software, ..backend.caps().clone() };
    let gpu = Caps { kind: AdapterKind::Integrated, max_workgroup_bytes: 64 << 10, ..software.clone() };
    // Workgroups that the device has no room for are not chosen.
    let gpu = Caps { max_workgroup_bytes: gpu.max_workgroup_bytes.min(software.max_workgroup_bytes), ..gpu };
    let mut seen = BTreeSet::new();
    for caps in [software, gpu] {
        // Each compiles a kernel of its own.
        for (case, operands, expected) in solved()
            .iter()
            .filter(|(case, ..)| is_product(6_000)(case))
            .step_by(if part::everything() { 5 } else { 11 })
        {
            let plain = case.record(&caps, operands, Wide::default()).unwrap_or_else(|e| panic!("{case:?}: {e}"));
            let trial = Trial::of(&plain).into_iter().next().unwrap_or_else(|| panic!("{case:?} is a product"));
            for tile in trial.tiles(&caps) {
                let mut tuning = Tuning::default();
                tuning.set(trial.key(), tile.as_str());
                let tuned = Caps { tuning: tuning.into(), ..caps.clone() };
                let (out, stored) = run_case(&backend, &tuned, case, operands, Wide::default());
                check(case, stored, &out, expected).unwrap_or_else(|failure| panic!("{tile}: {failure}"));
                seen.insert(tile);
            }
        }
    }
    assert!(seen.len() >= 15, "{seen:?}");
}

/// Every tile of packed f16, and that f32 does not have them: sums of four products of f16 are more than it allows.
#[test]
fn gpu_with_packed_tiles_of_every_size() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    let kind = AdapterKind::Integrated;
    let half = Caps { kind, vendor: Vendor::Other, matrices: Vec::new(), ..backend.caps().clone() };
    let packed = |caps: &Caps, case: &Case, operands: &Operands| {
        let plain = case.record(caps, operands, Wide::default()).unwrap_or_else(|e| panic!("{case:?}: {e}"));
        let trial = Trial::of(&plain).into_iter().next().unwrap_or_else(|| panic!("{case:?} is a product"));
        let tiles: Vec<_> = trial.tiles(caps).into_iter().filter(|tile| tile.starts_with("packed")).collect();
        (trial, tiles)
    };
    let mut seen = BTreeSet::new();
    for (case, operands, expected) in solved().iter().filter(|(case, ..)| is_product(12_000)(case)) {
        let single = Caps { storage: DType::F32, ..half.clone() };
        assert!(packed(&single, case, operands).1.is_empty(), "{case:?}");
        let (trial, tiles) = packed(&half, case, operands);
        // Each compiles a kernel of its own; a tile is checked with the first product that has it.
        for tile in tiles.into_iter().filter(|tile| seen.insert(tile.clone())) {
            let mut tuning = Tuning::default();
            tuning.set(trial.key(), tile.as_str());
            let tuned = Caps { tuning: tuning.into(), ..half.clone() };
            let (out, stored) = run_case(&backend, &tuned, case, operands, Wide::default());
            check(case, stored, &out, expected).unwrap_or_else(|failure| panic!("{tile}: {failure}"));
        }
    }
    assert!(seen.len() >= 7, "{seen:?}");
}

/// Products whose operands have at most so many values each.
fn is_product(most: usize) -> impl Fn(&Case) -> bool {
    move |case| {
        matches!(case, Case::Matmul { .. } | Case::Conv2d { .. } | Case::Geglu { .. })
            && case.operands().0.iter().all(|(_, values)| values.len() <= most)
    }
}

/// Attention of real GPUs whose operands do and do not have one type: heads that fit workgroup memory whole only in f16, many keys, and scores
/// in the thousands.
#[test]
fn gpu_with_shared_tiles_of_mixed_types() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    let caps = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
    for wide in [&[] as &[_], &["q"], &["k", "v"], &["v"], &["q", "k", "v", "qkv"]].map(Wide) {
        run_table_with(&backend, &caps, wide, 2, |case| match case {
            Case::Attention { head_dim, t_q, t_k, fused, spread, .. } => {
                let every_mixture = *spread > 1.0 || *head_dim == 160 || *head_dim == 36;
                every_mixture && !fused || wide.0.is_empty() && head_dim * t_q.max(t_k) <= 170_000
            }
            _ => false,
        });
    }
}

/// A few workgroups per dimension, so that the grids of small cases fold as those of huge ones do.
#[test]
fn gpu_with_folded_grids() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    let caps = Caps { max_workgroups: 3, ..backend.caps().clone() };
    let folds = |case: &Case| {
        matches!(
            case,
            Case::LayerNorm { .. }
                | Case::Elementwise { .. }
                | Case::Concat { .. }
                | Case::AddScaled { .. }
                | Case::GroupNorm { .. }
        )
    };
    run_table(&backend, &caps, folds);
}

#[test]
fn one_wrong_value_is_noticed() {
    let backend = HostBackend::default();
    for case in table() {
        let expected = vec![1.0; 1000];
        for storage in [DType::F32, DType::F16] {
            let mut out = vec![1.0f32; 1000];
            assert!(check(&case, storage, &out, &expected).is_ok());
            for wrong in [1.05, -1.0, 0.0, f32::NAN, f32::INFINITY] {
                out[617] = wrong;
                assert!(
                    check(&case, storage, &out, &expected).is_err(),
                    "{case:?}: {wrong} for 1 passes as {storage:?}"
                );
            }
        }
    }
    let case = Case::Elementwise { x: Shape::tokens(3, 7, 8), activation: Activation::Gelu };
    let operands = case.operands();
    let (mut out, _) = run_case(&backend, backend.caps(), &case, &operands, Wide::default());
    let expected = reference(&case, &operands);
    assert!(check(&case, DType::F32, &out, &expected).is_ok());
    assert!(check(&case, DType::F32, &out[1..], &expected).is_err(), "a missing value passes");
    let at = out.iter().position(|v| v.abs() > 0.5).expect("a value of some size");
    out[at] *= 1.001;
    assert!(check(&case, DType::F32, &out, &expected).is_err(), "an error of 0.1 % passes");
}
