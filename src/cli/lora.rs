//! `--lora`, `--lora-dir` and `<lora:name:weight>`: which adapter files are meant.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::ModelArgs;
use crate::pipeline::{Adapter, RecipeAdapter};
use crate::{Error, Result};

/// `FILE` or `FILE:WEIGHT` as typed.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraArg {
    /// The file.
    pub path: PathBuf,
    /// The number behind it.
    pub weight: Option<f64>,
    /// Another for text encoders; only tags in prompts have it.
    pub text_encoder_weight: Option<f64>,
}

impl FromStr for LoraArg {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        let number = text.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        let (path, weight) = match number.filter(|_| !Path::new(text).exists()) {
            Some((path, weight)) => (path, Some(weight)),
            None => (text, None),
        };
        Ok(LoraArg { path: path.into(), weight, text_encoder_weight: None })
    }
}

impl LoraArg {
    pub(super) fn adapter(&self) -> Adapter {
        let weight = self.weight.unwrap_or(1.0);
        Adapter { path: self.path.clone(), weight, text_encoder_weight: self.text_encoder_weight }
    }

    fn is_named(&self, name: &str) -> bool {
        self.path.file_stem().is_some_and(|stem| stem == name)
    }
}

impl ModelArgs {
    /// Adds the adapters of a repeated picture; a file that is typed too takes the picture's weight unless it has its own.
    pub(super) fn add_repeated(&mut self, adapters: &[RecipeAdapter]) -> Result<()> {
        for wanted in adapters {
            if let Some(typed) = self.lora.iter_mut().find(|typed| typed.is_named(&wanted.name)) {
                if typed.weight.is_none() {
                    typed.weight = Some(wanted.weight);
                    typed.text_encoder_weight = wanted.text_encoder_weight;
                }
                continue;
            }
            let path = self.find_lora(&wanted.name).map_err(|error| {
                Error::Request(format!(
                    "--like: the picture's adapter {} is needed, name its file with --lora ({error})",
                    wanted.name
                ))
            })?;
            let (weight, text_encoder_weight) = (Some(wanted.weight), wanted.text_encoder_weight);
            self.lora.push(LoraArg { path, weight, text_encoder_weight });
        }
        Ok(())
    }

    /// Takes `<lora:name:weight>` out of a prompt and adds the files; one that is typed too counts once, with the tag's weight.
    pub(super) fn take_tags(&mut self, prompt: &str) -> Result<String> {
        let (text, tags) = split_tags(prompt)?;
        for tag in tags {
            let (weight, text_encoder_weight) = (Some(tag.weight), tag.text_encoder_weight);
            if let Some(typed) = self.lora.iter_mut().find(|typed| typed.is_named(&tag.name)) {
                (typed.weight, typed.text_encoder_weight) = (weight, text_encoder_weight);
                continue;
            }
            let path = self.find_lora(&tag.name)?;
            self.lora.push(LoraArg { path, weight, text_encoder_weight });
        }
        Ok(text)
    }

    /// `name.safetensors` (or another of [`ENDINGS`]) in --lora-dir and the folders in it, or beside a file of --lora.
    fn find_lora(&self, name: &str) -> Result<PathBuf> {
        let mut files = Vec::new();
        if let Some(folder) = &self.lora_dir {
            collect(folder, DEPTH, &mut files)?;
        }
        for typed in &self.lora {
            let beside = typed.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if beside.is_dir() {
                collect(beside, 0, &mut files)?;
            }
        }
        files.sort();
        files.dedup();
        let stem =
            |file: &PathBuf| file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let found: Vec<&PathBuf> = files.iter().filter(|file| stem(file) == name).collect();
        match (found.as_slice(), &self.lora_dir) {
            ([one], _) => Ok((*one).clone()),
            ([], None) => {
                Err(Error::Request(format!("<lora:{name}>: say where {name}.safetensors is with --lora-dir DIR")))
            }
            ([], Some(folder)) => {
                let alike = |file: &PathBuf| strsim::jaro_winkler(&stem(file).to_lowercase(), &name.to_lowercase());
                let near = files.iter().map(|file| (alike(file), stem(file))).filter(|(alike, _)| *alike > 0.7);
                let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0));
                let hint = nearest.map_or_else(String::new, |(_, near)| format!("; did you mean {near}?"));
                let folder = folder.display();
                Err(Error::Request(format!("<lora:{name}>: no {name}.safetensors in {folder} or beside --lora{hint}")))
            }
            (several, _) => {
                let list: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
                Err(Error::Request(format!("<lora:{name}>: expected one file, found {}; use --lora", list.join(", "))))
            }
        }
    }
}

/// How deep folders lie in each other below --lora-dir.
const DEPTH: usize = 4;

/// What adapters' files end with, in AUTOMATIC1111's folders too.
const ENDINGS: [&str; 4] = ["safetensors", "pt", "ckpt", "gguf"];

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) {
            files.push(path);
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Tag {
    name: String,
    weight: f64,
    text_encoder_weight: Option<f64>,
}

/// AUTOMATIC1111's extra networks (`modules/extra_networks.py`, `extensions-builtin/Lora/extra_networks_lora.py`): `<lora:name>`,
/// `<lora:name:weight>`, `<lora:name:text encoder's:UNet's>`; `lyco` means the same. Other words in angle brackets are text.
fn split_tags(prompt: &str) -> Result<(String, Vec<Tag>)> {
    let (mut text, mut tags, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        text += before;
        let inside = ["<lora:", "<lyco:"].iter().find_map(|start| tag.strip_prefix(start)?.split_once('>'));
        match inside {
            Some((inside, after)) => {
                tags.push(read_tag(inside)?);
                rest = after;
            }
            None => {
                text.push('<');
                rest = &tag[1..];
            }
        }
    }
    text += rest;
    Ok((if tags.is_empty() { text } else { text.trim().to_owned() }, tags))
}

fn read_tag(inside: &str) -> Result<Tag> {
    let refuse = |found: &str| {
        Error::Request(format!(
            "<lora:{inside}>: expected <lora:NAME:WEIGHT> or <lora:NAME:TEXT:UNET> with numbers, got {found:?}"
        ))
    };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|w| w.is_finite()).ok_or_else(|| refuse(text));
    let parts: Vec<&str> = inside.split(':').collect();
    let name = parts[0].trim().to_owned();
    if name.is_empty() {
        return Err(refuse(""));
    }
    match parts[1..] {
        [] => Ok(Tag { name, weight: 1.0, text_encoder_weight: None }),
        [weight] => Ok(Tag { name, weight: number(weight)?, text_encoder_weight: None }),
        [text, unet] => Ok(Tag { name, weight: number(unet)?, text_encoder_weight: Some(number(text)?) }),
        [.., last] => Err(refuse(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_leave_the_prompt() {
        let tag = |name: &str, weight, text_encoder_weight| Tag { name: name.into(), weight, text_encoder_weight };
        let split = |text: &str| split_tags(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(split("a <b> < c"), ("a <b> < c".into(), vec![]));
        assert_eq!(split("a cat <lora:fur:0.8>"), ("a cat".into(), vec![tag("fur", 0.8, None)]));
        assert_eq!(
            split("<lyco:a b>x<lora:c:0.5:-1>"),
            ("x".into(), vec![tag("a b", 1.0, None), tag("c", -1.0, Some(0.5))])
        );
        assert_eq!(split("<lora:open"), ("<lora:open".into(), vec![]));
        for wrong in ["<lora:>", "<lora:a:b>", "<lora:a:1:2:3>", "<lora:a:inf>", "<lora:a:lbw=1>"] {
            assert!(split_tags(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_behind_the_file_is_its_weight() {
        let read = |text: &str| text.parse::<LoraArg>().map(|l| (l.path, l.weight)).unwrap_or_else(|e| match e {});
        assert_eq!(read("a.safetensors"), ("a.safetensors".into(), None));
        assert_eq!(read("C:\\a.safetensors:0.5"), ("C:\\a.safetensors".into(), Some(0.5)));
        assert_eq!(read("dir/a:b"), ("dir/a:b".into(), None));
    }
}
