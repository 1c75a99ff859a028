//! `chiaro serve` as a process: what it refuses, how it ends, and what outlives it when it is killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{chiaro, fails, stderr};

/// A server of its own process, killed when it is dropped.
struct Served {
    process: Child,
    address: String,
}

impl Served {
    fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(["serve", "--device", "cpu", "--port", "0", "--folder", "served"])
            .current_dir(folder)
            .env("HF_HUB_CACHE", folder)
            .env_remove("CHIARO_MODELS")
            .env_remove("CHIARO_API_KEY")
            .env("CHIARO_CACHE", folder.join("cache"))
            .env("CHIARO_CONFIG", "")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut next = || lines.next().expect("it says where it is").expect("a line");
        assert_eq!(next(), "chiaro serves on the processor");
        let address = next().trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        // What else it says goes nowhere, but is read.
        std::thread::spawn(move || lines.count());
        Served { process, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n")?.1;
        Some((status, serde_json::from_str(body).ok()?))
    }

    fn jobs(&self) -> BTreeMap<String, Value> {
        let (_, listed) = self.ask("GET", "/v1/chiaro/jobs?limit=500", "", "").expect("an answer");
        let jobs = listed["jobs"].as_array().expect("a list").clone();
        jobs.into_iter().map(|job| (job["id"].as_str().expect("an id").to_owned(), job)).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn small(seed: u64, steps: u64) -> String {
    let request =
        json!({ "prompt": "a red circle", "width": 64, "height": 64, "num_inference_steps": steps, "seed": seed });
    json!({ "version": 1, "request": request }).to_string()
}

/// Killed at moments of chance while jobs come in, wait, are drawn and written: each that was accepted is drawn once, as if nothing had been.
#[test]
fn what_was_accepted_outlives_a_kill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kills = if std::env::var_os("CHIARO_TEST_ALL").is_some() { 100 } else { 8 };
    let mut accepted: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut chance = 12_345_u64;
    let mut below = |end: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % end
    };
    for kill in 0..kills {
        let mut served = Served::start(folder.path());
        let until = Instant::now() + Duration::from_millis(below(400));
        for at in 0..3 {
            let (seed, steps) = (below(4), 1 + below(6));
            let key = format!("Idempotency-Key: {kill}-{at}\r\n");
            if let Some((202, job)) = served.ask("POST", "/v1/chiaro/jobs", &key, &small(seed, steps)) {
                accepted.insert(job["id"].as_str().expect("an id").to_owned(), (seed, steps));
            }
            if Instant::now() >= until {
                break;
            }
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        served.process.kill().expect("it is killed");
        served.process.wait().expect("it ends");
    }
    let served = Served::start(folder.path());
    let since = Instant::now();
    let jobs = loop {
        let jobs = served.jobs();
        if jobs.values().all(|job| job["state"] == "completed") {
            break jobs;
        }
        assert!(since.elapsed() < Duration::from_secs(300), "{jobs:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(accepted.len() > kills / 2, "{} were accepted", accepted.len());
    // One whose answer was cut is there too; nobody hands it in again.
    assert!(
        accepted.keys().all(|id| jobs.contains_key(id)) && jobs.len() <= 3 * kills,
        "{} of {}",
        accepted.len(),
        jobs.len()
    );
    let mut pictures: BTreeMap<(u64, u64), Value> = BTreeMap::new();
    for (id, asked) in &accepted {
        assert_eq!(jobs[id]["images"].as_array().map(Vec::len), Some(1), "{}", jobs[id]);
        let sha256 = jobs[id]["images"][0]["sha256"].clone();
        assert_eq!(*pictures.entry(*asked).or_insert_with(|| sha256.clone()), sha256, "{asked:?}");
    }
    // And as the command draws it.
    let ((seed, steps), sha256) = pictures.first_key_value().expect("some were drawn");
    let (seed, steps) = (seed.to_string(), steps.to_string());
    let drawn = chiaro(
        folder.path(),
        &[
            "a red circle",
            "--device",
            "cpu",
            "-W",
            "64",
            "-H",
            "64",
            "--seed",
            &seed,
            "--steps",
            &steps,
            "-o",
            "own.png",
        ],
    );
    assert!(drawn.status.success(), "{}", stderr(&drawn));
    let own = std::fs::read(folder.path().join("own.png")).expect("a picture");
    let own: String = Sha256::digest(own).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(*sha256, json!(own));
}

/// Asked to end, it ends in order, and what waits goes on.
#[cfg(unix)]
#[test]
fn it_ends_in_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut served = Served::start(folder.path());
    for seed in 0..3 {
        assert_eq!(served.ask("POST", "/v1/chiaro/jobs", "", &small(seed, 300)).expect("an answer").0, 202);
    }
    // SAFETY: the process is this test's child, and has not been waited for.
    assert_eq!(unsafe { libc::kill(served.process.id().cast_signed(), libc::SIGTERM) }, 0);
    let status = served.process.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
    let served = Served::start(folder.path());
    assert_eq!(served.jobs().len(), 3);
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let serve = |more: &[&str], words: &[&str]| {
        let all: Vec<&str> = ["serve", "--device", "cpu", "--folder", "x"].iter().chain(more).copied().collect();
        fails(folder.path(), &all, 2, words);
    };
    serve(&["--address", "0.0.0.0"], &["0.0.0.0", "key"]);
    serve(&["--cors-origin", "*"], &["origin", "https://example.org"]);
    serve(&["--keep", "-1"], &["--keep"]);
    std::fs::write(folder.path().join("short"), "abc\n").expect("written");
    serve(&["--api-key-file", "short"], &["key", "16"]);
    fails(folder.path(), &["serve", "--device", "cpu", "--api-key-file", "none"], 1, &["none"]);
    let described = chiaro(folder.path(), &["serve", "--print-openapi"]);
    assert!(described.status.success() && described.stdout.starts_with(b"{"));
}
