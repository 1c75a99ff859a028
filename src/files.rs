//! Opening what others made: ordinary files alone. A pipe without a writer never answers, a device never ends, and neither has a length
//! that limits could be held against.

use std::fs::{File, FileType};
use std::io::{Error as IoError, ErrorKind, Read};
use std::path::Path;

use crate::{Error, Result};

/// Opens an ordinary file; links are followed.
///
/// # Errors
/// When there is none, or something that is no file, saying what; nothing of that is opened.
pub fn open(path: &Path) -> std::io::Result<File> {
    // Before it is opened: that alone would wait for a pipe's writer.
    check(std::fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    // And after: the name may mean something else by now.
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// The whole of an ordinary file of at most `most` bytes; `what` is in words what is expected of that size.
///
/// # Errors
/// As [`open`]; when it is larger.
pub fn read(path: &Path, most: u64, what: &str) -> Result<Vec<u8>> {
    let failed = |e| Error::io(path, e);
    let file = open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    if size <= most {
        // In one piece; a file that says more than it has gets no memory for it that it could not fill.
        let wanted = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(1);
        bytes.try_reserve_exact(wanted).map_err(|e| failed(IoError::new(ErrorKind::OutOfMemory, e)))?;
        // One more, in case it grows meanwhile.
        file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if size > most || bytes.len() as u64 > most {
        return Err(Error::model(format!(
            "{}: {size} bytes, expected {what} of at most {most}; name the right file",
            path.display()
        ))
        .in_file(path.display()));
    }
    Ok(bytes)
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`]; when it is no UTF-8.
pub fn read_text(path: &Path, most: u64, what: &str) -> Result<String> {
    String::from_utf8(read(path, most, what)?).map_err(|_| {
        Error::io(path, IoError::new(ErrorKind::InvalidData, format!("expected {what} in UTF-8, found other bytes")))
    })
}

fn check(found: FileType) -> std::io::Result<()> {
    match kind(found) {
        None => Ok(()),
        Some(what) => Err(IoError::new(ErrorKind::InvalidInput, format!("expected a file, found {what}; name a file"))),
    }
}

/// What there is in place of a file.
fn kind(found: FileType) -> Option<&'static str> {
    if found.is_file() {
        return None;
    }
    if found.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return Some("a pipe");
        }
        if found.is_socket() {
            return Some("a socket");
        }
        if found.is_block_device() || found.is_char_device() {
            return Some("a device");
        }
    }
    Some("something else")
}
