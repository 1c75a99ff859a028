//! What a program can name of the library: `docs/api.txt`, which a change has to change too, and what threads may share.

mod dependencies;
mod list;
mod texts;
mod threads;
mod tree;

use std::path::Path;

use tree::Tree;

fn listed() -> Vec<String> {
    list::public_items(&Tree::read(&Path::new(crate::ROOT).join("src")))
}

#[test]
fn public_items_are_those_of_the_list() {
    let path = Path::new(crate::ROOT).join("docs/api.txt");
    let found = listed();
    if std::env::var_os("CHIARO_RENEW_API").is_some() {
        std::fs::write(&path, found.join("\n") + "\n").expect("docs/api.txt can be written");
    }
    let written = std::fs::read_to_string(&path).expect("docs/api.txt is there");
    let written: Vec<&str> = written.lines().collect();
    let gone: Vec<_> = written.iter().filter(|line| !found.iter().any(|other| other == *line)).collect();
    let new: Vec<_> = found.iter().filter(|line| !written.contains(&line.as_str())).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "docs/api.txt says {gone:#?}, the sources have {new:#?}; `CHIARO_RENEW_API=1 cargo test --test tests api::` writes it anew, \
         and CHANGELOG.md says what changed"
    );
    assert_eq!(
        written.len(),
        found.len(),
        "an item twice; `CHIARO_RENEW_API=1 cargo test --test tests api::` writes docs/api.txt anew"
    );
}

/// The reader sees what it has to, and no more.
#[test]
fn the_list_has_what_a_program_names() {
    let found = listed();
    let has = |start: &str| found.iter().any(|line| line.starts_with(start));
    for start in [
        "struct chiaro::Pipeline",
        "fn chiaro::Pipeline::load(",
        "variant chiaro::Event::Picture",
        "field chiaro::Request::prompt: String",
        "mod chiaro::options",
        "enum chiaro::options::SolverKind",
        "type chiaro::Result",
        "fn chiaro::recipe::read_recipe(",
    ] {
        assert!(has(start), "{start}");
    }
    for start in ["mod chiaro::record", "mod chiaro::pipeline", "fn chiaro::Device::new("] {
        assert!(!has(start), "{start}");
    }
    let root = found.iter().filter(|line| {
        let mut words = line.split(' ');
        let (kind, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        matches!(kind, "struct" | "enum" | "fn" | "type" | "trait" | "const")
            && path.split(['<', ',']).next().unwrap_or_default().matches("::").count() == 1
    });
    let root: Vec<_> = root.collect();
    assert!((12..=17).contains(&root.len()), "the root is one screen: {root:#?}");
}
