//! `--control`: pictures, repeats, plans, refusals.

use chiaro::image::{Rgb8Image, read_png, write_png};

use super::{chiaro, fails, json, stderr};
use crate::support::control::write_folder;
use crate::support::golden::committed;

#[test]
fn control_nets_draw_and_are_repeated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let models = folder.path().join("models");
    write_folder("sd15_a", &models.join("controlnet"));
    write_folder("sd15_b", folder.path());
    let edges = |shift: usize| {
        let data = (0..80 * 64 * 3).map(|i| if (i / 3 + shift) % 16 < 8 { 255 } else { 0 }).collect();
        Rgb8Image { width: 80, height: 64, data }
    };
    write_png(&folder.path().join("edges.png"), &edges(0), &[], false).expect("written");
    write_png(&folder.path().join("other.png"), &edges(5), &[], false).expect("written");
    let sd15 = committed().join("sd15").display().to_string();
    let base = ["--model", &sd15, "--device", "cpu", "-q", "--steps", "2", "--seed", "3"];
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(arguments)
            .current_dir(folder.path())
            .env("HF_HUB_CACHE", folder.path())
            .env("CHIARO_MODELS", &models)
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    let read = |name: &str| read_png(&folder.path().join(name)).expect("a PNG");
    let controls = ["--control", "sd15_a", "--control", "sd15_b", "--control-image", "edges.png"];
    let numbers = ["--control-weight", "0.5", "--control-weight", "0.7", "--control-end", "0.5"];
    run(&[&["x"], &base[..], &controls, &numbers, &["-o", "a.png"]].concat());
    let drawn = read("a.png");
    assert_eq!((drawn.width, drawn.height), (80, 64), "the size of what the net sees");
    run(&[&["x"], &base[..], &["-W", "80", "-H", "64", "-o", "free.png"]].concat());
    assert!(read("free.png") != drawn, "controls have an effect");
    let texts = chiaro::image::png_text(&folder.path().join("a.png")).expect("texts");
    let infotext = &texts.iter().find(|(name, _)| name == "parameters").expect("AUTOMATIC1111's").1;
    assert!(
        infotext.contains("ControlNet 1: \"Module: none, Model: sd15_b [") && infotext.contains("Weight: 0.7"),
        "{infotext}"
    );

    // The nets are found by their names or typed; the picture must be named.
    let like = ["--like", "a.png", "--model", &sd15, "--device", "cpu", "-q"];
    let typed = ["--control", "sd15_a", "--control", "sd15_b"];
    let said = run(&[&like[..], &["--control-image", "edges.png"], &typed, &["-o", "b.png"]].concat());
    assert!(read("b.png") == drawn && !said.contains("warning"), "{said}");
    let said = run(&[&like[..], &["--control-image", "other.png"], &typed, &["-o", "c.png"]].concat());
    assert!(said.contains("--control-image 1: another picture"), "{said}");
    let said = run(&[&like[..], &["--control", "off", "-o", "d.png"]].concat());
    assert!(said.contains("2 ControlNets, this one is with 0") && read("d.png") == read("free.png"), "{said}");
    let typed = ["--control", "models/controlnet/sd15_a", "--control", "sd15_b"];
    fails(folder.path(), &[&like[..], &typed].concat(), 2, &["--like", "sd15_a", "--control-image", "--control off"]);
    fails(
        folder.path(),
        &[&like[..], &["--control-image", "edges.png"]].concat(),
        2,
        &["--like", "sd15_a", "--control"],
    );
}

/// Embeddings lie in a folder of models and are found by their names in prompts.
#[test]
fn embeddings_are_found_recorded_and_missed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let models = folder.path().join("models");
    std::fs::create_dir_all(models.join("embeddings")).expect("a folder");
    for name in ["easyneg", "zzpair"] {
        let file = committed().join(format!("embeddings/{name}.safetensors"));
        std::fs::copy(file, models.join(format!("embeddings/{name}.safetensors"))).expect("copied");
    }
    let sd15 = committed().join("sd15").display().to_string();
    let run = |models: &std::path::Path, arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_chiaro"))
            .args(arguments)
            .args(["--model", &sd15, "--device", "cpu", "-q"])
            .current_dir(folder.path())
            .env("HF_HUB_CACHE", folder.path())
            .env("CHIARO_MODELS", models)
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    let read = |name: &str| read_png(&folder.path().join(name)).expect("a PNG");
    let size = ["-W", "64", "-H", "64", "--steps", "2", "-n", "(EasyNeg:1.2)"];
    let said = run(&models, &[&["a house"], &size[..], &["-o", "a.png"]].concat());
    assert!(!said.contains("warning"), "{said}");
    let said = run(&models, &["--like", "a.png", "-o", "b.png"]);
    assert!(read("a.png") == read("b.png") && !said.contains("warning"), "{said}");
    let said = run(folder.path(), &["--like", "a.png", "-o", "c.png"]);
    assert!(said.contains("embedding easyneg: not here") && read("a.png") != read("c.png"), "{said}");
    let file = models.join("embeddings/easyneg.safetensors").display().to_string();
    run(folder.path(), &["--like", "a.png", "-o", "d.png", "--embedding", &file]);
    assert!(read("a.png") == read("d.png"));
    // One of another family is left out where it was only found.
    let said = run(&models, &["zzpair", "-W", "64", "-H", "64", "--steps", "1", "-o", "e.png"]);
    assert!(said.contains("zzpair") && said.contains("read as words"), "{said}");
    let pair = models.join("embeddings/zzpair.safetensors").display().to_string();
    let typed = ["x", "--model", &sd15, "--device", "cpu", "--embedding", &pair];
    fails(folder.path(), &typed, 1, &["zzpair", "another family"]);
    fails(folder.path(), &["x", "--embedding", "style.pt", "--device", "cpu"], 1, &["style.pt"]);
}

#[test]
fn controls_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_folder("sd15_a", folder.path());
    write_folder("sdxl", folder.path());
    let sd15 = committed().join("sd15").display().to_string();
    let base = ["x", "--model", &sd15, "--device", "cpu", "-q"];
    let refuses =
        |more: &[&str], code: i32, words: &[&str]| fails(folder.path(), &[&base[..], more].concat(), code, words);
    refuses(&["--control-weight", "1"], 2, &["--control-weight", "--control"]);
    refuses(&["--control-guess"], 2, &["--control-guess", "--control"]);
    refuses(&["--control", "sd15_a"], 2, &["--control-image"]);
    refuses(&["--control", "nowhere"], 1, &["nowhere", "no such file"]);
    refuses(&["--control", "sdxl"], 1, &["sdxl", "Stable Diffusion 1.x", "Stable Diffusion XL"]);
    let two = ["--control", "sd15_a", "--control", "sd15_a", "--control", "sd15_a"];
    refuses(&[&two[..], &["--control-end", "1", "--control-end", "0.5"]].concat(), 2, &["--control-end", "3", "2"]);
    refuses(&["--control", "sd15_a", "--control-start", "0.6", "--control-end", "0.5"], 2, &["control-start", "0.6"]);
    refuses(&["--control", "sd15_a", "--control-start", "2"], 2, &["control-start", "0 to 1"]);
    // A plan needs no picture; a net that is named twice is in memory once.
    let plan = |more: &[&str]| {
        let report = json(folder.path(), &[&["plan", "--model", &sd15, "--device", "cpu", "--json"], more].concat());
        let stages = report["stages"].as_array().expect("a list").clone();
        let unets = stages.iter().filter(|s| s["stage"].as_str().is_some_and(|name| name.starts_with("UNet")));
        unets.map(|s| s["weight_bytes"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    let (none, one) = (plan(&[]), plan(&["--control", "sd15_a"]));
    assert!(one[0] > none[0]);
    assert_eq!(plan(&["--control", "sd15_a", "--control", "sd15_a"]), one);
    assert_eq!(plan(&["--control", "sd15_a", "--control-end", "0.5"]), [one[0], none[0]]);
    let output = chiaro(folder.path(), &["plan", "--model", &sd15, "--device", "cpu", "--control", "sd15_a"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("UNet with ControlNet"), "{}", stderr(&output));
}
