//! Mesa's RADV compiles for the family in `RADV_FORCE_FAMILY` and reports registers, spills, workgroup memory, waves, and the machine code, of
//! which the inner loop is counted.

mod isa;

use chiaro::record::{Caps, DType, MatrixShape};

use crate::Result;
use crate::driver::{Compiled, Device};
use crate::kernels::{all, caps};
use isa::{Loop, inner_loop};

/// Waves per SIMD below which latency is no longer hidden.
const WAVES: u64 = 4;
/// Why a GPU has fewer: a part of its name, and the reason.
const FEW_WAVES: [(&str, &str); 1] = [(
    "VEGA",
    "A SIMD of GCN has 64 KiB of registers for all its waves, RDNA's 128 to 192. Four waves would leave 64 a lane, room for 4×4 sums in place of \
     8×4, with a third more loads of workgroup memory for each multiply-add; loads ahead and independent sums hide the latency instead.",
)];
/// Share of the inner loop's slots that multiply and add, in products of f32, and in those of f16 with sums of f32, whose operands are widened there.
const SHARE: [f64; 2] = [0.7, 0.59];
/// Products of a lane in a slot of the inner loop, in products of packed f16: more than those of f32 come to (0.70 to 0.87).
const PACKED: f64 = 0.88;

/// The table of one family.
pub(crate) fn report(part: &str) -> Result<()> {
    let shows = std::env::var_os("CHIARO_OFFLINE_ISA").is_some();
    let device = Device::open()?;
    println!("\n## {}\n", device.name);
    println!("| kernel | VGPRs | spills | LDS | waves per SIMD | inner loop | multiply-adds | loads | |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let half = caps("RADV", DType::F16);
    let mut devices = vec![half.clone(), Caps { packed_f16: false, ..half.clone() }, caps("RADV", DType::F32)];
    if device.matrices {
        devices.push(Caps { matrices: vec![MatrixShape::square(16)], matrix_quads: true, ..half });
    }
    let kernels = all(devices, part)?;
    if spills(&device.compile(&kernels.first().ok_or("no such kernel")?.spilling()?)?)? == 0 {
        return Err("a kernel with more values than registers is not found to spill".into());
    }
    let (mut failed, mut few) = (0, 0);
    let reason = FEW_WAVES.iter().find(|(name, _)| device.name.contains(name)).map(|(_, reason)| reason);
    for kernel in &kernels {
        let label = &kernel.label;
        let compiled = device.compile(&kernel.form()?).map_err(|e| format!("{label}: {e}"))?;
        if shows {
            println!("{}", compiled.assembly);
        }
        let spills = spills(&compiled)?;
        let waves = compiled.statistic(&["Subgroups per SIMD"])?;
        let found = inner_loop(&compiled.assembly);
        let mut faults = Vec::new();
        if spills > 0 {
            faults.push("spills");
        }
        let explained = reason.is_some() && waves < WAVES;
        few += usize::from(explained);
        if waves < WAVES && !explained {
            faults.push("few waves");
        }
        if label.contains(" COOP") && !compiled.assembly.contains("v_wmma") {
            faults.push("no matrix instructions");
        }
        match &found {
            Some(found) if kernel.is_product() => {
                if label.contains(" PACKED") {
                    if found.packed == 0 || found.products_a_slot() < PACKED {
                        faults.push("few packed products");
                    }
                } else if found.share() < SHARE[usize::from(kernel.widens())] && !label.contains(" COOP") {
                    faults.push("few multiply-adds");
                }
                if 2 * found.wide_loads < found.loads {
                    faults.push("narrow loads");
                }
            }
            None if kernel.is_product() => faults.push("no loop found"),
            _ => {}
        }
        failed += usize::from(!faults.is_empty());
        let [slots, share, loads] = found.as_ref().map_or_else(Default::default, describe);
        println!(
            "| {label} | {} | {spills} | {} | {waves} | {slots} | {share} | {loads} | {} |",
            compiled.statistic(&["VGPRs"])?,
            compiled.statistic(&["LDS size"])?,
            match faults.is_empty() {
                true if explained => "ok (few waves: see below)".into(),
                true => "ok".into(),
                false => faults.join(", "),
            },
        );
    }
    if let Some(reason) = reason.filter(|_| few > 0) {
        println!("\n{few} kernels with fewer than {WAVES} waves. {reason}");
    }
    println!("\n{failed} kernels with a fault");
    if failed > 0 { Err(format!("{failed} kernels with a fault").into()) } else { Ok(()) }
}

fn spills(compiled: &Compiled) -> Result<u64> {
    Ok(compiled.statistic(&["Spilled VGPRs"])? + compiled.statistic(&["Spilled SGPRs"])?)
}

fn describe(found: &Loop) -> [String; 3] {
    [
        format!("{} slots", found.slots),
        match found.packed {
            0 => format!("{:.0} %", 100.0 * found.share()),
            _ => format!("{:.0} %, {:.2} products a slot", 100.0 * found.share(), found.products_a_slot()),
        },
        format!("{} of {} of 16 bytes", found.wide_loads, found.loads),
    ]
}
