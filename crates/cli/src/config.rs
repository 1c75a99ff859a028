//! Defaults of a user, in a file: which device, which model with which OMS module, which folder for pictures.
//!
//! | key | stands for | where nothing is typed for it |
//! | --- | --- | --- |
//! | `device` | `--device` | in every command that computes |
//! | `model` | `--model` | the same, but where `--like` says which; not with `--job` |
//! | `oms` | `--oms` | with that model; another one is typed with its own module |
//! | `folder` | `--output FOLDER/` | for pictures |
//!
//! The file is what `CHIARO_CONFIG` names, else `chiaro/config.toml` in `XDG_CONFIG_HOME`, `.config` of the home folder, or Windows' `APPDATA`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use chiaro::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Command, ModelArgs};

/// A file of four lines is far below.
const MAX_BYTES: u64 = 64 << 10;

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) device: Option<String>,
    pub(super) model: Option<String>,
    pub(super) oms: Option<String>,
    pub(super) folder: Option<String>,
}

/// Where the file is, or would be, and whether it has to be there.
pub(super) fn path() -> Option<(PathBuf, bool)> {
    path_in(|name| std::env::var_os(name))
}

fn path_in(var: impl Fn(&str) -> Option<OsString>) -> Option<(PathBuf, bool)> {
    // Empty: no file at all.
    if let Some(named) = var("CHIARO_CONFIG") {
        return (!named.is_empty()).then(|| (named.into(), true));
    }
    let folder = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".config"));
    let place = folder("XDG_CONFIG_HOME").or_else(|| if cfg!(windows) { folder("APPDATA") } else { home() })?;
    Some((place.join("chiaro").join("config.toml"), false))
}

/// The user's defaults; none where there is no file.
///
/// # Errors
/// When the file cannot be read, or has what means nothing here.
pub(super) fn read() -> Result<Config> {
    match path() {
        Some((path, must_be)) => read_from(&path, must_be),
        None => Ok(Config::default()),
    }
}

fn read_from(path: &Path, must_be: bool) -> Result<Config> {
    let refused = |what: String| Error::refused(format!("{}: {what}", path.display()));
    let data = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_be => return Ok(Config::default()),
        Err(error) => {
            return Err(refused(format!("the defaults cannot be read ({error}); CHIARO_CONFIG says where they are")));
        }
        Ok(data) => data,
    };
    if !data.is_file() || data.len() > MAX_BYTES {
        return Err(refused(format!(
            "expected a small file with defaults, got {}",
            if data.is_file() { "a large one" } else { "none" }
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| refused(format!("the defaults cannot be read ({e})")))?;
    basic_toml::from_str(&text).map_err(|e| {
        let what = e.to_string().replace('\n', " ");
        refused(format!("{what}; it takes lines such as device = \"cpu\", for device, model, oms and folder"))
    })
}

/// A path that begins in the home folder.
fn expanded(text: &str) -> String {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"));
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest).to_string_lossy().into_owned(),
        _ => text.to_owned(),
    }
}

impl Config {
    /// Fills in what was not typed; `is_typed` tells of an option.
    pub(super) fn fill(&self, command: &mut Command, is_typed: impl Fn(&str) -> bool) {
        let mut repeats = false;
        if let Command::Generate(args) = command {
            repeats = args.like.is_some();
            if let (None, Some(folder)) = (&args.output, &self.folder) {
                // With a sign behind it that makes it a folder, there or not.
                args.output = Some(Path::new(&expanded(folder)).join(""));
            }
            // A job says itself what it runs on.
            if args.job.is_some() {
                return;
            }
        }
        if let Some(model) = command.model_mut() {
            self.fill_model(model, repeats, is_typed);
        }
    }

    fn fill_model(&self, model: &mut ModelArgs, repeats: bool, is_typed: impl Fn(&str) -> bool) {
        if let Some(device) = self.device.as_ref().filter(|_| !is_typed("device")) {
            model.device.clone_from(device);
        }
        if repeats || model.model.is_some() {
            return;
        }
        if let Some(own) = &self.model {
            model.model = Some(expanded(own));
            model.oms = model.oms.take().or_else(|| self.oms.as_deref().map(expanded));
        }
    }

    /// For a user: "device cpu, model x".
    pub(super) fn describe(&self) -> String {
        let parts = [("device", &self.device), ("model", &self.model), ("oms", &self.oms), ("folder", &self.folder)];
        let set: Vec<String> =
            parts.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
        if set.is_empty() { "nothing".into() } else { set.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_the_environment_says() {
        let at = |set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value));
            path_in(find)
        };
        assert_eq!(at(&[("CHIARO_CONFIG", "/a/b.toml"), ("HOME", "/h")]), Some(("/a/b.toml".into(), true)));
        assert_eq!(at(&[("CHIARO_CONFIG", ""), ("HOME", "/h")]), None);
        assert_eq!(at(&[("XDG_CONFIG_HOME", "/x")]), Some((Path::new("/x").join("chiaro").join("config.toml"), false)));
        if !cfg!(windows) {
            assert_eq!(at(&[("HOME", "/h")]), Some(("/h/.config/chiaro/config.toml".into(), false)));
        }
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_does() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("writable");
            read_from(&path, true)
        };
        let good = read("# mine\ndevice = \"cpu\"\nfolder = \"out\"\n").expect("good");
        assert_eq!((good.device.as_deref(), good.describe().as_str()), (Some("cpu"), "device cpu, folder out"));
        for bad in ["modle = \"x\"", "device = 3", "device", "device = \"a\"\ndevice = \"b\""] {
            let told = read(bad).expect_err(bad).to_string();
            assert!(told.contains("config.toml") && told.contains("device, model, oms and folder"), "{bad}: {told}");
            assert!(!told.contains('\n'), "{told}");
        }
        assert!(read_from(folder.path(), true).is_err(), "a folder");
        assert!(read_from(&folder.path().join("none"), true).is_err(), "it was named");
        assert_eq!(read_from(&folder.path().join("none"), false).expect("no file, no defaults"), Config::default());
    }
}
