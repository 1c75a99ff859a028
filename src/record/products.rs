//! How the host executor multiplies: in single precision, or with operands of 16 bits.

use std::sync::LazyLock;

#[cfg(not(target_arch = "aarch64"))]
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

#[cfg(target_arch = "aarch64")]
use super::neon::{narrow_neon, widen_neon};

/// The operands of products, convolutions and attention on the host executor; sums are f32. GPUs go by [`Caps::storage`](super::Caps::storage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Products {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16: the exponent of f32 and 8 bits of its fraction, to the nearest, halves to even.
    Bf16,
}

/// What this processor multiplies bf16 with, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code, reason = "no processor has all")]
pub(crate) enum Bf16 {
    /// Single precision, of operands that are widened.
    Widened,
    /// AArch64's FEAT_BF16: products of matrices of 2 rows.
    Mmla,
    /// AVX-512 BF16: sums of two products a lane.
    Avx512,
    /// AMX: products of matrices of 16 rows.
    Amx,
}

impl Bf16 {
    /// The best that there is.
    pub(crate) fn detect() -> Self {
        static FOUND: LazyLock<Bf16> = LazyLock::new(|| Bf16::available().last().copied().unwrap_or(Bf16::Widened));
        *FOUND
    }

    /// All that there are, the best last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "some targets have only one")]
        let mut found = vec![Bf16::Widened];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("bf16") {
            found.push(Bf16::Mmla);
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let wide = has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw");
            if wide && has!("avx512bf16") {
                found.push(Bf16::Avx512);
                if amx() {
                    found.push(Bf16::Amx);
                }
            }
        }
        found
    }

    /// Whether it multiplies more than 2.25 times as fast as f32, so that fewer products do not repay Winograd's transforms.
    pub(crate) fn outdoes_transforms(self) -> bool {
        matches!(self, Bf16::Mmla | Bf16::Amx)
    }
}

impl Products {
    /// Whether the processor multiplies bf16 faster than f32.
    pub(crate) fn has_bf16() -> bool {
        Bf16::detect() != Bf16::Widened
    }
}

/// Whether there are tiles, and the system lets this process have them. They are asked for: Linux saves them for no thread before (Linux,
/// Documentation/arch/x86/xstate.rst, "Dynamic features in Linux").
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // Intel, Software Developer's Manual, volume 2A, CPUID: leaf 7, EDX.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, reason = "older compilers ask for it")]
    // SAFETY: every processor with AVX-512 has the instruction and the leaf.
    let found = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx;
    let has = found & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE;
    // SAFETY: the call takes two numbers, and gives one.
    has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx() -> bool {
    false
}

/// Rounds to bf16.
pub(crate) fn narrow(values: &[f32], out: &mut [bf16]) {
    assert_eq!(values.len(), out.len(), "every value has its place");
    #[cfg(target_arch = "x86_64")]
    if Bf16::detect() != Bf16::Widened {
        // SAFETY: the processor has the instructions, and both slices have one length.
        return unsafe { narrow_avx512(values, out) };
    }
    #[cfg(target_arch = "aarch64")]
    if Bf16::detect() != Bf16::Widened {
        // SAFETY: as above.
        return unsafe { narrow_neon(values, out) };
    }
    narrow_portable(values, out);
}

pub(super) fn narrow_portable(values: &[f32], out: &mut [bf16]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = bf16::from_f32(*value);
    }
}

/// # Safety
/// The processor has the instructions, and both slices have one length.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn narrow_avx512(values: &[f32], out: &mut [bf16]) {
    use std::arch::x86_64::*;
    let mut at = 0;
    // SAFETY: whole registers are inside both slices, and masks keep to what is left.
    unsafe {
        while at + 32 <= values.len() {
            let low = _mm512_loadu_ps(values.as_ptr().add(at));
            let high = _mm512_loadu_ps(values.as_ptr().add(at + 16));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), both);
            at += 32;
        }
        let left = (values.len() - at) as u32;
        if left > 0 {
            let mask = (1u32 << left) - 1;
            let low = _mm512_maskz_loadu_ps(mask as u16, values.as_ptr().add(at));
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, values.as_ptr().wrapping_add(at + 16));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_mask_storeu_epi16(out.as_mut_ptr().add(at).cast(), mask, both);
        }
    }
}

/// Values of half precision as f32.
pub(crate) fn widen(values: &[f16], out: &mut [f32]) {
    assert_eq!(values.len(), out.len(), "every value has its place");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions, and both slices have one length.
        return unsafe { widen_avx512(values, out) };
    } else if std::arch::is_x86_feature_detected!("avx") && std::arch::is_x86_feature_detected!("f16c") {
        // SAFETY: as above.
        return unsafe { widen_avx(values, out) };
    }
    #[cfg(target_arch = "aarch64")]
    widen_neon(values, out);
    #[cfg(not(target_arch = "aarch64"))]
    values.convert_to_f32_slice(out);
}

macro_rules! widen_by {
    ($name:ident, $features:literal, $width:literal, $load:ident, $convert:ident, $store:ident) => {
        /// # Safety
        /// The processor has the instructions, and both slices have one length.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $name(values: &[f16], out: &mut [f32]) {
            use std::arch::x86_64::*;
            let whole = values.len() / $width * $width;
            for at in (0..whole).step_by($width) {
                // SAFETY: both slices have so many values more.
                unsafe { $store(out.as_mut_ptr().add(at), $convert($load(values.as_ptr().add(at).cast()))) };
            }
            values[whole..].convert_to_f32_slice(&mut out[whole..]);
        }
    };
}

widen_by!(widen_avx, "avx,f16c", 8, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps);
widen_by!(widen_avx512, "avx512f", 16, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps);

#[cfg(test)]
mod tests {
    use super::*;

    /// Where somebody knows what there is (`tests/arm`).
    #[test]
    fn what_is_there_is_found() {
        if let Ok(expected) = std::env::var("CHIARO_TEST_BF16") {
            assert_eq!(format!("{:?}", Bf16::detect()), expected);
        }
    }

    #[test]
    fn halves_are_widened_as_they_are() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for part in (0..70).map(|len| &halves[1000..1000 + len]).chain([&halves[..]]) {
            let mut found = vec![1.0f32; part.len()];
            widen(part, &mut found);
            for (found, half) in found.iter().zip(part) {
                assert!(*found == half.to_f32() || found.is_nan() && half.is_nan(), "{half}: {found}");
            }
        }
    }

    #[test]
    fn values_go_to_the_nearest() {
        let values: Vec<f32> = (0..1000u32)
            .map(|i| f32::from_bits(0x3f80_0000 ^ i.wrapping_mul(0x9e37_79b9) & 0x80ff_ffff))
            .chain([0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, 3.0e38, 1.003_906_3, 1.011_718_8])
            .collect();
        for len in (0..70).chain([values.len()]) {
            for values in [&values[..len], &values[values.len() - len..]] {
                let mut found = vec![bf16::NAN; len];
                narrow(values, &mut found);
                for (found, value) in found.iter().zip(values) {
                    assert_eq!(*found, bf16::from_f32(*value), "{value}");
                }
            }
        }
        let mut found = [bf16::ONE; 1];
        narrow(&[f32::NAN], &mut found);
        assert!(found[0].is_nan());
    }
}
