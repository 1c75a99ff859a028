//! SHA-256 of weight files, by which a picture's parameters name them: computed beside the work, and kept from run to run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::pipeline::device::kept;
use crate::pipeline::files::source::Component;
use crate::record::Cancel;
use crate::{Result, files};

/// A weight file of a model: its component, its folder, its stem, and whether the half-precision variant is taken.
pub(crate) type Named = (&'static str, Component, &'static str, bool);

/// Hashes by component.
type Found = BTreeMap<&'static str, String>;

/// The hashes of a model's files, computed on a thread from when they are first wanted. Dropping it ends the thread.
pub(crate) struct Hashes {
    files: Vec<Named>,
    kept: Option<PathBuf>,
    found: OnceLock<Found>,
    thread: Mutex<Option<JoinHandle<Result<Found>>>>,
    stop: Cancel,
}

impl Hashes {
    /// Of these files; `kept` is where hashes are kept, if they are.
    pub(crate) fn new(files: Vec<Named>, kept: Option<PathBuf>) -> Arc<Self> {
        let (found, thread, stop) = Default::default();
        Arc::new(Hashes { files, kept, found, thread, stop })
    }

    /// Starts on them, unless that was done.
    pub(crate) fn begin(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if self.found.get().is_some() || thread.is_some() {
            return;
        }
        let (files, kept, stop) = (self.files.clone(), self.kept.clone(), self.stop.clone());
        let work = move || all(&files, kept.as_deref(), &stop);
        // Where no thread can be had, whoever waits computes them.
        *thread = std::thread::Builder::new().name("chiaro hashes".into()).spawn(work).ok();
    }

    /// The hashes, once they are there.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub(crate) fn wait(&self) -> Result<&Found> {
        self.begin();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = match thread.take().map(JoinHandle::join) {
            Some(Ok(found)) => found?,
            _ => all(&self.files, self.kept.as_deref(), &self.stop)?,
        };
        Ok(self.found.get_or_init(|| found))
    }
}

impl Drop for Hashes {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // What it found is of no use any more.
            let _ = thread.join();
        }
    }
}

/// One file after the other: reading them is what takes the time.
fn all(files: &[Named], place: Option<&Path>, stop: &Cancel) -> Result<Found> {
    let before = place.map(Kept::read).unwrap_or_default();
    let mut now = before.clone();
    let mut found = Found::new();
    for (name, component, stem, prefer_f16) in files {
        let tensors = component.weights(stem, *prefer_f16)?;
        for file in tensors.files() {
            let Some((path, state)) = file.path().and_then(|path| Some((path.display().to_string(), State::of(path)?)))
            else {
                continue;
            };
            match before.files.get(&path).filter(|known| known.state == state) {
                Some(known) => file.know_sha256(&known.sha256),
                None => {
                    let sha256 = file.sha256_until(stop)?.to_owned();
                    now.files.insert(path, KeptHash { state, sha256 });
                }
            }
        }
        found.insert(name, tensors.sha256()?);
    }
    if let Some(path) = place.filter(|_| now.files != before.files) {
        // Without them the next run computes them again.
        let _ = kept::save(Some(path.to_owned()), &now);
    }
    Ok(found)
}

/// What tells that a file is the one that it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    bytes: u64,
    /// Nanoseconds since 1970. No u128, which serde does not read back in a flattened struct.
    modified: u64,
}

impl State {
    /// `None` of what is no file on disk.
    fn of(path: &Path) -> Option<Self> {
        let there = std::fs::metadata(path).ok()?;
        let modified = there.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        Some(State { bytes: there.len(), modified: u64::try_from(modified).ok()? })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptHash {
    #[serde(flatten)]
    state: State,
    sha256: String,
}

/// Hashes by path, as they are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    version: u32,
    files: BTreeMap<String, KeptHash>,
}

const VERSION: u32 = 1;

/// Of some thousand files; more is something else.
const MAX_BYTES: u64 = 4 << 20;

impl Kept {
    /// What is kept there; nothing where the file is none of these, which is then written anew.
    fn read(path: &Path) -> Self {
        let text = files::read(path, MAX_BYTES, "hashes of weight files").ok();
        let kept: Option<Kept> = text.and_then(|text| serde_json::from_slice(&text).ok());
        kept.filter(|kept| kept.version == VERSION).unwrap_or(Kept { version: VERSION, files: BTreeMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, weights) = (folder.path().join("hashes.json"), folder.path().join("weights"));
        std::fs::write(&weights, "weights").expect("written");
        let state = State::of(&weights).expect("a file");
        let hash = KeptHash { state: state.clone(), sha256: "00".repeat(32) };
        let files = BTreeMap::from([(weights.display().to_string(), hash)]);
        kept::save(Some(path.clone()), &Kept { version: VERSION, files: files.clone() }).expect("written");
        assert_eq!(Kept::read(&path).files, files);
        std::fs::write(&weights, "others!").expect("written");
        assert_ne!(State::of(&weights), Some(state));
        std::fs::write(&path, "nothing").expect("written");
        assert!(Kept::read(&path).files.is_empty());
    }
}
