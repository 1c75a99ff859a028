//! What a newcomer does: the demo model, on the host executor.

use std::path::Path;

use chiaro::image::read_png;

use super::{chiaro, fails, json, stderr};

fn means(folder: &Path, prompt: &str) -> (f64, f64) {
    let result = json(folder, &[prompt, "--compare", "--device", "cpu", "--json"]);
    let means = &result["pictures"][0]["mean"];
    (means[0].as_f64().expect("a number"), means[1].as_f64().expect("a number"))
}

/// The paper's point, on the model that everyone has.
#[test]
fn black_is_black_and_white_is_white_with_one_more_step() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (without, with) = means(folder.path(), "a solid black image");
    assert!(with <= 0.10, "black with OMS: {with}");
    assert!(without > with, "black without OMS: {without}, with: {with}");
    let (without, with) = means(folder.path(), "a pure white background");
    assert!(with >= 0.90, "white with OMS: {with}");
    assert!(without < with, "white without OMS: {without}, with: {with}");
    let picture = read_png(&folder.path().join("a-pure-white-background.png")).expect("a PNG");
    assert!(picture.width > 2 * 256, "two pictures side by side");
}

/// Red in the middle, black at the corners.
#[test]
fn a_red_circle_is_red_and_its_background_black() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = chiaro(folder.path(), &["a red circle on a black background", "--device", "cpu"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let picture = read_png(&folder.path().join("a-red-circle-on-a-black-background.png")).expect("a PNG");
    let mean = |x0: usize, y0: usize, size: usize| -> [f64; 3] {
        let mut sums = [0.0; 3];
        for y in y0..y0 + size {
            for x in x0..x0 + size {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum += f64::from(picture.data[(y * picture.width + x) * 3 + c]) / (size * size) as f64;
                }
            }
        }
        sums
    };
    let [r, g, b] = mean(picture.width / 2 - 12, picture.height / 2 - 12, 24);
    assert!(r > 140.0 && r > 2.0 * g && r > 2.0 * b, "the middle is {r:.0} {g:.0} {b:.0}");
    let [r, g, b] = mean(0, 0, 16);
    assert!(r < 70.0 && g < 70.0 && b < 70.0, "the corner is {r:.0} {g:.0} {b:.0}");
}

/// Where the processor multiplies bf16, the picture is another one and nobody sees it; elsewhere that is said.
#[test]
fn bf16_draws_the_same_picture_or_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let draw = |precision: &str| {
        let file = format!("{precision}.png");
        let arguments =
            ["a blue square", "--steps", "4", "--device", "cpu", "-q", "--precision", precision, "-o", &file];
        let output = chiaro(folder.path(), &arguments);
        (output.status.code(), stderr(&output), read_png(&folder.path().join(file)))
    };
    let (code, message, picture) = draw("bf16");
    if code != Some(0) {
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("bf16") && message.contains("AVX-512 BF16"), "{message}");
        return;
    }
    let (of_bf16, of_f32) = (picture.expect("a PNG").data, draw("f32").2.expect("a PNG").data);
    let squares = of_bf16.iter().zip(&of_f32).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    let apart = (squares / of_f32.len() as f64).sqrt();
    // 38 decibels.
    assert!(apart > 0.0 && apart < 3.2, "{apart} of 255");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let draw = |seed: &str, file: &str| {
        let arguments = ["a blue square", "--steps", "3", "--seed", seed, "-o", file, "--device", "cpu", "-q"];
        let output = chiaro(folder.path(), &arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        read_png(&folder.path().join(file)).expect("a PNG").data
    };
    let first = draw("5", "a.png");
    assert_eq!(first, draw("5", "b.png"));
    assert_ne!(first, draw("6", "c.png"));
}

#[test]
fn a_file_is_never_overwritten_silently() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("kept.png");
    std::fs::write(&file, b"precious").expect("writable");
    let arguments = ["x", "--steps", "1", "-o", "kept.png", "--device", "cpu"];
    fails(folder.path(), &arguments, 2, &["kept.png", "exists", "--overwrite"]);
    assert_eq!(std::fs::read(&file).expect("readable"), b"precious");
    let output = chiaro(folder.path(), &[&arguments[..], &["--overwrite"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(read_png(&file).is_ok());
    // Without a name, a free one is found.
    for expected in ["x.png", "x-2.png"] {
        let output = chiaro(folder.path(), &["x", "--steps", "1", "--device", "cpu"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(folder.path().join(expected).exists(), "{expected}");
    }
}

#[test]
fn a_protected_file_is_refused_before_anything_is_drawn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("kept.png");
    std::fs::write(&file, b"precious").expect("writable");
    let writable = std::fs::metadata(&file).expect("there").permissions();
    let mut protected = writable.clone();
    protected.set_readonly(true);
    std::fs::set_permissions(&file, protected).expect("its owner may");
    // More steps than a test would wait for.
    let arguments = ["x", "--steps", "1000", "-o", "kept.png", "--device", "cpu", "--overwrite"];
    fails(folder.path(), &arguments, 2, &["--output", "kept.png", "read-only"]);
    assert_eq!(std::fs::read(&file).expect("readable"), b"precious");
    std::fs::set_permissions(&file, writable).expect("its owner may");
    std::fs::create_dir(folder.path().join("folder.svg")).expect("a new folder");
    fails(
        folder.path(),
        &["schedule", "--plot", "folder.svg", "--overwrite"],
        2,
        &["--plot", "folder.svg", "is a folder"],
    );
    fails(folder.path(), &["profile", "--trace", "kept.png", "--device", "cpu"], 2, &["--trace", "kept.png", "exists"]);
}

#[test]
fn a_prompt_that_names_a_device_gives_no_device() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (prompt, expected) in [("NUL", "chiaro-nul.png"), ("nul", "chiaro-nul-2.png"), ("com1!", "chiaro-com1.png")] {
        let output = chiaro(folder.path(), &[prompt, "--steps", "1", "--device", "cpu"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(folder.path().join(expected).exists(), "{expected}");
    }
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_is_a_name() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = std::ffi::OsStr::from_bytes(b"\xff.png");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_chiaro"));
    let output = command.args(["x", "--steps", "1", "--device", "cpu", "--json", "-o"]).arg(name);
    let output = output.current_dir(folder.path()).output().expect("the binary under test starts");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(folder.path().join(name).exists());
}

#[test]
fn count_sizes_and_parameters_are_what_was_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let result = json(
        folder.path(),
        &[
            "a house", "--count", "2", "--seed", "7", "-W", "192", "-H", "128", "--steps", "2", "--device", "cpu",
            "--json",
        ],
    );
    let pictures = result["pictures"].as_array().expect("a list");
    assert_eq!(pictures.len(), 2);
    for (i, picture) in pictures.iter().enumerate() {
        assert_eq!(picture["seed"], 7 + i);
        let file = folder.path().join(picture["file"].as_str().expect("a name"));
        let image = read_png(&file).expect("a PNG");
        assert_eq!((image.width, image.height), (192, 128));
        let bytes = std::fs::read(&file).expect("readable");
        for word in ["parameters", "a house", "Steps: 2", "chiaro"] {
            assert!(bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word} is not in the PNG");
        }
    }
}

#[test]
fn plan_and_devices_speak_json_and_text() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = json(folder.path(), &["plan", "--device", "cpu", "--json"]);
    let stages = plan["stages"].as_array().expect("a list");
    assert!(stages.len() >= 4, "text encoder, OMS module, UNet, decoder: {stages:?}");
    let peak = stages.iter().filter_map(|s| s["peak_bytes"].as_u64()).max();
    assert_eq!(plan["peak_bytes"].as_u64(), peak);
    let devices = json(folder.path(), &["devices", "--json"]);
    assert!(devices["adapters"].is_array() && devices["host"]["threads"].as_u64() > Some(0));
    for command in ["plan", "devices", "--help"] {
        let arguments = if command == "plan" { vec!["plan", "--device", "cpu"] } else { vec![command] };
        let output = chiaro(folder.path(), &arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{}", stderr(&output));
    }
}
