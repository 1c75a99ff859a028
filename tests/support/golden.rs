//! Reads the reference implementation's tensors, and compares with them.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One family's `golden.json` and `golden.safetensors`.
pub(crate) struct Golden {
    folder: PathBuf,
    /// What `golden.json` says of runs and tensors.
    pub(crate) json: Value,
    bytes: Vec<u8>,
}

/// The folder of all families: `CHIARO_GOLDEN_DIR`, or `tests/golden`.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CHIARO_GOLDEN_DIR").map_or_else(committed, PathBuf::from)
}

/// The folder of the committed goldens, wherever [`root`] is: of those that are made from each other.
pub(crate) fn committed() -> PathBuf {
    Path::new(crate::ROOT).join("tests/golden")
}

impl Golden {
    /// A family by its folder's name.
    ///
    /// # Panics
    /// When its files are not there: a golden that is skipped looks like one that passed.
    pub(crate) fn open(family: &str) -> Self {
        Self::open_in(&root(), family)
    }

    /// A family in a folder of families.
    pub(crate) fn open_in(root: &Path, family: &str) -> Self {
        let folder = root.join(family);
        let read = |name: &str| {
            std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{}: {e}", folder.join(name).display()))
        };
        // Python writes infinities as words, which JSON has not.
        let text = String::from_utf8(read("golden.json")).expect("golden.json is text");
        let text = text.replace(": -Infinity", ": null").replace(": Infinity", ": null").replace(": NaN", ": null");
        let json = serde_json::from_str(&text).expect("golden.json is JSON");
        let golden = Golden { json, bytes: read("golden.safetensors"), folder };
        assert!(!golden.names().is_empty(), "{family}: no tensors");
        golden
    }

    /// The family's folder, which holds its model.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.clone()
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("golden.safetensors is whole")
    }

    /// All tensor names, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Whether a tensor is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    /// A tensor's extents.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.file().tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    /// A tensor as f64, whatever its type.
    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(data).into_iter().map(f64::from).collect(),
            Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(data),
            Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(data).into_iter().map(f64::from).collect(),
            Dtype::BF16 => bytemuck::pod_collect_to_vec::<u8, half::bf16>(data).into_iter().map(f64::from).collect(),
            Dtype::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(data).into_iter().map(f64::from).collect(),
            Dtype::I64 => bytemuck::pod_collect_to_vec::<u8, i64>(data).into_iter().map(|v| v as f64).collect(),
            Dtype::U8 => data.iter().map(|&v| f64::from(v)).collect(),
            other => panic!("{name}: {other:?} is not read"),
        }
    }

    /// A tensor as f32.
    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.f64s(name).into_iter().map(|v| v as f32).collect()
    }

    /// How far the stored f32 result is from an f64 run of the same computation; 0 when not stated.
    pub(crate) fn f64_max_abs_diff(&self, name: &str) -> f64 {
        self.json["tensors"][name]["f64_max_abs_diff"].as_f64().unwrap_or(0.0)
    }

    /// What an f32 forward may differ by: 10 times that, or 1e-5 of the largest value.
    pub(crate) fn tolerance(&self, name: &str) -> f64 {
        let largest = self.f64s(name).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        (10.0 * self.f64_max_abs_diff(name)).max(1e-5 * largest)
    }

    /// The runs that `golden.json` describes.
    pub(crate) fn runs(&self) -> Vec<(String, Value)> {
        let runs = self.json["runs"].as_object().expect("golden.json has runs");
        runs.iter().map(|(name, run)| (name.clone(), run.clone())).collect()
    }
}

/// The largest difference, or what is wrong: another length, NaN, or a difference above `tolerance`.
pub(crate) fn compare(what: &str, got: &[f32], want: &[f32], tolerance: f64) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    let mut worst = (0usize, 0.0f64);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(*g) - f64::from(*w)).abs();
        if difference.is_nan() || difference > worst.1 {
            worst = (i, if difference.is_nan() { f64::INFINITY } else { difference });
        }
    }
    if worst.1 > tolerance {
        let (i, d) = worst;
        return Err(format!("{what}: differs by {d:.3e} at {i} ({} for {}), allowed {tolerance:.3e}", got[i], want[i]));
    }
    Ok(worst.1)
}

/// [`compare`], failing the test.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    if let Err(message) = compare(what, got, want, tolerance) {
        panic!("{message}");
    }
}

#[test]
fn the_checker_finds_one_wrong_value() {
    let want: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let mut got = want.clone();
    assert!(compare("same", &got, &want, 0.0).is_ok());
    got[57] += 0.01;
    let message = compare("x", &got, &want, 0.005).expect_err("one value is off");
    assert!(message.contains("at 57"), "{message}");
    assert!(compare("x", &got, &want, 0.02).is_ok());
    got[57] = f32::NAN;
    assert!(compare("x", &got, &want, 1e9).is_err());
    assert!(compare("x", &got[..99], &want, 1e9).is_err());
}
