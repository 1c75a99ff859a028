//! Models in several files.

use std::path::Path;

use chiaro::weights::{TensorSet, WeightType, Weights, open_shards};

use super::{counting, f32s, safetensors, values};

fn shard(folder: &Path, name: &str, tensors: &[(&str, f32)]) {
    let entries: Vec<_> = tensors.iter().map(|&(t, v)| (t, "F32", [1usize, 4], f32s(&[v; 4]))).collect();
    let entries: Vec<(&str, &str, &[usize], Vec<u8>)> =
        entries.iter().map(|(t, d, s, b)| (*t, *d, s.as_slice(), b.clone())).collect();
    std::fs::write(folder.join(name), safetensors(&entries)).expect("the shard is written");
}

fn open(folder: &Path, index: &str) -> Result<TensorSet, String> {
    let path = folder.join("model.safetensors.index.json");
    std::fs::write(&path, index).expect("the index is written");
    open_shards(&path).map_err(|e| e.to_string())
}

fn refusal(folder: &Path, index: &str) -> String {
    let message = open(folder, index).err().expect("the index is wrong");
    assert!(!message.contains('\n') && message.contains("index.json"), "{message}");
    message
}

const WHOLE: &str = r#"{"metadata": {"total_size": 48}, "weight_map":
    {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    shard(folder.path(), "model-00001-of-00002.safetensors", &[("a", 1.0), ("c", 3.0)]);
    shard(folder.path(), "model-00002-of-00002.safetensors", &[("b", 2.0)]);
    let set = open(folder.path(), WHOLE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(set.tensors().len(), 3);
    let w = Weights::new(set.clone(), "unet", WeightType::Keep);
    for (name, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        let constant = w.matrix(name, [1, 4]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(values(&constant)[..4], [value; 4]);
    }
    w.finish(&[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(set.sha256().expect("read").len(), 64);
    // One changed byte in one shard is another model.
    shard(folder.path(), "model-00002-of-00002.safetensors", &[("b", 2.5)]);
    let whole = open(folder.path(), WHOLE).unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(whole.sha256().expect("read"), set.sha256().expect("read"));
}

#[test]
fn indexes_and_shards_that_disagree_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    shard(folder, "model-00001-of-00002.safetensors", &[("a", 1.0), ("c", 3.0)]);
    assert!(refusal(folder, WHOLE).contains("expected the shard model-00002-of-00002.safetensors"));
    shard(folder, "model-00002-of-00002.safetensors", &[("c", 2.0)]);
    assert!(refusal(folder, WHOLE).contains("c is in model-00002-of-00002.safetensors and"));
    shard(folder, "model-00002-of-00002.safetensors", &[("b", 2.0), ("d", 2.0)]);
    assert!(refusal(folder, WHOLE).contains("holds d, which the index does not name"));
    shard(folder, "model-00002-of-00002.safetensors", &[]);
    assert!(refusal(folder, WHOLE).contains("expected b in model-00002-of-00002.safetensors"));
    let twice = r#"{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}"#;
    assert!(refusal(folder, twice).contains("a is named twice"));
    for name in ["../x.safetensors", "/etc/passwd", "", "..", "c:\\\\x"] {
        let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
        assert!(refusal(folder, &index).contains("beside the index"), "{name}");
    }
    for index in ["", "[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 3}}"#] {
        refusal(folder, index);
    }
    std::fs::write(folder.join("x.safetensors"), &safetensors(&[("a", "F32", &[4], f32s(&counting(4)))])[..30])
        .expect("a file cut short");
    let message = open(folder, r#"{"weight_map": {"a": "x.safetensors"}}"#).err().expect("cut short");
    assert!(message.contains("x.safetensors") && message.contains("cut short"), "{message}");
}
