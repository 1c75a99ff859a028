//! Prompts as other programs read them now: numbers from these programs themselves (`tests/golden/prompts/programs.json`).

use chiaro::text::{ClipTokenizer, PromptSyntax, Reading};
use serde_json::Value;

use super::tokenizer;
use crate::support::golden::committed;

fn golden() -> Value {
    let text = std::fs::read_to_string(committed().join("prompts/programs.json")).expect("the golden is there");
    serde_json::from_str(&text).expect("JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|id| id.as_u64().expect("a number") as u32).collect()
}

/// Ids of the prompt, chunk by chunk.
fn read(tokenizer: &ClipTokenizer, text: &str, syntax: PromptSyntax) -> Vec<Vec<u32>> {
    let chunks =
        tokenizer.chunks(text, Reading { syntax, comma_backtrack: 20 }).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    chunks.chunks.iter().map(|chunk| chunk.ids[1..=chunk.words].to_vec()).collect()
}

#[test]
fn words_as_automatic1111_with_ftfy() {
    let (golden, tokenizer) = (golden(), tokenizer("sd15"));
    for case in list(&golden["ids"]) {
        let prompt = case["prompt"].as_str().expect("text");
        assert_eq!(read(&tokenizer, prompt, PromptSyntax::A1111), [ids(&case["ids"])], "{prompt}");
    }
    let texts = list(&golden["texts"]);
    assert!(texts.len() > 300, "only {}", texts.len());
    for pair in texts {
        let (text, mended) = (pair[0].as_str().expect("text"), pair[1].as_str().expect("text"));
        assert_eq!(read(&tokenizer, text, PromptSyntax::A1111).concat(), tokenizer.words(mended), "{text:?}");
    }
    // The others leave text as it is.
    for syntax in [PromptSyntax::Plain, PromptSyntax::Comfy] {
        assert_eq!(read(&tokenizer, "“rock &amp; roll”", syntax), [tokenizer.words("“rock &amp; roll”")], "{syntax}");
    }
}

#[test]
fn chunks_as_comfyui_cuts_them() {
    let (golden, tokenizer) = (golden(), tokenizer("sd15"));
    for case in list(&golden["comfy"]) {
        let prompt = case["prompt"].as_str().expect("text");
        let want: Vec<Vec<u32>> = list(&case["chunks"]).iter().map(ids).collect();
        assert_eq!(read(&tokenizer, prompt, PromptSyntax::Comfy), want, "{prompt}");
    }
}

/// `embedding:` with a folder or an ending, commas behind it, and text that goes on; of a name that is not here nothing is left.
#[test]
fn embeddings_as_comfyui_names_them() {
    let mut tokenizer = tokenizer("sd15");
    let first = tokenizer.vocabulary_len();
    tokenizer.add_embedding("easyneg", first..first + 2).expect("a name");
    let own = [first, first + 1];
    for name in ["easyneg", "easyneg.pt", "easyneg.safetensors", "sub/easyneg", "sub\\deep/easyneg.bin"] {
        for (text, before, behind) in [
            (format!("embedding:{name}"), "", ""),
            (format!("red embedding:{name}, blue cat"), "red", ", blue cat"),
            (format!("red\nembedding:{name}"), "red", ""),
            (format!("embedding:{name} blue"), "", "blue"),
        ] {
            let want = [tokenizer.words(before), own.to_vec(), tokenizer.words(behind)].concat();
            assert_eq!(read(&tokenizer, &text, PromptSyntax::Comfy), [want], "{text}");
        }
    }
    let unknown = "red embedding:nothing.pt, blue, xembedding:easyneg";
    let want = tokenizer.words("red , blue, xembedding:easyneg");
    assert_eq!(read(&tokenizer, unknown, PromptSyntax::Comfy), [want]);
    assert_eq!(tokenizer.unknown_embeddings(unknown).expect("sound"), ["nothing.pt,"]);
}

#[test]
fn tokens_are_spelled_in_bytes() {
    let tokenizer = tokenizer("sd15");
    for text in ["猫", "é", "🦀", "cat", "ё"] {
        let spelled = tokenizer.words(text).into_iter().flat_map(|id| tokenizer.spelled(id).expect("letters").0);
        assert_eq!(spelled.collect::<Vec<u8>>(), text.as_bytes(), "{text}");
    }
}
