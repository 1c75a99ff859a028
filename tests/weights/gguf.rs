//! GGUF files: the values that ggml's own package finds, blocks that reach the device as they are, and headers that lie.

use std::sync::Arc;

use chiaro::record::{DType, quantize};
use chiaro::weights::{BlockType, FileFormat, StoredType, TensorSet, WeightFile, WeightType, Weights};
use safetensors::SafeTensors;

use super::values;
use crate::support::gguf_file::{Tensor, gguf, q4_0, q8_0};
use crate::support::golden::committed;

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(committed().join("formats").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn open(bytes: Vec<u8>) -> Arc<WeightFile> {
    Arc::new(WeightFile::from_bytes(bytes, "bytes").unwrap_or_else(|e| panic!("{e}")))
}

fn matrix(file: &Arc<WeightFile>, name: &str, shape: [usize; 2], weight_type: WeightType) -> (DType, Vec<f32>) {
    let w = Weights::new(Arc::clone(file), "m", weight_type);
    let constant = w.matrix(name, shape).unwrap_or_else(|e| panic!("{name}: {e}"));
    (constant.dtype, values(&constant))
}

/// Every type against `gguf.dequantize`, bit for bit.
#[test]
fn every_type_gives_the_reference_values() {
    let file = open(golden("types.gguf"));
    assert_eq!(file.format(), FileFormat::Gguf);
    let expected = golden("types.safetensors");
    let expected = SafeTensors::deserialize(&expected).expect("safetensors");
    let mut types = Vec::new();
    for (name, want) in expected.tensors() {
        let want: Vec<f32> = bytemuck::pod_collect_to_vec(want.data());
        let stored = &file.tensors()[&name];
        let got = if name == "vector" {
            assert_eq!(stored.shape, [512]);
            let constant = Weights::new(Arc::clone(&file), "m", WeightType::Keep).vector(&name, 512);
            values(&constant.unwrap_or_else(|e| panic!("{e}")))
        } else if name == "conv" {
            assert_eq!(stored.shape, [16, 32, 3, 1]);
            let whole =
                TensorSet::from(Arc::clone(&file)).tensors()[&name].reshaped(&[16, 96]).expect("as many values");
            let set = TensorSet::new("rows", [(name.clone(), whole)].into());
            let constant = Weights::new(set, "m", WeightType::Keep).matrix(&name, [16, 96]);
            values(&constant.unwrap_or_else(|e| panic!("{e}")))
        } else {
            assert_eq!((stored.shape.as_slice(), stored.dtype.to_string()), ([3, 512].as_slice(), name.clone()));
            types.push(name.clone());
            // Rows are filled up to a multiple of 4.
            matrix(&file, &name, [3, 512], WeightType::Keep).1[..3 * 512].to_vec()
        };
        let differs = got.iter().zip(&want).position(|(g, w)| g.to_bits() != w.to_bits() && g != w);
        assert_eq!((got.len(), differs), (want.len(), None), "{name}");
        assert!(want.iter().any(|v| *v != 0.0), "{name}: all zeros prove nothing");
        let table = Weights::new(Arc::clone(&file), "m", WeightType::Keep);
        if stored.shape.len() == 2 {
            let row = table.table(&name, [3, 512]).and_then(|table| table.row(1)).unwrap_or_else(|e| panic!("{e}"));
            assert!(row == want[512..1024], "{name}: a row alone");
        }
    }
    types.sort();
    assert_eq!(types.join(" "), "BF16 F16 F32 Q2_K Q3_K Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0");
    // The same in version 2.
    let mut older = golden("types.gguf");
    older[4] = 2;
    assert_eq!(open(older).tensors().len(), file.tensors().len());
}

/// Which weight types keep a file's blocks; what is kept is not rounded a second time.
#[test]
fn blocks_are_kept() {
    let file = open(golden("types.gguf"));
    let exact = |name: &str| matrix(&file, name, [3, 512], WeightType::Keep).1;
    for (name, weight_type, wanted) in [
        ("Q8_0", WeightType::Keep, DType::Q8_0),
        ("Q8_0", WeightType::KeepBlocks, DType::Q8_0),
        ("Q8_0", WeightType::Q8_0, DType::Q8_0),
        ("Q8_0", WeightType::F16, DType::F16),
        ("Q4_0", WeightType::Keep, DType::Q4_0),
        ("Q4_0", WeightType::KeepBlocks, DType::Q4_0),
        ("Q4_0", WeightType::Q8_0, DType::Q4_0),
        ("Q4_0", WeightType::Q4_0, DType::Q4_0),
        ("Q4_0", WeightType::F16, DType::F16),
        ("Q5_1", WeightType::Keep, DType::F32),
        ("Q5_1", WeightType::KeepBlocks, DType::F16),
        ("F16", WeightType::KeepBlocks, DType::F16),
    ] {
        let (dtype, got) = matrix(&file, name, [3, 512], weight_type);
        assert_eq!(dtype, wanted, "{name} as {weight_type:?}");
        if dtype.is_quantized() {
            assert!(got == exact(name), "{name} as {weight_type:?}: other values");
            assert!(got[3 * 512..].iter().all(|v| *v == 0.0), "{name}: rows that fill up are zeros");
        }
    }
    // A file's bytes are smaller than these are long; asked for half-bytes, they are made anew.
    assert_eq!(matrix(&file, "Q8_0", [3, 512], WeightType::Q4_0).0, DType::F16, "1536 values are too few to quantise");
}

/// Matrices below each other stay blocks if all are; a convolution whose taps change places does not.
#[test]
fn what_is_moved_is_widened() {
    let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 0.71).sin()).collect();
    let tensors = [
        Tensor::new("q", 8, &[64, 64], q8_0(&x)),
        Tensor::new("k", 8, &[64, 64], q8_0(&x)),
        Tensor::new("v", 2, &[64, 64], q4_0(&x)),
        Tensor::new("conv", 8, &[8, 32, 4, 4], q8_0(&x)),
        Tensor::new("one", 8, &[128, 32, 1, 1], q8_0(&x)),
        Tensor::new("qkv", 8, &[48, 64], q8_0(&x[..48 * 64])),
    ];
    let mut tensors = tensors.to_vec();
    // ggml cannot have rows of one value; ComfyUI-GGUF keeps the extents elsewhere.
    let (conv, one) = (tensors[3].shape.clone(), tensors[4].shape.clone());
    (tensors[3].shape, tensors[4].shape) = (vec![64, 64], vec![64, 64]);
    let shapes = [("conv", conv), ("one", one)];
    let file = open(gguf(&tensors, &shapes));
    let w = Weights::new(Arc::clone(&file), "m", WeightType::Keep);
    let fused = |names: &[&str]| w.fused_matrix(names, [64, 64]).unwrap_or_else(|e| panic!("{e}"));
    let (same, mixed) = (fused(&["q", "k"]), fused(&["q", "v"]));
    assert_eq!((same.dtype, mixed.dtype), (DType::Q8_0, DType::F32));
    assert!(values(&same)[..4096] == values(&mixed)[..4096] && values(&same)[4096..] == values(&mixed)[..4096]);
    let one = w.conv("one", [128, 32], 1).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((one.dtype, one.shape.as_slice()), (DType::Q8_0, [128, 32].as_slice()));
    assert!(values(&one) == values(&same)[..4096]);
    let conv = w.conv("conv", [8, 32], 4).unwrap_or_else(|e| panic!("{e}"));
    // Value c of tap t is stored at 16 c + t.
    assert!(conv.dtype == DType::F32 && values(&conv)[32 + 5] == values(&same)[16 * 5 + 1]);
    // Parts of a matrix are its rows.
    let set = TensorSet::from(Arc::clone(&file));
    let part = set.tensors()["qkv"].part(1, 3).expect("16 rows");
    let part = Weights::new(TensorSet::new("part", [("k".into(), part)].into()), "m", WeightType::Keep);
    let part = part.matrix("k", [16, 64]).unwrap_or_else(|e| panic!("{e}"));
    assert!(part.dtype == DType::Q8_0 && values(&part) == values(&same)[1024..2048]);
    // Turned, or cut inside a block, they are values.
    let swapped = set.tensors()["q"].swapped().expect("a matrix");
    let swapped = Weights::new(TensorSet::new("swapped", [("q".into(), swapped)].into()), "m", WeightType::Keep);
    let swapped = swapped.matrix("q", [64, 64]).unwrap_or_else(|e| panic!("{e}"));
    assert!(swapped.dtype == DType::F32 && values(&swapped)[1] == values(&same)[64]);
    assert!(set.tensors()["one"].reshaped(&[256, 16]).and_then(|view| view.part(0, 256)).is_none());
}

/// The engine's own blocks of the same values, and ggml's in its layout, unpack to the same numbers.
#[test]
fn ggml_blocks_are_the_same_numbers() {
    let x: Vec<f32> = (0..4096).map(|i| (i as f32 * 1.37).sin() * (i as f32 * 0.001).exp()).collect();
    for (kind, dtype, blocks) in [(8, DType::Q8_0, q8_0(&x)), (2, DType::Q4_0, q4_0(&x))] {
        let file = open(gguf(&[Tensor::new("a", kind, &[64, 64], blocks)], &[]));
        let constant =
            Weights::new(file, "m", WeightType::Keep).matrix("a", [64, 64]).unwrap_or_else(|e| panic!("{e}"));
        let bytes = constant.data.bytes().unwrap_or_else(|e| panic!("{e}"));
        assert!(*bytes == quantize(dtype, &x).unwrap_or_else(|e| panic!("{e}")), "{dtype:?}");
    }
}

fn refusal(bytes: Vec<u8>) -> String {
    let message = WeightFile::from_bytes(bytes, "bytes").expect_err("the file is not sound").to_string();
    assert!(message.starts_with("bytes: GGUF: ") && !message.contains('\n') && message.contains(';'), "{message}");
    message
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |name: &str| Tensor::new(name, 0, &[2, 2], vec![0; 16]);
    let sound = gguf(&[tensor("a"), tensor("b")], &[]);
    assert_eq!(open(sound.clone()).tensors()["a"].dtype, StoredType::F32);
    for cut in [4, 8, 20, 30, 60, sound.len() - 1] {
        assert!(refusal(sound[..cut].to_vec()).contains("cut short"), "cut at {cut}");
    }
    assert!(refusal(gguf(&[tensor("a"), tensor("a")], &[])).contains("names a twice"));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = sound.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert!(refusal(with(4, &[1])).contains("version 2 or 3, got 1"));
    assert!(refusal(with(4, &[0, 0, 0, 3])).contains("big-endian"));
    assert!(refusal(with(8, &u64::MAX.to_le_bytes())).contains("cut short"));
    assert!(refusal(with(16, &u64::MAX.to_le_bytes())).contains("cut short"));
    // Behind the header of 24 bytes: name, number of extents, extents, type, place.
    let (extents, kind, place) = (24 + 9 + 4, 24 + 9 + 4 + 16, 24 + 9 + 4 + 16 + 4);
    assert!(refusal(with(extents, &(1u64 << 62).to_le_bytes())).contains("a: expected"));
    assert!(refusal(with(extents - 4, &[9])).contains("at most 8 extents"));
    assert!(refusal(with(kind, &[200])).contains("got number 200"));
    assert!(refusal(with(kind, &[8])).contains("blocks of 32 Q8_0, got [2, 2]"));
    assert!(refusal(with(place, &[1])).contains("multiple of 32"));
    assert!(refusal(with(place, &[32])).contains("over each other"));
    assert!(refusal(with(place, &[64])).contains("cut short"));
    assert!(refusal(gguf(&[tensor("a")], &[("a", vec![3])])).contains("as many values"));
    assert!(refusal(with(24 + 8, b"\n")).contains("printable"));
}

/// Types that no weight should have can be listed, not read.
#[test]
fn other_types_are_listed() {
    let file = open(gguf(&[Tensor::new("a", 23, &[1, 256], vec![0; 136])], &[]));
    assert_eq!(file.tensors()["a"].dtype.to_string(), "IQ4_XS");
    assert!(!file.tensors()["a"].dtype.is_readable() && StoredType::Blocks(BlockType::Q4K).is_readable());
    let message = Weights::new(file, "m", WeightType::Keep).matrix("a", [1, 256]).expect_err("not read").to_string();
    assert!(message.contains("IQ4_XS") && message.contains("Q2_K to Q8_0"), "{message}");
}
