//! Nothing that was drawn is lost, nothing of the user's is touched; where pictures can go.

use std::fs::{File, read_dir};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use chiaro::image::{open_picture, png_text, read_png};

use super::support::golden::committed;
use super::{chiaro, fails, json, stderr};

const QUICK: [&str; 8] = ["--steps", "1", "-W", "64", "-H", "64", "--device", "cpu"];

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chiaro"));
    command.args(arguments).current_dir(folder);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The process is killed as soon as it has told of its first picture; `--json` tells of each in a line.
#[test]
fn pictures_are_there_when_they_are_done() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (options, lines) in [(&[][..], false), (&["--json"], true), (&["--compare", "--json"], true)] {
        let arguments = ["a house", "--count", "500", "--steps", "2", "--device", "cpu"];
        let mut child = command(folder.path(), &[&arguments, options].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut told = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut told).expect("readable");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let file = if lines {
            let line: serde_json::Value = serde_json::from_str(&told).expect("a line of JSON");
            assert_eq!((&line["event"], &line["seed"]), (&"picture".into(), &0.into()));
            line["file"].as_str().expect("a name").to_owned()
        } else {
            told.split(" (").next().expect("a name").to_owned()
        };
        let picture = read_png(&folder.path().join(&file)).expect("the first picture is whole");
        assert_eq!(picture.width > 256, options.contains(&"--compare"));
        let there = names(folder.path()).len();
        assert!(there < 100, "{there} pictures were awaited");
        read_dir(folder.path())
            .expect("readable")
            .for_each(|entry| std::fs::remove_file(entry.expect("readable").path()).expect("removable"));
    }
}

#[test]
fn a_preview_leaves_a_file_of_its_name_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kept = folder.path().join("x.preview.png");
    std::fs::write(&kept, "precious").expect("writable");
    for options in [&[][..], &["--overwrite"]] {
        let arguments = [
            &["x", "--preview", "1", "-o", "x.png", "--steps", "3", "-W", "64", "-H", "64", "--device", "cpu"],
            options,
        ];
        let output = chiaro(folder.path(), &arguments.concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("x.preview-2.png"), "{}", stderr(&output));
        assert_eq!(std::fs::read(&kept).expect("readable"), b"precious");
        assert_eq!(names(folder.path()), ["x.png", "x.preview.png"]);
    }
    // A name as long as the system allows has a preview, too.
    let long = format!("{}.png", "n".repeat(251));
    let arguments = ["x", "--preview", "1", "-o", &long, "--steps", "3", "-W", "64", "-H", "64", "--device", "cpu"];
    let output = chiaro(folder.path(), &arguments);
    assert!(output.status.success() && !stderr(&output).contains("no previews"), "{}", stderr(&output));
}

/// Ctrl-C while a preview is there: it goes with the run, which ends as by the signal.
#[cfg(unix)]
#[test]
fn a_run_that_is_ended_leaves_nothing_behind() {
    use std::os::unix::process::ExitStatusExt;
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let arguments = ["x", "--preview", "1", "--steps", "1000", "-W", "64", "-H", "64", "--device", "cpu", "-q"];
        let mut child = command(folder.path(), &arguments).spawn().expect("it starts");
        let preview = folder.path().join("x.preview.png");
        let begun = std::time::Instant::now();
        while !preview.exists() {
            assert!(begun.elapsed().as_secs() < 60, "no preview appears");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let signalled = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
        assert!(signalled.expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").signal(), Some(number));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

/// A limit of the shell's on the size of files stands for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_is_found_out_before_anything_is_drawn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = env!("CARGO_BIN_EXE_chiaro");
    for (command, name) in [
        ("x --steps 1000 --device cpu -o a.png", "a.png"),
        ("x --steps 1000 --device cpu", "x.png"),
        ("schedule --plot a.svg", "a.svg"),
        ("study prompts.txt -o s --steps 1000 --device cpu", "s"),
    ] {
        std::fs::write(folder.path().join("prompts.txt"), "a red circle\n").expect("writable");
        let script = format!("trap '' XFSZ; ulimit -f 8; exec '{program}' {command}");
        let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().expect("a shell");
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {told}");
        assert!(told.starts_with(&format!("chiaro: {name}: ")) && !told.contains(".part"), "{command}: {told}");
        assert_eq!(names(folder.path()), ["prompts.txt"], "{command}");
    }
}

/// Nobody reads what is said: a closed pipe, a full device. The picture is drawn, and codes are what they are otherwise.
#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_that_takes_nothing_changes_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let closed = || Stdio::from(std::io::pipe().expect("a pipe").1);
    for (name, sink) in [("full", &full as &dyn Fn() -> Stdio), ("closed", &closed)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run = |arguments: &[&str]| {
            command(folder.path(), arguments).stderr(sink()).output().expect("it starts").status.code()
        };
        // The negative prompt has no effect, which is a warning.
        let drawn = [&["x", "--negative", "y", "--guidance", "1", "--overwrite", "-o", "a.png"][..], &QUICK].concat();
        assert_eq!(run(&drawn), Some(0), "{name}");
        assert!(folder.path().join("a.png").exists(), "{name}");
        assert_eq!(run(&["x", "--steps", "0"]), Some(2), "{name}");
        assert_eq!(run(&["x", "--no-such-option"]), Some(2), "{name}");
        assert_eq!(run(&["x", "--model", "no/such/folder", "--device", "cpu"]), Some(1), "{name}");
        std::fs::write(folder.path().join("prompts.txt"), "a red circle\n").expect("writable");
        assert_eq!(run(&[&["study", "prompts.txt", "-o", "s"][..], &QUICK].concat()), Some(0), "{name}");
        let both = command(folder.path(), &[&["y", "--count", "2"][..], &QUICK].concat())
            .stdout(sink())
            .stderr(sink())
            .status();
        // Lines that could not be printed are a fault only where someone might have read them.
        assert_eq!(both.expect("it starts").code(), Some(if name == "full" { 1 } else { 0 }));
        assert!(folder.path().join("y.png").exists() && folder.path().join("y-2.png").exists(), "{name}");
    }
}

#[test]
fn runs_side_by_side_lose_no_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = [&["a house", "--count", "3"][..], &QUICK].concat();
    let run = || command(folder.path(), &arguments).stderr(Stdio::null()).stdout(Stdio::piped()).spawn();
    let runs: Vec<_> = (0..3).map(|_| run().expect("it starts")).collect();
    let mut told = Vec::new();
    for child in runs {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        told.extend(String::from_utf8_lossy(&output.stdout).lines().map(|l| l.split(" (").next().map(str::to_owned)));
    }
    told.sort();
    let there: Vec<_> = names(folder.path()).into_iter().map(Some).collect();
    assert_eq!((told.len(), told), (9, there));
}

/// As another run leaves them that is killed while it writes.
#[test]
fn temporary_files_of_killed_runs_are_removed_by_the_next() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(".chiaro-4000000000-7.part"), "half a picture").expect("writable");
    let other = folder.path().join(".chiaro-4000000001-0.part");
    std::fs::write(&other, "being written").expect("writable");
    let held = File::open(&other).expect("there");
    held.try_lock().expect("nobody else writes it");
    let output = chiaro(folder.path(), &[&["x", "-o", "a.png"][..], &QUICK].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(folder.path()), [".chiaro-4000000001-0.part", "a.png"]);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_not_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let link = folder.path().join("a.png");
    std::os::unix::fs::symlink("nowhere", &link).expect("links are");
    let arguments = [&["x", "-o", "a.png"][..], &QUICK].concat();
    fails(folder.path(), &arguments, 2, &["a.png", "exists", "--overwrite"]);
    assert_eq!(std::fs::read_link(&link).expect("still a link"), Path::new("nowhere"));
    let output = chiaro(folder.path(), &[&arguments[..], &["--overwrite"]].concat());
    assert!(output.status.success() && read_png(&link).is_ok() && !folder.path().join("nowhere").exists());
}

#[test]
fn pictures_go_where_they_are_sent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let draw = |more: &[&str]| {
        let output = chiaro(folder.path(), &[&["a red circle", "--seed", "3"][..], &QUICK, more].concat());
        assert!(output.status.success(), "{more:?}: {}", stderr(&output));
        output
    };
    draw(&["-o", "a.png"]);
    let picture = read_png(&folder.path().join("a.png")).expect("a PNG");
    draw(&["-o", "b.webp"]);
    assert_eq!(open_picture(&folder.path().join("b.webp")).expect("a WebP"), picture);
    draw(&["-o", "c.JPG"]);
    let lossy = open_picture(&folder.path().join("c.JPG")).expect("a JPEG");
    assert!(lossy.data.iter().zip(&picture.data).all(|(a, b)| a.abs_diff(*b) < 64));
    for name in ["b.webp", "c.JPG"] {
        let bytes = std::fs::read(folder.path().join(name)).expect("readable");
        let words: Vec<u8> = "Steps: 1, Sampler".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(bytes.windows(words.len()).any(|w| w == words), "{name} holds no parameters");
    }
    draw(&["-o", "d.jpg", "--count", "2"]);
    assert!(
        open_picture(&folder.path().join("d-1.jpg")).is_ok() && open_picture(&folder.path().join("d-2.jpg")).is_ok()
    );

    let output = draw(&["-o", "-"]);
    assert_eq!(output.stdout, std::fs::read(folder.path().join("a.png")).expect("readable"));
    let said = stderr(&output);
    assert!(said.contains("seed 3"), "{said}");
    for more in [&["--json"][..], &["--count", "2"], &["--preview", "1"], &["--open"]] {
        fails(folder.path(), &[&["x", "-o", "-"][..], &QUICK, more].concat(), 2, &["--output -"]);
    }
    fails(folder.path(), &["x", "-o", "a.bmp"], 2, &["a.bmp", ".png, .jpg or .webp"]);
}

/// Whoever reads standard output goes: here the picture is what is lost.
#[cfg(target_os = "linux")]
#[test]
fn a_picture_that_standard_output_does_not_take_is_a_fault() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let closed = || Stdio::from(std::io::pipe().expect("a pipe").1);
    for sink in [full(), closed()] {
        let mut run = command(folder.path(), &[&["x", "-o", "-"][..], &QUICK].concat());
        let output = run.stdout(sink).stderr(Stdio::piped()).spawn().and_then(|c| c.wait_with_output());
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("standard output"), "{}", stderr(&output));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_is_shown_with_the_system_s_program() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (shown, viewer) = (folder.path().join("shown"), folder.path().join("xdg-open"));
    std::fs::write(&viewer, format!("#!/bin/sh\nprintf %s \"$1\" > '{}.new'\nmv '{0}.new' '{0}'\n", shown.display()))
        .expect("writable");
    std::fs::set_permissions(&viewer, PermissionsExt::from_mode(0o755)).expect("its owner may");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let arguments = [&["x", "--open", "--count", "2", "-o", "a.png"][..], &QUICK].concat();
    let output = command(folder.path(), &arguments).env("PATH", path).output().expect("it starts");
    assert!(output.status.success(), "{}", stderr(&output));
    let begun = std::time::Instant::now();
    while !shown.exists() {
        assert!(begun.elapsed().as_secs() < 20, "nothing is shown: {}", stderr(&output));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let wanted = folder.path().canonicalize().expect("there").join("a-1.png");
    let got = std::fs::read_to_string(&shown).expect("readable");
    assert_eq!(Path::new(&got).canonicalize().expect("there"), wanted);
}

#[test]
fn a_seed_is_drawn_told_and_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut seeds = Vec::new();
    for seed in ["random", "-1"] {
        let told = json(folder.path(), &[&["x", "--seed", seed, "--json"][..], &QUICK].concat());
        let picture = &told["pictures"][0];
        let seed = picture["seed"].as_u64().expect("a number");
        assert!(seed <= u32::MAX.into());
        let file = folder.path().join(picture["file"].as_str().expect("a name"));
        let texts = png_text(&file).expect("a PNG");
        assert!(texts.iter().any(|(k, text)| k == "parameters" && text.contains(&format!("Seed: {seed},"))));
        seeds.push((seed, read_png(&file).expect("a PNG")));
        // Typed, it gives the picture again.
        let number = seed.to_string();
        let typed = [&["x", "--seed", &number, "-o", "again.png", "--overwrite"][..], &QUICK].concat();
        let output = chiaro(folder.path(), &typed);
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("seed {seed}")));
        assert_eq!(Some(&read_png(&folder.path().join("again.png")).expect("a PNG")), seeds.last().map(|(_, p)| p));
    }
    assert_ne!(seeds[0].0, seeds[1].0);
    for seed in ["-2", "x", "1.5"] {
        fails(folder.path(), &["x", "--seed", seed], 2, &["--seed", "random"]);
    }
}

#[test]
fn an_empty_prompt_needs_a_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for prompt in ["", "  \n"] {
        fails(folder.path(), &[&[prompt][..], &QUICK].concat(), 2, &["prompt", "--image"]);
    }
    let run = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &QUICK].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    };
    run(&["x", "-o", "x.png"]);
    run(&["", "--image", "x.png", "--strength", "1", "-o", "y.png"]);
}

#[test]
fn quiet_is_quiet_and_idle_options_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &QUICK].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    assert_eq!(run(&["a red circle", "-q"]), "");
    assert_eq!(run(&["a red circle", "-q", "--json"]), "");
    std::fs::write(folder.path().join("prompts.txt"), "a red circle\n").expect("writable");
    assert_eq!(run(&["study", "prompts.txt", "-o", "s", "-q"]), "");
    for options in [
        &["--overwrite"][..],
        &["--batch", "4"],
        &["--comma-backtrack", "3", "--prompt-syntax", "plain"],
        &["--guidance-rescale", "0.5", "--guidance", "1"],
        &["--guidance-interval", "0.2,0.8", "--guidance", "1"],
        &["--variation-seed", "3", "--variation-strength", "0"],
        &["--lora-dir", "."],
        &["--preview", "5"],
        &["--oms-text-encoder", "."],
        &["--aesthetic-score", "7"],
        &["--negative", "y", "--guidance", "1"],
    ] {
        let said = run(&[&["x"], options].concat());
        let option =
            options[0].trim_start_matches("--").replace("-score", " scores").replace("negative", "negative prompt");
        let line = said.lines().find(|line| line.starts_with("warning: ") && line.contains("no effect"));
        assert!(line.is_some_and(|line| line.contains(&option)), "{options:?}: {said}");
    }
    run(&["x", "-o", "start.png"]);
    let said = run(&["x", "--image", "start.png", "--strength", "1", "--image-guidance", "2"]);
    assert!(said.contains("image-guidance has no effect"), "{said}");
    fails(folder.path(), &["x", "--oms", "off", "--oms-guidance", "2"], 2, &["--oms-guidance", "--oms"]);
}

/// What was found of a model by a path from where the command was started counts for the next run.
#[test]
fn kept_hashes_are_taken_for_what_they_say() {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in read_dir(from).expect("readable") {
            let (entry, to) = (entry.expect("readable"), to.join(from.file_name().expect("a name")));
            match entry.path().is_dir() {
                true => copy(&entry.path(), &to),
                false => {
                    std::fs::create_dir_all(&to).expect("a folder");
                    std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
                }
            }
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&committed().join("sd15"), folder.path());
    let draw = |name: &str| {
        let arguments = [&["a house", "--model", "sd15", "-o", name][..], &QUICK].concat();
        let output = chiaro(folder.path(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = png_text(&folder.path().join(name)).expect("a PNG");
        text.iter().find(|(key, _)| key == "parameters").expect("parameters").1.clone()
    };
    let first = draw("first.png");
    let kept = folder.path().join("cache/hashes.json");
    let mut hashes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&kept).expect("they are kept")).expect("JSON");
    let files = hashes["files"].as_object_mut().expect("by path");
    assert!(files.keys().all(|path| Path::new(path).is_absolute()), "{files:?}");
    let unet = files.iter_mut().find(|(path, _)| Path::new(path).components().any(|part| part.as_os_str() == "unet"));
    let (_, unet) = unet.expect("the UNet's file");
    let true_hash = unet["sha256"].as_str().expect("a hash")[..10].to_owned();
    assert!(first.contains(&format!("Model hash: {true_hash}")), "{first}");
    unet["sha256"] = "ab".repeat(32).into();
    std::fs::write(&kept, hashes.to_string()).expect("written");
    assert!(draw("second.png").contains("Model hash: ababababab"), "it is not computed again");
}
