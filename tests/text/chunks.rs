//! Chunks of a text encoder's length, and weights on its states.

use chiaro::text::{Chunks, ClipTokenizer, PromptSyntax, Reading, weigh_from_empty, weigh_restoring_mean};

use super::{golden_prompts, rows, tokenizer};
use crate::support::golden::Golden;

fn reading(syntax: PromptSyntax) -> Reading {
    Reading { syntax, comma_backtrack: 20 }
}

fn chunks(tokenizer: &ClipTokenizer, text: &str, reading: Reading) -> Chunks {
    let chunks = tokenizer.chunks(text, reading).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    for chunk in &chunks.chunks {
        assert_eq!((chunk.ids.len(), chunk.weights.len()), (77, 77), "{text:?}");
        let empty = tokenizer.empty_chunk();
        assert_eq!(chunk.ids[0], empty.ids[0], "every chunk begins with the start: {text:?}");
        assert_eq!(chunk.ids[chunk.words + 1..], empty.ids[1..77 - chunk.words], "then the end and padding: {text:?}");
        assert!(chunk.weights[0] == 1.0 && chunk.weights[chunk.words + 1..].iter().all(|w| *w == 1.0), "{text:?}");
    }
    chunks
}

/// Ids of the prompt, chunk by chunk.
fn words(chunks: &Chunks) -> Vec<Vec<u32>> {
    chunks.chunks.iter().map(|chunk| chunk.ids[1..=chunk.words].to_vec()).collect()
}

/// The reference's ids hold for every syntax where the prompt has no marks and fits, and for plain always: those of the fast tokenizer, for
/// AUTOMATIC1111's those of the slow one with `ftfy`.
#[test]
fn ids_without_marks_are_the_references() {
    let golden = Golden::open("tokenizer");
    let mut same = 0;
    for (family, mended) in [("sd15", "ids"), ("sd21", "ids_pad0")] {
        let tokenizer = tokenizer(family);
        for (prompt, mended) in golden_prompts(&golden).into_iter().zip(rows(&golden, mended)) {
            let encoding = tokenizer.encode(&prompt);
            let plain = chunks(&tokenizer, &prompt, reading(PromptSyntax::Plain));
            assert_eq!(plain.chunks.len(), 1);
            assert_eq!((&plain.chunks[0].ids, &plain.dropped), (&encoding.ids, &encoding.dropped), "{prompt:?}");
            assert!(!plain.chunks[0].is_weighted());
            if encoding.dropped.is_empty() && !prompt.contains(['(', ')', '[', ']', '\\']) {
                let read = chunks(&tokenizer, &prompt, reading(PromptSyntax::Comfy));
                assert_eq!((&read.chunks, read.words), (&plain.chunks, plain.words), "{prompt:?}");
                let read = chunks(&tokenizer, &prompt, reading(PromptSyntax::A1111));
                assert_eq!(read.chunks[0].ids, mended, "{prompt:?}");
                same += 1;
            }
        }
    }
    assert!(same >= 30, "only {same} prompts");
}

#[test]
fn long_prompts_go_on_in_further_chunks() {
    let tokenizer = tokenizer("sd15");
    for count in [1, 74, 75, 76, 150, 151, 400] {
        let prompt = vec!["red"; count].join(" ");
        let id = tokenizer.words("red")[0];
        for syntax in [PromptSyntax::A1111, PromptSyntax::Comfy] {
            let read = chunks(&tokenizer, &prompt, reading(syntax));
            let lengths: Vec<usize> = read.chunks.iter().map(|chunk| chunk.words).collect();
            let mut want = vec![75; count / 75];
            want.extend((count % 75 > 0).then_some(count % 75));
            assert_eq!((lengths, read.words), (want, count), "{syntax}: {count}");
            assert!(words(&read).concat().iter().all(|word| *word == id));
        }
        let plain = chunks(&tokenizer, &prompt, reading(PromptSyntax::Plain));
        assert_eq!((plain.chunks.len(), plain.words, plain.dropped.is_empty()), (1, count, count <= 75));
    }
}

/// A full chunk ends behind its last comma if that is among the last 20 tokens.
#[test]
fn chunks_end_at_commas() {
    let tokenizer = tokenizer("sd15");
    // `before` words, a comma, then words up to 100 tokens.
    let first = |before: usize, comma_backtrack: usize| {
        let prompt = format!("{}, {}", vec!["red"; before].join(" "), vec!["blue"; 99 - before].join(" "));
        let read = chunks(&tokenizer, &prompt, Reading { syntax: PromptSyntax::A1111, comma_backtrack });
        assert_eq!((read.chunks.len(), read.words), (2, 100));
        assert_eq!(words(&read).concat(), tokenizer.words(&prompt), "nothing is lost or moved past another");
        read.chunks[0].words
    };
    // The comma is token `before` (from 0); 75 - before tokens end the chunk, the comma among them.
    for before in [30, 54] {
        assert_eq!(first(before, 20), 75, "{before}: too far back");
    }
    for before in [55, 56, 70, 73] {
        assert_eq!(first(before, 20), before + 1, "{before}");
    }
    assert_eq!(first(74, 20), 75, "the comma is the last");
    assert_eq!(first(75, 20), 75, "the comma is the first of the next");
    assert_eq!(first(70, 0), 75, "switched off");
    assert_eq!(first(30, 45), 31, "farther");
    assert_eq!(first(30, 44), 75);
}

#[test]
fn break_ends_a_chunk() {
    let tokenizer = tokenizer("sd15");
    let read = |prompt: &str| words(&chunks(&tokenizer, prompt, reading(PromptSyntax::A1111)));
    let (cat, dog) = (tokenizer.words("a cat"), tokenizer.words("dog"));
    assert_eq!(read("a cat BREAK dog"), [cat.clone(), dog.clone()]);
    assert_eq!(read("a cat\nBREAK\n\ndog"), [cat.clone(), dog.clone()]);
    assert_eq!(read("a cat BREAK BREAK dog"), [cat.clone(), vec![], dog.clone()]);
    assert_eq!(read("BREAK dog"), [vec![], dog]);
    assert_eq!(read("a cat BREAK"), [cat]);
    assert_eq!(read("BREAKFAST"), [tokenizer.words("breakfast")]);
    assert_eq!(words(&chunks(&tokenizer, "BREAK", reading(PromptSyntax::Comfy))), [tokenizer.words("break")]);
}

#[test]
fn each_token_has_its_weight() {
    let tokenizer = tokenizer("sd15");
    let prompt = "a (lighthouse keeper:1.5), [sea]";
    let read = chunks(&tokenizer, prompt, reading(PromptSyntax::A1111));
    let parts = [("a", 1.0), ("lighthouse keeper", 1.5), (",", 1.0), ("sea", 1.0 / 1.1)];
    let want: Vec<(u32, f32)> = parts
        .iter()
        .flat_map(|(text, weight)| tokenizer.words(text).into_iter().map(move |id| (id, *weight as f32)))
        .collect();
    let chunk = &read.chunks[0];
    let got: Vec<(u32, f32)> =
        chunk.ids.iter().copied().zip(chunk.weights.iter().copied()).skip(1).take(chunk.words).collect();
    assert_eq!(got, want);
    assert!(chunk.is_weighted());
}

/// ComfyUI cuts text of one weight where a chunk is full, in the middle of a word too.
#[test]
fn comfy_fills_chunks() {
    let tokenizer = tokenizer("sd15");
    let (short, long) = ("xqzjv", "xqzjvkwpyxqzjvkwpyxqzjvkwpy");
    let (few, many) = (tokenizer.words(short).len(), tokenizer.words(long).len());
    assert!((2..8).contains(&few) && many >= 8, "{few} and {many}");
    let lengths = |word: &str, before: usize| {
        let prompt = format!("{} {word}", vec!["red"; before].join(" "));
        let read = chunks(&tokenizer, &prompt, reading(PromptSyntax::Comfy));
        assert_eq!(words(&read).concat(), tokenizer.words(&prompt));
        read.chunks.iter().map(|chunk| chunk.words).collect::<Vec<_>>()
    };
    assert_eq!(lengths(short, 74), [75, few - 1]);
    assert_eq!(lengths(short, 75 - few), [75]);
    assert_eq!(lengths(long, 74), [75, many - 1]);
}

/// A tokenizer with rows of three has room for one word: every prompt still ends.
#[test]
fn the_shortest_rows() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model/tokenizer");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the demo's tokenizer is there");
    let config = br#"{"model_max_length": 3}"#;
    let tokenizer = ClipTokenizer::from_bytes(&read("vocab.json"), &read("merges.txt"), None, Some(config), "demo")
        .expect("a tokenizer");
    for syntax in [PromptSyntax::Plain, PromptSyntax::A1111, PromptSyntax::Comfy] {
        let read = tokenizer.chunks("a red circle, (lighthouse) xqz", reading(syntax)).expect("numbers are numbers");
        assert!(read.chunks.iter().all(|chunk| chunk.ids.len() == 3 && chunk.words <= 1), "{syntax}");
    }
}

/// `z'ₜ = wₜ zₜ · mean(z) / mean(w z)`, written out.
#[test]
fn weights_restore_the_mean() {
    let states: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin() + 0.3).collect();
    let weights = [1.0, 1.5, 0.0, -0.5];
    let mut got = states.clone();
    weigh_restoring_mean(&mut got, &weights).expect("the mean is not zero");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let before: Vec<f64> = states.iter().map(|v| f64::from(*v)).collect();
    let weighted: Vec<f64> = before.iter().enumerate().map(|(i, v)| v * f64::from(weights[i / 3])).collect();
    let scale = mean(&before) / mean(&weighted);
    for (got, want) in got.iter().zip(&weighted) {
        assert!((f64::from(*got) - want * scale).abs() < 1e-6, "{got} for {}", want * scale);
    }
    let restored: Vec<f64> = got.iter().map(|v| f64::from(*v)).collect();
    assert!((mean(&restored) - mean(&before)).abs() < 1e-6);

    let mut same = states.clone();
    weigh_restoring_mean(&mut same, &[1.0; 4]).expect("nothing is done");
    assert_eq!(same, states, "to the bit");
    let message = weigh_restoring_mean(&mut states.clone(), &[0.0; 4]).expect_err("no mean is left").to_string();
    assert!(message.contains("mean"), "{message}");
}

/// `z'ₜ = eₜ + wₜ (zₜ - eₜ)`, written out.
#[test]
fn weights_start_at_the_empty_prompt() {
    let states: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
    let empty: Vec<f32> = (0..12).map(|i| (i as f32 * 1.3).cos()).collect();
    let weights = [1.0, 1.5, 0.0, -0.5];
    let mut got = states.clone();
    weigh_from_empty(&mut got, &weights, &empty);
    for i in 0..12 {
        let (z, e, w) = (f64::from(states[i]), f64::from(empty[i]), f64::from(weights[i / 3]));
        assert!((f64::from(got[i]) - (e + w * (z - e))).abs() < 1e-6);
    }
    assert_eq!(got[..3], states[..3], "weight 1 changes nothing, to the bit");
    assert_eq!(got[6..9], empty[6..9], "weight 0 is the empty prompt");
}
