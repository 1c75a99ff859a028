//! A file appears whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `bytes` to a temporary name in the same folder, then gives the finished file its name.
///
/// # Errors
/// When the file exists and `overwrite` is false, or writing fails; nothing is left behind then.
pub fn write_file(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let part = partial_name(path);
    let written = write_whole(&part, bytes).and_then(|()| publish(&part, path, overwrite));
    if written.is_err() {
        // The error that matters is the one being returned; the part may not even exist.
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn write_whole(part: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = BufWriter::new(File::create(part).map_err(|e| Error::io(part, e))?);
    file.write_all(bytes).and_then(|()| file.flush()).map_err(|e| Error::io(part, e))?;
    file.get_ref().sync_all().map_err(|e| Error::io(part, e))
}

/// Gives the finished file its name. A hard link fails if the name is taken, also by a file made since it was checked.
fn publish(part: &Path, path: &Path, overwrite: bool) -> Result<()> {
    if overwrite {
        return std::fs::rename(part, path).map_err(|e| Error::io(path, e));
    }
    match std::fs::hard_link(part, path) {
        Ok(()) => std::fs::remove_file(part).map_err(|e| Error::io(part, e)),
        Err(_) if path.exists() => Err(Error::io(
            path,
            std::io::Error::new(std::io::ErrorKind::AlreadyExists, "exists; choose another name or add --overwrite"),
        )),
        // A file system without hard links: the check above is all there is.
        Err(_) => std::fs::rename(part, path).map_err(|e| Error::io(path, e)),
    }
}
