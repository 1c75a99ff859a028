//! Checkpoint files: what is wrong with them is said in one line that names the file and what to do.

mod elements;
mod gguf;
mod pieces;
mod shards;
mod torch;

use std::path::PathBuf;
use std::sync::Arc;

use chiaro::record::{Constant, DType};
use chiaro::weights::{WeightFile, WeightType, Weights};
use half::{bf16, f16};

/// A file of named tensors: (name, dtype, shape, bytes).
pub(crate) fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let range = [data.len(), data.len() + bytes.len()];
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{range:?}}}"#));
        data.extend_from_slice(bytes);
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn counting(len: usize) -> Vec<f32> {
    (0..len).map(|v| v as f32 + 1.0).collect()
}

pub(crate) fn file(bytes: Vec<u8>) -> Arc<WeightFile> {
    Arc::new(WeightFile::from_static(bytes.leak(), "bytes").unwrap_or_else(|e| panic!("{e}")))
}

pub(crate) fn values(constant: &Constant) -> Vec<f32> {
    constant.values().unwrap_or_else(|e| panic!("{e}"))
}

/// Opens bytes as a file on disk and gives the message, which must be one line that starts with the file's path.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).expect("the file is written");
    let message = WeightFile::open(&path).expect_err("the file is not sound").to_string();
    assert!(message.starts_with(&path.display().to_string()), "{message}");
    assert!(!message.contains('\n') && message.contains(';'), "one line with a remedy: {message}");
    message
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    let sound = safetensors(&[("a", "F32", &[2, 2], f32s(&counting(4)))]);
    for cut in [0, 4, 8, 20, sound.len() - 5, sound.len() - 1] {
        assert!(refusal(&sound[..cut]).contains("cut short"), "cut at {cut}");
    }
    let longer = [sound.as_slice(), b"tail"].concat();
    assert!(refusal(&longer).contains("do not agree"));
    assert!(refusal(b"PK\x03\x04 and so on, more than eight bytes").contains("PyTorch"));
    assert!(refusal(b"\x80\x02}q\x00. and so on").contains("outside an archive"));
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("git lfs pull"));
    assert!(refusal(b"GGUF\x03\0\0\0\0\0\0\0").contains("GGUF"));
    assert!(refusal(b"<!DOCTYPE html><html></html>").contains("an HTML page, not the file"));
    assert!(refusal(&with_header("not json at all", &[])).contains("damaged"));
    assert!(refusal(&with_header("[1, 2]", &[])).contains("damaged"));
    assert!(refusal(&u64::MAX.to_le_bytes()).contains("header"));

    let missing = PathBuf::from("/nowhere/at/all.safetensors");
    let message = WeightFile::open(&missing).expect_err("there is no such file").to_string();
    assert!(message.starts_with("/nowhere/at/all.safetensors"), "{message}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = WeightFile::open(folder.path()).expect_err("a folder is no file").to_string();
    assert!(message.contains("folder"), "{message}");
}

#[test]
fn headers_that_lie_are_refused() {
    let entry =
        |name: &str, range: [usize; 2]| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":{range:?}}}"#);
    let overlapping = format!("{{{},{}}}", entry("a", [0, 8]), entry("b", [4, 12]));
    refusal(&with_header(&overlapping, &[0; 12]));
    let outside = format!("{{{}}}", entry("a", [0, 8]));
    refusal(&with_header(&outside, &[0; 4]));
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}"#;
    refusal(&with_header(huge, &[0; 8]));
    let twice = format!("{{{},{}}}", entry("a", [0, 8]), entry("a", [0, 8]));
    assert!(refusal(&with_header(&twice, &[0; 8])).contains("a twice"));
}

#[test]
fn wrong_shapes_and_types_name_the_tensor() {
    let file = file(safetensors(&[
        ("mid.proj_in.weight", "F32", &[2, 2, 1, 1], f32s(&counting(4))),
        ("whole", "I64", &[4], vec![0; 32]),
        ("double", "F64", &[1], vec![0; 8]),
    ]));
    let w = Weights::new(file, "unet", WeightType::Keep);
    let at = w.at("mid").at("proj_in").with_remedy("set use_linear_projection = false");
    let message = at.matrix("weight", [2, 2]).expect_err("it is a convolution").to_string();
    assert_eq!(
        message,
        "unet: mid.proj_in.weight: expected [2, 2], file has [2, 2, 1, 1]; set use_linear_projection = false"
    );
    for (name, len, dtype) in [("whole", 4, "I64"), ("double", 1, "F64")] {
        let message = w.vector(name, len).expect_err("the type is not read").to_string();
        assert!(message.contains(name) && message.contains(dtype), "{message}");
    }
}

#[test]
fn accounting_lists_missing_and_unknown_together() {
    let file = file(safetensors(&[
        ("a.weight", "F32", &[4, 4], f32s(&counting(16))),
        ("text_model.embeddings.position_ids", "I64", &[1, 1], vec![0; 8]),
        ("z.extra", "F16", &[2], vec![0; 4]),
    ]));
    let w = Weights::new(Arc::clone(&file), "unet", WeightType::Keep);
    w.at("a").matrix("weight", [4, 4]).unwrap_or_else(|e| panic!("{e}"));
    w.finish(&["z.extra", "text_model.embeddings.position_ids"]).unwrap_or_else(|e| panic!("{e}"));

    let absent = w.at("b").vector("bias", 3).unwrap_or_else(|e| panic!("{e}"));
    assert!(absent.data.bytes().is_err(), "nothing stands in for a missing tensor when it is used");
    for i in 0..10 {
        w.at("c").at(i).conv("weight", [4, 4], 3).unwrap_or_else(|e| panic!("{e}"));
    }
    let message = w.finish(&["text_model.embeddings.position_ids"]).expect_err("much is wrong").to_string();
    for part in
        ["unet: bytes: 11 tensors are missing (b.bias [3], c.0.weight [4, 4, 3, 3]", "and 3 more", "z.extra [2]"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains('\n') && !message.contains("position_ids"), "{message}");
}

#[test]
fn layouts_and_padding() {
    let file = file(safetensors(&[
        ("conv", "F32", &[2, 3, 2, 2], f32s(&counting(24))),
        ("one", "F32", &[2, 3, 1, 1], f32s(&counting(6))),
        ("q", "F32", &[2, 4], f32s(&counting(8))),
        ("k", "F32", &[2, 4], f32s(&[-1.0; 8])),
        ("bias", "F32", &[3], f32s(&counting(3))),
        ("table", "F16", &[2, 3], counting(6).iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
    ]));
    let w = Weights::new(file, "m", WeightType::Keep);
    let conv = w.conv("conv", [2, 3], 2).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(conv.shape, [4, 2, 2, 4]);
    // Stored [o, i, y, x]; channel c of tap t of output 0 is 1 + 4 c + t.
    let packed = values(&conv);
    assert_eq!(packed[..8], [1.0, 5.0, 9.0, 0.0, 2.0, 6.0, 10.0, 0.0]);
    assert_eq!(packed[16..20], [13.0, 17.0, 21.0, 0.0]);
    assert!(packed[32..].iter().all(|&v| v == 0.0));

    let one = w.conv("one", [2, 3], 1).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(one.shape, [4, 4]);
    assert_eq!(values(&one)[..8], [1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
    let fused = w.fused_matrix(&["q", "k"], [2, 4]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((fused.shape.as_slice(), values(&fused)[7..9].to_vec()), ([4, 4].as_slice(), vec![8.0, -1.0]));
    let bias = w.vector("bias", 3).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(values(&bias), [1.0, 2.0, 3.0, 0.0]);
    let table = w.table("table", [2, 3]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(table.row(1).unwrap_or_else(|e| panic!("{e}")), [4.0, 5.0, 6.0]);
    assert!(table.row(2).is_err());
    w.finish(&[]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn element_types() {
    let halves: Vec<u8> = counting(16).iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> = counting(16).iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    let mut large = counting(16);
    large[3] = 1e6;
    let file = file(safetensors(&[
        ("f16", "F16", &[4, 4], halves),
        ("bf16", "BF16", &[4, 4], brains),
        ("f32", "F32", &[4, 4], f32s(&counting(16))),
        ("large", "F32", &[4, 4], f32s(&large)),
    ]));
    let keep = Weights::new(Arc::clone(&file), "m", WeightType::Keep);
    let half = Weights::new(file, "m", WeightType::F16);
    for (name, kept) in [("f16", DType::F16), ("bf16", DType::F32), ("f32", DType::F32)] {
        let constant = keep.matrix(name, [4, 4]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((constant.dtype, values(&constant)), (kept, counting(16)), "{name}");
        let constant = half.matrix(name, [4, 4]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((constant.dtype, values(&constant)), (DType::F16, counting(16)), "{name}");
    }
    let mixed = keep.fused_matrix(&["f16", "f32"], [4, 4]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((mixed.dtype, values(&mixed)), (DType::F32, [counting(16), counting(16)].concat()));
    let large = half.matrix("large", [4, 4]).unwrap_or_else(|e| panic!("{e}"));
    let message = large.data.bytes().expect_err("1e6 is no f16").to_string();
    assert!(message.contains("large: 1 values") && message.contains("65504"), "{message}");
}

/// An f32 matrix and an f16 one that need no change are read from the map, not copied.
#[test]
fn untouched_tensors_are_not_copied() {
    let file = file(safetensors(&[("a", "F32", &[4, 4], f32s(&counting(16)))]));
    let constant = Weights::new(file, "m", WeightType::Keep).matrix("a", [4, 4]).unwrap_or_else(|e| panic!("{e}"));
    let bytes = constant.data.bytes().unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(bytes, std::borrow::Cow::Borrowed(_)));
}
