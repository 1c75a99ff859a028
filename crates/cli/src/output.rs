//! Where pictures go: free names, no file lost, and standard output.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use chiaro::image::{
    PictureFormat, Rgb8Image, check_names, check_targets, encode_picture, is_windows_device, write_picture,
};
use chiaro::{Error, Result};

use super::GenerateArgs;

/// Where the pictures of a run go.
pub(super) enum Output {
    /// `-o -`: the one picture, as a PNG.
    Stdout,
    /// A file each.
    Files(Files),
}

/// A picture that was put where it belongs.
pub(super) struct Saved {
    /// Its file; `None` on standard output.
    pub(super) file: Option<PathBuf>,
    /// What a user should know of it.
    pub(super) remark: Option<String>,
}

impl Output {
    /// Chosen and tried before anything is computed, so that a bad name costs no time.
    pub(super) fn choose(args: &GenerateArgs, prompt: &str, count: usize) -> Result<Output> {
        match args.output.as_deref() {
            Some(path) if path.as_os_str() == "-" => stdout(args, count),
            path => Files::choose(path, prompt, count, args.overwrite).map(Output::Files),
        }
    }

    /// The file that picture `index` is going to be.
    pub(super) fn file(&mut self, index: usize) -> Option<&Path> {
        match self {
            Output::Stdout => None,
            Output::Files(files) => Some(files.name(index)),
        }
    }

    /// Puts picture `index` where it belongs.
    pub(super) fn save(&mut self, index: usize, image: &Rgb8Image, texts: &[(String, String)]) -> Result<Saved> {
        match self {
            Output::Files(files) => files.save(index, image, texts),
            Output::Stdout => {
                // Not as in a report, whose reader may go: what is lost is the picture.
                let lost = |why: String| Error::io("standard output", std::io::Error::other(why));
                let (bytes, _) = encode_picture(PictureFormat::Png, image, texts).map_err(lost)?;
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| lost(e.to_string()))?;
                Ok(Saved { file: None, remark: None })
            }
        }
    }
}

fn stdout(args: &GenerateArgs, count: usize) -> Result<Output> {
    let refused = |why: &str| Err(Error::refused(format!("--output -: {why}")));
    if count > 1 {
        return refused("takes one picture; name a folder ending in \"/\" for more");
    }
    let others = [("--json", args.model.json), ("--open", args.open), ("--preview", args.model.preview.is_some())];
    if let Some((option, _)) = others.iter().find(|(_, given)| *given) {
        return refused(&format!("{option} does not go with a picture on standard output; name a file"));
    }
    if std::io::stdout().is_terminal() {
        return refused("a terminal shows no PNG; lead it to a program or a file, or name a file");
    }
    Ok(Output::Stdout)
}

/// A file each.
pub(super) struct Files {
    names: Names,
    overwrite: bool,
    /// Names of pictures that are not there yet, by number.
    chosen: BTreeMap<usize, PathBuf>,
}

/// How names are chosen.
enum Names {
    /// As typed; of several pictures each with its number.
    Typed { path: PathBuf, count: usize },
    /// From the prompt: the first file's name, and the number of the next candidate. Other runs may choose the same, so a name holds only
    /// once its file is there.
    Made { first: PathBuf, next: usize },
}

impl Files {
    fn choose(output: Option<&Path>, prompt: &str, count: usize, overwrite: bool) -> Result<Files> {
        let made = |folder: &Path| -> Result<Files> {
            let names = Names::Made { first: folder.join(format!("{}.png", stem(prompt))), next: 1 };
            let mut files = Files { names, overwrite: false, chosen: BTreeMap::new() };
            check_targets("--output", &[files.name(0).to_owned()], false)?;
            Ok(files)
        };
        let Some(output) = output else { return made(Path::new("")) };
        if output.as_os_str().to_string_lossy().ends_with(['/', '\\']) || output.is_dir() {
            check_names(output)?;
            std::fs::create_dir_all(output).map_err(|e| Error::io(output, e))?;
            return made(output);
        }
        if PictureFormat::of(output).is_none() {
            return Err(Error::refused(format!(
                "--output: expected a name ending in .png, .jpg or .webp, a folder ending in \"/\", or - for standard output, got {}",
                output.display()
            )));
        }
        let names = Names::Typed { path: output.to_owned(), count };
        let files = Files { names, overwrite, chosen: BTreeMap::new() };
        let all: Vec<PathBuf> = (0..count).map(|index| files.typed(index)).collect();
        check_targets("--output", &all, overwrite)?;
        Ok(files)
    }

    fn typed(&self, index: usize) -> PathBuf {
        match &self.names {
            Names::Typed { path, count: 1 } => path.clone(),
            Names::Typed { path, .. } | Names::Made { first: path, .. } => numbered(path, index + 1),
        }
    }

    /// The name of picture `index`, which stays until the picture is there.
    fn name(&mut self, index: usize) -> &Path {
        if !self.chosen.contains_key(&index) {
            let name = match &mut self.names {
                Names::Typed { .. } => self.typed(index),
                Names::Made { first, next } => next_free(first, next),
            };
            self.chosen.insert(index, name);
        }
        &self.chosen[&index]
    }

    /// Writes a picture. Where its name was taken while it was drawn, another is found: nothing that was drawn is lost.
    fn save(&mut self, index: usize, image: &Rgb8Image, texts: &[(String, String)]) -> Result<Saved> {
        let wanted = self.name(index).to_owned();
        let (mut file, mut next) = (wanted.clone(), 2);
        loop {
            let error = match write_picture(&file, image, texts, self.overwrite) {
                Ok(remark) => {
                    self.chosen.remove(&index);
                    let is_typed = matches!(self.names, Names::Typed { .. });
                    let moved = (is_typed && file != wanted)
                        .then(|| format!("{} was taken while the picture was drawn", wanted.display()));
                    let remark = moved.or(remark.map(|remark| format!("{}: {remark}", file.display())));
                    return Ok(Saved { file: Some(file), remark });
                }
                Err(error) => error,
            };
            if !is_taken(&error) {
                return Err(rescue(&wanted, image, texts, error));
            }
            file = match &mut self.names {
                Names::Typed { .. } => next_free(&wanted, &mut next),
                Names::Made { first, next } => next_free(first, next),
            };
        }
    }
}

/// Whether a file of that name is there already.
pub(super) fn is_taken(error: &Error) -> bool {
    matches!(error.cause(), Error::Io { source, .. } if source.kind() == ErrorKind::AlreadyExists)
}

/// Keeps a picture that could not be written where it belongs in the system's temporary folder; gives the error to be told.
fn rescue(wanted: &Path, image: &Rgb8Image, texts: &[(String, String)], error: Error) -> Error {
    let Error::Io { path, source } = error.cause() else { return error };
    let first = std::env::temp_dir().join(wanted.file_name().unwrap_or_default());
    let place = next_free(&first, &mut 1);
    match write_picture(&place, image, texts, false) {
        Ok(_) => {
            let what = format!("{source}; the picture is in {}", place.display());
            Error::io(path, std::io::Error::new(source.kind(), what))
        }
        Err(_) => error,
    }
}

/// The first free name from candidate `next` on, which moves on: `first` itself, then `first` with 2, 3, ….
fn next_free(first: &Path, next: &mut usize) -> PathBuf {
    loop {
        let name = if *next == 1 { first.to_owned() } else { numbered(first, *next) };
        *next += 1;
        if name.symlink_metadata().is_err() {
            return name;
        }
    }
}

pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// A name made of the prompt's letters and digits.
fn stem(prompt: &str) -> String {
    let mut stem = String::new();
    for c in prompt.to_lowercase().chars().take(60) {
        if c.is_alphanumeric() {
            stem.push(c);
        } else if !stem.ends_with('-') && !stem.is_empty() {
            stem.push('-');
        }
    }
    match stem.trim_end_matches('-') {
        "" => "chiaro".to_owned(),
        device if is_windows_device(device) => format!("chiaro-{device}"),
        stem => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot() -> Rgb8Image {
        Rgb8Image { width: 1, height: 1, data: vec![1, 2, 3] }
    }

    /// Two runs choose before either has written.
    #[test]
    fn runs_side_by_side_lose_no_picture() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("out/");
        let choose = || Files::choose(Some(&place), "A house!", 2, false).expect("a new folder");
        let (mut one, mut other) = (choose(), choose());
        assert_eq!(one.name(0), other.name(0));
        let mut names = Vec::new();
        for index in 0..2 {
            for files in [&mut one, &mut other] {
                names.push(files.save(index, &dot(), &[]).expect("written").file.expect("a file"));
            }
        }
        names.sort();
        let wanted = ["a-house-2.png", "a-house-3.png", "a-house-4.png", "a-house.png"];
        assert_eq!(names, wanted.map(|name| folder.path().join("out").join(name)));
        assert_eq!(std::fs::read_dir(folder.path().join("out")).expect("readable").count(), 4);
    }

    #[test]
    fn a_typed_name_that_is_taken_meanwhile_stays_and_the_picture_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.jpg");
        let mut files = Files::choose(Some(&path), "x", 1, false).expect("free");
        std::fs::write(&path, "precious").expect("writable");
        let saved = files.save(0, &dot(), &[]).expect("written");
        assert_eq!(saved.file, Some(folder.path().join("a-2.jpg")));
        assert!(saved.remark.is_some_and(|remark| remark.contains("a.jpg")));
        assert_eq!(std::fs::read(&path).expect("readable"), b"precious");
    }

    /// The folder goes while the picture is drawn.
    #[test]
    fn a_picture_that_cannot_be_written_is_kept_elsewhere() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("gone/");
        let name = format!("rescued {}", std::process::id());
        let mut files = Files::choose(Some(&place), &name, 1, false).expect("a new folder");
        std::fs::remove_dir_all(&place).expect("removable");
        let Err(error) = files.save(0, &dot(), &[]) else { panic!("there is no folder") };
        let told = error.to_string();
        let kept = told.split("the picture is in ").nth(1).expect("a place is named");
        assert!(told.contains("gone") && Path::new(kept).exists(), "{told}");
        std::fs::remove_file(kept).expect("removable");
    }
}
