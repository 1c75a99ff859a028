//! `chiaro pull`: a repository's files into the Hugging Face cache, where names are looked up. The only code that speaks to a network; built with
//! the Cargo feature `pull`.
//!
//! The hub's interface: `api/models/REPO/revision/REV?blobs=true` lists files with their sizes and hashes (SHA-256 of large files, Git's
//! SHA-1 of small ones), `REPO/resolve/COMMIT/FILE` gives one. The cache's layout is that of `huggingface_hub`: `blobs/HASH`,
//! `snapshots/COMMIT/FILE` → its blob, `refs/main`.

mod blob;
mod hub;
mod listing;
mod place;

use std::io::Write;
use std::path::{Path, PathBuf};

use chiaro::image::check_folder;
use chiaro::pipeline::{OmsPart, Places, inspect, oms_parts, successor};
use chiaro::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use self::blob::Repository;
use self::hub::Hub;
use self::place::{WAYS, place, write_whole};
use super::models::option_of;
use super::pull_args::VariantArg;
use super::{PullArgs, print_json, print_line};

pub(super) fn run(args: &PullArgs) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let address = &args.repository;
    let revision = address.revision.as_ref().unwrap_or(&args.revision);
    if !plain(revision) {
        return Err(Error::refused(format!("--revision: expected a branch, tag or commit, got {revision:?}")));
    }
    let hub = Hub::from_env()?;
    if let Some(host) = address.host.as_ref().filter(|host| !hub.is_at(host)) {
        return Err(Error::refused(format!(
            "pull: {host} is not the hub ({}); fetch the file with a browser and name its path with --model",
            hub.endpoint
        )));
    }
    let places = Places::from_env();
    let cache = places
        .hubs
        .first()
        .ok_or_else(|| Error::refused("pull: no place for models is known; set HF_HOME to a folder"))?;
    let puller = Puller { hub: &hub, cache, variant: args.variant, hidden: args.quiet || args.json };
    let names: Vec<String> = address.file.iter().chain(&args.files).cloned().collect();
    let mut pulled = vec![puller.pull(&address.name, revision, &names)?];
    for (repository, folders) in encoder_of(&places, &pulled[0]) {
        pulled.push(puller.pull_copy(&repository, &folders)?);
    }
    tell(args, &pulled, &names)
}

/// What came of a repository.
struct Pulled {
    name: String,
    snapshot: PathBuf,
    commit: String,
    files: Vec<String>,
    bytes: u64,
}

struct Puller<'a> {
    hub: &'a Hub,
    cache: &'a Path,
    variant: VariantArg,
    hidden: bool,
}

impl Puller<'_> {
    fn pull(&self, name: &str, revision: &str, asked: &[String]) -> Result<Pulled> {
        let listing = self.hub.listing(name, revision)?;
        let files = listing.select(asked, self.variant)?;
        let bytes = listing::total(&files)?;
        let folder = self.cache.join(format!("models--{}", name.replace('/', "--")));
        check_folder(&folder)?;
        let snapshot = folder.join("snapshots").join(&listing.sha);
        let bar = bar(bytes, self.hidden);
        let repository = Repository { hub: self.hub, name, commit: &listing.sha, folder: &folder };
        for file in &files {
            repository.fetch(file, &bar, |blob| place(blob, &snapshot, &file.name, &WAYS))?;
        }
        bar.finish_and_clear();
        write_whole(&folder.join("refs").join(revision), listing.sha.as_bytes())?;
        let names = files.into_iter().map(|file| file.name).collect();
        Ok(Pulled { name: name.to_owned(), snapshot, commit: listing.sha, files: names, bytes })
    }

    /// Folders of a repository, or of its copy where the hub has it no longer.
    fn pull_copy(&self, name: &str, folders: &[String]) -> Result<Pulled> {
        match (self.pull(name, "main", folders), successor(name)) {
            (Err(Error::Model { .. }), Some(copy)) => self.pull(&copy, "main", folders),
            (result, _) => result,
        }
    }
}

/// The repository, with its folders, of a module's text encoder that is not here yet: published modules only say where it is.
fn encoder_of(places: &Places, pulled: &Pulled) -> Vec<(String, Vec<String>)> {
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    for OmsPart { repository, folder } in oms_parts(&pulled.snapshot) {
        let is_here = places.find(&repository).is_ok_and(|found| found.join(&folder).is_dir());
        if is_here || repository == pulled.name || repository.split('/').count() != 2 || repository.starts_with('.') {
            continue;
        }
        match wanted.iter_mut().find(|(known, _)| *known == repository) {
            Some((_, folders)) => folders.push(folder),
            None => wanted.push((repository, vec![folder])),
        }
    }
    wanted
}

fn tell(args: &PullArgs, pulled: &[Pulled], names: &[String]) -> Result<()> {
    if args.json {
        let one = |pulled: &Pulled| {
            json!({
                "repository": pulled.name, "folder": pulled.snapshot.display().to_string(), "commit": pulled.commit,
                "bytes": pulled.bytes, "files": pulled.files,
            })
        };
        let mut told = one(&pulled[0]);
        told["text_encoder"] = pulled.get(1).map(one).into();
        return print_json(&told);
    }
    for Pulled { snapshot, files, bytes, .. } in pulled {
        let mebibytes = *bytes as f64 / f64::from(1 << 20);
        print_line(&format!("{} ({} files, {mebibytes:.1} MiB)", snapshot.display(), files.len()))?;
    }
    if !args.quiet
        && let Some(next) = next_step(&pulled[0], names)
    {
        let _ = writeln!(std::io::stderr(), "{next}");
    }
    Ok(())
}

/// How what came is used.
fn next_step(pulled: &Pulled, names: &[String]) -> Option<String> {
    let (path, name) = match names {
        [] => (pulled.snapshot.clone(), pulled.name.clone()),
        [one] if pulled.snapshot.join(one).is_file() => (pulled.snapshot.join(one), format!("{}/{one}", pulled.name)),
        _ => return None,
    };
    // A repository with one file goes by its own name.
    let path = Places::from_env().find(&pulled.name).ok().filter(|_| names.is_empty()).unwrap_or(path);
    let option = option_of(inspect(&path).ok()?.kind)?;
    Some(match option {
        "--model" => format!("to draw: chiaro \"a portrait by candle light\" --model {name}"),
        "--oms" => format!("to draw: chiaro \"a portrait by candle light\" --model MODEL --oms {name}"),
        option => format!("to use it: {option} {}", if option == "--lora" { path.display().to_string() } else { name }),
    })
}

fn bar(total: u64, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("{msg:40} {bar:20} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.set_style(style.expect("the template is valid"));
    bar
}
