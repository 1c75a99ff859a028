//! GEGLU.

use crate::Result;
use crate::record::{HostCall, Kernel, Recording, Tensor};

/// Records `x[.., ..c] · gelu(x[.., c..])` for `x` of `2c` channels.
pub fn geglu(_rec: &mut Recording, _x: Tensor) -> Result<Tensor> {
    todo!()
}

pub(super) const KERNEL: Kernel = Kernel { stem: "geglu", source: "", host };

fn host(_call: &mut HostCall<'_>) {
    todo!()
}
