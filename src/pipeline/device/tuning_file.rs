//! Measured tiles on disk: a file for each adapter and driver, in the user's cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gpu::AdapterInfo;
use crate::pipeline::device::kept;
use crate::record::Tuning;
use crate::{Remedy, Result};

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

/// Where an adapter's measured tiles are kept: `tiles` in the folder that `CHIARO_CACHE` names, else in `chiaro` in `XDG_CACHE_HOME`, else in
/// `.cache/chiaro` of the home folder. `None` where the environment names no folder.
pub fn tuning_path(adapter: &AdapterInfo) -> Option<PathBuf> {
    kept::path(adapter, "tiles")
}

/// Whether [`save_tuning`] could keep an adapter's tiles, before they are measured.
///
/// # Errors
/// When the environment names no folder for them, or it takes no files.
pub fn check_tuning_place(adapter: &AdapterInfo) -> Result<()> {
    kept::check(tuning_path(adapter))
}

const REMEDY: Remedy = Remedy::Tune;

/// The tiles that were measured on an adapter with this driver; empty where none were.
///
/// # Errors
/// When there is a file that cannot be read or is none of these.
pub fn load_tuning(adapter: &AdapterInfo) -> Result<Tuning> {
    let mut tuning = Tuning::default();
    let Some(path) = tuning_path(adapter) else { return Ok(tuning) };
    let Some(stored) = kept::load::<Stored>(&path, REMEDY)? else { return Ok(tuning) };
    if stored.version != VERSION {
        let what = format!("expected version {VERSION} of measured tiles, got {}", stored.version);
        return Err(kept::broken(&path, &what, REMEDY));
    }
    if (&stored.adapter, &stored.driver) != (&adapter.name, &adapter.driver) {
        let what = format!("expected tiles of {}, got those of {}", adapter.name, stored.adapter);
        return Err(kept::broken(&path, &what, REMEDY));
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
    let stored = Stored {
        version: VERSION,
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        tiles: tuning.iter().map(|(class, tile)| (class.to_owned(), tile.to_owned())).collect(),
    };
    kept::save(tuning_path(adapter), &stored)
}
