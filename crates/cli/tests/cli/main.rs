//! The real binary: what it prints, what it writes, how it fails.

mod command_lines;
mod control;
mod doctor;
mod failures;
mod inspect;
mod jobs;
mod like;
mod lora;
mod options;
mod outputs;
mod pictures;
mod profile;
#[cfg(feature = "pull")]
mod pull;
mod recognition;
mod schedule;
#[cfg(feature = "serve")]
mod serve;
mod shown;
mod starts;
mod study;
#[path = "../../../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the library's tests use the rest")]
mod support;
mod tokens;
mod tune;
mod untrusted;
mod way_in;

use std::path::Path;
use std::process::{Command, Output};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs `chiaro` in `folder` on the host executor unless the arguments name a device.
pub(crate) fn chiaro(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chiaro"))
        .args(arguments)
        .current_dir(folder)
        // Names are looked up in the test's folder alone.
        .env("HF_HUB_CACHE", folder)
        .env_remove("CHIARO_MODELS")
        .env("CHIARO_CACHE", folder.join("cache"))
        // Nor do a user's defaults count.
        .env("CHIARO_CONFIG", "")
        .output()
        .expect("the binary under test starts")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run that must succeed; gives its standard output as JSON. Lines of single pictures become the list `pictures` of the last line.
pub(crate) fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = chiaro(folder, arguments);
    assert!(output.status.success(), "chiaro {arguments:?}: {}", stderr(&output));
    report(&output.stdout)
}

/// What `--json` printed, as [`json`] gives it.
pub(crate) fn report(stdout: &[u8]) -> serde_json::Value {
    let values = serde_json::Deserializer::from_slice(stdout).into_iter::<serde_json::Value>();
    let mut values: Vec<_> = values.map(|value| value.expect("--json prints JSON")).collect();
    let mut last = values.pop().expect("--json prints something");
    if last["event"] == "done" {
        assert_eq!(last["pictures"], values.len());
        last["pictures"] = values.into();
    } else {
        assert!(values.is_empty(), "one value is printed");
    }
    last
}

/// A run that must fail with `code`, one line on standard error that contains every word of `words`, and no new file.
pub(crate) fn fails(folder: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let before = files(folder);
    let output = chiaro(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "chiaro {arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "chiaro {arguments:?}: expected {word:?} in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(files(folder), before, "chiaro {arguments:?} left files behind");
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the test folder is readable")
        .map(|entry| entry.expect("a folder entry is readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
