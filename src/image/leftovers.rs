//! Temporary files: their names, those of this process, and those that killed processes left.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const START: &str = ".chiaro-";
const END: &str = ".part";

/// Those that this process is writing.
static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Folders that were looked through.
static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn lock(paths: &'static Mutex<BTreeSet<PathBuf>>) -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // Sets of names are whole whatever a thread that held them did.
    paths.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of this process's temporary file of that number.
pub(super) fn name(number: u64) -> String {
    format!("{START}{}-{number}{END}", std::process::id())
}

fn is_name(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = name.strip_prefix(START).and_then(|rest| rest.strip_suffix(END)?.split_once('-'));
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Notes a file that this process is writing.
pub(super) fn add(path: &Path) {
    lock(&OWN).insert(path.to_owned());
}

/// The file is no more.
pub(super) fn forget(path: &Path) {
    lock(&OWN).remove(path);
}

/// Removes the temporary files of this process, which is about to end.
pub fn remove_own() {
    for path in lock(&OWN).iter() {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes temporary files of processes that are no more from a folder, the first time that it is asked for.
pub(super) fn sweep(folder: &Path) {
    if !lock(&SWEPT).insert(folder.to_owned()) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_name) && entry.file_type().is_ok_and(|t| t.is_file());
        // Whoever writes a file holds its lock; that ends with the process.
        if is_ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_known() {
        assert!(is_name(&name(3)) && is_name(".chiaro-1-0.part"));
        for other in [".chiaro-.part", ".chiaro-1.part", ".chiaro-a-1.part", ".chiaro-1-2.part~", "chiaro-1-2.part"] {
            assert!(!is_name(other), "{other}");
        }
    }
}
