//! Where a network runs, how close its results must be, and how goldens are read for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::record::{Backend, DType, HostBackend, Outputs, Recording};
use chiaro::weights::{WeightFile, WeightType, Weights};

use crate::support::adapter;
use crate::support::golden::{Golden, compare, root};

/// A backend, and what it may differ by.
pub(super) struct Bench {
    pub(super) backend: Box<dyn Backend>,
    limit: Limit,
}

enum Limit {
    /// Ten times the distance of the reference's f32 run to its f64 run, or 1e-5 of the largest value.
    Golden,
    /// Mean squared error over mean square, for results kept in half precision.
    Nmse(f64),
}

impl Bench {
    pub(super) fn host() -> Self {
        Bench { backend: Box::new(HostBackend::default()), limit: Limit::Golden }
    }

    pub(super) fn gpu() -> Self {
        Bench { backend: Box::new(adapter::open(DType::F32)), limit: Limit::Golden }
    }

    pub(super) fn gpu_half() -> Self {
        Bench { backend: Box::new(adapter::open(DType::F16)), limit: Limit::Nmse(1e-5) }
    }

    pub(super) fn run(&self, recording: Recording, inputs: &[(&str, &[f32])]) -> Outputs {
        let mut program = self.backend.compile(recording).unwrap_or_else(|e| panic!("compile: {e}"));
        program.run(inputs).unwrap_or_else(|e| panic!("run: {e}"))
    }

    /// Compares with a golden, whose channels may lie first.
    pub(super) fn check(&self, golden: &Golden, name: &str, got: &[f32]) {
        let want = channels_last(golden, name);
        self.check_values(name, got, &want, golden.tolerance(name));
    }

    pub(super) fn check_values(&self, name: &str, got: &[f32], want: &[f32], tolerance: f64) {
        let verdict = match self.limit {
            Limit::Golden => compare(name, got, want, tolerance).map(|worst| worst / tolerance),
            Limit::Nmse(limit) => nmse(name, got, want, limit).map(|error| error / limit),
        };
        match verdict {
            Ok(share) if std::env::var_os("CHIARO_TEST_VERBOSE").is_some() => {
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
            if let Some(want) = Expected::of(golden, prefix, tap) {
                self.check_values(&format!("{prefix}{tap}"), &outputs[tap], &want.values, want.tolerance);
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

/// What a tap must hold; where an epilogue was fused, put together from goldens.
struct Expected {
    values: Vec<f32>,
    tolerance: f64,
    used: Vec<String>,
}

impl Expected {
    fn of(golden: &Golden, prefix: &str, tap: &str) -> Option<Self> {
        let one = |name: &str| {
            let name = format!("{prefix}{name}");
            golden.has(&name).then(|| Expected {
                values: channels_last(golden, &name),
                tolerance: golden.tolerance(&name),
                used: vec![name],
            })
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

fn nmse(what: &str, got: &[f32], want: &[f32], limit: f64) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let error = error / want.iter().map(|&w| square(w)).sum::<f64>().max(f64::MIN_POSITIVE);
    // Not `error > limit`: that lets NaN pass.
    if error <= limit { Ok(error) } else { Err(format!("{what}: NMSE {error:.3e}, allowed {limit:.0e}")) }
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
