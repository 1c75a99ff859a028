//! The bytes of a file of tensors, read at positions. Nothing is mapped: a mapped file that another program cuts short or writes to kills the
//! process that looks at it, and an application with it. Here it is an error that names the file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::files;
use crate::record::Cancel;

/// Bytes that a program has where no path leads: in its memory, in an archive of its own.
pub trait ReadAt: Send + Sync {
    /// How many there are. Always the same.
    fn size(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on, which are there. Several threads may ask at a time.
    ///
    /// # Errors
    /// When they cannot be had.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> IoResult<()>;
}

/// Bytes in memory, in a file that is open, or a program's.
pub(super) enum Bytes {
    File(Opened),
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Given(Arc<dyn ReadAt>),
}

/// An open file, and what it was when it was opened.
pub(super) struct Opened {
    file: File,
    /// From the root, wherever the process goes later.
    path: Option<PathBuf>,
    size: u64,
    modified: Option<SystemTime>,
}

/// What is read at a time where a whole file passes through.
const PIECE: usize = 1 << 20;

impl Bytes {
    pub(super) fn open(path: &Path) -> IoResult<Self> {
        let file = files::open(path)?;
        let there = file.metadata()?;
        let path = std::path::absolute(path).ok();
        Ok(Bytes::File(Opened { size: there.len(), modified: there.modified().ok(), path, file }))
    }

    /// Where the file is, from the root; `None` of what is no file.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Bytes::File(opened) => opened.path.as_deref(),
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            // What no address reaches is never read.
            Bytes::File(opened) => usize::try_from(opened.size).unwrap_or(usize::MAX),
            Bytes::Given(given) => usize::try_from(given.size()).unwrap_or(usize::MAX),
            Bytes::Static(bytes) => bytes.len(),
            Bytes::Owned(bytes) => bytes.len(),
        }
    }

    /// Some of the bytes.
    ///
    /// # Errors
    /// When they are not there, the file cannot be read, or it has changed since it was opened.
    pub(super) fn read(&self, range: Range<usize>) -> IoResult<Cow<'_, [u8]>> {
        let bytes = match self {
            Bytes::File(opened) => {
                let mut bytes = self.room(&range)?;
                opened.read_exact_at(&mut bytes, range.start as u64)?;
                return Ok(Cow::Owned(bytes));
            }
            Bytes::Given(given) => {
                let mut bytes = self.room(&range)?;
                given.read_at(range.start as u64, &mut bytes)?;
                return Ok(Cow::Owned(bytes));
            }
            Bytes::Static(bytes) => *bytes,
            Bytes::Owned(bytes) => bytes.as_slice(),
        };
        bytes.get(range).map(Cow::Borrowed).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Memory for some of the bytes, if they are there.
    fn room(&self, range: &Range<usize>) -> IoResult<Vec<u8>> {
        let outside = || IoError::from(ErrorKind::UnexpectedEof);
        let count = range.end.checked_sub(range.start).ok_or_else(outside)?;
        if range.end > self.len() {
            return Err(outside());
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count).map_err(|_| IoError::from(ErrorKind::OutOfMemory))?;
        bytes.resize(count, 0);
        Ok(bytes)
    }

    /// The first bytes, as many as there are of `most`.
    pub(super) fn head(&self, most: usize) -> IoResult<Cow<'_, [u8]>> {
        self.read(0..most.min(self.len()))
    }

    /// SHA-256 of the bytes from `start` on.
    ///
    /// # Errors
    /// As [`read`](Self::read); when `stop` asks.
    pub(super) fn sha256(&self, start: usize, stop: Option<&Cancel>) -> IoResult<impl AsRef<[u8]> + use<>> {
        let mut hash = Sha256::new();
        for at in (start..self.len()).step_by(PIECE) {
            if stop.is_some_and(Cancel::is_cancelled) {
                return Err(ErrorKind::Interrupted.into());
            }
            hash.update(self.read(at..(at + PIECE).min(self.len()))?);
        }
        Ok(hash.finalize())
    }
}

impl Opened {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> IoResult<()> {
        let read = read_exact_at(&self.file, buffer, at);
        // What was read may be another file's by now, whole or in parts.
        self.check_unchanged()?;
        read
    }

    fn check_unchanged(&self) -> IoResult<()> {
        let now = self.file.metadata()?;
        if now.len() == self.size && now.modified().ok() == self.modified {
            return Ok(());
        }
        Err(IoError::new(
            ErrorKind::InvalidData,
            format!(
                "another program changed the file while it was open: {} bytes when it was opened, {} now; \
                 start again when it is whole",
                self.size,
                now.len()
            ),
        ))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], at: u64) -> IoResult<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> IoResult<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = &mut buffer[count..];
                at += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_changes_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).expect("written");
        let bytes = Bytes::open(&path).expect("opened");
        assert_eq!((bytes.len(), bytes.read(10..20).expect("read").as_ref()), (100, [7; 10].as_slice()));
        assert_eq!(bytes.read(90..101).expect_err("beyond the end").kind(), ErrorKind::UnexpectedEof);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(&[1]).expect("grown");
        let error = bytes.read(10..20).expect_err("another size").to_string();
        assert!(error.contains("changed") && error.contains("100 bytes when it was opened, 101 now"), "{error}");
        file.set_len(5).expect("cut");
        assert!(bytes.read(10..20).is_err() && bytes.sha256(0, None).is_err());
    }
}
