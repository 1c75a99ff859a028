//! What a newcomer reads: how much of it there is, and that its links lead somewhere. The command's tests hold its command lines to the command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// README and the pages in `docs`.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(crate::ROOT);
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/study"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("docs is readable");
        let files = entries.map(|entry| entry.expect("an entry is readable").path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    pages
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A page without its blocks of code.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// Where `](…)` leads.
fn links(page: &str) -> Vec<String> {
    let ends = prose(page);
    ends.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The names of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let name = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(name).collect()
}

#[test]
fn the_readme_is_short() {
    let lines = read(&Path::new(crate::ROOT).join("README.md")).lines().count();
    assert!(lines <= 130, "README.md has {lines} lines; more belongs in docs");
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let text = read(&page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            let leads = match anchor {
                _ if !target.exists() => false,
                Some(anchor) => anchors(&read(&target)).contains(anchor),
                None => true,
            };
            if !leads {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
    assert!(seen > 30, "only {seen} links seen: is the search right?");
}

#[test]
fn every_example_is_in_the_readme() {
    let root = Path::new(crate::ROOT);
    let readme = read(&root.join("README.md"));
    let entries = std::fs::read_dir(root.join("examples")).expect("examples is readable");
    for entry in entries {
        let name = entry.expect("an entry is readable").file_name().to_string_lossy().into_owned();
        assert!(readme.contains(&format!("](examples/{name}")), "README.md does not name examples/{name}");
    }
}

/// What begins as one of the repository's folders. Names of files that are still to be written have an `x`, or capitals.
#[test]
fn contributing_names_what_is_there() {
    let root = Path::new(crate::ROOT);
    let text = prose(&read(&root.join("CONTRIBUTING.md")));
    let is_path = |word: &&str| {
        let folders = ["src/", "crates/", "tests/", "docs/", "examples/", "benches/", "assets/", "shaders/"];
        let stands_for_one = word.contains("/x.") || word.contains(|c: char| c.is_uppercase() || c == ' ');
        folders.iter().any(|folder| word.starts_with(folder)) && !stands_for_one
    };
    let paths: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_path).collect();
    let missing: Vec<_> = paths.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "CONTRIBUTING.md names what is not there: {missing:#?}");
    assert!(paths.len() > 20, "only {paths:?} seen: is the search right?");
}

#[test]
fn the_search_sees_links_and_headings() {
    let page = "# One, two\n[a](b.md#c) and ![d](e.png)\n```\n[no](no)\n```\n## Half `f16` (or not)\n";
    assert_eq!(links(page), ["b.md#c", "e.png"]);
    assert_eq!(anchors(page).into_iter().collect::<Vec<_>>(), ["half-f16-or-not", "one-two"]);
}
