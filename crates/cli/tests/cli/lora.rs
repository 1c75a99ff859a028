//! `--lora`, `--lora-dir` and tags in prompts.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::{chiaro, fails, json, stderr};
use crate::support::golden::committed;
use crate::support::single_file::read;
use crate::support::torch_file::torch;

/// A LoRA for every projection of text states of the first level, in kohya's names.
fn write_lora(path: &Path) {
    let base = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v";
    let values = |n: usize| (0..n).flat_map(|i| ((i % 7) as f32 - 3.0).to_le_bytes()).collect::<Vec<u8>>();
    let (up, down) = (values(32 * 2), values(2 * 16));
    let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).expect("as long as its shape");
    let tensors = [
        (format!("{base}.lora_up.weight"), view(&[32, 2], &up)),
        (format!("{base}.lora_down.weight"), view(&[2, 16], &down)),
    ];
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, safetensors::serialize(tensors, None).expect("serializes")).expect("written");
}

#[test]
fn tags_files_and_repeats_are_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    write_lora(&at.join("loras/sub/style.safetensors"));
    let model = committed().join("sd15").display().to_string();
    let common = ["--model", &model, "-d", "cpu", "-W", "64", "-H", "64", "-s", "1"];
    let with =
        |more: &[&str]| common.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    let run = |more: &[&str]| {
        let arguments = with(more);
        json(at, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let pixels = |name: &str| ::chiaro::image::open_picture(&at.join(name)).expect("a picture").data;

    let tagged = run(&["--lora-dir", "loras", "a cat <lora:style:0.5>", "--json", "-o", "tag.png"]);
    assert_eq!(tagged["adapters"][0]["weight"], 0.5);
    assert_eq!(tagged["adapters"][0]["applied"]["UNet"].as_array().map(Vec::len), Some(1));
    let parameters = &tagged["pictures"][0]["parameters"][0];
    assert_eq!(
        (&parameters["request"]["prompt"], &parameters["adapters"][0]["name"]),
        (&"a cat".into(), &"style".into())
    );
    run(&["--lora", "loras/sub/style.safetensors:0.5", "a cat", "--json", "-o", "file.png"]);
    run(&["a cat", "--json", "-o", "plain.png"]);
    assert_eq!(pixels("tag.png"), pixels("file.png"));
    assert_ne!(pixels("tag.png"), pixels("plain.png"), "the LoRA changes the picture");
    // The same file as PyTorch's.
    let style = read(&at.join("loras/sub/style.safetensors"));
    std::fs::write(at.join("loras/pickled.pt"), torch(&style, false)).expect("written");
    run(&["--lora-dir", "loras", "a cat <lora:pickled:0.5>", "--json", "-o", "pickled.png"]);
    assert_eq!(pixels("pickled.png"), pixels("file.png"));

    fails(
        at,
        &["--like", "tag.png", "--model", &model, "-d", "cpu", "-o", "no.png"],
        2,
        &["--like", "style", "--lora"],
    );
    let like = ["--like", "tag.png", "--model", &model, "-d", "cpu"];
    let repeat = |more: &[&str]| {
        let output = chiaro(at, &[&like, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    let said = repeat(&["--lora-dir", "loras", "-o", "again.png"]);
    assert!(said.contains("lora style × 0.5: LoRA rank 2, 1 tensors of the UNet"), "{said}");
    assert_eq!(pixels("again.png"), pixels("tag.png"));
    repeat(&["--lora", "loras/sub/style.safetensors:0", "-o", "off.png"]);
    assert_eq!(pixels("off.png"), pixels("plain.png"));

    let typo = with(&["--lora-dir", "loras", "a cat <lora:stile:1>", "-o", "no.png"]);
    fails(at, &typo.iter().map(String::as_str).collect::<Vec<_>>(), 2, &["stile", "did you mean style"]);
    let nowhere = with(&["a cat <lora:style>", "-o", "no.png"]);
    fails(at, &nowhere.iter().map(String::as_str).collect::<Vec<_>>(), 2, &["style", "--lora-dir"]);
}
