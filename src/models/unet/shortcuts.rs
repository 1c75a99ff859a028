//! What a recording of a UNet leaves out to be faster, at the cost of likeness to the whole network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::UnetConfig;
use super::config::{DownBlockType, UpBlockType};
use crate::{Error, Result};

/// What to leave out; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shortcuts {
    /// For runs on kept features (DeepCache: Ma, Fang, Wang, CVPR 2024, section 3.2): such a run
    /// ([`Program::run_reusing`](crate::record::Program::run_reusing)) computes so many first states that the way down leaves and the residual
    /// blocks that take them on the way up; the state that enters the first of those is the last whole run's.
    pub depth: Option<usize>,
    /// Pixels that attend to each other as means of several.
    pub merging: Option<TokenMerging>,
}

/// Token merging (Bolya and Hoffman, arXiv 2303.17604): before pixels attend to each other, those most like another are merged into it, and get
/// what it got afterwards. One of each cell of 2×2 is such another, chosen by a hash of the cell and the block, the same in every step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenMerging {
    /// The share of pixels that is merged, above 0, at most 0.75.
    pub ratio: f32,
    /// How many levels of the UNet do so, of those that attend, the finest first; 1 or more.
    pub levels: usize,
}

impl TokenMerging {
    /// The largest share: of each cell of 2×2 one pixel stays.
    pub const MOST: f32 = 0.75;

    /// # Errors
    /// [`Error::Request`] naming the option, when the ratio or the levels are out of range.
    pub fn validate(self) -> Result<()> {
        if !(self.ratio > 0.0 && self.ratio <= Self::MOST) {
            return Err(Error::request(
                "token-merging",
                format!("expected a share above 0 and up to {}, got {}", Self::MOST, self.ratio),
            ));
        }
        if self.levels == 0 {
            return Err(Error::request("token-merging", "expected 1 level or more, got 0"));
        }
        Ok(())
    }

    /// # Errors
    /// As [`validate`](Self::validate); when fewer levels attend.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn check(self, config: &UnetConfig) -> Result<()> {
        self.validate()?;
        let most = attending(config).count();
        if self.levels > most {
            return Err(Error::request(
                "token-merging",
                format!("expected 1 to {most} levels for this model, got {}", self.levels),
            ));
        }
        Ok(())
    }

    /// The ratio, and the pixels of the coarsest level that merges, for latents of `[h, w]`.
    pub(super) fn of(self, config: &UnetConfig, size: [usize; 2]) -> Result<(f32, usize)> {
        self.check(config)?;
        let coarsest = attending(config).nth(self.levels - 1).unwrap_or_default();
        let [h, w] = size.map(|side| (0..coarsest).fold(side, |side, _| side.div_ceil(2)));
        Ok((self.ratio, h * w))
    }
}

/// A ratio, or a ratio and levels as in `0.5:2`.
impl FromStr for TokenMerging {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || "expected a share, or a share and a number of levels as in 0.5:2".to_owned();
        let (ratio, levels) = text.split_once(':').unwrap_or((text, "1"));
        let ratio = ratio.trim().parse().map_err(|_| expected())?;
        let levels = levels.trim().parse().map_err(|_| expected())?;
        Ok(TokenMerging { ratio, levels })
    }
}

impl fmt::Display for TokenMerging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ratio, self.levels)
    }
}

/// Levels that attend, the finest first.
fn attending(config: &UnetConfig) -> impl Iterator<Item = usize> + '_ {
    let levels = config.down_block_types.len();
    (0..levels).filter(move |&i| {
        config.down_block_types[i] == DownBlockType::CrossAttnDownBlock2D
            || config.up_block_types.get(levels - 1 - i) == Some(&UpBlockType::CrossAttnUpBlock2D)
    })
}
