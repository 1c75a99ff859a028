//! Attention.

use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Tensor};

/// What an attention does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Heads; each owns neighbouring channels.
    pub heads: usize,
    /// Whether a query sees only keys at its own position and before.
    pub causal: bool,
}

/// Records softmax(q kᵀ / √d) v per head, d = c / heads. `q` is `[n, .., t_q, c]`, `k` and `v` `[n, .., t_k, c]`; each may
/// be a channel view (of one fused product).
pub fn attention(_rec: &mut Recording, _q: Tensor, _k: Tensor, _v: Tensor, _attention: Attention) -> Result<Tensor> {
    todo!()
}

pub(super) const KERNEL: Kernel = Kernel { stem: "attention", source: "", host };

fn host(_call: &mut HostCall<'_>) {
    todo!()
}
