//! Numbers of 16 bits on AArch64.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

/// Values of half precision as f32. Every AArch64 has the instructions; what FEAT_FP16 adds computes in halves.
pub(crate) fn widen_neon(values: &[f16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len(), "every value has its place");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_as_they_are() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for part in (0..20).map(|len| &halves[1000..1000 + len]).chain([&halves[..]]) {
            let mut found = vec![1.0f32; part.len()];
            widen_neon(part, &mut found);
            for (found, half) in found.iter().zip(part) {
                assert!(*found == half.to_f32() || found.is_nan() && half.is_nan(), "{half}: {found}");
            }
        }
    }
}
