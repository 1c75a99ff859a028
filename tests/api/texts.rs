//! What the library says: no text of it names an option, a command or a variable of the environment, which are the business of who takes the
//! request. What to do about an error is a `Remedy`.

use std::path::Path;

use quote::ToTokens;
use syn::Item;

use super::tree::Tree;

/// The doctor's texts are kept in its findings, which only this project's command shows.
const EXEMPT: &str = "doctor";

/// Rows of the table of fields have lines for the command's `--help`, which the command prints as they are.
const ROWS: &str = "fields";

#[test]
fn no_text_names_options_or_commands() {
    let tree = Tree::read(&Path::new(crate::ROOT).join("src"));
    let mut read = 0;
    let mut found = Vec::new();
    for (module, items) in tree.0.iter().filter(|(module, _)| is_read(module)) {
        // A module's items have an entry of their own.
        for item in items.iter().filter(|item| !matches!(item, Item::Mod(_))) {
            for text in texts(&item.to_token_stream().to_string()) {
                read += 1;
                if names_a_front_door(&text) {
                    found.push(format!("{}: {text:?}", module.join("::")));
                }
            }
        }
    }
    assert!(found.is_empty(), "the command's words in texts of the library, see `Remedy`: {found:#?}");
    assert!(read > 1000, "only {read} texts were read");
}

fn is_read(module: &[String]) -> bool {
    module.first().is_none_or(|first| first != EXEMPT) && module.last().is_none_or(|last| last != ROWS)
}

fn names_a_front_door(text: &str) -> bool {
    let begins_flag = |at: usize| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| c.is_whitespace() || "(`\"'[,".contains(c))
            && text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
    };
    let names_variable = text.contains(' ') && text.contains("CHIARO_");
    text.match_indices("--").any(|(at, _)| begins_flag(at)) || text.contains("`chiaro ") || names_variable
}

/// The string literals of tokens as they are printed, without comments on items.
fn texts(tokens: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = tokens;
    while let Some(at) = rest.find(['"', '\'']) {
        let (before, from) = rest.split_at(at);
        if let Some(letter) = from.strip_prefix('\'') {
            // A letter in quotes, or the name of a lifetime.
            let escaped = letter.starts_with('\\');
            let second = letter.char_indices().nth(if escaped { 2 } else { 1 }).map_or(letter.len(), |(at, _)| at);
            let is_letter = escaped || letter[second..].starts_with('\'');
            let end = if is_letter { second + letter[second..].find('\'').map_or(0, |at| at + 1) } else { 0 };
            rest = &letter[end..];
            continue;
        }
        let hashes = before.len() - before.trim_end_matches('#').len();
        let is_raw = before.trim_end_matches('#').ends_with('r');
        let end = if is_raw { raw_end(&from[1..], hashes) } else { plain_end(&from[1..]) };
        if !before.trim_end_matches(['#', 'r']).ends_with("doc = ") {
            texts.push(from[1..=end].to_owned());
        }
        rest = &from[end + 2..];
    }
    texts
}

fn plain_end(text: &str) -> usize {
    let mut escaped = false;
    let is_end = |c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text.find(is_end).expect("tokens end their strings")
}

fn raw_end(text: &str, hashes: usize) -> usize {
    text.find(&format!("\"{}", "#".repeat(hashes))).expect("tokens end their strings")
}

/// The reader sees what it has to.
#[test]
fn the_reader_of_texts_finds_flags_and_commands() {
    let tokens = r####"# [doc = "see --steps"] fn f < 'a > (x : & 'a str) { let c = ['"' , '\'' , '\u{1f}'] ; g ("a \"b\" (--vae)" , r#"`chiaro "pull"#) }"####;
    assert_eq!(texts(tokens), ["a \\\"b\\\" (--vae)", "`chiaro \"pull"]);
    for bad in [
        "--steps: expected 1",
        "give one with --oms",
        "(--vae)",
        "`chiaro pull x` fetches it",
        "set CHIARO_CACHE to a folder",
    ] {
        assert!(names_a_front_door(bad), "{bad}");
    }
    for good in ["a -- b", "a--b", "---", "chiaro 0.1.0", "CHIARO_CACHE", "`device.vram`"] {
        assert!(!names_a_front_door(good), "{good}");
    }
}
