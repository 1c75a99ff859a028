//! Numbers of 16 bits on AArch64.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::products::narrow_portable;

/// Values of half precision as f32. Every AArch64 has the instructions; what FEAT_FP16 adds computes in halves. Both
/// slices have one length.
pub(super) fn widen_neon(values: &[f16], out: &mut [f32]) {
    let (values, rest) = values.as_chunks::<8>();
    let (out, rest_out) = out.as_chunks_mut::<8>();
    for (out, values) in out.iter_mut().zip(values) {
        // SAFETY: both chunks have 8 values, and the instructions name no memory.
        unsafe {
            let halves = vld1q_u16(values.as_ptr().cast());
            let (low, high): (float32x4_t, float32x4_t);
            asm!(
                "fcvtl {low:v}.4s, {halves:v}.4h",
                "fcvtl2 {high:v}.4s, {halves:v}.8h",
                low = out(vreg) low, high = lateout(vreg) high, halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
            vst1q_f32(out.as_mut_ptr(), low);
            vst1q_f32(out.as_mut_ptr().add(4), high);
        }
    }
    for (out, value) in rest_out.iter_mut().zip(rest) {
        *out = value.to_f32();
    }
}

/// Rounds to bf16.
///
/// # Safety
/// The processor has FEAT_BF16, and both slices have one length.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn narrow_neon(values: &[f32], out: &mut [bf16]) {
    let (values, rest) = values.as_chunks::<8>();
    let (out, rest_out) = out.as_chunks_mut::<8>();
    for (out, values) in out.iter_mut().zip(values) {
        // SAFETY: both chunks have 8 values, and the instructions name no memory.
        unsafe {
            let (low, high) = (vld1q_f32(values.as_ptr()), vld1q_f32(values.as_ptr().add(4)));
            let both: uint16x8_t;
            asm!(
                "bfcvtn {both:v}.4h, {low:v}.4s",
                "bfcvtn2 {both:v}.8h, {high:v}.4s",
                both = out(vreg) both, low = in(vreg) low, high = in(vreg) high,
                options(pure, nomem, nostack, preserves_flags)
            );
            vst1q_u16(out.as_mut_ptr().cast(), both);
        }
    }
    narrow_portable(rest, rest_out);
}
