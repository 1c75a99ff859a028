//! What happened to jobs, a line each, on disk before anybody hears of it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chiaro::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::store::sync_folder;

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Line {
    /// It was taken in.
    Accepted(Accepted),
    /// Its place among its client's.
    Moved { id: String, rank: u64 },
    /// A picture of it is in the store.
    Picture { id: String, picture: Drawn },
    /// It ended.
    Ended {
        id: String,
        at: u64,
        end: End,
        /// When it began, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        started: Option<u64>,
        /// What went wrong, as the native interface tells it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<serde_json::Value>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
    /// It was removed, with its pictures.
    Removed { id: String },
}

/// What is known of a job from the beginning. The job itself is in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// Who handed it in: a name of their own, or an address.
    pub(crate) client: String,
    /// Which interface: `chiaro`, `a1111`, `openai`, `batch`.
    pub(crate) front: String,
    /// What repeats of the same request have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Its place among its client's.
    pub(crate) rank: u64,
    /// Pictures to draw.
    pub(crate) count: usize,
    /// What its model is called.
    pub(crate) model: String,
    /// What was asked for, for those who look at the queue.
    pub(crate) prompt: String,
    pub(crate) oms: bool,
    /// What jobs whose steps may share forwards have in common; empty where it is drawn alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) kin: String,
    /// Floating-point operations.
    #[serde(default)]
    pub(crate) flops: u64,
    /// Whether somebody waits on the connection: nobody does after a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) synchronous: bool,
    /// Steps between previews; 0 without.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) preview_every: usize,
    /// What another interface calls the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
}

impl Accepted {
    /// What repeats of its request are known by: whose they are, and their key.
    pub(crate) fn repeats(&self) -> Option<(String, String)> {
        Some((self.client.clone(), self.key.clone()?))
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A picture in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drawn {
    pub(crate) index: usize,
    pub(crate) seed: u64,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) bytes: u64,
    /// Mean brightness, 0 to 1.
    pub(crate) mean: f64,
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Completed,
    Failed,
    Cancelled,
}

/// The file, open at its end.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole lines.
    length: u64,
}

impl Journal {
    /// Opens or begins a journal, and gives its lines. A last line that was cut when the process or the machine ended is left out.
    ///
    /// # Errors
    /// When it cannot be read, or a line before the last is none of ours: the folder is somebody else's, or damaged.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Line>)> {
        let at = |e| Error::io(path, e);
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(at)?,
        };
        let mut lines = Vec::new();
        let mut length = 0;
        for (i, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice(line) {
                Ok(line) if whole => lines.push(line),
                // Cut: it was never told to anyone.
                _ if length + line.len() == bytes.len() => break,
                Ok(_) => unreachable!("only the last line has no end"),
                Err(error) => {
                    return Err(Error::refused(format!(
                        "{}, line {}: no line of a server's journal ({error}); move the folder away to begin anew",
                        path.display(),
                        i + 1
                    )));
                }
            }
            length += line.len();
        }
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(at)?;
        let mut journal = Journal { file, path: path.to_owned(), length: length as u64 };
        journal.cut().map_err(at)?;
        Ok((journal, lines))
    }

    /// Takes away what stands behind the last whole line.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        Ok(())
    }

    /// Adds lines. They are on disk when this returns; on an error none of them is there.
    pub(crate) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length += text.len() as u64,
            Err(_) => self.cut()?,
        }
        written
    }

    /// Replaces all lines, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written; the old lines stay then.
    pub(crate) fn rewrite(&mut self, lines: &[Line]) -> io::Result<()> {
        let new = self.path.with_extension("jsonl.new");
        let mut journal = Journal { file: File::create(&new)?, path: new.clone(), length: 0 };
        journal.append(lines)?;
        fs::rename(&new, &self.path)?;
        self.path.parent().map_or(Ok(()), sync_folder)?;
        (self.file, self.length) = (journal.file, journal.length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(rank: u64) -> Line {
        Line::Moved { id: "a".into(), rank }
    }

    #[test]
    fn a_line_that_was_cut_is_left_out_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal.jsonl");
        let (mut journal, lines) = Journal::open(&path).expect("new");
        assert!(lines.is_empty());
        journal.append(&[moved(1), moved(2)]).expect("written");
        drop(journal);
        let whole = fs::read(&path).expect("there");
        let first = whole.iter().position(|byte| *byte == b'\n').expect("two lines") + 1;
        // Wherever it is cut, whole lines stay, and new ones follow them.
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).expect("written");
            let (mut journal, lines) = Journal::open(&path).unwrap_or_else(|e| panic!("{cut}: {e}"));
            let expected = usize::from(cut >= first) + usize::from(cut == whole.len());
            assert_eq!(lines.len(), expected, "{cut}");
            journal.append(&[moved(3)]).expect("written");
            let (_, lines) = Journal::open(&path).expect("whole");
            assert_eq!((lines.len(), lines.last()), (expected + 1, Some(&moved(3))), "{cut}");
        }
        fs::write(&path, "x\n{}\n").expect("written");
        assert!(Journal::open(&path).is_err_and(|e| e.to_string().contains("line 1")));
    }

    #[test]
    fn it_can_be_written_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).expect("new");
        journal.append(&[moved(1), moved(2)]).expect("written");
        journal.rewrite(&[moved(7)]).expect("written");
        journal.append(&[moved(8)]).expect("written");
        assert_eq!(Journal::open(&path).expect("whole").1, [moved(7), moved(8)]);
    }
}
