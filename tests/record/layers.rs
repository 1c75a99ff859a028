//! Imports point down only. The table is the design's; an edge that is not in it fails.

use std::collections::BTreeMap;
use std::path::Path;

/// Each folder of `src` with the folders that it may import. `error`, `tier` and `files` are importable by all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("engine", &["order", "pipeline", "record"]),
    ("study", &["pipeline", "image", "sampling"]),
    ("doctor", &["pipeline", "ops", "record", "gpu"]),
    ("order", &["pipeline", "image", "sampling", "text"]),
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

/// Each room of `src/pipeline` with the rooms that it may import.
const ROOMS: &[(&str, &[&str])] = &[
    ("reports", &["run", "model", "request", "device", "files"]),
    ("run", &["png", "model", "request", "device", "files"]),
    ("png", &["model", "request"]),
    ("model", &["request", "device", "files"]),
    ("request", &[]),
    ("device", &[]),
    ("files", &[]),
];

/// Each folder of `crates`, what it calls the library, and the library's folders that it may import.
const DOORS: &[(&str, &str, &[&str])] = &[
    (
        "capi",
        "chiaro_core::",
        &["engine", "order", "pipeline", "image", "record", "gpu", "lookup", "options", "shared"],
    ),
    ("server", "chiaro::", &["engine", "order", "image", "lookup", "options", "recipe", "reports"]),
    ("python", "chiaro::", &["engine", "order", "image", "gpu", "lookup"]),
    ("cli", "chiaro::", &["study", "doctor", "order", "pipeline", "image", "sampling", "record", "gpu"]),
];

fn allowed(from: &str, to: &str) -> bool {
    from == to
        || matches!(to, "error" | "Error" | "ErrorCode" | "Place" | "Remedy" | "Result" | "Tier" | "Tiers" | "files")
        || ALLOWED.iter().any(|(folder, targets)| *folder == from && targets.contains(&to))
        // The names at the library's root are for all doors.
        || DOORS.iter().any(|(folder, _, targets)| *folder == from && (targets.contains(&to) || is_root_name(to)))
}

fn is_root_name(name: &str) -> bool {
    name.starts_with(char::is_uppercase)
}

/// The first names after `root`, `crate::` or `chiaro::`, in a source text, also those in a group `crate::{a, b::c}`.
fn imports(text: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(root) {
        let rest = &text[at + root.len()..];
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
    let root = Path::new(crate::ROOT);
    let inside = ALLOWED.iter().map(|(folder, _)| (*folder, root.join("src").join(folder), "crate::"));
    let doors = DOORS.iter().map(|(folder, name, _)| (*folder, root.join("crates").join(folder).join("src"), *name));
    let mut edges: BTreeMap<(String, String), String> = BTreeMap::new();
    for (folder, path, prefix) in inside.chain(doors) {
        let mut files = Vec::new();
        rust_files(&path, &mut files);
        assert!(!files.is_empty(), "{} has no source file", path.display());
        for file in files {
            for import in imports(&std::fs::read_to_string(&file).expect("a source file is text"), prefix) {
                edges.insert((folder.into(), import), file.display().to_string());
            }
        }
    }
    let wrong: Vec<_> = edges.iter().filter(|((from, to), _)| !allowed(from, to)).collect();
    assert!(wrong.is_empty(), "imports against the layers: {wrong:#?}");
    assert!(edges.len() > 10, "only {} edges seen: is the search right?", edges.len());
}

/// Of the rooms of `src/pipeline`, tests aside: what a room names of another leads down, so that there is no circle between them.
#[test]
fn rooms_of_the_pipeline_import_down() {
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline");
    let mut edges: BTreeMap<(String, String), String> = BTreeMap::new();
    for (room, _) in ROOMS {
        let mut files = Vec::new();
        rust_files(&pipeline.join(room), &mut files);
        files.retain(|file| !file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests")));
        assert!(!files.is_empty(), "src/pipeline/{room} has no source file");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file is text");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let code = code.split("\nmod tests {").next().unwrap_or_default();
            for import in imports(code, "crate::pipeline::") {
                edges.insert(((*room).into(), import), file.display().to_string());
            }
        }
    }
    let down =
        |from: &str, to: &str| from == to || ROOMS.iter().any(|(room, targets)| *room == from && targets.contains(&to));
    let wrong: Vec<_> = edges.iter().filter(|((from, to), _)| !down(from, to)).collect();
    assert!(wrong.is_empty(), "imports against the rooms: {wrong:#?}");
    assert!(edges.len() > 10, "only {} edges seen: is the search right?", edges.len());
    assert!(!down("model", "run") && !down("files", "model") && down("run", "png"));
}

#[test]
fn the_search_sees_groups_and_paths() {
    assert_eq!(imports("use crate::{Error, ops::{a, b}, gpu};", "crate::"), ["Error", "ops", "gpu"]);
    assert_eq!(imports("fn f() { crate::gpu::open() }", "crate::"), ["gpu"]);
    assert!(!allowed("ops", "gpu") && allowed("ops", "record"));
}

#[test]
fn only_gpu_names_wgpu() {
    let mut files = Vec::new();
    for folder in ["src", "crates"] {
        rust_files(&Path::new(crate::ROOT).join(folder), &mut files);
    }
    // What a C program lends is Vulkan's.
    let names_it =
        |file: &Path| file.components().any(|c| c.as_os_str() == "gpu") || file.ends_with("capi/src/vulkan.rs");
    for file in files.iter().filter(|file| !names_it(file)) {
        let text = std::fs::read_to_string(file).expect("a source file is text");
        assert!(!text.contains("wgpu::"), "{} names wgpu", file.display());
    }
}

/// A file that one can keep in mind.
#[test]
fn no_file_is_long() {
    let mut long = Vec::new();
    for folder in ["src", "shaders", "crates/cli/src"] {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a source folder is readable") {
                let path = entry.expect("a folder entry is readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs" || e == "wgsl") {
                    let lines = std::fs::read_to_string(&path).expect("a source file is text").lines().count();
                    long.extend((lines > 450).then(|| format!("{} has {lines} lines", path.display())));
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
