//! `chiaro profile`: times that add up, amounts that `chiaro plan` has too, files that others read.

use serde_json::Value;

use super::{fails, json};
use crate::support::adapter;

fn sum(list: &Value, key: &str) -> f64 {
    list.as_array().expect("a list").iter().map(|entry| entry[key].as_f64().expect("a number")).sum()
}

#[test]
fn a_step_on_the_processor_and_on_a_gpu() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let gpu = adapter::test_adapter().name;
    for (device, stage) in [("cpu", "unet"), (gpu.as_str(), "UNet")] {
        let model = ["--device", device, "--width", "64", "--height", "64", "--json"];
        let arguments =
            [&["profile", "--stage", stage, "--runs", "1", "--trace", "trace.json", "--overwrite"], &model[..]];
        let told = json(folder, &arguments.concat());
        let plan = json(folder, &[&["plan"], &model[..]].concat());
        let planned = plan["stages"].as_array().expect("stages").iter().find(|s| s["stage"] == "UNet").expect("a UNet");
        let dispatches = &told["dispatches"];
        assert_eq!(dispatches.as_array().map(Vec::len), planned["dispatches"].as_u64().map(|n| n as usize));
        assert_eq!(sum(dispatches, "flops"), planned["flops_per_run"].as_f64().expect("a number"));
        assert_eq!(sum(dispatches, "moved_bytes"), planned["moved_bytes_per_run"].as_f64().expect("a number"));
        assert_eq!(told["once"]["dispatches"], planned["once"]["dispatches"]);
        let seconds = told["seconds"].as_f64().expect("a number");
        assert!(seconds > 0.0 && (sum(dispatches, "seconds") - seconds).abs() < 1e-9 * seconds);
        let limit = told["limit_seconds"].as_f64().expect("a number");
        assert!(limit > 0.0 && (sum(dispatches, "limit_seconds") - limit).abs() < 1e-9 * limit);
        assert!(told["peaks"]["bytes_per_second"].as_f64() > Some(0.0));

        let trace = std::fs::read(folder.join("trace.json")).expect("the trace was written");
        let trace: Value = serde_json::from_slice(&trace).expect("it is JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        assert_eq!(Some(events.len()), dispatches.as_array().map(Vec::len));
        let mut end = 0.0;
        for event in events {
            let (start, long) = (event["ts"].as_f64().expect("ts"), event["dur"].as_f64().expect("dur"));
            assert!(event["ph"] == "X" && (start - end).abs() <= 1e-6 * end.max(1.0) && long >= 0.0, "{event}");
            end = start + long;
        }
        assert!((end - seconds * 1e6).abs() < 1e-6 * end, "the trace is as long as the step");
    }
}

#[test]
fn what_cannot_be_profiled() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    fails(folder, &["profile", "--stage", "dreams"], 2, &["--stage: expected one of", "dreams", "UNet", "decoder"]);
    fails(folder, &["profile", "--runs", "0"], 2, &["--runs"]);
    std::fs::write(folder.join("trace.json"), "mine").expect("it is written");
    fails(
        folder,
        &["profile", "--runs", "1", "--width", "64", "--height", "64", "--trace", "trace.json"],
        2,
        &["trace.json"],
    );
    assert_eq!(std::fs::read(folder.join("trace.json")).expect("it is there"), b"mine");
}
