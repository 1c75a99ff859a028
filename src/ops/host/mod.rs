//! Host twins that are more than a loop: products, their tiles in registers, and what attention and token merging make of them.

pub(super) mod attention;
pub(super) mod gemm;
pub(super) mod half_attention;
pub(super) mod half_gemm;
pub(super) mod simd;
pub(super) mod token_merging;
pub(super) mod winograd;
