//! Damaged and hostile files: every reader answers with an error or with sound tensors, never with a panic, and asks for no memory that
//! the file's size does not account for.

mod formats;
mod limits;

use std::sync::Arc;

use chiaro::Result;
use chiaro::models::original::{Checkpoint, Control, Patches};
use chiaro::models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, ControlNet, ControlNetConfig, Unet, UnetConfig,
};
use chiaro::weights::{EmbeddingFile, TensorSet, WeightFile, WeightType, Weights, join_shards};
use serde_json::{Value, json};

use crate::support::allocations::largest;
use crate::support::part;
use crate::support::single_file::{Entry, header};
use crate::support::smallest::{attentions, smallest};

const CASES: u64 = 10_000;

/// A deterministic sequence (Vigna's splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const HUGE: [&str; 6] =
    ["4294967296", "9223372036854775807", "18446744073709551615", "18446744073709551616", "-1", "1e30"];

const TYPES: [&str; 7] = ["F32", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U8", "nonsense"];

/// A whole file of entries; their bytes are zeros.
fn whole(entries: &[Entry]) -> Vec<u8> {
    let mut file = header(entries);
    let data: usize = entries.iter().map(Entry::len).sum();
    file.resize(file.len() + data, 0);
    file
}

/// A number in a text, replaced by a huge one; the text's length in front is kept true.
fn enlarge(file: &mut Vec<u8>, numbers: &mut Numbers) {
    let end = 8 + u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let digits: Vec<usize> = (8..end).filter(|&i| file[i].is_ascii_digit() && !file[i - 1].is_ascii_digit()).collect();
    let from = *numbers.pick(&digits);
    let to = (from..end).find(|&i| !file[i].is_ascii_digit()).unwrap_or(end);
    let huge = *numbers.pick(&HUGE);
    file.splice(from..to, huge.bytes());
    let length = (end - 8 + huge.len() - (to - from)) as u64;
    file[..8].copy_from_slice(&length.to_le_bytes());
}

/// A file of `entries` with one thing wrong.
fn damaged(entries: &[Entry], numbers: &mut Numbers) -> Vec<u8> {
    let mut changed = entries.to_vec();
    let at = numbers.below(changed.len());
    match numbers.below(10) {
        0 => {
            let file = whole(entries);
            let cut = numbers.below(file.len());
            return file[..cut].to_vec();
        }
        1 | 2 => {
            let mut file = whole(entries);
            let header = header(entries).len();
            for _ in 0..1 + numbers.below(3) {
                file[numbers.below(header)] ^= 1 << numbers.below(8);
            }
            return file;
        }
        3 => {
            let mut file = whole(entries);
            enlarge(&mut file, numbers);
            return file;
        }
        4 => {
            let mut file = whole(entries);
            let length = match numbers.below(3) {
                0 => numbers.next(),
                1 => numbers.next() >> numbers.below(64),
                _ => u64::MAX - numbers.next() % 16,
            };
            file[..8].copy_from_slice(&length.to_le_bytes());
            return file;
        }
        5 => {
            let axes = numbers.below(5);
            let extents = [0, 1, 2, 3, 4, 8, 64, 1 << 40, 1 << 62, usize::MAX];
            changed[at].shape = (0..axes).map(|_| *numbers.pick(&extents)).collect();
            // Only an empty tensor can have such extents and still lie in the file.
            let size = changed[at].shape.iter().try_fold(2usize, |n, &e| n.checked_mul(e));
            if !changed[at].shape.contains(&0) && size.is_none_or(|size| size > 1 << 16) {
                changed[at].shape.insert(0, 0);
            }
        }
        6 => changed.push(entries[at].clone()),
        7 => {
            changed.remove(at);
        }
        8 => {
            let digits: Vec<usize> =
                changed[at].name.match_indices(|c: char| c.is_ascii_digit()).map(|m| m.0).collect();
            if let Some(&digit) = digits.get(numbers.below(digits.len())) {
                changed[at].name.replace_range(digit..=digit, HUGE[numbers.below(HUGE.len())]);
            }
        }
        _ => changed[at].dtype = TYPES[numbers.below(TYPES.len())],
    }
    whole(&changed)
}

/// Runs a reader on one case; gives whether it accepted the file.
fn survives<T>(case: u64, size: usize, read: impl FnOnce() -> Result<T>) -> bool {
    let (result, largest) = largest(read);
    let allowed = size + (64 << 10);
    assert!(largest <= allowed, "case {case}: {largest} bytes at once for a file of {size}");
    match result {
        Ok(_) => true,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "case {case}: {message:?}");
            false
        }
    }
}

/// Not all damage matters (a bit of a name), but most does.
fn check_counts(accepted: u64, cases: u64) {
    assert!(accepted < cases / 2, "{accepted} of {cases} damaged files were accepted");
}

fn entry(name: &str, shape: &[usize]) -> Entry {
    Entry::hole(name, shape)
}

#[test]
fn damaged_headers() {
    let entries = [entry("a.weight", &[4, 3, 2, 2]), entry("a.bias", &[4]), entry("b", &[8, 4]), entry("c", &[0])];
    let mut numbers = Numbers(1);
    let mut accepted = 0;
    for case in 0..CASES {
        let file = damaged(&entries, &mut numbers);
        let size = file.len();
        accepted += u64::from(survives(case, size, || {
            let w = Weights::new(Arc::new(WeightFile::from_bytes(file, "bytes")?), "m", WeightType::F16);
            let constants = [w.conv("a.weight", [4, 3], 2)?, w.vector("a.bias", 4)?, w.matrix("b", [8, 4])?];
            w.table("b", [8, 4])?.row(7)?;
            w.finish(&["c"])?;
            for constant in constants {
                assert_eq!(constant.data.bytes()?.len(), constant.byte_len());
            }
            Ok(())
        }));
    }
    check_counts(accepted, CASES);
}

#[test]
fn damaged_indexes() {
    let shards = [
        ("m-00001-of-00002.safetensors", vec![entry("a", &[4, 4]), entry("b", &[4])]),
        ("m-00002-of-00002.safetensors", vec![entry("c", &[4, 4])]),
    ];
    let map: serde_json::Map<String, Value> = shards
        .iter()
        .flat_map(|(name, entries)| entries.iter().map(move |e| (e.name.clone(), (*name).into())))
        .collect();
    let index = json!({"metadata": {"total_size": 72}, "weight_map": map}).to_string().into_bytes();
    let mut numbers = Numbers(2);
    let mut accepted = 0;
    for case in 0..CASES {
        let mut index = index.clone();
        let mut files: Vec<(&str, Vec<u8>)> = shards.iter().map(|(name, entries)| (*name, whole(entries))).collect();
        match numbers.below(4) {
            0 => index.truncate(numbers.below(index.len())),
            1 => {
                let at = numbers.below(index.len());
                index[at] ^= 1 << numbers.below(8);
            }
            2 => {
                // An entry twice, or one of another shard's.
                let text = String::from_utf8(index).expect("JSON");
                let name = numbers.pick(&["a", "b", "c", "d"]);
                let file = numbers.pick(&["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "../x", ""]);
                index =
                    text.replace("\"weight_map\":{", &format!("\"weight_map\":{{\"{name}\":\"{file}\",")).into_bytes();
            }
            _ => {
                let at = numbers.below(files.len());
                files[at].1 = damaged(&shards[at].1, &mut numbers);
            }
        }
        let size = index.len() + files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        accepted += u64::from(survives(case, size, || {
            join_shards("index", &index, |name| {
                let file = files.iter().find(|(own, _)| *own == name);
                file.map(|(_, bytes)| WeightFile::from_bytes(bytes.clone(), name)).transpose()
            })
        }));
    }
    check_counts(accepted, CASES);
}

/// Recognises a file and loads every network that a picture needs.
fn load(bytes: Vec<u8>) -> Result<()> {
    let file = TensorSet::from(Arc::new(WeightFile::from_bytes(bytes, "bytes")?));
    let found = Checkpoint::read(&file, &Patches::new())?;
    for name in ["unet", "vae", "text_encoder"] {
        let Some(part) = found.parts.get(name) else {
            return Err(chiaro::Error::model(format!("{name} is gone")));
        };
        let config = Value::Object(part.config.clone()).to_string();
        let w = Weights::new(part.tensors.clone(), name, WeightType::Keep);
        match name {
            "unet" => drop(Unet::load(UnetConfig::from_json(&config, name)?, &w)?),
            "vae" => drop(AutoencoderKl::load(AutoencoderKlConfig::from_json(&config, name)?, &w)?),
            _ => drop(ClipTextModel::load(ClipTextConfig::from_json(&config, name)?, &w)?),
        }
    }
    if let Some(stranger) = found.foreign.first() {
        return Err(chiaro::Error::model(format!("{stranger} is foreign")));
    }
    Ok(())
}

#[test]
fn damaged_embeddings() {
    let forms = [
        vec![entry("emb_params", &[3, 16])],
        vec![entry("<toy>", &[16])],
        vec![entry("clip_g", &[2, 20]), entry("clip_l", &[2, 16])],
    ];
    let mut numbers = Numbers(4);
    let mut accepted = 0;
    for case in 0..CASES {
        let file = damaged(&forms[case as usize % forms.len()], &mut numbers);
        let size = file.len();
        accepted += u64::from(survives(case, size, || {
            let file = TensorSet::from(Arc::new(WeightFile::from_bytes(file, "bytes")?));
            let Some(embedding) = EmbeddingFile::of(&file) else {
                return Err(chiaro::Error::model("no embedding"));
            };
            let (count, widths) = embedding.extents()?;
            let vectors = embedding.vectors()?;
            assert!(vectors.len() == widths.len() && vectors.iter().all(|rows| rows.len() == count), "case {case}");
            assert!(vectors.iter().flatten().flatten().all(|v| v.is_finite()), "case {case}");
            Ok(())
        }));
    }
    check_counts(accepted, CASES);
}

/// The smallest ControlNet under its original names: one level, one block.
fn smallest_control() -> Vec<Entry> {
    let mut entries: Vec<Entry> = smallest()
        .into_iter()
        .chain(attentions())
        .filter(|e| e.name.starts_with("model.diffusion_model.") && !e.name.contains(".output_blocks."))
        .filter(|e| !e.name.starts_with("model.diffusion_model.out."))
        .map(|e| Entry { name: e.name.replace("model.diffusion_model.", "control_model."), ..e })
        .collect();
    let mut put = |name: &str, shape: &[usize]| {
        entries.push(entry(&format!("control_model.{name}.weight"), shape));
        entries.push(entry(&format!("control_model.{name}.bias"), &shape[..1]));
    };
    put("input_hint_block.0", &[4, 3, 3, 3]);
    put("input_hint_block.2", &[4, 4, 3, 3]);
    put("input_hint_block.4", &[8, 4, 3, 3]);
    put("input_hint_block.6", &[64, 8, 3, 3]);
    for zero in ["zero_convs.0.0", "zero_convs.1.0", "middle_block_out.0"] {
        put(zero, &[64, 64, 1, 1]);
    }
    entries
}

fn load_control(bytes: Vec<u8>) -> Result<()> {
    let file = TensorSet::from(Arc::new(WeightFile::from_bytes(bytes, "bytes")?));
    let found = Control::read(&file, &serde_json::Map::new())?;
    let config = ControlNetConfig::from_json(&Value::Object(found.part.config).to_string(), "control")?;
    ControlNet::load(config, &Weights::new(found.part.tensors, "controlnet", WeightType::Keep))?;
    match found.foreign.first() {
        Some(stranger) => Err(chiaro::Error::model(format!("{stranger} is foreign"))),
        None => Ok(()),
    }
}

#[test]
fn damaged_control_nets() {
    let entries = smallest_control();
    load_control(whole(&entries)).unwrap_or_else(|e| panic!("the whole file loads: {e}"));
    let mut numbers = Numbers(5);
    let mut accepted = 0;
    for case in 0..CASES {
        let file = damaged(&entries, &mut numbers);
        let size = file.len();
        accepted += u64::from(survives(case, size, || load_control(file)));
    }
    check_counts(accepted, CASES);
}

#[test]
fn damaged_checkpoints() {
    let entries = [smallest(), attentions()].concat();
    let file = whole(&entries);
    load(file).unwrap_or_else(|e| panic!("the whole file loads: {e}"));
    let mut numbers = Numbers(3);
    let (mut accepted, mut cases) = (0, 0);
    for case in part::of(3, 0..CASES) {
        let file = damaged(&entries, &mut numbers);
        let size = file.len();
        accepted += u64::from(survives(case, size, || load(file)));
        cases += 1;
    }
    check_counts(accepted, cases);
}
