//! Adapters by names, and `<lora:name:weight>` in prompts: which files are meant.

use std::path::{Path, PathBuf};

use crate::order::job::{AdapterJob, Job};
use crate::pipeline::{ADAPTER_ENDINGS, ADAPTERS, Network, Places, RecipeAdapter, split_networks};
use crate::{Error, Result};

/// How deep folders lie in each other below a job's folder of adapters.
const DEPTH: usize = 4;

impl AdapterJob {
    fn is_named(&self, name: &str) -> bool {
        self.file.file_stem().is_some_and(|stem| stem == name)
    }
}

impl Job {
    /// Adds the adapters of a repeated picture; a file that is named too takes the picture's weight unless it has its own.
    pub(super) fn add_repeated(&mut self, adapters: &[RecipeAdapter], places: &Places) -> Result<()> {
        for wanted in adapters {
            if let Some(own) = self.adapters.iter_mut().find(|own| own.is_named(&wanted.name)) {
                if own.weight.is_none() {
                    own.weight = Some(wanted.weight);
                    own.text_encoder_weight = wanted.text_encoder_weight;
                }
                continue;
            }
            let file = self.find_adapter(&wanted.name, places).map_err(|error| {
                Error::request(
                    "like",
                    format!(
                        "the picture's adapter {} is needed, name its file with `adapters[].file` ({error})",
                        wanted.name
                    ),
                )
            })?;
            let (weight, text_encoder_weight) = (Some(wanted.weight), wanted.text_encoder_weight);
            self.adapters.push(AdapterJob { file, weight, text_encoder_weight });
        }
        Ok(())
    }

    /// Takes `<lora:name:weight>` out of a prompt and adds the files; one that is named too counts once, with the tag's weight.
    pub(super) fn take_tags(&mut self, prompt: &str, places: &Places) -> Result<String> {
        let (text, tags) = split_tags(prompt)?;
        for tag in tags {
            let (weight, text_encoder_weight) = (Some(tag.weight), tag.text_encoder_weight);
            if let Some(own) = self.adapters.iter_mut().find(|own| own.is_named(&tag.name)) {
                (own.weight, own.text_encoder_weight) = (weight, text_encoder_weight);
                continue;
            }
            let file = self.find_adapter(&tag.name, places)?;
            self.adapters.push(AdapterJob { file, weight, text_encoder_weight });
        }
        Ok(text)
    }

    /// `name.safetensors` (or another of [`ADAPTER_ENDINGS`]) in the job's folder and the folders in it, in those of the places, or beside a file that is
    /// named.
    fn find_adapter(&self, name: &str, places: &Places) -> Result<PathBuf> {
        let mut files = Vec::new();
        if let Some(folder) = &self.adapter_folder {
            collect(folder, DEPTH, &mut files)?;
        }
        for folder in places.models.iter().flat_map(|models| ADAPTERS.map(|inner| models.join(inner))) {
            if folder.is_dir() {
                collect(&folder, DEPTH, &mut files)?;
            }
        }
        for own in &self.adapters {
            let beside = own.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if beside.is_dir() {
                collect(beside, 0, &mut files)?;
            }
        }
        files.sort();
        files.dedup();
        let stem =
            |file: &PathBuf| file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let found: Vec<&PathBuf> = files.iter().filter(|file| stem(file) == name).collect();
        match (found.as_slice(), &self.adapter_folder) {
            ([one], _) => Ok((*one).clone()),
            ([], None) => {
                Err(Error::refused(format!("<lora:{name}>: say where {name}.safetensors is with `adapter_folder`")))
            }
            ([], Some(folder)) => {
                let alike = |file: &PathBuf| strsim::jaro_winkler(&stem(file).to_lowercase(), &name.to_lowercase());
                let near = files.iter().map(|file| (alike(file), stem(file))).filter(|(alike, _)| *alike > 0.7);
                let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0));
                let hint = nearest.map_or_else(String::new, |(_, near)| format!("; did you mean {near}?"));
                let folder = folder.display();
                Err(Error::refused(format!(
                    "<lora:{name}>: no {name}.safetensors in {folder} or beside `adapters[].file`{hint}"
                )))
            }
            (several, _) => {
                let list: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
                Err(Error::refused(format!(
                    "<lora:{name}>: expected one file, found {}; name it with `adapters[].file`",
                    list.join(", ")
                )))
            }
        }
    }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|ending| ADAPTER_ENDINGS.iter().any(|known| ending == *known)) {
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
}
