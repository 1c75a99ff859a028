//! Where pictures go: free names, and no file lost.

use std::path::{Path, PathBuf};

use crate::image::{check_names, check_targets, is_windows_device};
use crate::{Error, Result};

/// Chooses the file of each of `count` pictures before anything is computed, so that a bad name costs no time.
pub(super) fn choose(output: Option<&Path>, prompt: &str, count: usize, overwrite: bool) -> Result<Vec<PathBuf>> {
    let Some(output) = output else {
        return free_names(Path::new(""), prompt, count);
    };
    if output.as_os_str().to_string_lossy().ends_with(['/', '\\']) || output.is_dir() {
        check_names(output)?;
        std::fs::create_dir_all(output).map_err(|e| Error::io(output, e))?;
        return free_names(output, prompt, count);
    }
    match output.extension().and_then(|e| e.to_str()) {
        Some(extension) if extension.eq_ignore_ascii_case("png") => {}
        _ => {
            return Err(Error::Request(format!(
                "--output: expected a name ending in .png, or a folder ending in \"/\", got {}",
                output.display()
            )));
        }
    }
    let names: Vec<PathBuf> = match count {
        1 => vec![output.to_owned()],
        _ => (1..=count).map(|i| numbered(output, i)).collect(),
    };
    check_targets("--output", &names, overwrite)?;
    Ok(names)
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}.png"));
    path.with_file_name(name)
}

/// Names made of the prompt's letters and digits, with a number where one is taken.
fn free_names(folder: &Path, prompt: &str, count: usize) -> Result<Vec<PathBuf>> {
    let mut stem = String::new();
    for c in prompt.to_lowercase().chars().take(60) {
        if c.is_alphanumeric() {
            stem.push(c);
        } else if !stem.ends_with('-') && !stem.is_empty() {
            stem.push('-');
        }
    }
    let stem = match stem.trim_end_matches('-') {
        "" => "chiaro".to_owned(),
        device if is_windows_device(device) => format!("chiaro-{device}"),
        stem => stem.to_owned(),
    };
    let first = folder.join(format!("{stem}.png"));
    let candidates = std::iter::once(first.clone()).chain((2..).map(|i| numbered(&first, i)));
    let names: Vec<PathBuf> = candidates.filter(|name| name.symlink_metadata().is_err()).take(count).collect();
    check_targets("--output", &names, false)?;
    Ok(names)
}
