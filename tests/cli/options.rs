//! The options of sampling, seeds and start pictures.

use chiaro::image::read_png;

use super::{chiaro, fails, json, stderr};

#[test]
fn samplers_are_listed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listed = json(folder.path(), &["samplers", "--json"]);
    assert_eq!(listed["samplers"].as_array().map(Vec::len), Some(20));
    let output = chiaro(folder.path(), &["samplers"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["dpmpp_2m", "DPM++ 2M SDE Heun", "karras", "align_your_steps"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // Every listed name is taken.
    for sampler in listed["samplers"].as_array().expect("a list") {
        let name = sampler["name"].as_str().expect("a name");
        let plan = ["plan", "--device", "cpu", "--sampler", name, "--steps", "5"];
        assert!(chiaro(folder.path(), &plan).status.success(), "{name}");
    }
}

#[test]
fn impossible_requests_are_refused_before_a_model_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refuses = |arguments: &[&str], words: &[&str]| fails(folder.path(), arguments, 2, words);
    refuses(&["x", "--sampler", "dpmpp_2n"], &["dpmpp_2n", "dpmpp_2m"]);
    refuses(&["x", "--sigmas", "karas"], &["karas", "karras"]);
    refuses(&["x", "--rng", "cuda"], &["cuda", "torch", "a1111", "comfy"]);
    refuses(&["x", "--sampler", "ddim", "--sigmas", "karras"], &["ddim", "sigma"]);
    refuses(&["x", "--sampler", "heun", "--eta", "0.5"], &["heun", "eta"]);
    refuses(&["x", "--zero-snr", "--spacing", "trailing"], &["zero SNR"]);
    refuses(&["x", "--oms-eta", "2"], &["oms-eta"]);
    refuses(&["x", "--oms", "off", "--oms-eta", "0.5"], &["--oms-eta", "--oms"]);
    refuses(&["x", "--hires", "9"], &["hires", "4"]);
    refuses(&["x", "--hires-strength", "0.5"], &["--hires"]);
    refuses(&["x", "--strength", "0.5"], &["--image"]);
    refuses(&["x", "--variation-strength", "3"], &["variation-strength"]);
    fails(folder.path(), &["--like", "missing.png"], 1, &["missing.png"]);
    std::fs::write(folder.path().join("text.png"), b"no picture").expect("writable");
    fails(folder.path(), &["x", "--image", "text.png"], 1, &["text.png"]);
    fails(folder.path(), &["--like", "text.png"], 1, &["text.png"]);
}

#[test]
fn a_picture_is_repeated_from_its_png() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &["--device", "cpu", "-q"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    let read = |name: &str| read_png(&folder.path().join(name)).expect("a PNG");
    run(&[
        "(a red circle:1.2), [blue:black:0.5]",
        "--steps",
        "4",
        "--sampler",
        "DPM++ 2M Karras",
        "--seed",
        "9",
        "-o",
        "a.png",
    ]);
    run(&["--like", "a.png", "-o", "b.png"]);
    assert!(read("a.png") == read("b.png"));
    run(&["--like", "a.png", "--seed", "10", "-o", "c.png"]);
    assert!(read("a.png") != read("c.png"));
    // From another picture, through a mask.
    let image = ["a tree", "--steps", "4", "--image", "a.png", "--mask", "c.png", "--strength", "0.6"];
    run(&[&image[..], &["-o", "d.png"]].concat());
    fails(folder.path(), &["--like", "d.png", "--device", "cpu"], 2, &["--image"]);
    fails(folder.path(), &["--like", "d.png", "--image", "a.png", "--device", "cpu"], 2, &["--mask"]);
    run(&["--like", "d.png", "--image", "a.png", "--mask", "c.png", "-o", "e.png"]);
    assert!(read("d.png") == read("e.png"));
    let said = run(&["--like", "d.png", "--image", "b.png", "--mask", "a.png", "-o", "f.png"]);
    assert!(said.contains("another picture"), "{said}");
}

#[test]
fn weight_types_are_planned_kept_and_repeated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = |weights: &str| json(folder.path(), &["plan", "--device", "cpu", "--weights", weights, "--json"]);
    let (q8_0, unet) = (plan("q8_0"), plan("unet=q4_0"));
    assert_eq!((q8_0["weights"].as_str(), unet["weights"].as_str()), (Some("q8_0"), Some("unet=q4_0")));
    let stage = |plan: &serde_json::Value, name: &str| {
        let stages = plan["stages"].as_array().expect("a list");
        stages.iter().find(|s| s["stage"] == name).expect("a stage")["weight_bytes_by_type"].clone()
    };
    assert!(stage(&q8_0, "UNet")["q8_0"].is_u64() && stage(&q8_0, "OMS module")["q8_0"].is_u64());
    assert!(stage(&q8_0, "VAE decoder")["q8_0"].is_null(), "the autoencoder stays");
    assert!(stage(&unet, "UNet")["q4_0"].is_u64() && stage(&unet, "OMS module")["q4_0"].is_null());

    let run = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &["--device", "cpu", "-q"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    let read = |name: &str| read_png(&folder.path().join(name)).expect("a PNG");
    let draw = ["a red circle", "--steps", "3", "--seed", "4"];
    run(&[&draw[..], &["-o", "auto.png"]].concat());
    run(&[&draw[..], &["-o", "q4.png", "--weights", "q4_0"]].concat());
    assert!(read("auto.png") != read("q4.png"), "other weights draw another picture");
    let said = run(&["--like", "q4.png", "-o", "again.png"]);
    assert!(read("again.png") == read("q4.png") && !said.contains("warning"), "{said}");
    let said = run(&["--like", "q4.png", "-o", "typed.png", "--weights", "auto"]);
    assert!(read("typed.png") == read("auto.png") && said.contains("drawn with weights q4_0"), "{said}");

    let refuses = |arguments: &[&str], words: &[&str]| fails(folder.path(), arguments, 2, words);
    refuses(&["x", "--weights", "q5_1", "--device", "cpu"], &["--weights", "q4_0", "q5_1"]);
    refuses(&["x", "--vram", "4", "--device", "cpu"], &["--vram", "4GB"]);
    refuses(&["x", "--vram", "4GB", "--device", "cpu"], &["--vram", "--device"]);
    refuses(&["plan", "--vram", "4GB", "--device", "cpu"], &["--vram", "--device"]);
}

#[test]
fn bands_are_planned_and_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let decoder = |tiling: &str| {
        let plan = json(folder.path(), &["plan", "--device", "cpu", "--vae-tiling", tiling, "--json"]);
        assert_eq!(plan["vae_tiling"], tiling);
        let stages = plan["stages"].as_array().expect("a list");
        stages.iter().find(|s| s["stage"] == "VAE decoder").expect("a decoder").clone()
    };
    let (whole, banded) = (decoder("off"), decoder("on"));
    assert!(whole["bands"].is_null() && decoder("auto")["bands"].is_null(), "it fits the processor");
    let bands = &banded["bands"];
    assert_eq!(bands["whole_bytes"], whole["peak_bytes"]);
    assert!(banded["peak_bytes"].as_u64() < whole["peak_bytes"].as_u64());
    assert!(bands["runs"].as_u64() > Some(3) && bands["host_bytes"].as_u64() > Some(1 << 20), "{bands}");
    let draw = ["a red circle", "--steps", "2", "--device", "cpu", "-o"];
    let mut pictures = Vec::new();
    for tiling in ["off", "on"] {
        let file = format!("{tiling}.png");
        let output = chiaro(folder.path(), &[&draw[..], &[&file, "--vae-tiling", tiling]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output).contains("VAE decoder: its"), tiling == "on", "{}", stderr(&output));
        pictures.push(read_png(&folder.path().join(file)).expect("a PNG").data);
    }
    assert!(pictures[0].iter().zip(&pictures[1]).all(|(a, b)| a.abs_diff(*b) <= 1));
    fails(folder.path(), &["x", "--vae-tiling", "maybe"], 2, &["--vae-tiling", "auto, on or off", "maybe"]);
}

/// The early check of the schedule reads the model as the options make it.
#[test]
fn a_replaced_prediction_counts_before_the_model_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let zero_snr = ["x", "--oms", "off", "--zero-snr", "--spacing", "trailing", "--steps", "1", "--device", "cpu"];
    fails(folder.path(), &zero_snr, 2, &["zero SNR"]);
    let output = chiaro(folder.path(), &[&zero_snr[..], &["--prediction", "v"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}
