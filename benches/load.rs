//! Bytes of weights per second from a warm page cache to the device, next to a plain copy of as many bytes in memory in the same
//! run: into memory that is there, and into memory that is new, as a device's buffers are.
//!
//! `CHIARO_BENCH_DEVICES=cpu,llvmpipe CHIARO_BENCH_MIB=256 cargo bench --bench load`

mod support;

use std::sync::Arc;

use chiaro::gpu::{GpuBackend, GpuOptions, choose_adapter};
use chiaro::nn::Linear;
use chiaro::ops::Epilogue;
use chiaro::record::{Backend, DType, HostBackend, Recording, Shape};
use chiaro::weights::{WeightFile, WeightType, Weights};

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
