//! What is kept of an adapter and its driver from run to run: a file of each sort, in the user's cache.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::gpu::AdapterInfo;
use crate::image::{check_folder, write_file};
use crate::{Error, Remedy, Result, files};

/// Where one sort of file is kept of an adapter with this driver: `sort` in the folder that `CHIARO_CACHE` names, else in `chiaro` in
/// `XDG_CACHE_HOME`, else in `.cache/chiaro` of the home folder. `None` where the environment names no folder.
pub(crate) fn path(adapter: &AdapterInfo, sort: &str) -> Option<PathBuf> {
    let folder = folder()?;
    let hash = Sha256::digest(format!("{}\n{}\n{}", adapter.name, adapter.backend, adapter.driver));
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(folder.join(sort).join(format!("{hash}.json")))
}

/// Where the command keeps hashes of weight files ([`Device::with_hash_file`](crate::pipeline::Device::with_hash_file)): beside measured tiles. `None`
/// where the environment names no folder.
pub fn hash_file() -> Option<PathBuf> {
    folder().map(|folder| folder.join("hashes.json"))
}

/// The folder that the environment names.
fn folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || var("HOME").or_else(|| var("USERPROFILE")).map(|home| home.join(".cache"));
    var("CHIARO_CACHE").or_else(|| Some(var("XDG_CACHE_HOME").or_else(home)?.join("chiaro")))
}

/// A few kilobytes are kept of a device; anything larger is something else.
const MAX_BYTES: u64 = 16 << 20;

/// What is kept at `path`, if anything is.
pub(crate) fn load<T: DeserializeOwned>(path: &Path, remedy: Remedy) -> Result<Option<T>> {
    match files::read(path, MAX_BYTES, "what is kept of a device") {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| broken(path, &e.to_string(), remedy)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn broken(path: &Path, what: &str, remedy: Remedy) -> Error {
    Error::Device(format!("{}: {what}", path.display())).advise([remedy])
}

/// Whether a file could be kept at `path`.
pub(crate) fn check(path: Option<PathBuf>) -> Result<()> {
    check_folder(place(path)?.parent().unwrap_or(Path::new(".")))
}

fn place(path: Option<PathBuf>) -> Result<PathBuf> {
    path.ok_or_else(|| {
        Error::refused("expected a folder for what is found of a device, the environment names none")
            .advise([Remedy::CacheFolder])
    })
}

/// Keeps `value`, in place of what was kept before; an earlier file stays as it was where that fails.
pub(crate) fn save(path: Option<PathBuf>, value: &impl Serialize) -> Result<PathBuf> {
    let path = place(path)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::Device(format!("{}: {e}", path.display())))?;
    write_file(&path, &text, true)?;
    Ok(path)
}
