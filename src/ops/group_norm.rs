//! Group norm.

use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Tensor};

/// What a group norm does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Records group norm over (pixels, channels of a group) of each image; gamma and beta are f32 constants `[c]`.
pub fn group_norm(_rec: &mut Recording, _x: Tensor, _gamma: Tensor, _beta: Tensor, _norm: GroupNorm) -> Result<Tensor> {
    todo!()
}

pub(super) const STATISTICS: Kernel = Kernel { stem: "group_norm_statistics", source: "", host };
pub(super) const FOLD: Kernel = Kernel { stem: "group_norm_fold", source: "", host };
pub(super) const APPLY: Kernel = Kernel { stem: "group_norm", source: "", host };

fn host(_call: &mut HostCall<'_>) {
    todo!()
}
