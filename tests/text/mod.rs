//! The tokenizer against the reference's ids; prompts with marks.

mod chunks;
mod embeddings;
mod programs;
mod prompts;

use chiaro::text::ClipTokenizer;

use crate::support::golden::{Golden, root};

fn tokenizer(family: &str) -> ClipTokenizer {
    let folder = root().join(family).join("tokenizer");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the golden's tokenizer is there");
    let (map, config) = (read("special_tokens_map.json"), read("tokenizer_config.json"));
    ClipTokenizer::from_bytes(&read("vocab.json"), &read("merges.txt"), Some(&map), Some(&config), family)
        .expect("a tokenizer")
}

fn golden_prompts(golden: &Golden) -> Vec<String> {
    let list = golden.json["prompts"].as_array().expect("a list");
    list.iter().map(|p| p.as_str().expect("text").to_owned()).collect()
}

fn rows(golden: &Golden, name: &str) -> Vec<Vec<u32>> {
    let ids: Vec<u32> = golden.f64s(name).into_iter().map(|v| v as u32).collect();
    ids.chunks(77).map(<[u32]>::to_vec).collect()
}

#[test]
fn every_prompt_as_the_fast_tokenizer() {
    let golden = Golden::open("tokenizer");
    let tokenizer = tokenizer("sd15");
    let same_as_ftfy = golden.json["fast_equals_ftfy"].as_array().expect("a list");
    let lengths = golden.json["untruncated_lengths"].as_array().expect("a list");
    for (i, prompt) in golden_prompts(&golden).iter().enumerate() {
        let encoding = tokenizer.encode(prompt);
        assert_eq!(encoding.ids, rows(&golden, "ids_fast")[i], "{prompt:?}");
        if same_as_ftfy[i] == true {
            assert_eq!(encoding.ids, rows(&golden, "ids")[i], "{prompt:?}");
            assert_eq!(lengths[i].as_u64(), Some(encoding.untruncated_len as u64), "{prompt:?}");
        }
        assert_eq!(encoding.dropped.is_empty(), encoding.untruncated_len <= 77, "{prompt:?}");
    }
}

#[test]
fn padding_is_the_checkpoints_own() {
    let golden = Golden::open("tokenizer");
    let tokenizer = tokenizer("sd21");
    for (i, prompt) in golden_prompts(&golden).iter().enumerate() {
        let got = tokenizer.encode(prompt).ids;
        if golden.json["fast_equals_ftfy"][i] == true {
            assert_eq!(got, rows(&golden, "ids_pad0")[i], "{prompt:?}");
        }
    }
}

#[test]
fn what_is_dropped_is_told() {
    let tokenizer = tokenizer("sd15");
    let prompt = (0..80).map(|i| if i == 75 { "lighthouse" } else { "red" }).collect::<Vec<_>>().join(" ");
    let encoding = tokenizer.encode(&prompt);
    assert_eq!((encoding.ids.len(), encoding.untruncated_len), (77, 82));
    assert!(encoding.dropped.starts_with("lighthouse red"), "{}", encoding.dropped);
}

/// The demo model's vocabulary has 712 entries: what it lacks becomes the unknown token, never a failure.
#[test]
fn a_small_vocabulary_takes_any_text() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model/tokenizer");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the demo's tokenizer is there");
    let map = read("special_tokens_map.json");
    let tokenizer = ClipTokenizer::from_bytes(&read("vocab.json"), &read("merges.txt"), Some(&map), None, "demo");
    let tokenizer = tokenizer.expect("a tokenizer");
    for text in ["", "a red circle", "猫 🦀 <|endoftext|> \0 &amp;", &"é".repeat(1000)] {
        assert_eq!(tokenizer.encode(text).ids.len(), 77, "{text:?}");
    }
}

#[test]
fn broken_files_are_named() {
    let vocab = br#"{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "b</w>": 3, "ab</w>": 4}"#;
    let ok = b"#version: 0.2\na b</w>\n";
    assert!(ClipTokenizer::from_bytes(vocab, ok, None, None, "x/").is_ok());
    let refuses = |vocab: &[u8], merges: &[u8], map: Option<&[u8]>, file: &str| match ClipTokenizer::from_bytes(
        vocab, merges, map, None, "x/",
    ) {
        Ok(_) => panic!("{file} was taken"),
        Err(error) => assert!(error.to_string().contains(file), "{error}"),
    };
    refuses(b"[1, 2]", ok, None, "x/vocab.json");
    refuses(b"{\"a\": 1}", ok, None, "x/vocab.json");
    refuses(vocab, b"a b c d\xff", None, "x/merges.txt");
    refuses(vocab, b"#version\nalone\n", None, "x/merges.txt");
    refuses(vocab, b"#version\nq z\n", None, "x/merges.txt");
    refuses(vocab, ok, Some(b"{"), "x/special_tokens_map.json");
}
