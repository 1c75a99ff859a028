//! Imports point down only. The table is the design's; an edge that is not in it fails.

use std::collections::BTreeMap;
use std::path::Path;

/// Each folder of `src` with the folders that it may import. `error`, `tier` and `files` are importable by all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("cli", &["study", "doctor", "pipeline", "image", "sampling", "record", "gpu"]),
    ("study", &["pipeline", "image", "sampling"]),
    ("doctor", &["pipeline", "ops", "record", "gpu"]),
    // `ops` for what is measured of a device: tiles and peaks.
    ("pipeline", &["models", "sampling", "text", "image", "weights", "ops", "record", "gpu"]),
    ("models", &["nn", "weights", "ops", "record"]),
    ("sampling", &[]),
    ("text", &[]),
    ("image", &[]),
    ("nn", &["weights", "ops", "record"]),
    ("weights", &["record"]),
    ("ops", &["record"]),
    ("gpu", &["record"]),
    ("record", &[]),
];

fn allowed(from: &str, to: &str) -> bool {
    from == to
        || matches!(to, "error" | "Error" | "ErrorCode" | "Place" | "Remedy" | "Result" | "Tier" | "Tiers" | "files")
        || ALLOWED.iter().any(|(folder, targets)| *folder == from && targets.contains(&to))
}

/// The first names after `crate::` in a source text, also those in a group `crate::{a, b::c}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.to_owned());
        }
    }
    let head = |name: String| name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.into_iter().map(head).filter(|name| !name.is_empty()).collect()
}

fn rust_files(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder is readable") {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut edges: BTreeMap<(String, String), String> = BTreeMap::new();
    for (folder, _) in ALLOWED {
        let mut files = Vec::new();
        rust_files(&src.join(folder), &mut files);
        assert!(!files.is_empty(), "src/{folder} has no source file");
        for file in files {
            for import in imports(&std::fs::read_to_string(&file).expect("a source file is text")) {
                edges.insert(((*folder).into(), import), file.display().to_string());
            }
        }
    }
    let wrong: Vec<_> = edges.iter().filter(|((from, to), _)| !allowed(from, to)).collect();
    assert!(wrong.is_empty(), "imports against the layers: {wrong:#?}");
    assert!(edges.len() > 10, "only {} edges seen: is the search right?", edges.len());
}

#[test]
fn the_search_sees_groups_and_paths() {
    assert_eq!(imports("use crate::{Error, ops::{a, b}, gpu};"), ["Error", "ops", "gpu"]);
    assert_eq!(imports("fn f() { crate::gpu::open() }"), ["gpu"]);
    assert!(!allowed("ops", "gpu") && allowed("ops", "record"));
}

#[test]
fn only_gpu_names_wgpu() {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files.iter().filter(|f| !f.components().any(|c| c.as_os_str() == "gpu")) {
        let text = std::fs::read_to_string(file).expect("a source file is text");
        assert!(!text.contains("wgpu::"), "{} names wgpu", file.display());
    }
}
