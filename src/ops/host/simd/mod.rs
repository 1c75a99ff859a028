//! Vector arithmetic of the host: which instructions this processor has, and loops compiled for each set.

mod block;
#[cfg(target_arch = "aarch64")]
mod half_neon;
mod half_tile;
mod half_wide;
#[cfg(target_arch = "aarch64")]
mod neon;
mod tile;

pub(in crate::ops) use block::{Block, Shared};
pub(in crate::ops) use half_tile::{STEP, TOGETHER, half_tiles};
pub(in crate::ops) use tile::{Operand, PITCH, expand, tiles};

use std::sync::LazyLock;

/// A set of vector instructions. Each is chosen at run time; results differ between sets in the rounding of products alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(dead_code, reason = "no processor has all")]
pub(in crate::ops) enum Level {
    /// What the compiler makes of plain loops for every processor of the target.
    Portable,
    /// NEON, which every AArch64 has.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F.
    Avx512,
}

impl Level {
    /// The best set that this processor has.
    pub(in crate::ops) fn detect() -> Self {
        static LEVEL: LazyLock<Level> = LazyLock::new(|| Level::available().last().copied().unwrap_or(Level::Portable));
        *LEVEL
    }

    /// The sets that this processor has, the best one last.
    pub(in crate::ops) fn available() -> Vec<Level> {
        #[allow(unused_mut, reason = "some targets have only one")]
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "aarch64")]
        levels.push(Level::Neon);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                levels.push(Level::Avx2);
                if has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw") {
                    levels.push(Level::Avx512);
                }
            }
        }
        levels
    }
}

/// Defines a function whose loops are compiled for every [`Level`], and run for the best one. Nothing is fused or reordered, so
/// results are the same for all.
macro_rules! wide {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }
                match $crate::ops::host::simd::Level::detect() {
                    // SAFETY: the processor was found to have these instructions.
                    $crate::ops::host::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::ops::host::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(in crate::ops) use wide;
