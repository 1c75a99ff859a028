//! `--lora`, `--lora-dir` and `<lora:name:weight>`: which adapter files are meant.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chiaro::pipeline::{Adapter, Network, Places, RecipeAdapter, split_networks};
use chiaro::{Error, Result};

use super::ModelArgs;

/// `FILE` or `FILE:WEIGHT` as typed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoraArg {
    /// The file.
    pub(crate) path: PathBuf,
    /// The number behind it.
    pub(crate) weight: Option<f64>,
    /// Another for text encoders; only tags in prompts have it.
    pub(crate) text_encoder_weight: Option<f64>,
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
                Error::refused(format!(
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

    /// `name.safetensors` (or another of [`ENDINGS`]) in --lora-dir and the folders in it, in those of CHIARO_MODELS, or beside a file of
    /// --lora.
    fn find_lora(&self, name: &str) -> Result<PathBuf> {
        let mut files = Vec::new();
        if let Some(folder) = &self.lora_dir {
            collect(folder, DEPTH, &mut files)?;
        }
        for folder in Places::from_env().models.iter().flat_map(|models| LORA_FOLDERS.map(|inner| models.join(inner))) {
            if folder.is_dir() {
                collect(&folder, DEPTH, &mut files)?;
            }
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
                Err(Error::refused(format!("<lora:{name}>: say where {name}.safetensors is with --lora-dir DIR")))
            }
            ([], Some(folder)) => {
                let alike = |file: &PathBuf| strsim::jaro_winkler(&stem(file).to_lowercase(), &name.to_lowercase());
                let near = files.iter().map(|file| (alike(file), stem(file))).filter(|(alike, _)| *alike > 0.7);
                let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0));
                let hint = nearest.map_or_else(String::new, |(_, near)| format!("; did you mean {near}?"));
                let folder = folder.display();
                Err(Error::refused(format!("<lora:{name}>: no {name}.safetensors in {folder} or beside --lora{hint}")))
            }
            (several, _) => {
                let list: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
                Err(Error::refused(format!("<lora:{name}>: expected one file, found {}; use --lora", list.join(", "))))
            }
        }
    }
}

/// Folders inside a folder of models in which other programs keep adapters.
const LORA_FOLDERS: [&str; 2] = ["loras", "Lora"];

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

/// Takes the tags of adapters (`lora`, and `lyco` which means the same) out of a prompt. Those of other kinds stay, and so do comments.
fn split_tags(prompt: &str) -> Result<(String, Vec<Tag>)> {
    let mut tags = Vec::new();
    let mut lines = Vec::new();
    for line in prompt.split('\n') {
        let (read, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
        let (text, networks) = split_networks(read, |kind| matches!(kind, "lora" | "lyco"));
        tags.extend(networks.iter().map(read_tag).collect::<Result<Vec<_>>>()?);
        lines.push(text + comment);
    }
    let text = lines.join("\n");
    Ok((if tags.is_empty() { text } else { text.trim().to_owned() }, tags))
}

/// AUTOMATIC1111's arguments (`extensions-builtin/Lora/extra_networks_lora.py`): name, weight of text encoders, weight of the UNet if it is
/// another, each also by name (`te=0.5:unet=0.7`). It passes over other names, and so does this.
fn read_tag(network: &Network) -> Result<Tag> {
    let refuse = |found: &str| {
        Error::refused(format!(
            "<{}:{}>: expected <lora:NAME:WEIGHT>, <lora:NAME:TEXT:UNET> or <lora:NAME:te=TEXT:unet=UNET> with numbers, got {found:?}",
            network.kind,
            network.arguments.join(":")
        ))
    };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|w| w.is_finite()).ok_or_else(|| refuse(text));
    // Two parts around one sign make a name; a text with several signs is no name there either.
    let named = |argument: &String| match argument.split('=').collect::<Vec<_>>()[..] {
        [name, value] => Some((name.to_owned(), value.to_owned())),
        _ => None,
    };
    let plain: Vec<&String> = network.arguments.iter().filter(|argument| named(argument).is_none()).collect();
    let value = |wanted: &str| {
        let found = network.arguments.iter().filter_map(named).rfind(|(name, _)| name == wanted);
        found.map(|(_, value)| number(&value)).transpose()
    };
    if value("dyn")?.is_some() || plain.len() > 3 {
        return Err(refuse("dyn"));
    }
    let at = |place: usize| plain.get(place).map(|text| number(text)).transpose();
    let name =
        plain.first().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).ok_or_else(|| refuse(""))?;
    let (text, unet) = (value("te")?.or(at(1)?), value("unet")?.or(at(2)?));
    let text_weight = text.unwrap_or(1.0);
    let weight = unet.unwrap_or(text_weight);
    let text_encoder_weight = (text_weight != weight).then_some(text_weight);
    Ok(Tag { name, weight, text_encoder_weight })
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
        assert_eq!(
            split("<lora:d:te=0.5:unet=0.7><lora:e:unet=0:lbw=ALL><lora:f:1:1><lora:g:te=0.3>"),
            (
                String::new(),
                vec![tag("d", 0.7, Some(0.5)), tag("e", 0.0, Some(1.0)), tag("f", 1.0, None), tag("g", 0.3, None)]
            )
        );
        // Other kinds stay for those who know them, comments too.
        assert_eq!(split("<hypernet:a> # <lora:b>\n<x:y>"), ("<hypernet:a> # <lora:b>\n<x:y>".into(), vec![]));
        assert_eq!(split("<lora:>"), ("<lora:>".into(), vec![]));
        for wrong in ["<lora::1>", "<lora:a:b>", "<lora:a:1:2:3>", "<lora:a:inf>", "<lora:a:te=x>", "<lora:a:dyn=4>"] {
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
