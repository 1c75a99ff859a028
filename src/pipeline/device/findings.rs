//! What an examination found of an adapter and its driver, for the runs that come after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gpu::AdapterInfo;
use crate::pipeline::device::kept;
use crate::{Remedy, Result, Tier, Tiers};

/// Of the file.
const VERSION: u32 = 1;

/// What is right and wrong of a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// Tiers that gave what the host executor gives.
    pub right: BTreeSet<Tier>,
    /// Tiers that did not, with the first thing that was wrong. An adapter whose [`Tier::Single`] is wrong is of no use.
    pub wrong: BTreeMap<Tier, String>,
    /// The largest binding that held what was written to it, in bytes, where a larger one that the driver allowed did not.
    pub max_binding_bytes: Option<u64>,
}

impl Findings {
    /// Tiers that may be used: all that were not found wrong.
    pub fn tiers(&self) -> Tiers {
        self.wrong.keys().fold(Tiers::default(), |tiers, &tier| tiers.without(tier))
    }

    /// Why the adapter is of no use, if so.
    pub fn refusal(&self) -> Option<&str> {
        self.wrong.get(&Tier::Single).map(String::as_str)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// Of the program that examined it.
    program: String,
    adapter: String,
    backend: String,
    driver: String,
    #[serde(flatten)]
    findings: Findings,
}

/// Where they are kept: `findings` in the folder where [`tuning_path`](crate::pipeline::tuning_path) keeps tiles. `None` where the environment names no folder.
pub fn findings_path(adapter: &AdapterInfo) -> Option<PathBuf> {
    kept::path(adapter, "findings")
}

const REMEDY: Remedy = Remedy::Examine;

/// What was found of an adapter with this driver; `None` where nobody looked.
///
/// # Errors
/// When there is a file that cannot be read or is none of these.
pub fn load_findings(adapter: &AdapterInfo) -> Result<Option<Findings>> {
    let Some(path) = findings_path(adapter) else { return Ok(None) };
    let Some(stored) = kept::load::<Stored>(&path, REMEDY)? else { return Ok(None) };
    if stored.version != VERSION {
        let what = format!("expected version {VERSION} of findings, got {}", stored.version);
        return Err(kept::broken(&path, &what, REMEDY));
    }
    if (&stored.adapter, &stored.backend, &stored.driver) != (&adapter.name, &adapter.backend, &adapter.driver) {
        let what = format!("expected findings of {}, got those of {}", adapter.name, stored.adapter);
        return Err(kept::broken(&path, &what, REMEDY));
    }
    Ok(Some(stored.findings))
}

/// Whether [`save_findings`] could keep what is found of an adapter, before it is examined.
///
/// # Errors
/// When the environment names no folder for it, or it takes no files.
pub fn check_findings_place(adapter: &AdapterInfo) -> Result<()> {
    kept::check(findings_path(adapter))
}

/// Keeps what was found of an adapter, in place of what was kept before, and says where.
///
/// # Errors
/// When the environment names no folder for it, or the file cannot be written; an earlier one is then as it was.
pub fn save_findings(adapter: &AdapterInfo, findings: &Findings) -> Result<PathBuf> {
    let stored = Stored {
        version: VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        adapter: adapter.name.clone(),
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        findings: findings.clone(),
    };
    kept::save(findings_path(adapter), &stored)
}
