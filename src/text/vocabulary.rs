//! CLIP's vocabulary, inside the program for checkpoints that come without one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::ZlibDecoder;
use serde_json::{Map, Value};

/// The merges of byte-pair encoding, one a line, from OpenAI's CLIP (see `assets/clip/README.md`).
const MERGES: &[u8] = include_bytes!("../../assets/clip/merges.zlib");

/// The files of a tokenizer's folder.
pub struct Vocabulary {
    /// `vocab.json`.
    pub vocab: Vec<u8>,
    /// `merges.txt`.
    pub merges: Vec<u8>,
}

/// CLIP's, unpacked on first use. Its ids follow from the merges: the 256 bytes, the same as ends of words, what each merge
/// makes, and the two special tokens (`simple_tokenizer.py` of OpenAI's CLIP).
pub fn clip_vocabulary() -> &'static Vocabulary {
    static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
        let mut merges = String::new();
        ZlibDecoder::new(MERGES).read_to_string(&mut merges).expect("the asset is whole, a test unpacks it");
        let bytes = byte_signs();
        let ends = bytes.iter().map(|sign| format!("{sign}</w>"));
        let merged = merges.lines().map(|line| line.replace(' ', ""));
        let special = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
        let tokens = bytes.iter().map(char::to_string).chain(ends).chain(merged).chain(special);
        let vocab: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
        Vocabulary { vocab: Value::Object(vocab).to_string().into_bytes(), merges: merges.into_bytes() }
    });
    &VOCABULARY
}

/// The byte that a sign of the vocabulary stands for.
pub(super) fn byte_of_sign(sign: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
        let order = (0..=255u8).filter(is_printable).chain((0..=255u8).filter(|b| !is_printable(b)));
        byte_signs().into_iter().zip(order).collect()
    });
    BYTES.get(&sign).copied()
}

/// Bytes that are their own sign.
fn is_printable(byte: &u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

/// The sign of each byte in the vocabulary's order: printable bytes are themselves, the others the signs from U+0100 on.
fn byte_signs() -> Vec<char> {
    let others = (0..=255u8).filter(|b| !is_printable(b)).count() as u32;
    let stand_ins = (256..256 + others).filter_map(char::from_u32);
    (0..=255u8).filter(is_printable).map(char::from).chain(stand_ins).collect()
}
