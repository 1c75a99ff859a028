//! Measured tiles on disk: a file for each adapter and driver, in the user's cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::gpu::AdapterInfo;
use crate::image::write_file;
use crate::record::Tuning;
use crate::{Error, Result};

/// Of the file, and of the names of tiles and classes in it.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    adapter: String,
    driver: String,
    /// Classes of products and their tiles.
    tiles: BTreeMap<String, String>,
}

/// Where an adapter's measured tiles are kept: `CHIARO_CACHE`, else `chiaro` in `XDG_CACHE_HOME`, else in `.cache` of the home folder. `None` where
/// the environment names no folder.
pub fn tuning_path(adapter: &AdapterInfo) -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || var("HOME").or_else(|| var("USERPROFILE")).map(|home| home.join(".cache"));
    let folder = var("CHIARO_CACHE").or_else(|| Some(var("XDG_CACHE_HOME").or_else(home)?.join("chiaro")))?;
    let hash = Sha256::digest(format!("{}\n{}\n{}", adapter.name, adapter.backend, adapter.driver));
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(folder.join("tiles").join(format!("{hash}.json")))
}

/// The tiles that were measured on an adapter with this driver; empty where none were.
///
/// # Errors
/// When there is a file that cannot be read or is none of these.
pub fn load_tuning(adapter: &AdapterInfo) -> Result<Tuning> {
    let mut tuning = Tuning::default();
    let Some(path) = tuning_path(adapter) else { return Ok(tuning) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(tuning),
        Err(error) => return Err(Error::io(&path, error)),
    };
    let broken = |what: String| Error::Device(format!("{}: {what}; `chiaro tune` writes it anew", path.display()));
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    if stored.version != VERSION {
        return Err(broken(format!("expected version {VERSION} of measured tiles, got {}", stored.version)));
    }
    if (&stored.adapter, &stored.driver) != (&adapter.name, &adapter.driver) {
        return Err(broken(format!("expected tiles of {}, got those of {}", adapter.name, stored.adapter)));
    }
    for (class, tile) in stored.tiles {
        tuning.set(class, tile);
    }
    Ok(tuning)
}

/// Keeps tiles that were measured on an adapter, in place of what was kept before, and says where.
///
/// # Errors
/// When the environment names no folder for it, or the file cannot be written; an earlier one is then as it was.
pub fn save_tuning(adapter: &AdapterInfo, tuning: &Tuning) -> Result<PathBuf> {
    let path = tuning_path(adapter).ok_or_else(|| {
        Error::Request(
            "tune: expected a folder for what is measured in CHIARO_CACHE, XDG_CACHE_HOME or HOME, got none".into(),
        )
    })?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let stored = Stored {
        version: VERSION,
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        tiles: tuning.iter().map(|(class, tile)| (class.to_owned(), tile.to_owned())).collect(),
    };
    let text = serde_json::to_vec_pretty(&stored).map_err(|e| Error::Device(format!("measured tiles: {e}")))?;
    write_file(&path, &text, true)?;
    Ok(path)
}
