//! Names that stand for vectors, in chunks.

use chiaro::text::{Chunk, ClipTokenizer, PromptSyntax, Reading};

use super::{rows, tokenizer};
use crate::support::golden::{Golden, committed};

const FIRST: u32 = 49_408;

fn named(names: &[(&str, u32)]) -> ClipTokenizer {
    let mut tokenizer = tokenizer("sd15");
    let mut first = tokenizer.vocabulary_len();
    assert_eq!(first, FIRST);
    for (name, count) in names {
        tokenizer.add_embedding(name, first..first + count).unwrap_or_else(|e| panic!("{e}"));
        first += count;
    }
    tokenizer
}

fn chunks(tokenizer: &ClipTokenizer, text: &str, syntax: PromptSyntax) -> Vec<Chunk> {
    let reading = Reading { syntax, comma_backtrack: 20 };
    let chunks = tokenizer.chunks(text, reading).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    assert!(chunks.chunks.iter().all(|chunk| (chunk.ids.len(), chunk.weights.len()) == (77, 77)), "{text:?}");
    chunks.chunks
}

fn words(chunk: &Chunk) -> &[u32] {
    &chunk.ids[1..=chunk.words]
}

/// diffusers cuts a text of names like any other.
#[test]
fn ids_are_the_references() {
    let golden = Golden::open_in(&committed(), "embeddings");
    let tokenizer = named(&[("easyneg", 3), ("<cat-toy>", 1)]);
    let prompts = golden.json["prompts"].as_array().expect("a list");
    for (prompt, want) in prompts.iter().zip(rows(&golden, "sd15/ids")) {
        let prompt = prompt.as_str().expect("text");
        assert_eq!(chunks(&tokenizer, prompt, PromptSyntax::Plain)[0].ids, want, "{prompt}");
    }
    assert_eq!(tokenizer.encode(&("red ".repeat(73) + "easyneg, blue")).dropped, "easyneg, blue");
}

/// stable-diffusion-webui's `tokenize_line`: what does not fit whole begins a new chunk.
#[test]
fn vectors_stay_together() {
    let tokenizer = named(&[("easyneg", 3), ("style", 2), ("style-2", 1)]);
    let red = tokenizer.words("red")[0];
    for (count, sizes) in [(72, vec![75]), (73, vec![73, 3]), (74, vec![74, 3]), (75, vec![75, 3])] {
        let prompt = format!("{}easyneg", "red ".repeat(count));
        let read = chunks(&tokenizer, &prompt, PromptSyntax::A1111);
        assert_eq!(read.iter().map(|chunk| chunk.words).collect::<Vec<_>>(), sizes, "{count}");
        assert!(words(read.last().expect("a chunk")).ends_with(&[FIRST, FIRST + 1, FIRST + 2]), "{count}");
        assert!(words(&read[0])[..count.min(72)].iter().all(|id| *id == red));
    }
    // A comma before it does not take words along when it alone does not fit.
    let prompt = format!("{}, red red EasyNeg", "red ".repeat(71));
    let read = chunks(&tokenizer, &prompt, PromptSyntax::A1111);
    assert_eq!((read[0].words, words(&read[1])), (74, &[FIRST, FIRST + 1, FIRST + 2][..]));
    let read = chunks(&tokenizer, "a (easyneg:1.5), b", PromptSyntax::A1111);
    assert_eq!(read[0].weights[1..7], [1.0, 1.5, 1.5, 1.5, 1.0, 1.0]);
    // The longest name counts.
    let read = chunks(&tokenizer, "style-2 style easynegs", PromptSyntax::A1111);
    assert_eq!(words(&read[0])[..3], [FIRST + 5, FIRST + 3, FIRST + 4]);
    assert!(words(&read[0])[3..].iter().all(|id| *id < FIRST), "another word is no name");
    assert_eq!(tokenizer.embeddings_in("(style-2:1.1), Easyneg"), ["easyneg", "style-2"]);
    assert!(tokenizer.embeddings_in("a house").is_empty());
}

/// ComfyUI's `tokenize_with_weights`: `embedding:NAME`, commas at its end, unknown names left out; only long words are cut.
#[test]
fn comfy_names_embeddings_by_a_prefix() {
    let tokenizer = named(&[("easyneg", 3), ("long", 10)]);
    let ids = |text: &str| {
        let read = chunks(&tokenizer, text, PromptSyntax::Comfy);
        assert_eq!(read.len(), 1, "{text}");
        words(&read[0]).to_vec()
    };
    let comma = tokenizer.words(",")[0];
    assert_eq!(ids("embedding:easyneg"), [FIRST, FIRST + 1, FIRST + 2]);
    assert_eq!(ids("embedding:easyneg,"), [FIRST, FIRST + 1, FIRST + 2, comma]);
    assert_eq!(ids("easyneg"), tokenizer.words("easyneg"), "without the prefix it is a word");
    assert_eq!(ids("a embedding:nothing b"), tokenizer.words("a b"));
    assert_eq!(
        tokenizer.unknown_embeddings("(embedding:nothing:1.2) embedding:long").expect("well formed"),
        ["nothing"]
    );
    let read = chunks(&tokenizer, "(embedding:easyneg:1.2)", PromptSyntax::Comfy);
    assert_eq!(read[0].weights[1..5], [1.2, 1.2, 1.2, 1.0]);
    let sizes = |name: &str| -> Vec<usize> {
        let prompt = format!("{}embedding:{name}", "red ".repeat(73));
        chunks(&tokenizer, &prompt, PromptSyntax::Comfy).iter().map(|chunk| chunk.words).collect()
    };
    assert_eq!((sizes("easyneg"), sizes("long")), (vec![73, 3], vec![75, 8]));
}

#[test]
fn vectors_are_shown_by_name_and_number() {
    let tokenizer = named(&[("easyneg", 3), ("<cat-toy>", 1)]);
    let shown = |id| tokenizer.token(id).expect("a token");
    assert_eq!(
        [shown(FIRST), shown(FIRST + 2), shown(FIRST + 3)],
        ["easyneg[1/3]</w>", "easyneg[3/3]</w>", "<cat-toy></w>"]
    );
    assert_eq!(tokenizer.token(FIRST + 4), None);
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut tokenizer = named(&[("easyneg", 3)]);
    let mut refusal = |name: &str, ids| tokenizer.add_embedding(name, ids).expect_err(name).to_string();
    assert!(refusal(" ", 0..1).contains("can be typed"));
    assert!(refusal("EasyNeg", 0..1).contains("\"easyneg\""));
    assert!(refusal("many", 0..76).contains("1 to 75") && refusal("none", 5..5).contains("got 0"));
}
