//! One file into its blob: locked, taken up where it stopped, looked at, published whole.
//!
//! The lock is that of `huggingface_hub`, `.locks/models--ORGANISATION--REPOSITORY/HASH.lock`, so that its users and several of this program
//! do not write one file together. The system lets go of it when its holder ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chiaro::{Error, Result};
use indicatif::ProgressBar;

use super::hub::{Attempt, Hub, LEAST, TRIES, Trouble, pause};
use super::listing::Wanted;
use crate::shown::shown;

/// A repository at a commit, and where its files go.
pub(super) struct Repository<'a> {
    pub(super) hub: &'a Hub,
    /// ORGANISATION/REPOSITORY.
    pub(super) name: &'a str,
    pub(super) commit: &'a str,
    /// `models--ORGANISATION--REPOSITORY` in the cache.
    pub(super) folder: &'a Path,
}

/// The right to write a blob.
struct Lock {
    /// Holds it while it is open; none where the file system has no locks.
    held: Option<File>,
}

/// How often a lock that another holds is tried again.
const POLL: Duration = Duration::from_millis(100);

impl Lock {
    /// Waits for the lock while its holder gets on: while `part` changes, and `patience` beyond.
    fn take(path: &Path, part: &Path, patience: Duration, waiting: impl FnOnce()) -> Result<Lock> {
        let parent = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(|e| Error::io(path, e))?;
        let length = || std::fs::metadata(part).map_or(0, |data| data.len());
        let (mut since, mut seen, mut waiting) = (Instant::now(), length(), Some(waiting));
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { held: Some(file) }),
                Err(TryLockError::Error(_)) => return Ok(Lock { held: None }),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(tell) = waiting.take() {
                tell();
            }
            let now = length();
            if now != seen {
                (since, seen) = (Instant::now(), now);
            }
            if since.elapsed() > patience {
                return Err(Error::model(format!(
                    "{}: another program holds it and gets no further; end that one, or wait",
                    path.display()
                )));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Repository<'_> {
    /// The blob of a file, fetched if it is not here or not what it should be; `name_it` runs while nobody else writes it.
    pub(super) fn fetch(&self, file: &Wanted, bar: &ProgressBar, name_it: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let hash = file.hash.text();
        let blob = self.folder.join("blobs").join(hash);
        let mut part = blob.with_extension("incomplete");
        let cache = self.folder.parent().unwrap_or(Path::new(""));
        let repository = self.folder.file_name().unwrap_or_default();
        let lock = cache.join(".locks").join(repository).join(format!("{hash}.lock"));
        bar.set_message(shown(&file.name).into_owned());
        // While a hub stalls its holder still gets on: it tries again.
        let patience = self.hub.patience * (TRIES + 1);
        let waiting = || bar.set_message(format!("{}: another program fetches it", shown(&file.name)));
        let lock = Lock::take(&lock, &part, patience, waiting)?;
        bar.set_message(shown(&file.name).into_owned());
        if blob.is_file() && file.check(&blob)? {
            bar.inc(file.size);
            return name_it(&blob);
        }
        if lock.held.is_none() {
            // Nobody else writes a file with this process in its name; it cannot be taken up later.
            part = blob.with_extension(format!("{}.incomplete", std::process::id()));
        }
        let parent = blob.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        Download { repository: self, file, part: &part, bar }.run()?;
        std::fs::rename(&part, &blob).map_err(|e| Error::io(&blob, e))?;
        name_it(&blob)
    }
}

struct Download<'a> {
    repository: &'a Repository<'a>,
    file: &'a Wanted,
    part: &'a PathBuf,
    bar: &'a ProgressBar,
}

impl Download<'_> {
    /// Until the part is whole and what was promised. One that was begun before may be damaged: it is fetched anew once.
    fn run(&self) -> Result<()> {
        let began = self.have();
        self.bar.inc(began);
        self.complete()?;
        if self.file.check(self.part)? {
            return Ok(());
        }
        self.forget()?;
        if began > 0 {
            self.complete()?;
            if self.file.check(self.part)? {
                return Ok(());
            }
            self.forget()?;
        }
        Err(Error::model(format!(
            "{}: what came is not what the hub promised (hash {}); run the command again",
            self.file.name,
            self.file.hash.text()
        )))
    }

    fn have(&self) -> u64 {
        std::fs::metadata(self.part).map_or(0, |data| data.len()).min(self.file.size)
    }

    fn forget(&self) -> Result<()> {
        self.bar.dec(self.have());
        std::fs::remove_file(self.part).map_err(|e| Error::io(self.part, e))
    }

    /// Attempts until all bytes are there, or [`TRIES`] in a row get no further.
    fn complete(&self) -> Result<()> {
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.part);
        let mut out = open.map_err(|e| self.kept(e))?;
        let mut have = self.have();
        out.set_len(have).map_err(|e| self.kept(e))?;
        let (mut furthest, mut tries) = (have, 0);
        while have < self.file.size {
            let ended = self.attempt(&mut out, &mut have);
            if have >= self.file.size {
                break;
            }
            let (why, wait) = match ended {
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing { why, wait }) => (why, wait),
                Ok(()) => ("the connection ends early".into(), Duration::ZERO),
            };
            tries = if have >= furthest + LEAST { 0 } else { tries + 1 };
            furthest = furthest.max(have);
            if tries >= TRIES {
                let name = &self.file.name;
                return Err(Error::model(format!("{name}: {why}; run the same command to go on from byte {have}")));
            }
            if tries > 0 {
                std::thread::sleep(pause(tries, wait));
            }
        }
        out.sync_all().map_err(|e| self.kept(e))
    }

    /// Appends what the hub sends from byte `have` on; `have` says how far it came, also on failure.
    fn attempt(&self, out: &mut File, have: &mut u64) -> Attempt<()> {
        let Repository { hub, name, commit, .. } = self.repository;
        let size = self.file.size;
        let kept = |e| Trouble::Final(self.kept(e));
        let answer = match hub.file(name, commit, &self.file.name, *have) {
            // A range that the hub does not have: its file is another than the one that was begun.
            Err(trouble @ Trouble::Passing { .. }) if *have > 0 => {
                let Trouble::Passing { why, .. } = &trouble else { return Err(trouble) };
                if why.ends_with("416") || why.contains("asked from byte") {
                    self.restart(out, have)?;
                }
                return Err(trouble);
            }
            other => other?,
        };
        if answer.from < *have {
            self.restart(out, have)?;
        }
        if let Some(length) = answer.length.filter(|length| have.checked_add(*length) != Some(size)) {
            return Err(Trouble::Final(Error::model(format!(
                "{}: the hub promised {size} bytes and sends {length} from byte {have} on; nothing is kept of them",
                self.file.name
            ))));
        }
        out.seek(SeekFrom::Start(*have)).map_err(kept)?;
        answer.read(|bytes| {
            if *have + bytes.len() as u64 > size {
                return Err(Trouble::Final(Error::model(format!(
                    "{}: more than the promised {size} bytes come",
                    self.file.name
                ))));
            }
            out.write_all(bytes).map_err(kept)?;
            *have += bytes.len() as u64;
            self.bar.inc(bytes.len() as u64);
            Ok(())
        })
    }

    fn restart(&self, out: &mut File, have: &mut u64) -> Attempt<()> {
        self.bar.dec(*have);
        *have = 0;
        out.set_len(0).map_err(|e| Trouble::Final(self.kept(e)))
    }

    /// The system does not keep the file.
    fn kept(&self, error: std::io::Error) -> Error {
        Error::io(self.repository.folder.join(&self.file.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_while_its_holder_gets_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, part) = (folder.path().join("locks/a.lock"), folder.path().join("part"));
        let held = Lock::take(&path, &part, POLL, || panic!("nobody holds it")).expect("free");
        let mut told = false;
        let refused = Lock::take(&path, &part, POLL * 3, || told = true);
        assert!(told && refused.is_err_and(|error| error.to_string().contains("another program")));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&path, &part, POLL * 20, || ()).map(|_| ()));
            std::thread::sleep(POLL * 2);
            drop(held);
            assert!(waiting.join().expect("no panic").is_ok());
        });
    }
}
