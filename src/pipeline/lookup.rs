//! Where a model's name leads: a path, the local Hugging Face cache, or a folder of models.
//!
//! | place | a name there | variable |
//! | --- | --- | --- |
//! | the file system | any path that exists | |
//! | folders of models | `NAME`, `NAME.safetensors`, `NAME.gguf`, `NAME.ckpt`, also below `checkpoints/` and `diffusers/` (ComfyUI), `Stable-diffusion/` (AUTOMATIC1111) | `CHIARO_MODELS`, several as in `PATH` |
//! | the same, for ControlNets | the same, also below `controlnet/`, `ControlNet/` | |
//! | the same, for parts of a repeated picture's model | the same, also below `vae/`, `unet/` | |
//! | the same, for embeddings | `embeddings/NAME.safetensors`, `.pt` or `.bin` and folders in it, by names in a prompt | |
//! | Hugging Face's cache | `ORGANISATION/REPOSITORY`, at its `main` as last fetched | `HF_HUB_CACHE`, or `HF_HOME` with `hub/` below it |
//!
//! Nothing is fetched: a name that is not here is an error that says where was looked.

use std::path::{Path, PathBuf};

use crate::{Error, Result, files};

/// Folders inside a folder of models in which other programs keep whole models.
const INNER: [&str; 4] = ["", "checkpoints", "diffusers", "Stable-diffusion"];
/// What single files end with, the preferred format first.
const ENDINGS: [&str; 3] = [".safetensors", ".gguf", ".ckpt"];
/// Folders inside a folder of models in which other programs keep ControlNets.
const CONTROLS: [&str; 3] = ["", "controlnet", "ControlNet"];
/// Folders inside a folder of models in which other programs keep parts of models.
const PARTS: [&str; 7] = ["", "vae", "VAE", "unet", "diffusion_models", "checkpoints", "Stable-diffusion"];
/// The folder inside a folder of models in which AUTOMATIC1111's program and ComfyUI keep embeddings, and how deep folders lie in it.
const EMBEDDINGS: &str = "embeddings";
const DEPTH: usize = 3;
/// How many near names an error offers.
const OFFERED: usize = 3;

/// Where names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Folders of models.
    pub models: Vec<PathBuf>,
    /// Hugging Face caches: folders with `models--ORGANISATION--REPOSITORY` in them.
    pub hubs: Vec<PathBuf>,
}

impl Places {
    /// What the environment names.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let models = var("CHIARO_MODELS").map(|list| std::env::split_paths(&list).collect()).unwrap_or_default();
        let home = || var("HOME").or_else(|| var("USERPROFILE")).map(|home| PathBuf::from(home).join(".cache"));
        let cache = || var("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let hub = var("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| var("HF_HOME").map(|home| PathBuf::from(home).join("hub")))
            .or_else(|| cache().map(|cache| cache.join("huggingface/hub")));
        Places { models, hubs: hub.into_iter().collect() }
    }

    /// The path that a name means.
    ///
    /// # Errors
    /// [`Error::Model`] when it is nowhere, with the places that were searched and the nearest names there.
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        self.find_below(name, &INNER)
    }

    /// The path that a ControlNet's name means.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_control(&self, name: &str) -> Result<PathBuf> {
        self.find_below(name, &CONTROLS)
    }

    /// The path that the name of a part of a model means: an autoencoder, a refiner, a UNet.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_part(&self, name: &str) -> Result<PathBuf> {
        self.find_below(name, &PARTS)
    }

    fn find_below(&self, name: &str, inner: &[&str]) -> Result<PathBuf> {
        let path = Path::new(name);
        if path.exists() {
            return Ok(path.to_owned());
        }
        if let Some(found) =
            self.models.iter().filter(|_| path.is_relative()).find_map(|folder| inside(folder, inner, name))
        {
            return Ok(found);
        }
        match self.hubs.iter().find_map(|hub| snapshot(hub, name)) {
            Some(found) => Ok(found),
            None => Err(self.unknown(name)),
        }
    }

    /// Files of embeddings in the folders of models whose names are in one of the texts, in any case of letters: what may be meant, for
    /// [`Overrides::embeddings`](super::Overrides::embeddings).
    pub fn embeddings_in(&self, texts: &[&str]) -> Vec<PathBuf> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let mut found = Vec::new();
        let mut folders: Vec<(PathBuf, usize)> =
            self.models.iter().map(|folder| (folder.join(EMBEDDINGS), 0)).collect();
        while let Some((folder, depth)) = folders.pop() {
            for path in entries(&folder) {
                let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().to_lowercase());
                if path.is_dir() && depth < DEPTH {
                    folders.push((path, depth + 1));
                } else if path
                    .extension()
                    .is_some_and(|ending| ["safetensors", "pt", "bin"].iter().any(|one| ending == *one))
                    && texts.iter().any(|text| text.contains(&stem))
                {
                    found.push(path);
                }
            }
        }
        found.sort();
        // Of several of one name, those that a text names with their folder, as ComfyUI's `embedding:folder/name`.
        let is_named = |path: &PathBuf| {
            let inner = self.models.iter().find_map(|folder| path.strip_prefix(folder.join(EMBEDDINGS)).ok());
            let inner = inner.map(|inner| inner.with_extension("").to_string_lossy().to_lowercase().replace('\\', "/"));
            inner.is_some_and(|inner| {
                inner.contains('/') && texts.iter().any(|text| text.replace('\\', "/").contains(&inner))
            })
        };
        let named: Vec<PathBuf> = found.iter().filter(|path| is_named(path)).cloned().collect();
        found.retain(|path| named.contains(path) || !named.iter().any(|named| named.file_stem() == path.file_stem()));
        found
    }

    /// Every name that can be found, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in &self.models {
            for entry in INNER.iter().flat_map(|inner| entries(&folder.join(inner))) {
                let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_model = entry.join("model_index.json").is_file();
                match ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
                    Some(stem) => names.push(stem.to_owned()),
                    None if is_model => names.push(name),
                    None => {}
                }
            }
        }
        for entry in self.hubs.iter().flat_map(|hub| entries(hub)) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names.extend(name.strip_prefix("models--").map(|rest| rest.replacen("--", "/", 1)));
        }
        names.sort();
        names.dedup();
        names
    }

    fn unknown(&self, name: &str) -> Error {
        let known = self.names();
        let mut near: Vec<(f64, &String)> = known
            .iter()
            .map(|known| (strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase()), known))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near: Vec<&str> =
            near.iter().filter(|(score, _)| *score > 0.7).take(OFFERED).map(|(_, name)| name.as_str()).collect();
        let offer = if near.is_empty() { String::new() } else { format!("; near names: {}", near.join(", ")) };
        let searched: Vec<String> =
            self.models.iter().chain(&self.hubs).map(|place| place.display().to_string()).collect();
        let searched = if searched.is_empty() { String::new() } else { format!(", nor in {}", searched.join(", ")) };
        Error::Model(format!("{name}: no such file or folder{searched}{offer}"))
    }
}

/// A model of that name in a folder of models.
fn inside(folder: &Path, inner: &[&str], name: &str) -> Option<PathBuf> {
    let forms = inner.iter().flat_map(|inner| {
        let folder = folder.join(inner);
        let files = ENDINGS.map(|ending| folder.join(format!("{name}{ending}")));
        std::iter::once(folder.join(name)).chain(files)
    });
    forms.into_iter().find(|path| path.exists())
}

/// The folder of a repository's files in a cache: what `refs/main` names, or the only snapshot.
fn snapshot(hub: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = name.split('/');
    let (owner, repository) = (parts.next()?, parts.next()?);
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    if parts.next().is_some() || !plain(owner) || !plain(repository) {
        return None;
    }
    let folder = hub.join(format!("models--{owner}--{repository}"));
    let snapshots = folder.join("snapshots");
    let main =
        files::read_text(&folder.join("refs/main"), 4096, "a commit's name").ok().map(|hash| hash.trim().to_owned());
    let named = main.filter(|hash| hash.chars().all(|c| c.is_ascii_hexdigit())).map(|hash| snapshots.join(hash));
    let only = || match &entries(&snapshots)[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    named.filter(|path| path.is_dir()).or_else(only)
}

/// A folder's entries; none where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
