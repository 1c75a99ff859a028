//! Files that are none, that change under the reader, that say numbers nobody has, that are nothing but zeros.

use std::path::Path;
use std::time::Duration;

use ::chiaro::pipeline::{Device, Pipeline, Precision, Request, Source};
use serde_json::{Value, json};

use super::{chiaro, stderr};
use crate::support::allocations::largest;
use crate::support::files::copy;
use crate::support::golden::committed;

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn model(at: &Path) -> String {
    let folder = at.join("model");
    copy(&committed().join("sd15"), &folder);
    folder.display().to_string()
}

/// A pipe without a writer would be waited for, a device read without end.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_wherever_a_file_is_read() {
    use std::time::Instant;

    use super::fails;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let model = model(at);
    let made = std::process::Command::new("mkfifo").arg(at.join("pipe.png")).status();
    assert!(made.is_ok_and(|made| made.success()), "mkfifo");
    std::os::unix::net::UnixListener::bind(at.join("socket.safetensors")).expect("bound");
    std::fs::write(at.join("prompts.txt"), "a circle\n").expect("written");
    let began = Instant::now();
    let kinds = [("pipe.png", "a pipe"), ("socket.safetensors", "a socket"), ("/dev/zero", "a device")];
    for (file, kind) in kinds {
        let common = ["x", "-d", "cpu", "-s", "1", "-o", "no.png"];
        for option in ["--image", "--like"] {
            fails(at, &[&common[..], &[option, file]].concat(), 1, &[file, kind]);
        }
        fails(at, &[&common[..], &["--model", file]].concat(), 1, &[file, kind]);
        for option in ["--vae", "--unet", "--text-encoder", "--lora", "--embedding", "--control", "--refiner"] {
            fails(at, &[&common[..], &["--model", &model, option, file]].concat(), 1, &[file, kind]);
        }
        fails(at, &["inspect", file], 1, &[file, kind]);
        fails(at, &["study", file, "-o", "s"], 1, &[file, kind]);
    }
    for part in
        ["model_index.json", "unet/config.json", UNET, "tokenizer/vocab.json", "scheduler/scheduler_config.json"]
    {
        let path = Path::new(&model).join(part);
        let whole = std::fs::read(&path).expect("readable");
        std::fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|made| made.success()), "mkfifo");
        fails(at, &["x", "--model", &model, "-d", "cpu", "-s", "1", "-o", "no.png"], 1, &[part, "a pipe"]);
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, whole).expect("written");
    }
    assert!(began.elapsed() < Duration::from_secs(120), "nothing was waited for");
}

/// Such a file ended the process while it was mapped.
#[test]
fn a_model_that_changes_under_the_reader_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model(folder.path());
    let path = Path::new(&model).join(UNET);
    let whole = std::fs::read(&path).expect("readable");
    let request = || Request {
        prompt: "x".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 1,
        ..Request::default()
    };
    let draw = |change: &dyn Fn()| {
        std::fs::write(&path, &whole).expect("written");
        let device = Device::choose("cpu", Precision::Auto).expect("the processor");
        let source = Source::at(&model).expect("a folder");
        let pipeline = Pipeline::load(&source, None, device).unwrap_or_else(|e| panic!("{e}"));
        change();
        let generation = pipeline.generate(request()).unwrap_or_else(|e| panic!("{e}"));
        generation.collect::<Result<Vec<_>, _>>().map(|_| ()).map_err(|error| error.to_string())
    };
    draw(&|| ()).unwrap_or_else(|e| panic!("{e}"));
    let cut = || {
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(whole.len() as u64 / 2).expect("cut");
    };
    let emptied = || drop(std::fs::File::create(&path).expect("emptied"));
    let rewritten = || {
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, whole.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()).expect("written");
    };
    for change in [&cut as &dyn Fn(), &emptied, &rewritten] {
        let told = draw(change).expect_err("what was opened is no longer there");
        assert!(told.contains(UNET) && told.contains("changed"), "{told}");
    }
}

/// No number of a configuration file is believed before it is looked at.
#[test]
fn numbers_that_no_model_has_are_refused_before_memory_is_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model(folder.path());
    let huge = [json!(1u64 << 62), json!(-1), json!(0), json!(1_000_000_007u64), json!([u32::MAX]), json!(1e300)];
    let fields = [
        (
            "unet/config.json",
            &[
                "block_out_channels",
                "layers_per_block",
                "attention_head_dim",
                "cross_attention_dim",
                "norm_num_groups",
                "in_channels",
                "out_channels",
            ][..],
        ),
        (
            "vae/config.json",
            &["block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "in_channels"],
        ),
        (
            "text_encoder/config.json",
            &[
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "vocab_size",
                "max_position_embeddings",
                "projection_dim",
            ],
        ),
        (
            "scheduler/scheduler_config.json",
            &["num_train_timesteps", "steps_offset", "solver_order", "original_inference_steps"],
        ),
    ];
    for (file, names) in fields {
        let path = Path::new(&model).join(file);
        let whole = std::fs::read(&path).expect("readable");
        for name in names {
            for number in &huge {
                let mut config: Value = serde_json::from_slice(&whole).expect("JSON");
                let list = config[*name].as_array().map(Vec::len).filter(|_| !number.is_array());
                config[*name] = list.map_or_else(|| number.clone(), |many| vec![number.clone(); many].into());
                std::fs::write(&path, config.to_string()).expect("written");
                let (loaded, asked) = largest(|| {
                    let device = Device::choose("cpu", Precision::Auto).expect("the processor");
                    Pipeline::load(&Source::at(&model).expect("a folder"), None, device).map(|_| ())
                });
                // Some fields are not of this model's kind and say nothing here; what is said is one line that names the file.
                if let Err(error) = loaded {
                    let told = error.to_string();
                    assert!(
                        told.contains(file.split('/').next().expect("a folder")) && !told.contains('\n'),
                        "{name} {number}: {told}"
                    );
                }
                assert!(asked < 64 << 20, "{file} {name} {number}: {asked} bytes at once");
            }
        }
        std::fs::write(&path, whole).expect("written");
    }
}

#[test]
fn networks_of_zeros_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = model(folder.path());
    let path = Path::new(&model).join(UNET);
    let whole = std::fs::read(&path).expect("readable");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    let run = |from: usize| {
        let mut bytes = whole.clone();
        bytes[from..].fill(0);
        std::fs::write(&path, bytes).expect("written");
        let output = chiaro(
            folder.path(),
            &["x", "--model", &model, "-d", "cpu", "-s", "1", "-W", "64", "-H", "64", "--overwrite", "-o", "x.png"],
        );
        let seen = chiaro(folder.path(), &["inspect", &model]);
        stderr(&output) + &String::from_utf8_lossy(&seen.stdout)
    };
    let told = run(whole.len());
    assert!(!told.contains("zeros"), "{told}");
    let told = run(header + (whole.len() - header) / 2);
    assert_eq!(told.matches("warning: unet: about").count(), 2, "by the run and by inspect: {told}");
    let told = run(header);
    assert_eq!(told.matches("warning: unet: all of its weights are zeros").count(), 2, "{told}");
    assert!(told.contains("copy or download it again"), "{told}");
}
