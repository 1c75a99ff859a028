//! Tests that need a process of their own: the binary starts itself.

use std::process::Command;

/// Runs an ignored test, by its path, alone in a new process, and gives on what it says.
///
/// # Panics
/// When it does not pass.
pub(crate) fn passes(test: &str) {
    let binary = std::env::current_exe().expect("the test binary");
    let child = ["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"];
    let output = Command::new(binary).args(child).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "the child failed");
}
