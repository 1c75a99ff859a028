//! `--job` and `--print-job`.

use std::io::Write;
use std::process::{Command, Stdio};

use super::{chiaro, fails, json, stderr};

fn printed(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = chiaro(folder, &[arguments, &["--print-job"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_was_typed_comes_back_as_a_job_and_draws_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let typed = [
        "a red circle",
        "-n",
        "blue",
        "-s",
        "2",
        "--seed",
        "7",
        "--sampler",
        "DPM++ 2M Karras",
        "--variation-strength",
        "0.25",
        "-d",
        "cpu",
        "--oms-prompt",
        "dark",
        "--weights",
        "q8_0",
        "-W",
        "64",
        "-H",
        "72",
        "--guidance-interval",
        "0.1,0.9",
        "--clip-skip",
        "2",
        "--deep-cache",
        "2",
    ];
    let job = printed(at, &typed);
    std::fs::write(at.join("job.json"), &job).expect("writable");
    assert_eq!(printed(at, &["--job", "job.json"]), job, "read and written");
    let value: serde_json::Value = serde_json::from_str(&job).expect("JSON");
    assert_eq!((&value["version"], &value["request"]["seed"]), (&1.into(), &7.into()));
    let cropped: serde_json::Value = serde_json::from_str(&printed(at, &["x", "--crop", "8,16"])).expect("JSON");
    assert_eq!(cropped["request"]["crops_coords_top_left"], serde_json::json!([16, 8]), "as in diffusers");
    let draw = |arguments: &[&str], name: &str| {
        let report = json(at, &[arguments, &["-o", name, "--json"]].concat());
        (report["pictures"][0]["parameters"].clone(), std::fs::read(at.join(name)).expect("drawn"))
    };
    let (own, same) = (draw(&typed, "a.png"), draw(&["--job", "job.json"], "b.png"));
    assert!(own == same, "{} {}", own.0, same.0);
    assert!(!at.join("job.png").exists());
    // Other options replace what it says.
    let changed: serde_json::Value =
        serde_json::from_str(&printed(at, &["a house", "--job", "job.json", "--seed", "8", "--sampler", "ddim"]))
            .expect("JSON");
    assert_eq!(changed["request"]["prompt"], "a house");
    assert_eq!((&changed["request"]["seed"], &changed["request"]["sampler"]), (&8.into(), &"ddim".into()));
    assert!(changed["request"].get("sigmas").is_none(), "they belonged to the other sampler: {changed}");
    // On standard input.
    let mut run = Command::new(env!("CARGO_BIN_EXE_chiaro"))
        .args(["--job", "-", "--print-job"])
        .env("CHIARO_CONFIG", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    run.stdin.take().expect("piped").write_all(job.as_bytes()).expect("it reads");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), job);
}

#[test]
fn a_job_that_cannot_be_meant_is_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let refuses = |job: &str, code, words: &[&str]| {
        std::fs::write(at.join("job.json"), job).expect("writable");
        fails(at, &["--job", "job.json", "-d", "cpu"], code, words);
    };
    refuses(
        r#"{"version": 1, "request": {"promt": "x"}}"#,
        2,
        &["job.json", "request.promt: unknown, did you mean prompt?"],
    );
    refuses(r#"{"version": 2}"#, 2, &["version: expected 1", "got 2"]);
    refuses(
        r#"{"version": 1, "request": {"prompt": "x", "count": 0}}"#,
        2,
        &["request.count: expected 1 to 10000, got 0"],
    );
    refuses("a red circle", 2, &["job.json", "JSON"]);
    refuses(r#"{"version": 1, "model": {"name": "nowhere"}}"#, 1, &["nowhere", "chiaro models"]);
    refuses(r#"{"version": 1, "request": {"prompt": "x", "refiner_start": 0.5}}"#, 2, &["--refiner-start: needs"]);
    refuses(r#"{"version": 1, "request": {"prompt": " "}}"#, 2, &["--image"]);
    fails(at, &["--job", "none.json"], 1, &["none.json"]);
}
