//! `--preview`: pictures as they stand, in files that are this run's alone and go when it ends.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use chiaro::Result;
use chiaro::image::write_png;
use chiaro::pipeline::{Event, Generation};

use super::output::{Output, is_taken, numbered};
use super::progress::Progress;

/// Bytes of a file's name that leave room for a number and an ending within what systems allow, 255.
const MAX_STEM: usize = 200;

/// Files that this run wrote, and what tells them from what others put in their place.
static OWN: Mutex<BTreeMap<PathBuf, Stamp>> = Mutex::new(BTreeMap::new());

fn own() -> MutexGuard<'static, BTreeMap<PathBuf, Stamp>> {
    // What is noted of a file is whole whatever a thread that held it did.
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which file it was, and when it was written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let there = std::fs::symlink_metadata(path).ok()?;
        Some(Stamp { length: there.len(), modified: there.modified().ok(), inode: inode(&there) })
    }
}

#[cfg(unix)]
fn inode(there: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(there)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

/// Removes the previews that this run wrote, where they still are what it wrote.
pub(super) fn remove_all() {
    let mut own = own();
    for (path, stamp) in std::mem::take(&mut *own) {
        if Stamp::of(&path) == Some(stamp) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// When pictures are shown as they stand, and where.
pub(super) struct Previews {
    every: usize,
    batch: usize,
    files: BTreeMap<usize, PathBuf>,
    failed: bool,
}

impl Previews {
    pub(super) fn new(every: u16, batch: usize) -> Self {
        Previews { every: every.into(), batch: batch.max(1), files: BTreeMap::new(), failed: false }
    }

    /// Shows the pictures of a step that is done. A preview that cannot be written is no reason to stop.
    pub(super) fn show(
        &mut self,
        generation: &mut Generation,
        event: &Event,
        output: &mut Output,
        progress: &Progress,
    ) -> Result<()> {
        let &Event::Step { image, step, of } = event else { return Ok(()) };
        if self.failed || !step.is_multiple_of(self.every) || step == of {
            return Ok(());
        }
        for image in image / self.batch * self.batch..=image {
            let Some(file) = output.file(image).map(Path::to_owned) else { return Ok(()) };
            let Some(picture) = generation.preview(image)? else { continue };
            let shown = self.write(image, &file, |path, replace| write_png(path, &picture, &[], replace), progress);
            if let Err(error) = shown {
                progress.warn(&format!("no previews: {error}"));
                self.failed = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes a preview to the file that it had before, or to a name that nobody has.
    fn write(
        &mut self,
        image: usize,
        file: &Path,
        write: impl Fn(&Path, bool) -> Result<()>,
        progress: &Progress,
    ) -> Result<()> {
        // Held while a file is written: whoever ends the run then knows of it.
        let mut own = own();
        let is_own = self.files.get(&image).is_some_and(|path| Stamp::of(path).as_ref() == own.get(path));
        let mut put = |path: &Path, replace: bool| -> Result<()> {
            write(path, replace)?;
            if let Some(stamp) = Stamp::of(path) {
                own.insert(path.to_owned(), stamp);
            }
            Ok(())
        };
        if let Some(path) = self.files.get(&image).filter(|_| is_own) {
            return put(path, true);
        }
        let first = name_of(file);
        for number in 1.. {
            let path = if number == 1 { first.clone() } else { numbered(&first, number) };
            match put(&path, false) {
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if number > 1 {
                        progress.say(&format!("{} is there: {} shows the preview", first.display(), path.display()));
                    }
                    self.files.insert(image, path);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes the preview of a picture that is there.
    pub(super) fn remove(&mut self, image: usize) {
        let Some(path) = self.files.remove(&image) else { return };
        if own().remove(&path).is_some_and(|stamp| Stamp::of(&path) == Some(stamp)) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

impl Drop for Previews {
    fn drop(&mut self) {
        // What is left is of pictures that came to nothing.
        remove_all();
    }
}

/// Where a picture is shown until it is there.
fn name_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default();
    let Some(text) = stem.to_str().filter(|text| text.len() > MAX_STEM) else {
        return file.with_extension("preview.png");
    };
    let end = (0..=MAX_STEM).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    file.with_file_name(format!("{}.preview.png", &text[..end]))
}
