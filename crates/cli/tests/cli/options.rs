//! The options of sampling, seeds and start pictures.

use chiaro::image::read_png;

use super::{chiaro, fails, json, stderr};
use crate::support::adapter;

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
        "--token-merging",
        "0.5",
        "--deep-cache",
        "3:1",
        "-o",
        "a.png",
    ]);
    run(&["--like", "a.png", "-o", "b.png"]);
    assert!(read("a.png") == read("b.png"));
    run(&["--like", "a.png", "--token-merging", "0.25", "-o", "merged.png"]);
    assert!(read("a.png") != read("merged.png"));
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
fn less_work_is_planned() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unets = |more: &[&str]| {
        let plan = json(folder.path(), &[&["plan", "--device", "cpu", "--steps", "10", "--json"], more].concat());
        let stages = plan["stages"].as_array().expect("a list").clone();
        stages.into_iter().filter(|stage| stage["stage"] == "UNet").collect::<Vec<_>>()
    };
    let number =
        |stage: &serde_json::Value, name: &str| stage.pointer(name).and_then(|v| v.as_u64()).expect("a number");
    let runs = |stages: &[serde_json::Value]| {
        let of = |stage| ["/runs", "/reusing_runs"].map(|name| number(stage, name));
        stages.iter().map(of).collect::<Vec<_>>()
    };
    let full = unets(&[]);
    assert_eq!(runs(&full), [[10, 0]]);
    let kept = unets(&["--deep-cache", "3"]);
    assert_eq!(runs(&kept), [[10, 6]], "calls 0, 3, 6 and 9 are whole");
    let [whole, reusing] = ["/dispatches", "/reusing/dispatches"].map(|name| number(&kept[0], name));
    assert!(0 < reusing && reusing < whole && whole == number(&full[0], "/dispatches"));
    // Guidance ends after five calls; the next is whole.
    let guided = unets(&["--guidance-interval", "0,0.5", "--deep-cache", "2"]);
    assert_eq!(runs(&guided), [[5, 2], [5, 2]]);
    let merged = unets(&["--token-merging", "0.5"]);
    assert!(number(&merged[0], "/flops_per_run") < number(&full[0], "/flops_per_run"));

    let output = chiaro(folder.path(), &["plan", "--device", "cpu", "--steps", "10", "--deep-cache", "3"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("UNet: 6 of its 10 runs are on kept features"), "{said}");
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
    refuses(&["x", "--stream-weights", "on", "--device", "cpu"], &["--stream-weights: on: ", "--device"]);
    refuses(&["x", "--stream-weights", "sometimes", "--device", "cpu"], &["--stream-weights", "auto"]);
}

/// On the tests' adapter: what passes through changes neither the picture nor what its PNG says of weights.
#[test]
fn streamed_weights_draw_the_same_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let index = adapter::test_adapter().index.to_string();
    let on_gpu = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &["--device", &index, "--precision", "f32"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        output
    };
    let size = ["-W", "64", "-H", "64", "--steps", "2"];
    let plan = |more: &[&str]| -> serde_json::Value {
        let output = on_gpu(&[&["plan", "--json"], &size[..], more].concat());
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let unet = |plan: &serde_json::Value| {
        let stages = plan["stages"].as_array().expect("stages");
        let unet = stages.iter().find(|stage| stage["stage"] == "UNet").expect("a UNet");
        ["weight_bytes", "resident_weight_bytes", "streamed_bytes_once", "streamed_bytes_per_run", "peak_bytes"]
            .map(|key| unet[key].as_u64().expect(key))
    };
    let [all, stays, first, passes, peak] = unet(&plan(&[]));
    assert!(all == stays && first == 0 && passes == 0);
    // The text's keys and values are computed once.
    let [of, left, once, streamed, least] = unet(&plan(&["--stream-weights", "on"]));
    assert!(
        of == all && left + once + streamed == all && once > 0 && left * 10 < all && least < peak,
        "{left} {once} {streamed} {least} {peak}"
    );

    let limit = format!("{}kB", peak / 1000 * 8 / 10);
    let output = on_gpu(&[&["plan", "--weights", "unet=f16", "--vram", &limit], &size[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("so they are streamed") && text.contains("streamed/run") && text.contains("streamed: UNet"),
        "{text}"
    );

    for (name, more) in [("stays.png", &[][..]), ("passes.png", &["--stream-weights", "on"])] {
        let output = on_gpu(&[&["a red circle", "-o", name], &size[..], more].concat());
        assert_eq!(stderr(&output).contains("weights streamed"), !more.is_empty(), "{}", stderr(&output));
    }
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a PNG");
    assert!(read("stays.png") == read("passes.png"), "every byte, the parameters too");
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

/// What a PNG of this program says of itself.
fn parameters(path: &std::path::Path) -> serde_json::Value {
    let texts = chiaro::image::png_text(path).expect("a PNG");
    let (_, text) = texts.iter().find(|(keyword, _)| keyword == "chiaro").expect("its parameters");
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn presets_fill_what_is_not_typed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = |arguments: &[&str]| {
        let file = ["a red circle", "--device", "cpu", "-q", "--oms", "off", "-o", "x.png", "--overwrite"];
        let output = chiaro(folder.path(), &[&file, arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let request = parameters(&folder.path().join("x.png"))["request"].clone();
        let text = |key: &str| request[key].as_str().unwrap_or("none").to_owned();
        (
            text("sampler"),
            text("timestep_spacing"),
            request["num_inference_steps"].as_u64(),
            request["guidance_scale"].as_f64(),
        )
    };
    let expect = |sampler: &str, spacing: &str, steps, guidance| {
        (sampler.to_owned(), spacing.to_owned(), Some(steps), Some(guidance))
    };
    assert_eq!(made(&["--preset", "lightning"]), expect("euler", "trailing", 4, 1.0));
    assert_eq!(made(&["--preset", "turbo", "--steps", "2"]), expect("euler_ancestral", "trailing", 2, 1.0));
    assert_eq!(made(&["--preset", "hyper", "--guidance", "2"]), expect("ddim", "trailing", 8, 2.0));
    assert_eq!(made(&["--preset", "lcm"]), expect("lcm", "none", 4, 1.5));
    assert_eq!(made(&["--preset", "turbo", "--sampler", "lms"]), expect("lms", "none", 1, 1.0));
    fails(folder.path(), &["x", "--preset", "quick"], 2, &["quick", "lightning"]);
}

/// Parts from elsewhere are told in the PNG, and --like asks for them; what the network was said to predict is repeated.
#[test]
fn parts_from_elsewhere_are_remembered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = |name: &str| crate::support::golden::committed().join(name).display().to_string();
    let (model, vae) = (golden("sd15"), golden("taesd"));
    let run = |arguments: &[&str]| {
        let output = chiaro(folder.path(), &[arguments, &["--model", &model, "--device", "cpu", "-q"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    run(&["x", "-o", "a.png", "-W", "64", "-H", "64", "--steps", "2", "--vae", &vae, "--prediction", "v"]);
    let told = parameters(&folder.path().join("a.png"));
    assert_eq!(told["parts"], serde_json::json!({ "vae": "taesd" }));
    assert_eq!(told["prediction"], "v_prediction");
    let same = run(&["--like", "a.png", "--vae", &vae, "-o", "b.png"]);
    assert!(!same.contains("drawn with"), "{same}");
    let picture = |name: &str| read_png(&folder.path().join(name)).expect("a PNG").data;
    assert_eq!(picture("a.png"), picture("b.png"));
    let without = run(&["--like", "a.png", "-o", "c.png"]);
    assert!(without.contains("drawn with the vae of taesd, name that with --vae"), "{without}");
    fails(folder.path(), &["x", "--refiner-start", "0.5"], 2, &["--refiner-start", "--refiner DIR"]);
    fails(folder.path(), &["x", "--refiner", &golden("sdxl")], 1, &["sdxl"]);
}

/// Previews are gone when the picture is there; without one, the option of their autoencoder is refused.
#[test]
fn previews_give_way_to_the_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["a red circle", "--device", "cpu", "-q", "--steps", "3", "--preview", "1", "-o", "x.png"];
    let output = chiaro(folder.path(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("a file").file_name()).collect();
    assert_eq!(files, ["x.png"]);
    fails(folder.path(), &["x", "--preview-vae", "y"], 2, &["--preview"]);
    fails(folder.path(), &["x", "--preview", "0"], 2, &["--preview"]);
}
