//! A file appears whole or not at all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::leftovers;
use super::names::check_names;
use crate::{Error, Remedy, Result};

/// What a folder must take for [`check_targets`]: more than most pictures, little enough to be written and removed at once.
const PROBE_BYTES: usize = 1 << 20;

/// Writes `bytes` to a temporary name in the same folder, then gives the finished file its name.
///
/// Temporary files that a killed process left in the folder are removed, once for each folder that is written to.
///
/// # Errors
/// When the file exists and `overwrite` is false, it is read-only, the system keeps no file under that name, or writing fails; nothing is
/// left behind then, and a file that was there is as it was.
pub fn write_file(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    check_names(path)?;
    check_replaceable(path, overwrite)?;
    let mut part = Part::new(path)?;
    part.write_whole(bytes).map_err(|e| Error::io(path, e))?;
    part.publish(path, overwrite)
}

/// Whether [`write_file`] could write these files of one folder now: asked before anything is computed, so that a bad name or a full disk
/// costs no time. `option` is the field at fault.
///
/// # Errors
/// [`Error::Request`] where another name or option is the remedy, [`Error::Io`] where the folder cannot be written or has no room.
pub fn check_targets(option: &str, paths: &[PathBuf], overwrite: bool) -> Result<()> {
    let Some(first) = paths.first() else { return Ok(()) };
    let asked = |error: Error| Error::request(option.to_owned(), error.to_string()).advise(error.remedies());
    let folder = folder_of(first);
    for path in paths {
        check_names(path).map_err(asked)?;
        if !folder.is_dir() {
            return Err(Error::request(option.to_owned(), format!("the folder {} does not exist", folder.display())));
        }
        if path.is_dir() {
            return Err(asked(Error::refused(format!("{} is a folder", path.display())).advise([Remedy::OtherName])));
        }
        check_replaceable(path, overwrite).map_err(asked)?;
    }
    probe(first)
}

/// Whether a folder takes files, or the nearest of those in which it would be made: asked before anything is computed that is to be kept in
/// it.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn check_folder(folder: &Path) -> Result<()> {
    let there = folder.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    probe(&there.join("chiaro")).map_err(|error| match error {
        Error::Io { source, .. } => Error::io(folder, source),
        other => other,
    })
}

/// What the folder allows is known when a file was made in it, and written.
fn probe(path: &Path) -> Result<()> {
    let mut part = Part::new(path)?;
    part.write(&vec![0; PROBE_BYTES]).map_err(|e| Error::io(path, e))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Links are files of their own here: they are replaced, and one that leads nowhere is there.
fn check_replaceable(path: &Path, overwrite: bool) -> Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !overwrite {
        return Err(taken(path));
    }
    if there.is_file() && there.permissions().readonly() {
        let why = "is read-only; make it writable";
        return Err(Error::io(path, IoError::new(ErrorKind::PermissionDenied, why)).advise([Remedy::OtherName]));
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;
        /// The right that taking a file's place needs; other programs may hold the file without sharing it.
        const DELETE: u32 = 0x0001_0000;
        if there.is_file() {
            OpenOptions::new().access_mode(DELETE).open(path).map_err(|e| not_replaced(path, e))?;
        }
    }
    Ok(())
}

fn taken(path: &Path) -> Error {
    Error::io(path, IoError::new(ErrorKind::AlreadyExists, "exists")).advise([Remedy::OtherName, Remedy::Overwrite])
}

fn not_replaced(path: &Path, error: IoError) -> Error {
    let what = format!("cannot be replaced ({error}); close it in other programs");
    Error::io(path, IoError::new(error.kind(), what)).advise([Remedy::OtherName])
}

/// A file that is being written, removed when dropped. It is locked as long, which tells it from one that a killed process left.
struct Part {
    path: PathBuf,
    file: Option<File>,
}

impl Part {
    /// A new file beside `path`. Its name does not grow with the other's, which may be as long as the system allows.
    fn new(path: &Path) -> Result<Part> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        leftovers::sweep(folder_of(path));
        loop {
            let part = path.with_file_name(leftovers::name(NUMBER.fetch_add(1, Ordering::Relaxed)));
            let file = match OpenOptions::new().write(true).create_new(true).open(&part) {
                Ok(file) => file,
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io(path, error)),
            };
            match file.try_lock() {
                // Another process took it for one that was left: between the two calls above it may have removed it.
                Err(TryLockError::WouldBlock) => continue,
                Ok(()) if std::fs::symlink_metadata(&part).is_err() => continue,
                // A file system without locks: nobody removes what cannot be locked.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            leftovers::add(&part);
            return Ok(Part { path: part, file: Some(file) });
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn write_whole(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write(bytes)?;
        self.file.as_mut().map_or(Ok(()), |file| file.sync_all())
    }

    /// Gives the finished file its name. A hard link fails if the name is taken, also by a file made since it was checked.
    fn publish(mut self, path: &Path, overwrite: bool) -> Result<()> {
        if cfg!(windows) {
            // Files that are open cannot be given another name on every version.
            self.file = None;
        }
        if overwrite {
            return std::fs::rename(&self.path, path).map_err(|e| not_replaced(path, e));
        }
        match std::fs::hard_link(&self.path, path) {
            Ok(()) => Ok(()),
            Err(_) if std::fs::symlink_metadata(path).is_ok() => Err(taken(path)),
            Err(_) => self.publish_without_links(path),
        }
    }

    /// On a file system without hard links an empty file takes the name first, which fails as a link would.
    fn publish_without_links(&self, path: &Path) -> Result<()> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken(path)),
            Err(error) => return Err(Error::io(path, error)),
        }
        std::fs::rename(&self.path, path).map_err(|error| {
            let _ = std::fs::remove_file(path);
            Error::io(path, error)
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more where it was renamed; nothing can be done about the rest, and the next run tries again.
        let _ = std::fs::remove_file(&self.path);
        leftovers::forget(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_hard_links_a_file_that_appears_meanwhile_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.png");
        let part = |bytes: &[u8]| {
            let mut part = Part::new(&path).expect("a new file");
            part.write_whole(bytes).expect("written");
            part
        };
        part(b"first").publish_without_links(&path).expect("the name is free");
        let refused = part(b"second").publish_without_links(&path).expect_err("the name is taken").to_string();
        assert!(refused.contains("a.png") && refused.contains("exists"), "{refused}");
        assert_eq!(std::fs::read(&path).expect("readable"), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_a_killed_process_left_is_told_from_what_another_writes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        for name in [".chiaro-4000000000-0.part", ".chiaro-1-12.part", ".chiaro-notes.part", ".chiaro-1-2.part.bak"] {
            std::fs::write(at(name), "half a picture").expect("writable");
        }
        let other = File::open(at(".chiaro-1-12.part")).expect("there");
        other.try_lock().expect("nobody writes it");
        write_file(&at("a.png"), b"whole", false).expect("written");
        let there = |name: &str| at(name).exists();
        assert!(!there(".chiaro-4000000000-0.part"), "its process is gone");
        assert!(there(".chiaro-1-12.part"), "its process goes on");
        assert!(there(".chiaro-notes.part") && there(".chiaro-1-2.part.bak"), "not names of ours");
    }
}
