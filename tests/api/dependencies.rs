//! What a program that embeds the library compiles with it.

use std::process::Command;

/// Neither the command's crates, nor charts, nor an asynchronous runtime.
#[test]
fn the_bare_library_has_no_front_doors() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--locked",
            "-p",
            "chiaro",
            "--no-default-features",
            "-e",
            "normal",
            "--prefix",
            "none",
        ])
        .current_dir(crate::ROOT)
        .output()
        .expect("cargo starts");
    let text = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"wgpu") && names.contains(&"chiaro"), "is the tree right? {text}");
    for name in ["clap", "indicatif", "console", "plotters", "plotters-backend", "tokio", "ureq", "rustls"] {
        assert!(!names.contains(&name), "{name} is in the tree of the library with no features");
    }
}
