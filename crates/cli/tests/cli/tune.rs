//! `chiaro tune`: what is measured is kept, used, shown and forgotten.

use super::{chiaro, fails, json, stderr};
use crate::support::adapter;

/// The test adapter as `--device` names it.
fn device() -> String {
    adapter::test_adapter().name
}

#[test]
fn tiles_are_measured_kept_and_forgotten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let device = device();
    let told =
        json(folder, &["tune", "--device", &device, "--width", "64", "--height", "64", "--budget", "1", "--json"]);
    let classes = told["classes"].as_array().expect("classes");
    assert!(!classes.is_empty() && told["kept"].as_u64() == Some(classes.len() as u64), "{told}");
    for class in classes {
        assert!(class["tried"].as_u64() > Some(1), "{class}");
        assert!(class["fastest"]["seconds"].as_f64() <= class["reasoned"]["seconds"].as_f64(), "{class}");
    }
    let file = std::path::PathBuf::from(told["file"].as_str().expect("a path"));
    assert!(file.starts_with(folder.join("cache")));

    let shown = || {
        let list = json(folder, &["devices", "--json"]);
        let all = list["adapters"].as_array().expect("adapters").clone();
        all.into_iter().find(|a| a["name"] == device.as_str()).expect("the device")["tuned"].clone()
    };
    assert_eq!(shown(), told["kept"]);

    // A table that is none costs nothing but the tiles, and is named.
    std::fs::write(&file, "{").expect("it is written");
    assert!(shown()["error"].as_str().expect("an error").contains("chiaro tune"));
    json(folder, &["plan", "--device", &device, "--width", "64", "--height", "64", "--json"]);

    let cleared = chiaro(folder, &["tune", "--device", &device, "--clear"]);
    assert!(cleared.status.success(), "{}", stderr(&cleared));
    assert!(!file.exists());
    assert_eq!(shown(), 0);
}

#[test]
fn the_processor_has_no_tiles() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fails(folder.path(), &["tune", "--device", "cpu"], 2, &["expected a GPU", "chiaro devices"]);
}
