//! A file appears whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::names::check_names;
use crate::{Error, Result};

/// Writes `bytes` to a temporary name in the same folder, then gives the finished file its name.
///
/// # Errors
/// When the file exists and `overwrite` is false, it is read-only, the system keeps no file under that name, or writing fails; nothing is
/// left behind then, and a file that was there is as it was.
pub fn write_file(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    check_names(path)?;
    check_replaceable(path, overwrite)?;
    let (part, file) = new_part(path)?;
    let written =
        write_whole(file, bytes).map_err(|e| Error::io(path, e)).and_then(|()| publish(&part, path, overwrite));
    if written.is_err() {
        // The error that matters is the one being returned.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Whether [`write_file`] could write these files of one folder now: asked before anything is computed, so that a bad name costs no time.
/// `option` begins the message.
///
/// # Errors
/// [`Error::Request`] where another name or option is the remedy, [`Error::Io`] where the folder cannot be written.
pub fn check_targets(option: &str, paths: &[PathBuf], overwrite: bool) -> Result<()> {
    let Some(first) = paths.first() else { return Ok(()) };
    let asked = |error: Error| Error::Request(format!("{option}: {error}"));
    let folder = first.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in paths {
        check_names(path).map_err(asked)?;
        if !folder.is_dir() {
            return Err(Error::Request(format!("{option}: the folder {} does not exist", folder.display())));
        }
        if path.is_dir() {
            return Err(Error::Request(format!("{option}: {} is a folder; choose another name", path.display())));
        }
        check_replaceable(path, overwrite).map_err(asked)?;
    }
    // What the folder allows is known when a file was made in it.
    let (part, file) = new_part(first)?;
    drop(file);
    std::fs::remove_file(&part).map_err(|e| Error::io(&part, e))
}

/// Links are files of their own here: they are replaced, and one that leads nowhere is there.
fn check_replaceable(path: &Path, overwrite: bool) -> Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !overwrite {
        return Err(Error::io(path, taken()));
    }
    if there.is_file() && there.permissions().readonly() {
        let why = "is read-only; make it writable, or choose another name";
        return Err(Error::io(path, IoError::new(ErrorKind::PermissionDenied, why)));
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

fn taken() -> IoError {
    IoError::new(ErrorKind::AlreadyExists, "exists; choose another name or add --overwrite")
}

fn not_replaced(path: &Path, error: IoError) -> Error {
    let what = format!("cannot be replaced ({error}); close it in other programs, or choose another name");
    Error::io(path, IoError::new(error.kind(), what))
}

/// A new file beside `path`. Its name does not grow with the other's, which may be as long as the system allows.
fn new_part(path: &Path) -> Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let part = path.with_file_name(format!(".chiaro-{}-{number}.part", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&part) {
            Ok(file) => return Ok((part, file)),
            // Left by a process of the same number that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(path, error)),
        }
    }
}

fn write_whole(file: File, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    file.write_all(bytes)?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// Gives the finished file its name. A hard link fails if the name is taken, also by a file made since it was checked.
fn publish(part: &Path, path: &Path, overwrite: bool) -> Result<()> {
    if overwrite {
        return std::fs::rename(part, path).map_err(|e| not_replaced(path, e));
    }
    match std::fs::hard_link(part, path) {
        Ok(()) => std::fs::remove_file(part).map_err(|e| Error::io(part, e)),
        Err(_) if std::fs::symlink_metadata(path).is_ok() => Err(Error::io(path, taken())),
        // A file system without hard links: the check above is all there is.
        Err(_) => std::fs::rename(part, path).map_err(|e| Error::io(path, e)),
    }
}
