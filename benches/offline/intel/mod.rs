//! Mesa's ANV compiles for the GPU in `INTEL_STUB_GPU_PLATFORM`, with a fake kernel device, and reports its SIMD width, spills, and the machine code, of
//! which the loops are counted. Each kernel has a process of its own, since a driver that meets what it does not know may abort.

mod isa;

use std::process::Command;

use chiaro::record::{Caps, DType, Vendor};

use crate::Result;
use crate::driver::{Compiled, Device};
use crate::kernels::{Hot, all, caps};
use isa::Loops;

/// What the kernel with too many values is called.
const SPILLING: &str = "spilling";

/// Instructions of the inner loop for each multiply-add, at most: the first whose words are all in the label.
const LIMITS: [(&[&str], f64); 5] = [
    // With few vectors of a head at a time, what brings the next is part of the loop.
    (&["attention", " DEPTH 4 "], 4.0),
    (&["attention", " DEPTH 5 "], 3.2),
    (&["attention", " WORDS "], 2.5),
    (&["attention"], 2.0),
    (&[], 1.65),
];

/// Why a kernel has scratch accesses in loops: a part of the driver's version, words of its label, how many there are at most in inner loops and in all,
/// and the reason.
const SCRATCH: [(&str, &[&str], [usize; 2], &str); 4] = [
    (
        "Mesa",
        &["attention", " APART "],
        [0, 180],
        "Once for a block of keys: an invocation keeps up to 64 sums while keys and values are copied. With 32 sums there are none, and 9 to 70 % more \
         instructions a multiply-add, since workgroup memory then holds fewer vectors of a head at a time.",
    ),
    (
        "DG2",
        &["attention f32", " APART HEAD_QUADS 128 ACROSS 32 DOWN 4 "],
        [9, 18],
        "Nine where eight vectors of the head are copied, in 967 instructions for 512 multiply-adds, nine once for a block of keys. With 32 sums there are \
         none, and 2.6 instructions a multiply-add in place of 1.9.",
    ),
    (
        "Mesa 25.0",
        &["attention f16", " WORDS APART HEAD_QUADS 40 ACROSS 10 DOWN 8 DEPTH 40 "],
        [2, 10],
        "As of other heads; two where keys and values are copied. Mesa 26 has none in inner loops.",
    ),
    (
        "Mesa 25.0",
        &["conv2d f32, WHOLE APART TILE_M 32"],
        [2, 2],
        "With weights of f32 the values of the next step take 24 registers and a pixel's place four, so that one or two of those that a loop does not \
         change are read back in 776 instructions. Mesa 26 finds the registers. Sums of 4×4 would, too, with 1.5 instructions a multiply-add for 1.4.",
    ),
];

/// What a GPU of Intel's is given, on a device of our own and on one that a host opened with WebGPU's limits.
fn hot(part: &str) -> Result<Vec<Hot>> {
    let own = |storage| Caps { vendor: Vendor::Intel, subgroup_size: (8, 32), ..caps("ANV", storage) };
    let small = |storage| Caps { max_workgroup_bytes: 16 << 10, max_invocations: 256, ..own(storage) };
    all([own(DType::F16), own(DType::F32), small(DType::F16), small(DType::F32)], part)
}

/// The table of one platform.
pub(crate) fn report(part: &str) -> Result<()> {
    let runner = std::env::var("CHIARO_OFFLINE_RUNNER").map_err(|_| "start this with benches/offline/run.sh")?;
    let platform = std::env::var("INTEL_STUB_GPU_PLATFORM").unwrap_or_default();
    let row = |label: &str| -> Result<(String, bool)> {
        // Paths of the cache, without spaces.
        let mut words = runner.split_whitespace();
        let mut command = Command::new(words.next().ok_or("CHIARO_OFFLINE_RUNNER is empty")?);
        let output = command.args(words).args(["intel-kernel", label]).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok((said, true));
        }
        if said.is_empty() {
            let error = String::from_utf8_lossy(&output.stderr);
            let is_told = |line: &&str| !line.trim().is_empty() && !line.starts_with("Unknown drm_");
            let last = error.lines().rfind(is_told).unwrap_or("nothing on stderr");
            return Ok((format!("| {label} | | | | | | | | driver failed ({}): {last} |", output.status), false));
        }
        Ok((said, false))
    };
    let (first, fine) = row(SPILLING)?;
    if fine || !first.contains("scratch memory in a loop") {
        return Err(format!("a kernel with more values than registers is not found at fault: {first}").into());
    }
    println!("\n## {platform}: {}\n", first.split('|').next().unwrap_or_default().trim());
    println!(
        "| kernel | SIMD | instructions | spills, fills | inner loop | multiply-adds | messages | scratch in inner loops, in loops | a multiply-add | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut failed = 0;
    for Hot { label, .. } in hot(part)? {
        let (said, fine) = row(&label)?;
        let said = said.trim_end();
        let (before, row) = said.rsplit_once('\n').map_or(("", said), |(before, row)| (before, row));
        if !before.is_empty() {
            println!("{before}");
        }
        println!("|{}", row.split_once('|').map_or(row, |(_, row)| row));
        failed += usize::from(!fine);
    }
    println!("\n{failed} kernels with a fault");
    if failed > 0 { Err(format!("{failed} kernels with a fault").into()) } else { Ok(()) }
}

/// The row of one kernel, behind the device's and the driver's name.
///
/// # Errors
/// When it has a fault, which the row tells.
pub(crate) fn compile(label: &str) -> Result<()> {
    let part = if label == SPILLING { "" } else { label };
    let kernels = hot(part)?;
    let kernel = kernels.iter().find(|kernel| kernel.label.ends_with(part)).ok_or("no such kernel")?;
    let form = if label == SPILLING { kernel.spilling()? } else { kernel.form()? };
    let device = Device::open()?;
    let compiled = device.compile(&form)?;
    if std::env::var_os("CHIARO_OFFLINE_ISA").is_some() {
        println!("{}", compiled.assembly);
    }
    let loops = Loops::of(&compiled.assembly);
    let known = |(driver, words, most, _): &&(&str, &[&str], [usize; 2], &str)| {
        let few = loops.scratch.iter().zip(most).all(|(found, most)| found <= most);
        few && device.name.contains(driver) && words.iter().all(|word| label.contains(word))
    };
    let reason = SCRATCH.iter().find(known).filter(|_| loops.scratch[1] > 0).map(|(.., reason)| *reason);
    let mut faults = Vec::new();
    if loops.scratch[1] > 0 && reason.is_none() {
        faults.push("scratch memory in a loop".to_owned());
    }
    let limit = LIMITS.iter().find(|(words, _)| words.iter().all(|word| label.contains(word))).map_or(0.0, |l| l.1);
    if kernel.is_product() && (loops.instructions == 0 || loops.instructions_a_multiply_add() > limit) {
        faults.push(format!("more than {limit} instructions a multiply-add"));
    }
    let told = match reason {
        Some(reason) if faults.is_empty() => format!("ok (scratch memory: {reason})"),
        None if faults.is_empty() => "ok".to_owned(),
        _ => faults.join(", "),
    };
    let ([inner, all], (instructions, spills, fills)) = (loops.scratch, statistics(&compiled)?);
    println!(
        "{} | {label} | {} | {instructions} | {spills}, {fills} | {} | {} | {} | {inner}, {all} | {:.2} | {told} |",
        device.name,
        compiled.lanes,
        loops.instructions,
        loops.multiply_adds,
        loops.messages,
        loops.instructions_a_multiply_add(),
    );
    if faults.is_empty() { Ok(()) } else { Err("a fault".into()) }
}

/// Instructions, spills and fills, by their names since Mesa 26 and before.
fn statistics(compiled: &Compiled) -> Result<(u64, u64, u64)> {
    let of = |names: [&str; 2]| compiled.statistic(&names);
    Ok((of(["Instructions", "Instruction Count"])?, of(["Spills", "Spill Count"])?, of(["Fills", "Fill Count"])?))
}
