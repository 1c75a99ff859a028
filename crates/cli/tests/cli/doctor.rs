use serde_json::Value;

use super::{chiaro, json, stderr};
use crate::support::adapter::test_adapter;

fn tier<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tiers = report["adapters"][0]["examination"]["tiers"].as_array().expect("tiers");
    &tiers.iter().find(|tier| tier["tier"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))["verdict"]
}

#[test]
fn what_is_found_is_kept_and_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, adapter) = (folder.path(), test_adapter());
    let index = adapter.index.to_string();
    let report = json(path, &["doctor", "--device", &index, "--json"]);
    assert_eq!(report["adapters"][0]["name"], adapter.name.as_str());
    assert!(tier(&report, "f32")["right"]["checks"].as_u64().is_some_and(|checks| checks >= 25), "{report:#}");
    let kept: Vec<_> = std::fs::read_dir(path.join("cache/findings")).expect("findings").collect();
    let file = kept[0].as_ref().expect("a file").path();
    let mut findings: Value = serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    assert!(findings["right"].as_array().expect("right").contains(&"f32".into()), "{findings:#}");
    // A tier that was found wrong is not used any more, and the user is told.
    findings["wrong"] = serde_json::json!({ "f16": "made up by a test" });
    std::fs::write(&file, findings.to_string()).expect("writable");
    let arguments = ["a dot", "--device", &index, "--steps", "1", "-o", "dot.png", "--json"];
    let drawn = json(path, &arguments);
    let remarks = drawn["device_remarks"].to_string();
    assert!(remarks.contains("without f16, which its examination found wrong: made up by a test"), "{drawn:#}");
    let devices = chiaro(path, &["devices"]);
    assert!(String::from_utf8_lossy(&devices.stdout).contains("without f16: made up by a test"));
    // Damaged findings are told, and no reason to draw nothing.
    std::fs::write(&file, "{").expect("writable");
    assert!(String::from_utf8_lossy(&chiaro(path, &["devices"]).stdout).contains("`chiaro doctor` writes it anew"));
    let forgotten = chiaro(path, &["doctor", "--forget", "--device", &index]);
    assert!(forgotten.status.success() && !file.exists(), "{}", stderr(&forgotten));
}

#[test]
fn a_driver_that_crashes_takes_only_its_tier_with_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, adapter) = (folder.path(), test_adapter());
    let index = adapter.index.to_string();
    let output = chiaro(path, &["doctor", "--device", &index, "--pretend", "crash:subgroups", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON all the same");
    assert!(tier(&report, "subgroups")["wrong"][0].to_string().contains("the driver ended the process"), "{report:#}");
    assert!(tier(&report, "f32").get("right").is_some(), "{report:#}");
    assert!(
        report["adapters"][0]["examination"]["picture"].as_f64().is_some_and(|decibels| decibels > 35.0),
        "{report:#}"
    );
    // What was pretended is not kept.
    assert!(!path.join("cache/findings").exists());
}
