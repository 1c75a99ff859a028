//! `chiaro pull`: a repository's files into the Hugging Face cache, where names are looked up. The only code that speaks to a network; built with
//! the Cargo feature `pull`.
//!
//! The hub's interface: `api/models/REPO/revision/REV?blobs=true` lists files with their sizes and hashes (SHA-256 of large files, Git's
//! SHA-1 of small ones), `REPO/resolve/COMMIT/FILE` gives one. The cache's layout is that of `huggingface_hub`: `blobs/HASH`,
//! `snapshots/COMMIT/FILE` → its blob, `refs/main`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::shown::shown;
use super::{PullArgs, VariantArg, print_json, print_line};
use crate::image::{check_folder, refused_by_windows};
use crate::pipeline::Places;
use crate::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// Times that a download that breaks off is taken up again without having got further.
const TRIES: usize = 5;
/// A listing is some hundred kilobytes.
const MAX_LISTING: u64 = 16 << 20;

#[derive(Deserialize)]
struct Listing {
    sha: String,
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
struct Wanted {
    name: String,
    size: u64,
    hash: Hash,
}

enum Hash {
    Sha256(String),
    /// Of "blob SIZE\0" and the content.
    Git(String),
}

impl Hash {
    fn text(&self) -> &str {
        match self {
            Hash::Sha256(text) | Hash::Git(text) => text,
        }
    }
}

/// The hub, and who asks.
struct Hub {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<String>,
}

pub(super) fn run(args: &PullArgs) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let parts: Vec<&str> = args.repository.split('/').collect();
    if parts.len() != 2 || !parts.iter().all(|part| plain(part) && !part.starts_with('.')) {
        return Err(Error::Request(format!("pull: expected ORGANISATION/REPOSITORY, got {:?}", args.repository)));
    }
    if !plain(&args.revision) {
        return Err(Error::Request(format!("--revision: expected a branch, tag or commit, got {:?}", args.revision)));
    }
    let hub = Hub::from_env()?;
    let places = Places::from_env();
    let cache = places
        .hubs
        .first()
        .ok_or_else(|| Error::Request("pull: no place for models is known; set HF_HOME to a folder".into()))?;
    let folder = cache.join(format!("models--{}--{}", parts[0], parts[1]));
    check_folder(&folder)?;
    let listing = hub.listing(&args.repository, &args.revision)?;
    let files = select(&listing, args.variant)?;
    let total: u64 = files.iter().map(|file| file.size).sum();
    let bar = bar(total, args.quiet || args.json);
    let snapshot = folder.join("snapshots").join(&listing.sha);
    for file in &files {
        bar.set_message(shown(&file.name).into_owned());
        let blob = folder.join("blobs").join(file.hash.text());
        if !blob.is_file() {
            hub.download(&args.repository, &listing.sha, file, &blob, &bar)?;
        } else {
            bar.inc(file.size);
        }
        place(&blob, &snapshot, &file.name, &WAYS)?;
    }
    bar.finish_and_clear();
    write_whole(&folder.join("refs").join(&args.revision), listing.sha.as_bytes())?;
    if args.json {
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        return print_json(
            &json!({ "folder": snapshot.display().to_string(), "commit": listing.sha, "bytes": total, "files": names }),
        );
    }
    print_line(&format!("{} ({} files, {:.1} MiB)", snapshot.display(), files.len(), total as f64 / f64::from(1 << 20)))
}

fn bar(total: u64, hidden: bool) -> ProgressBar {
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("{msg:40} {bar:20} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
    bar.set_style(style.expect("the template is valid"));
    bar
}

/// What of a repository is a model: weights as safetensors, configurations, vocabularies. Of weights in two forms one is taken.
fn select(listing: &Listing, variant: VariantArg) -> Result<Vec<Wanted>> {
    if listing.sha.is_empty() || !listing.sha.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::Model(format!("the hub's listing: expected a commit, got {:?}", listing.sha)));
    }
    let names: Vec<&str> = listing.siblings.iter().map(|entry| entry.rfilename.as_str()).collect();
    let is_folder_model = names.contains(&"model_index.json");
    let half = |name: &str| name.strip_suffix(".safetensors").map(|stem| format!("{stem}.fp16.safetensors"));
    let other_form = |name: &str| match (variant, name.strip_suffix(".fp16.safetensors")) {
        (VariantArg::Fp16, None) => half(name).is_some_and(|half| names.contains(&half.as_str())),
        (VariantArg::Full, Some(stem)) => names.contains(&format!("{stem}.safetensors").as_str()),
        _ => false,
    };
    let wanted = |entry: &&Entry| {
        let name = entry.rfilename.as_str();
        let weights = name.ends_with(".safetensors") && !other_form(name) && (name.contains('/') || !is_folder_model);
        weights || [".json", ".txt"].iter().any(|ending| name.ends_with(ending))
    };
    let files: Vec<Wanted> = listing.siblings.iter().filter(wanted).map(Wanted::from_entry).collect::<Result<_>>()?;
    if !files.iter().any(|file| file.name.ends_with(".safetensors")) {
        return Err(Error::Model("the repository has no .safetensors files; other formats are not fetched".into()));
    }
    Ok(files)
}

impl Wanted {
    fn from_entry(entry: &Entry) -> Result<Self> {
        let name = entry.rfilename.clone();
        let inside =
            name.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']));
        if !inside {
            return Err(Error::Model(format!("the hub's listing: {name:?} leads out of the repository")));
        }
        if let Some(why) = name.split('/').find_map(refused_by_windows).filter(|_| cfg!(windows)) {
            return Err(Error::Model(format!("the hub's listing: {name:?} cannot be kept here: {why}")));
        }
        let missing = || Error::Model(format!("the hub's listing: {name} has no size or no hash"));
        let (size, hash) = match (&entry.lfs, entry.size, &entry.blob_id) {
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
    fn check(&self, path: &Path) -> Result<bool> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
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

impl Hub {
    fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::Request(format!(
                "HF_ENDPOINT: expected an address with http:// or https://, got {endpoint:?}"
            )));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .build();
        Ok(Hub { agent: config.into(), endpoint: endpoint.trim_end_matches('/').to_owned(), token: var("HF_TOKEN") })
    }

    fn get(&self, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| network(url, &e))
    }

    fn listing(&self, repository: &str, revision: &str) -> Result<Listing> {
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint);
        let mut response = self.get(&url, 0)?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => {
                return Err(Error::Model(format!(
                    "{repository}: the hub answers {status}: it is not there, or it is gated and HF_TOKEN is not of an account that may read it"
                )));
            }
            404 => return Err(Error::Model(format!("{repository}: the hub does not know it at {revision}"))),
            status => return Err(Error::Model(format!("{url}: the hub answers {status}"))),
        }
        let text =
            response.body_mut().with_config().limit(MAX_LISTING).read_to_string().map_err(|e| network(&url, &e))?;
        serde_json::from_str(&text).map_err(|e| Error::Model(format!("{url}: not the listing expected there: {e}")))
    }

    /// One file into its blob, from where an earlier download broke off.
    fn download(&self, repository: &str, commit: &str, file: &Wanted, blob: &Path, bar: &ProgressBar) -> Result<()> {
        let part = blob.with_extension("incomplete");
        let parent = blob.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, file.name);
        let mut have = std::fs::metadata(&part).map_or(0, |data| data.len());
        if have > file.size {
            std::fs::remove_file(&part).map_err(|e| Error::io(&part, e))?;
            have = 0;
        }
        bar.inc(have);
        let mut tries = 0;
        while have < file.size {
            let before = have;
            let failed = self.append(&url, &part, &mut have, file.size, bar).err();
            if have >= file.size {
                break;
            }
            tries = if have > before { 0 } else { tries + 1 };
            if tries >= TRIES {
                let why = failed.map_or("the connection ends early".into(), |e| e.to_string());
                return Err(Error::Model(format!(
                    "{}: {why}; run the same command to go on from byte {have}",
                    file.name
                )));
            }
        }
        if file.size == 0 {
            write_whole(&part, b"")?;
        }
        if !file.check(&part)? {
            std::fs::remove_file(&part).map_err(|e| Error::io(&part, e))?;
            return Err(Error::Model(format!(
                "{}: what came is not what the hub promised (hash {}); run the command again",
                file.name,
                file.hash.text()
            )));
        }
        std::fs::rename(&part, blob).map_err(|e| Error::io(blob, e))
    }

    /// Appends what the hub sends from byte `have` on; `have` says how far it came, also on failure.
    fn append(&self, url: &str, part: &Path, have: &mut u64, size: u64, bar: &ProgressBar) -> Result<()> {
        let response = self.get(url, *have)?;
        let status = response.status().as_u16();
        if *have > 0 && status == 200 {
            // A server without ranges sends all from the start.
            std::fs::remove_file(part).map_err(|e| Error::io(part, e))?;
            bar.set_position(bar.position().saturating_sub(*have));
            *have = 0;
        } else if status != 200 && status != 206 {
            return Err(Error::Model(format!("{url}: the hub answers {status}")));
        }
        let mut out = OpenOptions::new().create(true).append(true).open(part).map_err(|e| Error::io(part, e))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = body.read(&mut buffer).map_err(|e| Error::Model(format!("{url}: {e}")))?;
            if count == 0 {
                return Ok(());
            }
            if *have + count as u64 > size {
                return Err(Error::Model(format!("{url}: more than the promised {size} bytes come")));
            }
            out.write_all(&buffer[..count]).map_err(|e| Error::io(part, e))?;
            *have += count as u64;
            bar.inc(count as u64);
        }
    }
}

fn network(url: &str, error: &ureq::Error) -> Error {
    Error::Model(format!("{url}: {error}"))
}

/// A way to give a blob another name: the blob, how it is reached from the name's folder, the name.
type Way = fn(&Path, &Path, &Path) -> std::io::Result<()>;

/// In the order of preference. Links are what the cache's other users make; Windows keeps them for developers, some file systems have none.
const WAYS: [Way; 3] = [symbolic_link, |blob, _, path| std::fs::hard_link(blob, path), copy];

fn symbolic_link(_: &Path, relative: &Path, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(relative, path);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(relative, path);
    #[cfg(not(any(unix, windows)))]
    return Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        format!("{} {}", relative.display(), path.display()),
    ));
}

/// Under its name when it is whole.
fn copy(blob: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".incomplete");
    let copied = std::fs::copy(blob, &part).and_then(|_| std::fs::rename(&part, path));
    copied.inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// The file's name in the snapshot, by the first of `ways` after which the blob is found there.
fn place(blob: &Path, snapshot: &Path, name: &str, ways: &[Way]) -> Result<()> {
    let path = snapshot.join(name);
    let size = std::fs::metadata(blob).map_err(|e| Error::io(blob, e))?.len();
    // Looked at rather than believed: a system may report links that it did not make, or not follow them.
    let is_there = || std::fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == size);
    if is_there() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    // Part by part: Windows follows no link with "/" in it.
    let mut relative: PathBuf = std::iter::repeat_n("..", name.split('/').count() + 1).collect();
    relative.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
    let mut failed = std::io::Error::other("no kind of link leads to the blob");
    for way in ways {
        // A link that leads nowhere is left from a cache that was cleared, or by the way before.
        let _ = std::fs::remove_file(&path);
        match way(blob, &relative, &path) {
            Ok(()) if is_there() => return Ok(()),
            Ok(()) => {}
            Err(error) => failed = error,
        }
    }
    Err(Error::io(&path, failed))
}

/// A small file, whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    crate::image::write_file(path, bytes, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(_: &Path, _: &Path, _: &Path) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// As Wine 8 answers for symbolic links.
    fn pretends(_: &Path, _: &Path, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn leads_nowhere(_: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
        symbolic_link(path, Path::new("nowhere"), path)
    }

    #[test]
    fn a_blob_gets_its_name_where_links_fail() {
        let [soft, hard, copied] = WAYS;
        for ways in [
            vec![soft, hard, copied],
            vec![refused, hard, copied],
            vec![pretends, hard, copied],
            vec![leads_nowhere, hard, copied],
            vec![refused, refused, copied],
        ] {
            let cache = tempfile::tempdir().expect("a temporary folder");
            let (blob, snapshot) = (cache.path().join("blobs/0a"), cache.path().join("snapshots/c"));
            std::fs::create_dir_all(cache.path().join("blobs")).expect("a new folder");
            std::fs::write(&blob, "weights").expect("written");
            place(&blob, &snapshot, "unet/model.safetensors", &ways).expect("placed");
            // Again: it is there.
            place(&blob, &snapshot, "unet/model.safetensors", &[refused]).expect("placed");
            assert_eq!(std::fs::read(snapshot.join("unet/model.safetensors")).expect("readable"), b"weights");
            let names = std::fs::read_dir(snapshot.join("unet")).expect("readable").count();
            assert_eq!(names, 1, "nothing half copied stays");
        }
    }

    #[test]
    fn a_blob_that_gets_no_name_is_told() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let (blob, snapshot) = (cache.path().join("0a"), cache.path().join("snapshots/c"));
        std::fs::write(&blob, "weights").expect("written");
        let told = place(&blob, &snapshot, "model.safetensors", &[pretends, refused, leads_nowhere]);
        assert!(told.expect_err("no way works").to_string().contains("model.safetensors"));
    }
}
