//! Features of the UNet that are kept over calls (DeepCache).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::pipeline::request::fields::fits;
use crate::{Error, Result};

/// Which calls of the UNet are whole, and how much of it the others compute (Ma, Fang, Wang: DeepCache, CVPR 2024, section 3.2, with a uniform
/// interval). A call is a forward of the network for one group of pictures: solvers that call it twice a step (heun, dpm_2) count each. The
/// first call of a group is whole, and so is the first after guidance begins or ends ([`guidance_interval`](crate::pipeline::Request::guidance_interval)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeepCache {
    /// Of so many calls one is whole, 1 to 1000; 1 is off.
    pub interval: usize,
    /// States of the way down that every call computes, with the residual blocks that take them on the way up: 1 is the first
    /// convolution's alone; at most [`Unet::most_depth`](crate::models::Unet::most_depth).
    pub depth: usize,
}

impl DeepCache {
    /// The depth where none is given: the first convolution and the layer behind it.
    pub const DEPTH: usize = 2;

    /// Calls since the last whole one, of a call that follows one of age `last` (`None`: nothing is kept); 0 is a whole call.
    pub(crate) fn age(cache: Option<Self>, last: Option<usize>) -> usize {
        let interval = cache.map_or(1, |cache| cache.interval);
        last.map(|age| age + 1).filter(|age| *age < interval).unwrap_or(0)
    }

    /// # Errors
    /// [`Error::Request`] naming the option, its range and what came.
    pub(crate) fn validate(self, controlled: bool) -> Result<()> {
        fits("deep_cache.interval", self.interval)?;
        fits("deep_cache.depth", self.depth)?;
        if self.interval > 1 && controlled {
            return Err(Error::request(
                "deep-cache",
                "does not go with ControlNets, which add to what is kept; leave one of them out",
            ));
        }
        Ok(())
    }
}

impl FromStr for DeepCache {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (interval, depth) = text.split_once(':').map_or((text, None), |(interval, depth)| (interval, Some(depth)));
        let number = |text: &str| {
            text.trim()
                .parse::<usize>()
                .map_err(|_| "expected an interval, or an interval and a depth as in 3:2".to_owned())
        };
        let depth = depth.map_or(Ok(Self::DEPTH), number)?;
        Ok(DeepCache { interval: number(interval)?, depth })
    }
}

impl fmt::Display for DeepCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.interval, self.depth)
    }
}
