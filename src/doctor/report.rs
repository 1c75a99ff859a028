//! What was found of an adapter.

use serde::{Deserialize, Serialize};

use crate::Tier;
use crate::pipeline::Findings;

/// What is right of a tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// All checks gave what the host executor gives.
    Right {
        /// Checks that were made.
        checks: usize,
        /// The largest normalised mean squared error among them.
        nmse: f64,
    },
    /// What was wrong, check by check.
    Wrong(Vec<String>),
    /// Why there is nothing to check.
    Absent(String),
}

/// A tier and what was found of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierReport {
    /// The tier.
    pub tier: Tier,
    /// What was found.
    pub verdict: Verdict,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What was found of an adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// Tiers in the order in which they were examined.
    pub tiers: Vec<TierReport>,
    /// Limits that were tried, and what is worth knowing although nothing of ours depends on it.
    pub notes: Vec<String>,
    /// The largest binding that held what was written to it, in bytes, where a larger one that the driver allowed did not.
    pub max_binding_bytes: Option<u64>,
    /// Likeness of the demo model's picture to the processor's, in dB (PSNR of 8-bit values); 99 where both are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<f64>,
}

impl Examination {
    /// What later runs should know.
    pub fn findings(&self) -> Findings {
        let mut findings = Findings { max_binding_bytes: self.max_binding_bytes, ..Findings::default() };
        for report in &self.tiers {
            match &report.verdict {
                Verdict::Right { .. } => {
                    findings.right.insert(report.tier);
                }
                Verdict::Wrong(faults) => {
                    findings.wrong.insert(report.tier, faults.first().cloned().unwrap_or_default());
                }
                Verdict::Absent(_) => {}
            }
        }
        findings
    }

    /// Whether something that networks use is wrong.
    pub fn has_faults(&self) -> bool {
        self.max_binding_bytes.is_some() || self.tiers.iter().any(|r| matches!(r.verdict, Verdict::Wrong(_)))
    }
}

/// How far an examination is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// A tier is tried next: what takes the process down now is its fault.
    Tries(Tier),
    /// A tier was examined.
    Tier(TierReport),
    /// The whole adapter was.
    Done(Examination),
}
