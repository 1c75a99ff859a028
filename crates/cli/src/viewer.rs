//! `--open`: the system's own program for a picture.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};

/// What gives a file to the program that its user chose for such files, the first that is there.
const LAUNCHERS: &[&[&str]] = if cfg!(target_os = "macos") {
    &[&["open"]]
} else if cfg!(windows) {
    &[&["explorer"]]
} else {
    &[&["xdg-open"], &["gio", "open"], &["wslview"]]
};

/// Shows a picture, and does not wait until it is closed.
///
/// # Errors
/// When the system has no such program.
pub(super) fn show(file: &Path) -> std::io::Result<()> {
    let file = std::path::absolute(file)?;
    for launcher in LAUNCHERS {
        let mut command = Command::new(launcher[0]);
        command.args(&launcher[1..]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let names: Vec<&str> = LAUNCHERS.iter().map(|launcher| launcher[0]).collect();
    Err(Error::new(ErrorKind::NotFound, format!("expected {} to show it with, found none", names.join(" or "))))
}
