//! What a repository holds, and which of it is wanted.

use std::io::Read;
use std::path::Path;

use chiaro::image::refused_by_windows;
use chiaro::{Error, Result, files};
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::pull_args::VariantArg;

/// How many files an error lists.
const LISTED: usize = 12;
/// What files of weights end with, the preferred format first.
const WEIGHTS: [&str; 3] = [".safetensors", ".gguf", ".ckpt"];
/// What small files of a model end with.
const SMALL: [&str; 2] = [".json", ".txt"];

/// The files of a repository at a commit.
#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) sha: String,
    siblings: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A file with what it must turn out to be.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) hash: Hash,
}

pub(super) enum Hash {
    Sha256(String),
    /// Of "blob SIZE\0" and the content.
    Git(String),
}

impl Hash {
    pub(super) fn text(&self) -> &str {
        match self {
            Hash::Sha256(text) | Hash::Git(text) => text,
        }
    }
}

impl Listing {
    /// Refuses a commit that is none: it becomes a folder's name.
    pub(super) fn check(&self) -> Result<()> {
        if self.sha.is_empty() || !self.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::model(format!("the hub's listing: expected a commit, got {:?}", self.sha)));
        }
        Ok(())
    }

    fn names(&self) -> Vec<&str> {
        self.siblings.iter().map(|entry| entry.rfilename.as_str()).collect()
    }

    /// What is asked for by name, a file or all of a folder; without a name what of the repository is a model.
    pub(super) fn select(&self, asked: &[String], variant: VariantArg) -> Result<Vec<Wanted>> {
        let names = self.names();
        let mut wanted: Vec<&Entry> = Vec::new();
        if asked.is_empty() {
            let chosen = Choice { names: &names, variant }.model()?;
            wanted.extend(self.siblings.iter().filter(|entry| chosen.contains(&entry.rfilename.as_str())));
        }
        for name in asked {
            let name = name.trim_matches('/');
            let file = self.siblings.iter().find(|entry| entry.rfilename == name);
            let choice = Choice { names: &names, variant };
            let below = |entry: &&Entry| {
                let inside = entry.rfilename.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
                inside && choice.takes(&entry.rfilename)
            };
            let found: Vec<&Entry> = match file {
                Some(file) => vec![file],
                None => self.siblings.iter().filter(below).collect(),
            };
            if found.is_empty() {
                return Err(Error::refused(format!("{name}: the repository has no such file; {}", list(&names))));
            }
            wanted.extend(found);
        }
        let mut files: Vec<Wanted> = wanted.into_iter().map(Wanted::from_entry).collect::<Result<_>>()?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files.dedup_by(|a, b| a.name == b.name);
        Ok(files)
    }
}

/// "it has a, b, c and 5 more".
fn list(names: &[&str]) -> String {
    let more = names.len().saturating_sub(LISTED);
    let shown: Vec<&str> = names.iter().copied().take(LISTED).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("it has {}{more}", shown.join(", "))
}

/// Which of a repository's files are a model: weights, of those in several forms one, configurations, vocabularies.
struct Choice<'a> {
    names: &'a [&'a str],
    variant: VariantArg,
}

impl<'a> Choice<'a> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// All that makes up the model.
    fn model(&self) -> Result<Vec<&'a str>> {
        if self.has("model_index.json") {
            let inside = |name: &&str| self.takes(name) && (name.contains('/') || is_small(name));
            let files: Vec<&str> = self.names.iter().copied().filter(inside).collect();
            return self.with_weights(files);
        }
        let single = |name: &&str| !name.contains('/') && WEIGHTS.iter().any(|ending| name.ends_with(ending));
        let models: Vec<&str> =
            self.names.iter().copied().filter(single).filter(|name| self.takes(name) && !is_shard(name)).collect();
        if models.len() > 1 {
            return Err(Error::refused(format!(
                "the repository has {} models in single files; name the one that is wanted behind the repository: {}",
                models.len(),
                list(&models)
            )));
        }
        self.with_weights(self.names.iter().copied().filter(|name| self.takes(name)).collect())
    }

    fn with_weights<'n>(&self, files: Vec<&'n str>) -> Result<Vec<&'n str>> {
        if files.iter().any(|name| is_weights(name)) {
            return Ok(files);
        }
        Err(Error::model(format!(
            "the repository has no weights (.safetensors, .gguf, .ckpt, .bin); {}",
            list(self.names)
        )))
    }

    fn takes(&self, name: &str) -> bool {
        is_small(name) || (is_weights(name) && self.is_preferred(name))
    }

    /// Whether the weights are the form that is loaded: half precision or full, safetensors before PyTorch's, no twins of training, no checker
    /// of pictures.
    fn is_preferred(&self, name: &str) -> bool {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        if folder == "safety_checker" || file.contains("non_ema") {
            return false;
        }
        if file.ends_with(".bin") {
            let beside = |other: &&&str| {
                let of_folder = other.rsplit_once('/').unwrap_or(("", other)).0 == folder;
                of_folder && other.ends_with(".safetensors")
            };
            if self.names.iter().any(|other| beside(&other)) {
                return false;
            }
        }
        !self.is_other_form(name)
    }

    fn is_other_form(&self, name: &str) -> bool {
        [".safetensors", ".bin"].iter().any(|ending| {
            let Some(stem) = name.strip_suffix(ending) else { return false };
            match (self.variant, stem.strip_suffix(".fp16")) {
                (VariantArg::Fp16, None) => {
                    self.has(&format!("{stem}.fp16{ending}")) || self.has_halved_shards(stem, ending)
                }
                (VariantArg::Full, Some(stem)) => self.has(&format!("{stem}{ending}")),
                _ => false,
            }
        })
    }

    /// `model-00001-of-00002` beside `model.fp16-00001-of-00002`.
    fn has_halved_shards(&self, stem: &str, ending: &str) -> bool {
        let Some((base, _)) = stem.rsplit_once("-of-").and_then(|(before, _)| before.rsplit_once('-')) else {
            return false;
        };
        let half = format!("{base}.fp16");
        self.names.iter().any(|other| other.starts_with(&half) && other.ends_with(ending))
    }
}

fn is_small(name: &str) -> bool {
    SMALL.iter().any(|ending| name.ends_with(ending))
}

fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending)) || (name.ends_with(".bin") && name.contains("pytorch_model"))
}

fn is_shard(name: &str) -> bool {
    name.contains("-of-")
}

impl Wanted {
    fn from_entry(entry: &Entry) -> Result<Self> {
        let name = entry.rfilename.clone();
        let inside =
            name.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']));
        if !inside {
            return Err(Error::model(format!("the hub's listing: {name:?} leads out of the repository")));
        }
        if let Some(why) = name.split('/').find_map(refused_by_windows).filter(|_| cfg!(windows)) {
            return Err(Error::model(format!("the hub's listing: {name:?} cannot be kept here: {why}")));
        }
        let missing = || Error::model(format!("the hub's listing: {name} has no size or no hash"));
        let (size, hash) = match (&entry.lfs, entry.size, &entry.blob_id) {
            (Some(lfs), Some(size), _) if lfs.size != size => {
                return Err(Error::model(format!(
                    "the hub's listing: {name} is said to have {size} bytes and {}",
                    lfs.size
                )));
            }
            (Some(lfs), ..) => (lfs.size, Hash::Sha256(lfs.sha256.clone())),
            (None, Some(size), Some(id)) => (size, Hash::Git(id.clone())),
            _ => return Err(missing()),
        };
        let digits = match &hash {
            Hash::Sha256(_) => 64,
            Hash::Git(_) => 40,
        };
        if hash.text().len() != digits || !hash.text().chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(missing());
        }
        Ok(Wanted { name, size, hash })
    }

    /// Whether a file is what was promised.
    pub(super) fn check(&self, path: &Path) -> Result<bool> {
        let mut file = files::open(path).map_err(|e| Error::io(path, e))?;
        if file.metadata().map_err(|e| Error::io(path, e))?.len() != self.size {
            return Ok(false);
        }
        let mut buffer = vec![0; 1 << 20];
        let (mut long, mut git) = (Sha256::new(), Sha1::new());
        git.update(format!("blob {}\0", self.size));
        loop {
            match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
                0 => break,
                count if matches!(self.hash, Hash::Git(_)) => git.update(&buffer[..count]),
                count => long.update(&buffer[..count]),
            }
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let got = if matches!(self.hash, Hash::Git(_)) { hex(&git.finalize()) } else { hex(&long.finalize()) };
        Ok(got.eq_ignore_ascii_case(self.hash.text()))
    }
}

/// Bytes of all of them; a listing that promises more than there are numbers is refused.
pub(super) fn total(files: &[Wanted]) -> Result<u64> {
    let sum = files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size));
    sum.filter(|sum| *sum < 1 << 50)
        .ok_or_else(|| Error::model("the hub's listing: more bytes than any disk holds are promised"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], variant: VariantArg) -> Result<Vec<String>> {
        Choice { names, variant }.model().map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_form_of_each_network_is_taken() {
        let names = [
            "model_index.json",
            "v1-5-pruned.safetensors",
            "v1-inference.yaml",
            "safety_checker/model.safetensors",
            "safety_checker/config.json",
            "text_encoder/model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/pytorch_model.bin",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "unet/openvino_model.bin",
            "vae/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.fp16.bin",
        ];
        let half = chosen(&names, VariantArg::Fp16).expect("a model");
        assert_eq!(
            half,
            [
                "model_index.json",
                "safety_checker/config.json",
                "text_encoder/model.fp16.safetensors",
                "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                "vae/diffusion_pytorch_model.fp16.bin"
            ]
        );
        let full = chosen(&names, VariantArg::Full).expect("a model");
        assert!(
            full.contains(&"text_encoder/model.safetensors".into())
                && full.contains(&"vae/diffusion_pytorch_model.bin".into())
        );
    }

    #[test]
    fn several_single_files_are_a_question() {
        let told =
            chosen(&["a.q4_0.gguf", "a.q8_0.gguf", "README.md"], VariantArg::Fp16).expect_err("which?").to_string();
        assert!(told.contains("a.q4_0.gguf, a.q8_0.gguf") && told.contains("2 models"), "{told}");
        let one = chosen(&["a.gguf", "config.json"], VariantArg::Fp16).expect("one");
        assert_eq!(one, ["a.gguf", "config.json"]);
        assert!(chosen(&["config.json", "x.onnx"], VariantArg::Fp16).is_err());
    }
}
