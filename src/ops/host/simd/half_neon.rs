//! AArch64's products of bf16 (FEAT_BF16): 8 rows with 8 columns of a panel, in every register of sums those of 2 rows and 2 columns.
//!
//! BFMMLA multiplies 2 rows with 2 columns of 4 positions. It does the work of two BFDOT, and is expected to take no longer than they do (Arm,
//! Architecture Reference Manual for A-profile, DDI 0487, "BFMMLA (vector)"). Panels lie in pairs of positions, so two registers of 4 columns are
//! zipped into two of 2 columns: a panel of quads would save 8 of 63 instructions, and be one that no other processor reads.

use std::arch::aarch64::*;
use std::arch::asm;

use half::bf16;

use super::half_tile::Tile;
use crate::record::HostWeight;

/// Rows of a tile, and its columns.
pub(super) const SIDE: usize = 8;

/// Sums of pairs of rows, of each those of pairs of columns.
type Sums = [[float32x4_t; SIDE / 2]; SIDE / 2];

/// The first `rows` rows of 8.
///
/// # Safety
/// `x` has 8 rows and the tile's panel what its fields say, `out` has `rows` rows of `columns` values, and the processor has the instructions.
#[target_feature(enable = "neon,bf16")]
pub(super) unsafe fn bfmmla(tile: Tile, x: *const bf16, out: *mut f32, stride: usize, columns: usize, rows: usize) {
    for first in (0..columns).step_by(SIDE) {
        let width = SIDE.min(columns - first);
        let mut sums: Sums = [[vdupq_n_f32(0.0); SIDE / 2]; SIDE / 2];
        let mut edge = [[0.0f32; SIDE]; 2];
        if tile.add {
            for (pair, sums) in sums.iter_mut().enumerate() {
                for (row, edge) in (2 * pair..rows).zip(&mut edge) {
                    // SAFETY: the caller's: the row is there, and has `width` values from `first` on.
                    let out = unsafe { std::slice::from_raw_parts(out.add(row * stride + first), width) };
                    edge[..width].copy_from_slice(out);
                }
                for (four, [left, right]) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    // SAFETY: both rows have 8 values.
                    let [a, b] = unsafe { [vld1q_f32(&edge[0][4 * four]), vld1q_f32(&edge[1][4 * four])] };
                    *left = vcombine_f32(vget_low_f32(a), vget_low_f32(b));
                    *right = vcombine_f32(vget_high_f32(a), vget_high_f32(b));
                }
            }
        }
        let panel = tile.panel.wrapping_add(HostWeight::pair_place(0, first));
        if tile.depth > 0 {
            // SAFETY: the caller's.
            unsafe { steps(&mut sums, x, tile.pitch, panel, tile.depth / HostWeight::STEP) };
        }
        for (pair, sums) in sums.iter().enumerate() {
            for (four, [left, right]) in sums.as_chunks::<2>().0.iter().enumerate() {
                // SAFETY: both rows have 8 values.
                unsafe {
                    vst1q_f32(&mut edge[0][4 * four], vcombine_f32(vget_low_f32(*left), vget_low_f32(*right)));
                    vst1q_f32(&mut edge[1][4 * four], vcombine_f32(vget_high_f32(*left), vget_high_f32(*right)));
                }
            }
            for (row, edge) in (2 * pair..rows).zip(&edge) {
                // SAFETY: the caller's: the row is there, and has `width` values from `first` on.
                let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride + first), width) };
                out.copy_from_slice(&edge[..width]);
            }
        }
    }
}

/// Adds the products of so many steps of the inner extent, 8 positions at a time: rows are zipped two by two into quads, and so are columns.
///
/// # Safety
/// They are there, in `x` of 8 rows, and at least one; the processor has the instructions.
#[target_feature(enable = "neon,bf16")]
unsafe fn steps(sums: &mut Sums, x: *const bf16, pitch: usize, panel: *const bf16, count: usize) {
    let sums = sums.as_mut_ptr();
    // SAFETY: the caller's; the instructions name no memory but what the operands point to, and no register but those that are said. Behind the pairs of
    // a step's 16 columns, 1024 bytes, lie those of the others.
    unsafe {
        asm!(
            "ld1 {{v0.4s-v3.4s}}, [{at}], #64",
            "ld1 {{v4.4s-v7.4s}}, [{at}], #64",
            "ld1 {{v8.4s-v11.4s}}, [{at}], #64",
            "ld1 {{v12.4s-v15.4s}}, [{at}]",
            "2:",
            "mov {eights:w}, #4",
            "3:",
            "ldp q25, q26, [{panel}]",
            "ldr q16, [{a}], #16",
            "ldr q17, [{b}], #16",
            "ldp q27, q28, [{panel}, #64]",
            "ldr q18, [{c}], #16",
            "ldr q19, [{d}], #16",
            "zip1 v24.2d, v16.2d, v17.2d",
            "zip1 v29.4s, v25.4s, v27.4s",
            "ldr q20, [{e}], #16",
            "ldr q21, [{f}], #16",
            "zip2 v30.4s, v25.4s, v27.4s",
            "zip1 v31.4s, v26.4s, v28.4s",
            "ldr q22, [{g}], #16",
            "ldr q23, [{h}], #16",
            "zip2 v17.2d, v16.2d, v17.2d",
            "bfmmla v0.4s, v24.8h, v29.8h",
            "zip1 v16.2d, v18.2d, v19.2d",
            "bfmmla v1.4s, v24.8h, v30.8h",
            "zip2 v19.2d, v18.2d, v19.2d",
            "bfmmla v2.4s, v24.8h, v31.8h",
            "zip1 v18.2d, v20.2d, v21.2d",
            "bfmmla v4.4s, v16.8h, v29.8h",
            "zip2 v21.2d, v20.2d, v21.2d",
            "bfmmla v5.4s, v16.8h, v30.8h",
            "zip1 v20.2d, v22.2d, v23.2d",
            "bfmmla v6.4s, v16.8h, v31.8h",
            "zip2 v23.2d, v22.2d, v23.2d",
            "bfmmla v8.4s, v18.8h, v29.8h",
            "zip2 v22.4s, v26.4s, v28.4s",
            "bfmmla v9.4s, v18.8h, v30.8h",
            "ldp q25, q26, [{panel}, #128]",
            "bfmmla v10.4s, v18.8h, v31.8h",
            "ldp q27, q28, [{panel}, #192]",
            "bfmmla v12.4s, v20.8h, v29.8h",
            "bfmmla v13.4s, v20.8h, v30.8h",
            "bfmmla v14.4s, v20.8h, v31.8h",
            "bfmmla v3.4s, v24.8h, v22.8h",
            "zip1 v29.4s, v25.4s, v27.4s",
            "bfmmla v7.4s, v16.8h, v22.8h",
            "zip2 v30.4s, v25.4s, v27.4s",
            "bfmmla v11.4s, v18.8h, v22.8h",
            "zip1 v31.4s, v26.4s, v28.4s",
            "bfmmla v15.4s, v20.8h, v22.8h",
            "zip2 v22.4s, v26.4s, v28.4s",
            "add {panel}, {panel}, #256",
            "bfmmla v0.4s, v17.8h, v29.8h",
            "bfmmla v4.4s, v19.8h, v29.8h",
            "bfmmla v8.4s, v21.8h, v29.8h",
            "bfmmla v12.4s, v23.8h, v29.8h",
            "bfmmla v1.4s, v17.8h, v30.8h",
            "bfmmla v5.4s, v19.8h, v30.8h",
            "bfmmla v9.4s, v21.8h, v30.8h",
            "bfmmla v13.4s, v23.8h, v30.8h",
            "subs {eights:w}, {eights:w}, #1",
            "bfmmla v2.4s, v17.8h, v31.8h",
            "bfmmla v6.4s, v19.8h, v31.8h",
            "bfmmla v10.4s, v21.8h, v31.8h",
            "bfmmla v14.4s, v23.8h, v31.8h",
            "bfmmla v3.4s, v17.8h, v22.8h",
            "bfmmla v7.4s, v19.8h, v22.8h",
            "bfmmla v11.4s, v21.8h, v22.8h",
            "bfmmla v15.4s, v23.8h, v22.8h",
            "b.ne 3b",
            "add {panel}, {panel}, #1024",
            "subs {count}, {count}, #1",
            "b.ne 2b",
            "st1 {{v12.4s-v15.4s}}, [{at}]",
            "sub {at}, {at}, #64",
            "st1 {{v8.4s-v11.4s}}, [{at}]",
            "sub {at}, {at}, #64",
            "st1 {{v4.4s-v7.4s}}, [{at}]",
            "sub {at}, {at}, #64",
            "st1 {{v0.4s-v3.4s}}, [{at}]",
            at = inout(reg) sums => _,
            panel = inout(reg) panel => _,
            count = inout(reg) count => _,
            eights = out(reg) _,
            a = inout(reg) x => _,
            b = inout(reg) x.wrapping_add(pitch) => _,
            c = inout(reg) x.wrapping_add(2 * pitch) => _,
            d = inout(reg) x.wrapping_add(3 * pitch) => _,
            e = inout(reg) x.wrapping_add(4 * pitch) => _,
            f = inout(reg) x.wrapping_add(5 * pitch) => _,
            g = inout(reg) x.wrapping_add(6 * pitch) => _,
            h = inout(reg) x.wrapping_add(7 * pitch) => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }
}
