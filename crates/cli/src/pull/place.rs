//! Names of blobs in a snapshot: links where they can be had, else copies.

use std::path::{Path, PathBuf};

use chiaro::{Error, Result};

/// A way to give a blob another name: the blob, how it is reached from the name's folder, the name.
pub(super) type Way = fn(&Path, &Path, &Path) -> std::io::Result<()>;

/// In the order of preference. Links are what the cache's other users make; Windows keeps them for developers, some file systems have none.
pub(super) const WAYS: [Way; 3] = [symbolic_link, |blob, _, path| std::fs::hard_link(blob, path), copy];

fn symbolic_link(_: &Path, relative: &Path, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(relative, path);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(relative, path);
    #[cfg(not(any(unix, windows)))]
    return Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        format!("{} {}", relative.display(), path.display()),
    ));
}

/// Under its name when it is whole.
fn copy(blob: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".incomplete");
    let copied = std::fs::copy(blob, &part).and_then(|_| std::fs::rename(&part, path));
    copied.inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// The file's name in the snapshot, by the first of `ways` after which the blob is found there.
pub(super) fn place(blob: &Path, snapshot: &Path, name: &str, ways: &[Way]) -> Result<()> {
    let path = snapshot.join(name);
    let size = std::fs::metadata(blob).map_err(|e| Error::io(blob, e))?.len();
    // Looked at rather than believed: a system may report links that it did not make, or not follow them.
    let is_there = || std::fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == size);
    if is_there() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(snapshot);
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    // Part by part: Windows follows no link with "/" in it.
    let mut relative: PathBuf = std::iter::repeat_n("..", name.split('/').count() + 1).collect();
    relative.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
    let mut failed = std::io::Error::other("no kind of link leads to the blob");
    for way in ways {
        // A link that leads nowhere is left from a cache that was cleared, or by the way before.
        let _ = std::fs::remove_file(&path);
        match way(blob, &relative, &path) {
            Ok(()) if is_there() => return Ok(()),
            Ok(()) => {}
            Err(error) => failed = error,
        }
    }
    Err(Error::io(&path, failed))
}

/// A small file, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    chiaro::image::write_file(path, bytes, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(_: &Path, _: &Path, _: &Path) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// As Wine 8 answers for symbolic links.
    fn pretends(_: &Path, _: &Path, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn leads_nowhere(_: &Path, _: &Path, path: &Path) -> std::io::Result<()> {
        symbolic_link(path, Path::new("nowhere"), path)
    }

    #[test]
    fn a_blob_gets_its_name_where_links_fail() {
        let [soft, hard, copied] = WAYS;
        for ways in [
            vec![soft, hard, copied],
            vec![refused, hard, copied],
            vec![pretends, hard, copied],
            vec![leads_nowhere, hard, copied],
            vec![refused, refused, copied],
        ] {
            let cache = tempfile::tempdir().expect("a temporary folder");
            let (blob, snapshot) = (cache.path().join("blobs/0a"), cache.path().join("snapshots/c"));
            std::fs::create_dir_all(cache.path().join("blobs")).expect("a new folder");
            std::fs::write(&blob, "weights").expect("written");
            place(&blob, &snapshot, "unet/model.safetensors", &ways).expect("placed");
            // Again: it is there.
            place(&blob, &snapshot, "unet/model.safetensors", &[refused]).expect("placed");
            assert_eq!(std::fs::read(snapshot.join("unet/model.safetensors")).expect("readable"), b"weights");
            let names = std::fs::read_dir(snapshot.join("unet")).expect("readable").count();
            assert_eq!(names, 1, "nothing half copied stays");
        }
    }

    #[test]
    fn a_blob_that_gets_no_name_is_told() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let (blob, snapshot) = (cache.path().join("0a"), cache.path().join("snapshots/c"));
        std::fs::write(&blob, "weights").expect("written");
        let told = place(&blob, &snapshot, "model.safetensors", &[pretends, refused, leads_nowhere]);
        assert!(told.expect_err("no way works").to_string().contains("model.safetensors"));
    }
}
