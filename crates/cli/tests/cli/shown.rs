//! Names from files are shown, not obeyed: no byte that steers a terminal comes out of any command.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::chiaro;
use crate::support::golden::committed;

/// Clears the screen, sets its title, turns the direction of reading, ends the line.
const NAME: &str = "evil\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\u{7f}\nchiaro: all is well";

fn write(path: &Path, names: &[String]) {
    let data = [0; 16];
    let tensors = names.iter().map(|name| (name, TensorView::new(Dtype::F32, vec![2, 2], &data).expect("as long")));
    let words = std::collections::HashMap::from([("ss_base_model_version".to_owned(), NAME.to_owned())]);
    std::fs::write(path, safetensors::serialize(tensors, Some(words)).expect("serializes")).expect("written");
}

/// What both streams say; nothing in them may steer a terminal.
fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = chiaro(folder, arguments);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    let steers = |sign: char| sign != '\n' && (sign.is_control() || ('\u{202a}'..='\u{202e}').contains(&sign));
    assert!(!said.contains(steers), "{arguments:?}: {said:?}");
    assert!(!said.lines().any(|line| line == "chiaro: all is well"), "{arguments:?}: {said:?}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn names_in_files_do_not_steer_the_terminal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let sd15 = committed().join("sd15").display().to_string();
    let unet = "model.diffusion_model.input_blocks.0.0.weight".to_owned();
    write(&at.join("foreign.safetensors"), &[NAME.to_owned()]);
    write(&at.join("model.safetensors"), &[unet, format!("model.diffusion_model.{NAME}")]);
    let lora = ["lora_up", "lora_down"].map(|end| format!("lora_unet_{NAME}.{end}.weight"));
    write(&at.join("lora.safetensors"), &lora);
    let mut told = 0;
    for file in ["foreign.safetensors", "model.safetensors", "lora.safetensors"] {
        told += shown(at, &["inspect", file]).matches("\\u{1b}").count();
        shown(at, &["inspect", file, "--json"]);
        shown(at, &["x", "--model", file, "-d", "cpu"]);
    }
    let common = ["--model", &sd15, "-d", "cpu", "-W", "64", "-H", "64", "-s", "1", "-o", "a.png"];
    for (option, file) in
        [("--lora", "lora.safetensors"), ("--embedding", "foreign.safetensors"), ("--vae", "foreign.safetensors")]
    {
        told += shown(at, &[&["x", option, file], &common[..]].concat()).matches("\\u{1b}").count();
    }
    assert!(told > 0, "the names are said somewhere");
    // A pickle that asks for a class.
    let pickle = [b"\x80\x02cos\n", NAME.replace('\n', "").as_bytes(), b"\n."].concat();
    std::fs::write(at.join("class.pt"), pickle).expect("written");
    shown(at, &["inspect", "class.pt"]);
    shown(at, &[&["x", "--embedding", "class.pt"], &common[..]].concat());
    // Tags in prompts, and what a picture says of its making.
    assert!(shown(at, &[&["a <lora:\u{1b}[2Jx:1>"], &common[..]].concat()).contains("\\u{1b}"));
    shown(at, &["tokens", "a \u{1b}[2J\u{9b} cat", "--model", &sd15]);
    #[cfg(unix)]
    {
        write(&at.join("name\u{1b}[2J.safetensors"), &[NAME.to_owned()]);
        assert!(shown(at, &["inspect", "name\u{1b}[2J.safetensors"]).contains("\\u{1b}"));
    }
}
