//! What outlives the process beside the journal: a folder for each job, with the job and its pictures; files and batches of OpenAI's interface.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chiaro::{Error, Result};
use sha2::{Digest, Sha256};

/// A server's folder.
pub(crate) struct Store {
    folder: PathBuf,
    /// Held for as long as the server runs.
    _lock: File,
}

impl Store {
    /// # Errors
    /// When the folder cannot be made, or another server has it.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        for inner in ["jobs", "files", "batches"] {
            let inner = folder.join(inner);
            fs::create_dir_all(&inner).map_err(|e| Error::io(&inner, e))?;
        }
        let path = folder.join("lock");
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(|e| Error::io(&path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let why = format!("{}: another server has this folder; name another one", folder.display());
                return Err(Error::refused(why));
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, e)),
        }
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("journal.jsonl")
    }

    fn job(&self, id: &str) -> PathBuf {
        self.folder.join("jobs").join(id)
    }

    fn picture(&self, id: &str, index: usize) -> PathBuf {
        self.job(id).join(format!("{index}.png"))
    }

    /// Keeps a job. It is on disk when this returns.
    pub(crate) fn put_job(&self, id: &str, json: &str) -> io::Result<()> {
        fs::create_dir_all(self.job(id))?;
        put(&self.job(id).join("job.json"), json.as_bytes())?;
        sync_folder(&self.folder.join("jobs"))
    }

    pub(crate) fn read_job(&self, id: &str) -> io::Result<String> {
        fs::read_to_string(self.job(id).join("job.json"))
    }

    /// Keeps a picture. It is on disk when this returns.
    pub(crate) fn put_picture(&self, id: &str, index: usize, png: &[u8]) -> io::Result<()> {
        put(&self.picture(id, index), png)
    }

    pub(crate) fn read_picture(&self, id: &str, index: usize) -> io::Result<Vec<u8>> {
        fs::read(self.picture(id, index))
    }

    pub(crate) fn remove_job(&self, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.job(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Folders of jobs that the journal does not know: what was handed in when the process ended.
    pub(crate) fn remove_unknown(&self, is_known: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(self.folder.join("jobs")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_id(&name) && !is_known(&name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// A file of a kind, `files` or `batches`, by a name of ours.
    pub(crate) fn put_other(&self, kind: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        put(&self.folder.join(kind).join(name), bytes)
    }

    pub(crate) fn read_other(&self, kind: &str, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.folder.join(kind).join(name))
    }

    pub(crate) fn remove_other(&self, kind: &str, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(kind).join(name))
    }

    /// Names of a kind that have this ending, without it.
    pub(crate) fn others(&self, kind: &str, ending: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(kind)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(ending).map(str::to_owned)).collect();
        names.sort();
        names
    }
}

/// Writes a file whole or not at all; it is on disk when this returns.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), sync_folder)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// What was renamed in a folder is there after a loss of power.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows opens no folders as files, and writes names with the files.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// An id that nobody can guess and that sorts by time: 11 digits of milliseconds, 20 of chance, in hexadecimal.
pub(crate) fn new_id() -> String {
    format!("{:011x}{:020x}", now_ms(), u128::from(random()) << 16 | u128::from(random() & 0xffff))
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Every system that this is built for has a source.
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    u64::from_le_bytes(bytes)
}

pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 31 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort() {
        let ids: Vec<String> = (0..100).map(|_| new_id()).collect();
        assert!(ids.iter().all(|id| is_id(id)), "{ids:?}");
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
        assert!(!is_id("..") && !is_id(&"a/".repeat(15)) && !is_id(""));
    }

    #[test]
    fn one_server_has_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("free");
        assert!(Store::open(folder.path()).is_err_and(|e| e.to_string().contains("another server")));
        store.put_job("1", "{}").expect("written");
        store.put_picture("1", 0, b"png").expect("written");
        assert_eq!(store.read_picture("1", 0).expect("there"), b"png");
        store.remove_job("1").expect("removed");
        store.remove_job("1").expect("removed before");
        drop(store);
        assert!(Store::open(folder.path()).is_ok());
    }
}
