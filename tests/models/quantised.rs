//! UNets with weights in blocks against the f32 goldens: off by what quantisation explains, and by no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use chiaro::models::{Unet, UnetConfig, names};
use chiaro::record::{BLOCK, DType, Role};
use chiaro::weights::{WeightFile, WeightType, Weights};

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

use super::bench::{Bench, channels_last, config_text, families};
use super::unet::run;
use crate::support::golden::Golden;

const FILE: &str = "diffusion_pytorch_model.safetensors";
/// Networks with random errors that a result is compared with.
const DRAWS: u64 = 2;

fn load(folder: &Path, weight_type: WeightType) -> Unet {
    let (text, origin) = config_text(folder);
    let config = UnetConfig::from_json(&text, &origin).unwrap_or_else(|e| panic!("{e}"));
    let file = WeightFile::open(folder.join(FILE)).unwrap_or_else(|e| panic!("{e}"));
    let weights = Weights::new(Arc::new(file), "unet", weight_type);
    Unet::load(config, &weights).unwrap_or_else(|e| panic!("{e}"))
}

/// Mean squared difference over mean square.
fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    error / want.iter().map(|&w| square(w)).sum::<f64>()
}

/// What a network's recording holds of one type: labels and values.
fn constants(unet: &Unet, bench: &Bench, wanted: impl Fn(DType) -> bool) -> Vec<(String, Vec<f32>)> {
    let recording = unet.record(bench.backend.caps(), 1, 16, 16, 8, false).unwrap_or_else(|e| panic!("{e}"));
    let constants = recording.tensors.iter().filter_map(|tensor| match &tensor.role {
        Role::Constant(constant) if wanted(constant.dtype) => {
            Some((constant.label.clone(), constant.values().unwrap_or_else(|e| panic!("{e}"))))
        }
        _ => None,
    });
    constants.collect()
}

/// Σ (w - ŵ)² / Σ w² when what is rounded may be off by anything up to half a step with the same probability, a mean square of a
/// twelfth of the step's. Two things are: each value to a step of its block, the largest magnitude over 127 (q8_0) or 8 (q4_0);
/// and that step to f16, by which all values of the block are off alike, and much where it is too small for a normal number.
fn expected_error(exact: &[f32], levels: f64) -> f64 {
    let squares = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    let errors = exact.chunks(BLOCK).map(|block| {
        let step = block.iter().fold(0.0f64, |most, &v| most.max(f64::from(v).abs())) / levels;
        let ulp = (step.log2().floor().max(-14.0) - 10.0).exp2();
        step * step / 12.0 * block.len() as f64 + squares(block) * (ulp / step).powi(2) / 12.0
    });
    errors.sum::<f64>() / squares(exact)
}

/// The tensors of a file that a constant is made of: `p.to_q.weight+to_k.weight` is `p.to_q.weight` and `p.to_k.weight`.
fn sources(label: &str) -> Vec<String> {
    let mut parts = label.split('+');
    let first = parts.next().expect("a label");
    let place = first.rsplitn(3, '.').nth(2).expect("a module and its weight");
    std::iter::once(first.to_owned()).chain(parts.map(|part| format!("{place}.{part}"))).collect()
}

/// A copy of a network's file in which each value of the tensors of `labels` is off by `noise` of itself, with signs that know
/// nothing of each other.
fn noisy(folder: &Path, labels: &[String], noise: f32, draw: u64) -> tempfile::TempDir {
    let bytes = std::fs::read(folder.join(FILE)).expect("the golden's weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let chosen: BTreeSet<String> = labels.iter().flat_map(|label| sources(label)).collect();
    assert!(chosen.iter().all(|name| file.tensor(name).is_ok()), "{chosen:?}");
    let mut seed = draw;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, tensor)| {
            let mut values: Vec<f32> = match tensor.dtype() {
                Dtype::F32 => bytemuck::pod_collect_to_vec(tensor.data()),
                Dtype::F16 => tensor.data().chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                other => panic!("{name}: {other:?}"),
            };
            for v in values.iter_mut().filter(|_| chosen.contains(name)) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *v *= 1.0 + if seed >> 63 == 1 { noise } else { -noise };
            }
            (name.to_owned(), tensor.shape().to_vec(), bytemuck::cast_slice(&values).to_vec())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as values"))
    });
    let copy = tempfile::tempdir().expect("a temporary folder");
    std::fs::copy(folder.join("config.json"), copy.path().join("config.json")).expect("copied");
    serialize_to_file(views, None, &copy.path().join(FILE)).expect("written");
    copy
}

/// Two bounds. Weights: what [`expected_error`] says, tensor by tensor; of few values the sum of squares scatters (a uniform
/// error's square has a relative variance of 0.8), which five standard deviations allow. Result: as far off as with random
/// errors of the same mean square in place of rounding, within a factor of five (2.3 was seen in 100 networks). That holds for errors too large to add up, as
/// q4_0's are in sensitive networks, since both are.
#[test]
fn blocks_against_the_golden() {
    let (bench, mut checked) = (Bench::host(), 0);
    for family in families() {
        let golden = Golden::open(&family);
        let folder = golden.path().join("unet");
        if !golden.has("unet/a/sample") || !load(&folder, WeightType::Keep).config().has_time() {
            continue;
        }
        let time = golden.f64s("unet/a/timesteps")[1];
        let want = channels_last(&golden, &format!("unet/a/t{time}/out"));
        let off = |unet: &Unet| {
            let (_, outputs) = run(&bench, unet, &golden, "unet/a", &[time], false);
            relative(&outputs[names::OUT], &want)
        };
        let exact = constants(&load(&folder, WeightType::Keep), &bench, |_| true);
        for (weight_type, dtype, levels) in
            [(WeightType::Q8_0, DType::Q8_0, 127.0), (WeightType::Q4_0, DType::Q4_0, 8.0)]
        {
            let unet = load(&folder, weight_type);
            let (mut labels, mut errors) = (Vec::new(), Vec::new());
            for (label, values) in constants(&unet, &bench, |stored| stored == dtype) {
                let (_, exact) = exact.iter().find(|(name, _)| *name == label).expect("the same names");
                let (error, expected) = (relative(&values, exact), expected_error(exact, levels));
                let allowed = 0.1 + 5.0 * (0.8 / exact.len() as f64).sqrt();
                assert!(
                    (error / expected - 1.0).abs() < allowed,
                    "{family} {label}: {error:.3e}, expected {expected:.3e} within {allowed:.2}"
                );
                errors.push(error);
                labels.push(label);
            }
            let error = errors.iter().sum::<f64>() / errors.len() as f64;
            let drawn = |draw| off(&load(noisy(&folder, &labels, error.sqrt() as f32, draw).path(), WeightType::Keep));
            let expected = (1..=DRAWS).map(|draw| drawn(draw).ln()).sum::<f64>() / DRAWS as f64;
            let (found, expected) = (off(&unet), expected.exp());
            println!(
                "{family} {dtype:?}: weights {error:.2e}, result {found:.2e}, {:.2} of expected",
                found / expected
            );
            assert!(
                (0.2..5.0).contains(&(found / expected)),
                "{family} {dtype:?}: {found:.3e}, random errors of the weights give {expected:.3e}"
            );
        }
        checked += 1;
    }
    assert!(checked >= 2, "only {checked} families have a UNet with such a golden");
}
