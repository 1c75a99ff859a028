//! Which of the training timesteps a sampler visits (Lin et al., arXiv 2305.08891, table 2, has the three spacings).

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How timesteps are spread over the training range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/N⌋ from 0, plus the offset: never reaches T-1.
    Leading,
    /// N points from 0 to T-1, both included.
    Linspace,
    /// Multiples of T/N back from T, less 1: starts at T-1.
    Trailing,
}

impl TimestepSpacing {
    /// `count` timesteps of `total`, first to last visited; `linspace` gives fractions. The offset counts for leading only.
    pub(super) fn points(self, total: usize, count: usize, offset: usize) -> Vec<f64> {
        let (t, n) = (total as f64, count as f64);
        match self {
            TimestepSpacing::Leading => (0..count).rev().map(|i| (i * (total / count) + offset) as f64).collect(),
            TimestepSpacing::Linspace if count == 1 => vec![0.0],
            TimestepSpacing::Linspace => (0..count).rev().map(|i| i as f64 * ((t - 1.0) / (n - 1.0))).collect(),
            TimestepSpacing::Trailing => (0..count).map(|i| (t - i as f64 * (t / n)).round_ties_even() - 1.0).collect(),
        }
    }

    /// The starts of `count` intervals, whole timesteps: DPM-Solver takes `count + 1` points and leaves the last out. Of the `total` timesteps
    /// only `used` are visited; trailing is then the same as [`points`](Self::points) from there on.
    pub(super) fn intervals(self, [used, total]: [usize; 2], count: usize, offset: usize) -> Vec<f64> {
        let (t, n) = (used as f64, count as f64);
        match self {
            TimestepSpacing::Leading => (1..=count).rev().map(|i| (i * (used / (count + 1)) + offset) as f64).collect(),
            TimestepSpacing::Linspace => {
                (1..=count).rev().map(|i| (i as f64 * ((t - 1.0) / n)).round_ties_even()).collect()
            }
            TimestepSpacing::Trailing => {
                let stride = total as f64 / n;
                (0..count).map(|i| (t - i as f64 * stride).round_ties_even() - 1.0).take_while(|t| *t >= 0.0).collect()
            }
        }
    }
}

impl std::str::FromStr for TimestepSpacing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "leading" => Ok(TimestepSpacing::Leading),
            "linspace" => Ok(TimestepSpacing::Linspace),
            "trailing" => Ok(TimestepSpacing::Trailing),
            _ => Err(Error::refused(format!("unknown spacing {name:?}; there are leading, linspace and trailing"))),
        }
    }
}

impl std::fmt::Display for TimestepSpacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TimestepSpacing::Leading => "leading",
            TimestepSpacing::Linspace => "linspace",
            TimestepSpacing::Trailing => "trailing",
        })
    }
}
