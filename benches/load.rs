//! Bytes of weights per second from a warm page cache to the device, next to a plain copy of as many bytes in memory in the same
//! run: into memory that is there, and into memory that is new, as a device's buffers are.
//!
//! Then values per second from halves in the file to each type: what streamed weights cost in every step.
//!
//! `CHIARO_BENCH_DEVICES=cpu,llvmpipe CHIARO_BENCH_MIB=256 cargo bench --bench load`

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use chiaro::gpu::{GpuBackend, GpuOptions, choose_adapter};
use chiaro::nn::Linear;
use chiaro::ops::Epilogue;
use chiaro::record::{Backend, DType, HostBackend, Recording, Shape};
use chiaro::weights::{TensorSet, TensorView, WeightFile, WeightType, Weights};

/// Each matrix is SIDE×SIDE halves: 8 MiB.
const SIDE: usize = 2048;
const MATRIX_BYTES: usize = 2 * SIDE * SIDE;

fn main() -> chiaro::Result<()> {
    let count = (support::setting("CHIARO_BENCH_MIB", 256) << 20) / MATRIX_BYTES;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, safetensors(count)).expect("writable");
    let bytes = count * MATRIX_BYTES;
    for name in support::devices() {
        let backend: Box<dyn Backend> = match choose_adapter(Some(&name).filter(|n| *n != "cpu").map(String::as_str))? {
            Some(adapter) if name != "cpu" => Box::new(GpuBackend::open(&adapter, DType::F32, GpuOptions::default())?),
            _ => Box::new(HostBackend::default()),
        };
        // Read once, so that the page cache is warm and the copy's target is there.
        let source = std::fs::read(&path).expect("readable");
        let mut target = vec![1u8; source.len()];
        let (mut copies, mut fresh, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            copies.extend(support::time(1, || {
                target.copy_from_slice(&source);
                std::hint::black_box(&mut target);
            }));
            fresh.extend(support::time(1, || {
                std::hint::black_box(source.clone());
            }));
            loads.extend(support::time(1, || load(&*backend, &path, count).expect("the weights fit the device")));
        }
        let [_, copy, _] = support::spread(copies);
        let [_, fresh, _] = support::spread(fresh);
        let [least, median, most] = support::spread(loads);
        println!(
            "{}: {} MiB in {median:.3} s ({least:.3} to {most:.3}), {:.2} GB/s; a copy in memory {:.2} GB/s, ratio {:.2}; a copy into new memory \
             {:.2} GB/s, ratio {:.2}",
            backend.caps().name,
            bytes >> 20,
            bytes as f64 / median / 1e9,
            bytes as f64 / copy / 1e9,
            copy / median,
            bytes as f64 / fresh / 1e9,
            fresh / median,
        );
    }
    convert(&path, count)
}

/// Reads every matrix, and the same bytes seen as convolutions, in each type.
fn convert(path: &std::path::Path, count: usize) -> chiaro::Result<()> {
    let file = Arc::new(WeightFile::open(path)?);
    // With 4 × 4 taps as many values as a matrix.
    let channels = [SIDE * 4, SIDE / 64];
    for weight_type in [WeightType::F16, WeightType::Q8_0, WeightType::Q4_0] {
        let weights = Weights::new(Arc::clone(&file), "convert", weight_type);
        let as_convs: BTreeMap<String, TensorView> = TensorSet::from(Arc::clone(&file))
            .tensors()
            .iter()
            .filter_map(|(name, view)| Some((name.clone(), view.reshaped(&[channels[0], channels[1], 4, 4])?)))
            .collect();
        let convs = Weights::new(TensorSet::new("convs", as_convs), "convert", weight_type);
        let names: Vec<String> = (0..count).map(|i| format!("layer_{i}.weight")).collect();
        let matrices = names.iter().map(|n| weights.matrix(n, [SIDE, SIDE])).collect::<chiaro::Result<Vec<_>>>()?;
        let convs = names.iter().map(|n| convs.conv(n, channels, 4)).collect::<chiaro::Result<Vec<_>>>()?;
        // Matrices of halves are halves as they lie.
        let matrices = Some(("matrices", matrices)).filter(|_| weight_type != WeightType::F16);
        for (what, constants) in matrices.into_iter().chain([("convolutions", convs)]) {
            let read = || {
                for constant in &constants {
                    let read = constant.checked_pieces(&mut |_, bytes| {
                        std::hint::black_box(bytes);
                        Ok(())
                    });
                    read.expect("the file is sound");
                }
            };
            let [_, median, _] = support::spread(support::time(5, read));
            let values = (count * SIDE * SIDE) as f64;
            println!("{what} of halves as {weight_type:?}: {:.2} billion values a second", values / median / 1e9);
        }
    }
    Ok(())
}

/// Opens the file and brings its weights to where they are computed with.
fn load(backend: &dyn Backend, path: &std::path::Path, count: usize) -> chiaro::Result<()> {
    let weights = Weights::new(Arc::new(WeightFile::open(path)?), "load", WeightType::F16);
    let mut recording = Recording::new(backend.caps());
    let mut x = recording.input("x", Shape::tokens(1, 1, SIDE));
    for i in 0..count {
        x = Linear::load_without_bias(&weights.at(format!("layer_{i}")), SIDE, SIDE)?.forward(
            &mut recording,
            x,
            Epilogue::default(),
        )?;
    }
    recording.output("out", x);
    backend.compile(recording).map(|_| ())
}

fn safetensors(count: usize) -> Vec<u8> {
    let entries: Vec<String> = (0..count)
        .map(|i| {
            let (from, to) = (i * MATRIX_BYTES, (i + 1) * MATRIX_BYTES);
            format!(r#""layer_{i}.weight":{{"dtype":"F16","shape":[{SIDE},{SIDE}],"data_offsets":[{from},{to}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    // Halves between 0 and 1, no two matrices alike.
    file.extend(
        (0..count * MATRIX_BYTES / 2)
            .flat_map(|i| (0x2000u16 | (i.wrapping_mul(2_654_435_761) >> 19) as u16 & 0x0fff).to_le_bytes()),
    );
    file
}
