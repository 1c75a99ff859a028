//! `chiaro tokens`, and the options that say how prompts are read.

use chiaro::image::read_png;
use serde_json::Value;

use super::{chiaro, fails, json, stderr};
use crate::support::golden::committed;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn tokens(entry: &Value) -> Vec<(String, f64)> {
    let list = entry["tokens"].as_array().expect("a list");
    list.iter()
        .map(|t| (t["token"].as_str().expect("text").to_owned(), t["weight"].as_f64().expect("a number")))
        .collect()
}

#[test]
fn tokens_weights_and_chunks_are_shown() {
    let folder = folder();
    let model = committed().join("sd15").display().to_string();
    let arguments = ["tokens", "a (red:1.2) [cat|dog] BREAK sky", "--model", &model, "--steps", "4", "--json"];
    let report = json(folder.path(), &arguments);
    assert_eq!(report["syntax"], "a1111", "the command's default");
    let texts = report["tokenizers"][0]["texts"].as_array().expect("a list");
    assert_eq!(texts.len(), 2);
    for (text, steps, animal) in [(&texts[0], [1, 3], "cat</w>"), (&texts[1], [2, 4], "dog</w>")] {
        assert_eq!((&text["steps"], text["count"].as_u64()), (&serde_json::json!(steps), Some(4)));
        let first = [("a</w>".to_owned(), 1.0), ("red</w>".into(), 1.2), (animal.into(), 1.0)];
        assert_eq!(tokens(&text["chunks"][0]), first);
        assert_eq!(tokens(&text["chunks"][1]), [("sky</w>".to_owned(), 1.0)]);
        assert_eq!(
            (text["chunks"][0]["padding"].as_u64(), text["chunks"][1]["padding"].as_u64()),
            (Some(72), Some(74))
        );
    }
    let output = chiaro(folder.path(), &arguments[..arguments.len() - 1]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "steps 1, 3: \"a (red:1.2) cat BREAK sky\"",
        "4 tokens, 2 chunks of 75",
        "a red×1.2 cat",
        "chunk 2: 1 kept, 74 padded",
    ] {
        assert!(printed.contains(line), "{line:?} is not in {printed}");
    }
}

#[test]
fn embeddings_are_shown_by_their_names() {
    let folder = folder();
    let (model, file) = (committed().join("sd15"), committed().join("embeddings/easyneg.safetensors"));
    let (model, file) = (model.display().to_string(), file.display().to_string());
    let base = ["tokens", "red easyneg", "--model", &model, "--embedding", &file];
    let report = json(folder.path(), &[&base[..], &["--json"]].concat());
    let chunk = &report["tokenizers"][0]["texts"][0]["chunks"][0];
    let names: Vec<String> = tokens(chunk).into_iter().map(|(token, _)| token).collect();
    assert_eq!(names, ["red</w>", "easyneg[1/3]</w>", "easyneg[2/3]</w>", "easyneg[3/3]</w>"]);
    let output = chiaro(folder.path(), &base);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("red easyneg[1/3] easyneg[2/3]"), "{printed}");
    let comfy = ["--prompt-syntax", "comfy", "--json"];
    let report = json(folder.path(), &[&["tokens", "embedding:nothing", "--model", &model], &comfy[..]].concat());
    assert!(
        report["tokenizers"][0]["remarks"][0].as_str().is_some_and(|r| r.contains("embedding:nothing")),
        "{report}"
    );
    let pair = committed().join("embeddings/zzpair.safetensors").display().to_string();
    fails(folder.path(), &["tokens", "x", "--model", &model, "--embedding", &pair], 1, &["zzpair", "another family"]);
}

#[test]
fn what_is_dropped_or_not_understood_is_shown() {
    let folder = folder();
    let long = vec!["red"; 80].join(" ");
    let report = json(folder.path(), &["tokens", &long, "--prompt-syntax", "plain", "--json"]);
    let text = &report["tokenizers"][0]["texts"][0];
    assert_eq!((text["dropped"].as_str(), text["count"].as_u64()), (Some("red red red red red"), Some(80)));
    let report = json(folder.path(), &["tokens", &long, "--prompt-syntax", "comfy", "--json"]);
    assert_eq!(report["tokenizers"][0]["texts"][0]["chunks"].as_array().map(Vec::len), Some(2));
    let output = chiaro(folder.path(), &["tokens", "a <lora:b:1>"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("warning: <lora:b:1>"), "{output:?}");
    fails(folder.path(), &["tokens", "(a:1.2.3)"], 2, &["weight", "1.2.3"]);
    fails(folder.path(), &["tokens", "a", "--prompt-syntax", "b"], 2, &["plain", "a1111", "comfy"]);
    fails(folder.path(), &["tokens", "a", "--model", "nowhere"], 1, &["nowhere", "no such file or folder"]);
    fails(folder.path(), &["tokens", "a", "--steps", "0"], 2, &["steps"]);
}

#[test]
fn pictures_follow_the_syntax() {
    let folder = folder();
    let draw = |prompt: &str, more: &[&str]| {
        let arguments = ["--steps", "2", "-W", "64", "-H", "64", "-o", "x.png", "--overwrite", "-q", "--device", "cpu"];
        let output = chiaro(folder.path(), &[&[prompt], &arguments[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = std::fs::read(folder.path().join("x.png")).expect("readable");
        let has = |word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
        (read_png(&folder.path().join("x.png")).expect("a PNG").data, has("Clip skip: 2"), has("Clip skip"))
    };
    let (red, ..) = draw("a red circle", &[]);
    assert_eq!(draw("a [blue:red:0] circle", &[]).0, red, "a1111 is the default");
    assert_ne!(draw("a [blue:red:0] circle", &["--prompt-syntax", "plain"]).0, red);
    assert_eq!(draw("a red circle", &["--clip-skip", "1"]), (red.clone(), false, false));
    let (skipped, written, _) = draw("a red circle", &["--clip-skip", "2"]);
    assert!(skipped != red && written, "one layer less, and the PNG says so");
    let guided = |negative: &str| draw("a red circle", &["--oms-guidance", "2", "--oms-negative", negative]).0;
    assert_eq!(guided(""), draw("a red circle", &["--oms-guidance", "2"]).0);
    assert_ne!(guided("white"), guided(""));
}

#[test]
fn options_out_of_place_are_refused() {
    let folder = folder();
    let refuses = |arguments: &[&str], words: &[&str]| fails(folder.path(), &[&["x"], arguments].concat(), 2, words);
    refuses(&["--clip-skip", "0"], &["clip-skip"]);
    refuses(&["--clip-skip", "99", "--device", "cpu"], &["clip skip"]);
    refuses(&["--oms", "off", "--oms-negative", "y"], &["--oms-negative", "--oms"]);
    refuses(&["--prompt-2", "y", "--device", "cpu"], &["prompt-2", "SDXL"]);
    refuses(&["--original-size", "64", "--device", "cpu"], &["original-size", "1024x768"]);
    refuses(&["--crop", "1x1", "--device", "cpu"], &["crop", "1024,768"]);
}
