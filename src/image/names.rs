//! Names that Windows does not keep files under: devices, signs with a meaning of their own, ends that it drops.
//!
//! From Microsoft's "Naming Files, Paths, and Namespaces". Asked for by a user they are refused on Windows alone, for elsewhere `con.png` is
//! a name like any other; names that the program makes itself avoid devices everywhere, so that a picture can be copied anywhere.

use std::path::{Component, Path};

use crate::{Error, Remedy, Result};

/// Devices, whatever follows a dot and in any case of letters: `NUL.png` is the device, too. Digits of `COM` and `LPT` may be superscripts.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];
const NUMBERED: [&str; 2] = ["com", "lpt"];
const DIGITS: &str = "0123456789¹²³";

/// Whether Windows takes a file's name (without folders) for a device.
pub fn is_windows_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ').to_lowercase();
    let numbered = |device: &str| {
        let digit = stem.strip_prefix(device).unwrap_or_default();
        digit.chars().count() == 1 && DIGITS.contains(digit)
    };
    DEVICES.contains(&stem.as_str()) || NUMBERED.iter().any(|device| numbered(device))
}

/// Why Windows keeps no file under a name (without folders), if so.
pub fn refused_by_windows(name: &str) -> Option<&'static str> {
    if is_windows_device(name) {
        return Some("Windows takes it for a device");
    }
    if name.contains(['<', '>', ':', '"', '/', '\\', '|', '?', '*']) || name.chars().any(|c| c.is_ascii_control()) {
        return Some("Windows has no file names with < > : \" / \\ | ? * or control characters");
    }
    name.ends_with(['.', ' ']).then_some("Windows drops a dot or space at a name's end")
}

/// # Errors
/// [`Error::Request`] where this system would not keep a file under the path's names.
pub fn check_names(path: &Path) -> Result<()> {
    if !cfg!(windows) {
        return Ok(());
    }
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    for name in names {
        if let Some(why) = refused_by_windows(&name) {
            let inner = if path.ends_with(&*name) { String::new() } else { format!(" {name}:") };
            return Err(Error::refused(format!("{}:{inner} {why}", path.display())).advise([Remedy::OtherName]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_under_every_name() {
        for name in [
            "con",
            "CON",
            "Nul.png",
            "aux.tar.gz",
            "prn .png",
            "COM1",
            "lpt9.png",
            "com¹.png",
            "LPT0",
            "conin$",
            "CONOUT$.png",
        ] {
            assert!(is_windows_device(name), "{name}");
        }
        for name in [
            "con-2.png",
            "console.png",
            "null.png",
            "com.png",
            "com10.png",
            "lptx",
            "a.con",
            "com٣.png",
            "",
            ".con",
            "纸.png",
        ] {
            assert!(!is_windows_device(name), "{name}");
        }
    }

    #[test]
    fn names_that_windows_would_change_are_refused() {
        for name in ["a:b.png", "a?.png", "*.png", "a\u{1}.png", "a.png.", "a.png ", "a|b", "nul"] {
            assert!(refused_by_windows(name).is_some(), "{name}");
        }
        for name in ["a.png", ".hidden", "한국어 ☀️.png", "e\u{301}.png", "a b.c d", "{1}[2]'~^&,;=+.png"] {
            assert_eq!(refused_by_windows(name), None, "{name}");
        }
        assert_eq!(check_names(Path::new("folder/aux.png")).is_err(), cfg!(windows));
        assert!(check_names(Path::new("../folder/./a.png")).is_ok());
    }
}
