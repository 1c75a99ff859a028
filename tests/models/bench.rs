//! Where a network runs, how close its results must be, and how goldens are read for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use chiaro::gpu::GpuBackend;
use chiaro::record::{Backend, DType, HostBackend, Outputs, Products, Recording};
use chiaro::weights::{WeightFile, WeightType, Weights};

use crate::support::adapter;
use crate::support::golden::{Golden, compare, root};

/// A backend, and what it may differ by.
pub(super) struct Bench {
    pub(super) backend: &'static dyn Backend,
    /// What half precision may cost, where something is in it.
    half: Option<Limit>,
}

/// Most mean squared error over mean square of a forward and of each block.
type Limit = f64;

/// Where networks choose what is in half precision.
const HALF_NMSE: Limit = 1e-5;

/// Where all operands of products are rounded to 8 bits of fraction: less than `q8_0` costs the network that forgives least (LCM's, one channel a group).
const BF16_NMSE: Limit = 2e-2;

impl Bench {
    pub(super) fn host() -> Self {
        static HOST: LazyLock<HostBackend> = LazyLock::new(HostBackend::default);
        Bench { backend: &*HOST, half: None }
    }

    /// The host executor with products of bf16, in the form that its processor has, or widened.
    pub(super) fn host_bf16() -> Self {
        static HOST: LazyLock<HostBackend> = LazyLock::new(|| HostBackend::new(Products::Bf16));
        Bench { backend: &*HOST, half: Some(BF16_NMSE) }
    }

    /// One device for all tests, so that a software driver compiles each kernel once.
    pub(super) fn gpu() -> Self {
        static GPU: LazyLock<GpuBackend> = LazyLock::new(|| adapter::open(DType::F32));
        Bench { backend: &*GPU, half: None }
    }

    pub(super) fn gpu_half() -> Self {
        static GPU: LazyLock<GpuBackend> = LazyLock::new(|| adapter::open(DType::F16));
        Bench { backend: &*GPU, half: Some(HALF_NMSE) }
    }

    /// Software drivers are slow, so a GPU runs the first `on_gpu` cases in single precision. The host runs all, and so does
    /// a GPU in half precision: how far that is off depends on the case.
    pub(super) fn share<T: Clone>(&self, mut cases: Vec<T>, on_gpu: usize) -> Vec<T> {
        if !self.runs_all() {
            cases.truncate(on_gpu);
        }
        cases
    }

    /// Whether every case and timestep is run.
    pub(super) fn runs_all(&self) -> bool {
        self.half.is_some() || self.backend.caps().is_host()
    }

    pub(super) fn run(&self, recording: Recording, inputs: &[(&str, &[f32])]) -> Outputs {
        self.alone(|| {
            let start = Instant::now();
            let mut program = self.backend.compile(recording).unwrap_or_else(|e| panic!("compile: {e}"));
            let compiled = Instant::now();
            let outputs = program.run(inputs).unwrap_or_else(|e| panic!("run: {e}"));
            if verbose() {
                println!("compile {:?}, run {:?}", compiled - start, compiled.elapsed());
            }
            outputs
        })
    }

    /// Runs `work` while no other test uses a backend: wgpu 30 panics when two threads wait for one device (gfx-rs/wgpu#9958 mends
    /// it).
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Compares with a golden, whose channels may lie first.
    pub(super) fn check(&self, golden: &Golden, name: &str, got: &[f32]) {
        self.check_expected(name, got, &Expected::golden(golden, name));
    }

    fn check_expected(&self, name: &str, got: &[f32], want: &Expected) {
        let verdict = match self.half {
            Some(limit) => nmse(name, got, &want.values, limit),
            None => compare(name, got, &want.values, want.tolerance).map(|worst| worst / want.tolerance),
        };
        match verdict {
            Ok(share) if verbose() => {
                println!("{name}: {:.1} % of the tolerance", 100.0 * share);
            }
            Ok(_) => {}
            Err(message) => panic!("{}: {message}", self.backend.caps().name),
        }
    }

    /// Compares every tapped result for which there is a golden, in the order of the recording, and insists that all
    /// goldens below `prefix` that satisfy `expected` were used.
    pub(super) fn check_blocks(
        &self,
        golden: &Golden,
        prefix: &str,
        taps: &[String],
        outputs: &Outputs,
        expected: impl Fn(&str) -> bool,
    ) {
        let mut used = BTreeSet::new();
        for tap in taps {
            if let Some(want) = Expected::of_tap(golden, prefix, tap) {
                self.check_expected(&format!("{prefix}{tap}"), &outputs[tap], &want);
                used.extend(want.used);
            }
        }
        let left: Vec<String> = golden
            .names()
            .into_iter()
            .filter(|name| name.strip_prefix(prefix).is_some_and(&expected) && !used.contains(name))
            .collect();
        assert!(left.is_empty(), "goldens that no tap was compared with: {left:?}");
    }
}

/// Whether to print shares of tolerances and times.
fn verbose() -> bool {
    std::env::var_os("CHIARO_TEST_VERBOSE").is_some()
}

/// What a result must hold; where an epilogue was fused, put together from goldens.
struct Expected {
    values: Vec<f32>,
    /// For f32: ten times the distance of the reference's f32 run to its f64 run, or 1e-5 of the largest value.
    tolerance: f64,
    used: Vec<String>,
}

impl Expected {
    fn golden(golden: &Golden, name: &str) -> Self {
        Expected { values: channels_last(golden, name), tolerance: golden.tolerance(name), used: vec![name.to_owned()] }
    }

    /// For a tap named as `Unet::record` says; `None` if there is no golden for it.
    fn of_tap(golden: &Golden, prefix: &str, tap: &str) -> Option<Self> {
        let one = |name: &str| {
            let name = format!("{prefix}{name}");
            golden.has(&name).then(|| Expected::golden(golden, &name))
        };
        if let Some((block, part)) = tap.strip_suffix(" + residual").and_then(|name| name.rsplit_once('.')) {
            let entry = one(&format!("{}.proj_in", block.split(".transformer_blocks").next()?))?;
            let first = entry.plus(one(&format!("{block}.attn1"))?);
            return if part == "attn1" { Some(first) } else { Some(first.plus(one(&format!("{block}.{part}"))?)) };
        }
        if let Some((first, second)) = tap.split_once(" + ") {
            return Some(one(first)?.plus(one(second)?));
        }
        if tap.contains("silu(") {
            let mut inner = one(&tap.replace("silu(", "").replace(')', ""))?;
            inner.values.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp());
            return Some(inner);
        }
        one(tap)
    }

    fn plus(mut self, other: Expected) -> Self {
        self.values.iter_mut().zip(&other.values).for_each(|(a, b)| *a += b);
        self.tolerance += other.tolerance;
        self.used.extend(other.used);
        self
    }
}

/// Mean squared error over mean square, as a share of the limit.
fn nmse(what: &str, got: &[f32], want: &[f32], limit: Limit) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let error = error / want.iter().map(|&w| square(w)).sum::<f64>().max(f64::MIN_POSITIVE);
    // Not `error >= limit`: that lets NaN pass.
    if error < limit { Ok(error / limit) } else { Err(format!("{what}: NMSE {error:.3e}, allowed {limit:.0e}")) }
}

#[test]
fn half_precision_has_a_limit() {
    let want: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
    let off = |share: f32| want.iter().map(|w| w * (1.0 + share)).collect::<Vec<f32>>();
    assert!(
        nmse("x", &off(0.003), &want, HALF_NMSE).is_ok_and(|share| (share - 0.9).abs() < 0.01),
        "0.003² is 0.9 · 1e-5"
    );
    let message = nmse("x", &off(0.0033), &want, HALF_NMSE).expect_err("0.0033² is more than 1e-5");
    assert!(message.contains("NMSE 1.089e-5"), "{message}");
    let mut broken = want.clone();
    broken[3] = f32::NAN;
    assert!(nmse("x", &broken, &want, HALF_NMSE).is_err(), "NaN passes");
    assert!(nmse("x", &want[1..], &want, HALF_NMSE).is_err(), "a missing value passes");
}

/// Images `[n, c, h, w]` as `[n, h, w, c]`; everything else as it is.
pub(super) fn channels_last(golden: &Golden, name: &str) -> Vec<f32> {
    let values = golden.f32s(name);
    let &[n, c, h, w] = golden.shape(name).as_slice() else {
        return values;
    };
    let mut out = Vec::with_capacity(values.len());
    for image in 0..n {
        for pixel in 0..h * w {
            out.extend((0..c).map(|channel| values[(image * c + channel) * h * w + pixel]));
        }
    }
    out
}

/// Images as a recording takes them: `[n, h, w, c]`, with zeros up to a multiple of 4 channels.
pub(super) fn input(golden: &Golden, name: &str) -> Vec<f32> {
    let c = golden.shape(name)[1];
    chiaro::models::layout::pad_rows(&channels_last(golden, name), c)
}

/// The families in the golden folder.
pub(super) fn families() -> Vec<String> {
    let entries = std::fs::read_dir(root()).unwrap_or_else(|e| panic!("{}: {e}", root().display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("the folder can be listed"))
        .filter(|entry| entry.path().join("golden.safetensors").is_file())
        .map(|entry| entry.file_name().into_string().expect("families have plain names"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{}: no goldens", root().display());
    names
}

/// The names of a family's goldens of the form `before` + one path component + `after`, as that component.
pub(super) fn cases(golden: &Golden, before: &str, after: &str) -> Vec<String> {
    golden
        .names()
        .iter()
        .filter_map(|name| name.strip_prefix(before)?.strip_suffix(after))
        .filter(|case| !case.contains('/'))
        .map(str::to_owned)
        .collect()
}

/// Outputs in the order of the recording.
pub(super) fn taps(recording: &Recording) -> Vec<String> {
    recording.outputs.iter().map(|output| output.name.clone()).collect()
}

pub(super) fn config_text(folder: &Path) -> (String, String) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (text, path.display().to_string())
}

pub(super) fn weights(folder: &Path, file: &str, model: &str) -> Weights {
    let path: PathBuf = folder.join(file);
    let file = WeightFile::open(path).unwrap_or_else(|e| panic!("{e}"));
    Weights::new(Arc::new(file), model, WeightType::Keep)
}
