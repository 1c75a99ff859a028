//! Bad input: a clear line, the right exit code, nothing written.

use std::path::Path;

use super::fails;
use crate::support::files::copy;

fn refuses(arguments: &[&str], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fails(folder.path(), arguments, code, words);
}

#[test]
fn requests_out_of_range() {
    refuses(&["x", "-W", "100"], 2, &["width", "multiple of 8", "100"]);
    refuses(&["x", "-H", "99999999"], 2, &["height", "8192"]);
    refuses(&["x", "--steps", "0"], 2, &["steps", "1 to 1000"]);
    refuses(&["x", "--count", "0"], 2, &["count"]);
    refuses(&["x", "--guidance", "nan"], 2, &["guidance"]);
    refuses(&["x", "--guidance", "-1"], 2, &["guidance"]);
    refuses(&["x", "--guidance-interval", "0.2"], 2, &["guidance-interval", "0.2,0.8"]);
    refuses(&["x", "--guidance-interval", "0.8,0.2"], 2, &["guidance-interval"]);
    refuses(&["plan", "--guidance-interval", "0.9,0.1"], 2, &["guidance-interval"]);
    refuses(&["plan", "--device", "cpu", "--deep-cache", "3:99"], 2, &["deep-cache", "depth from 1 to"]);
    refuses(&["x", "--eta", "1.5"], 2, &["eta"]);
    refuses(&["x", "--sampler", "ddimm"], 2, &["ddimm", "ddim", "samplers"]);
    refuses(&["x", "--oms", "off", "--compare"], 2, &["--compare", "--oms"]);
    refuses(&["x", "-o", "picture.bmp"], 2, &[".png", ".jpg", ".webp"]);
    refuses(&["x", "-o", "nowhere/picture.png"], 2, &["nowhere", "does not exist"]);
    refuses(&["x", "--no-such-option"], 2, &["--no-such-option"]);
}

#[test]
fn devices_that_are_not_there() {
    refuses(&["x", "--device", "quantum accelerator"], 2, &["quantum accelerator"]);
    refuses(&["x", "--device", "99"], 2, &["99"]);
    refuses(&["x", "--device", "cpu", "--precision", "f16"], 2, &["f16"]);
    refuses(&["x", "--device", "0", "--precision", "bf16"], 2, &["bf16", "AMX", "--precision auto"]);
}

#[test]
fn models_that_are_not_there_or_damaged() {
    refuses(&["x", "--model", "no/such/folder", "--device", "cpu"], 1, &["no/such/folder"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = Path::new(crate::ROOT).join("assets/demo/model");
    copy(&demo, &folder.path().join("model"));
    let model = folder.path().join("model");
    let arguments = ["x", "--model", "model", "--device", "cpu", "--steps", "1"];

    let unet = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&unet).expect("readable");
    std::fs::write(&unet, &bytes[..bytes.len() / 2]).expect("writable");
    fails(folder.path(), &arguments, 1, &["unet", "diffusion_pytorch_model.safetensors"]);
    std::fs::write(&unet, b"this is not a safetensors file").expect("writable");
    fails(folder.path(), &arguments, 1, &["diffusion_pytorch_model.safetensors"]);
    std::fs::remove_file(&unet).expect("removable");
    fails(folder.path(), &arguments, 1, &["diffusion_pytorch_model.safetensors", "not found"]);
    std::fs::write(&unet, &bytes).expect("writable");

    let config = model.join("unet/config.json");
    let text = std::fs::read_to_string(&config).expect("readable");
    std::fs::write(&config, text.replace("\"act_fn\": \"silu\"", "\"act_fn\": \"mish\"")).expect("writable");
    fails(folder.path(), &arguments, 1, &["act_fn", "mish"]);
    std::fs::write(&config, "{").expect("writable");
    fails(folder.path(), &arguments, 1, &["config.json"]);
    std::fs::write(&config, text.replace("\"norm_num_groups\": 4", "\"norm_num_groups\": 0")).expect("writable");
    fails(folder.path(), &arguments, 1, &["norm_num_groups"]);
}
