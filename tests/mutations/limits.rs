//! Files that are whole, and large where no checkpoint is: each part has a limit, so that reading takes no multiple of the file.

use chiaro::pipeline::{Device, Pipeline, Precision, Source};
use chiaro::weights::{AdapterFile, WeightFile, open_shards};

use crate::support::allocations::largest;
use crate::support::files::copy;
use crate::support::gguf_file::{Tensor, gguf};
use crate::support::golden::committed;
use crate::support::torch_file::zip;

/// The message with which a reader refuses, and that it asked for little.
fn refused<T>(read: impl FnOnce() -> chiaro::Result<T>) -> String {
    let (read, asked) = largest(read);
    assert!(asked < 4 << 20, "{asked} bytes at once");
    match read {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_and_headers_have_limits() {
    let value = || vec![0; 4];
    let long = gguf(&[Tensor::new(&"n".repeat(5 << 20), 0, &[1], value())], &[]);
    let message = refused(|| WeightFile::from_bytes(long, "bytes"));
    assert!(message.contains("name of at most 1024 bytes") && message.len() < 500, "{message}");
    let name = "k".repeat(5 << 20);
    let long = gguf(&[Tensor::new("n", 0, &[1], value())], &[(&name, vec![1])]);
    let message = refused(|| WeightFile::from_bytes(long, "bytes"));
    assert!(message.contains("key of at most 65535 bytes") && message.len() < 500, "{message}");
    let mut header = br#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#.to_vec();
    header.resize(17 << 20, b' ');
    let file = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    let message = refused(|| WeightFile::from_bytes(file, "bytes"));
    assert!(message.contains("header of 17825792 bytes"), "{message}");
}

/// A file of many megabytes does not let its pickle ask for many times as much.
#[test]
fn pickles_of_large_files_have_a_limit() {
    // Dictionaries without end; each takes a byte in the stream and a node in memory.
    let stream = [&b"\x80\x02"[..], &b"}0".repeat(5 << 20), b"}."].concat();
    let file = zip(&[("x/data.pkl", &stream), ("x/data/0", &vec![0; 64 << 20])]);
    let message = refused(|| WeightFile::from_bytes(file, "bytes"));
    assert!(message.contains("more memory"), "{message}");
}

#[test]
fn settings_and_vocabularies_have_limits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("sd15");
    copy(&committed().join("sd15"), &model);
    let device = || Device::choose("cpu", Precision::Auto).expect("the processor");
    for file in ["unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"]
    {
        let path = model.join(file);
        let whole = std::fs::read(&path).expect("readable");
        std::fs::write(&path, [&whole[..], &vec![b' '; 9 << 20]].concat()).expect("writable");
        let device = device();
        let message = match Pipeline::load(&Source::at(&model).expect("a folder"), None, device) {
            Ok(_) => panic!("{file} was read"),
            Err(error) => error.to_string(),
        };
        let name = file.rsplit_once('/').expect("a folder").1;
        assert!(message.contains(name) && message.contains("at most"), "{message}");
        std::fs::write(&path, whole).expect("writable");
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, vec![b' '; 9 << 20]).expect("writable");
    assert!(refused(|| open_shards(&index)).contains("at most"));
    let weights = committed().join("sd15/unet/diffusion_pytorch_model.safetensors");
    std::fs::copy(weights, folder.path().join("adapter_model.safetensors")).expect("copied");
    std::fs::write(folder.path().join("adapter_config.json"), vec![b' '; 17 << 20]).expect("writable");
    let message = refused(|| AdapterFile::open(folder.path()));
    assert!(message.contains("adapter_config.json") && message.contains("at most"), "{message}");
}
