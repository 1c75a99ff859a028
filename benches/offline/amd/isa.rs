//! Reading AMD's machine code as Mesa prints it: labels `BB3:`, one instruction a line. For a GPU that its LLVM does not know it prints the
//! compiler's own list instead, after the last pass: labels `BB3`, results before an equals sign, `%7:v[9]` for a value in a register.

/// What the hottest loop consists of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loop {
    /// Instructions that take an issue slot; waits and hints do not count.
    pub(crate) slots: usize,
    /// Those that multiply and add onto a sum: not conversions and unpacked weights, which GPUs do with the same instructions.
    pub(crate) multiply_adds: usize,
    /// Of them, those that do more than one at once in each lane.
    pub(crate) packed: usize,
    /// Products of a lane, where none are made in matrices.
    pub(crate) products: usize,
    /// Loads from memory and from workgroup memory.
    pub(crate) loads: usize,
    /// Of them, those of 16 bytes a lane.
    pub(crate) wide_loads: usize,
}

impl Loop {
    pub(crate) fn share(&self) -> f64 {
        self.multiply_adds as f64 / self.slots.max(1) as f64
    }

    pub(crate) fn products_a_slot(&self) -> f64 {
        self.products as f64 / self.slots.max(1) as f64
    }
}

/// The loop with the most multiply-adds of its own, not of the loops inside. A loop goes from a label to the last branch back to it.
pub(crate) fn inner_loop(assembly: &str) -> Option<Loop> {
    let mut labels = std::collections::HashMap::new();
    let mut lines = Vec::new();
    for line in assembly.lines() {
        let code = line.split(';').next().unwrap_or_default().trim();
        let label = code.strip_suffix(':').unwrap_or(code);
        if label.strip_prefix("BB").is_some_and(|number| number.parse::<u32>().is_ok()) {
            labels.insert(label.to_owned(), lines.len());
        } else if !code.is_empty() && !code.starts_with("/*") {
            lines.push(assembler(code));
        }
    }
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for (at, code) in lines.iter().enumerate() {
        let mut words = code.split_whitespace();
        let jumps = words.next().is_some_and(|op| op.starts_with("s_branch") || op.starts_with("s_cbranch"));
        let target = words.last().and_then(|label| labels.get(label.trim_start_matches("block:")));
        let target = target.filter(|&&target| jumps && target <= at);
        if let Some(&first) = target {
            match loops.iter_mut().find(|(known, _)| *known == first) {
                Some(known) => known.1 = at,
                None => loops.push((first, at)),
            }
        }
    }
    let own = |outer: &(usize, usize)| {
        let inner: Vec<_> =
            loops.iter().filter(|inner| *inner != outer && outer.0 <= inner.0 && inner.1 <= outer.1).collect();
        let is_own = |at: &usize| !inner.iter().any(|(first, last)| (first..=last).contains(&at));
        count((outer.0..=outer.1).filter(is_own).map(|at| lines[at].as_str()))
    };
    loops.iter().map(own).max_by_key(|found| found.multiply_adds)
}

/// An instruction of the compiler's list as an assembler has it, `v_fma_f32 v[1], v[2], v[3], v[1]`; any other line as it is.
fn assembler(code: &str) -> String {
    let registers = |text: &str| {
        let words = text.split(' ').map(|word| word.split_once(":").map_or(word, |(_, register)| register));
        words.collect::<Vec<_>>().join(" ")
    };
    match code.split_once(" = ") {
        Some((results, rest)) if results.contains('%') => {
            let written = results.split('%').nth(1).unwrap_or_default();
            let written =
                written.split_once(':').map_or("", |(_, register)| register).trim_end_matches([',', ' ', 's']);
            let (op, operands) = rest.split_once(' ').unwrap_or((rest, ""));
            format!("{op} {written}, {}", registers(operands))
        }
        _ => code.to_owned(),
    }
}

fn count<'a>(lines: impl Iterator<Item = &'a str>) -> Loop {
    let mut found = Loop::default();
    for code in lines {
        let op = code.split_whitespace().next().unwrap_or_default();
        if ["s_waitcnt", "s_wait_", "s_nop", "s_delay_alu", "s_clause", "s_inst_prefetch", "s_set_inst"]
            .iter()
            .any(|hint| op.starts_with(hint))
        {
            continue;
        }
        found.slots += 1;
        // A dual instruction has two operations in one slot.
        let operations = code.split("::").map(str::trim);
        let packs = |op: &str| {
            ["v_pk_fma", "v_pk_mul_f16", "v_dot", "v_dual_dot", "v_wmma", "v_swmma", "v_mfma"]
                .iter()
                .any(|name| op.starts_with(name))
        };
        let singles = |op: &str| {
            let adds = ["v_fma_", "v_mad_f", "v_mad_mix", "v_dual_fma_"].iter().any(|name| op.starts_with(name));
            // Times one it is an addition, of a value that is converted on the way.
            let adds = adds && !op.split([' ', ',']).any(|operand| operand == "1.0");
            ["v_fmac_", "v_fmaak", "v_fmamk", "v_mac_", "v_dual_fmac"].iter().any(|name| op.starts_with(name))
                || adds && onto_itself(op)
        };
        let packed = operations.clone().any(packs) || operations.clone().filter(|op| singles(op)).count() == 2;
        let single = operations.clone().any(singles);
        found.packed += usize::from(packed);
        found.multiply_adds += usize::from(packed || single);
        found.products += operations.map(|op| if packs(op) { 2 } else { usize::from(singles(op)) }).sum::<usize>();
        let load =
            ["buffer_load", "global_load", "ds_load", "ds_read", "s_buffer_load"].iter().any(|n| op.starts_with(n));
        if load && !op.starts_with("s_") {
            found.loads += 1;
            let wide = ["b128", "dwordx4", "format_xyzw"].iter().any(|size| op.contains(size))
                || op.contains("2addr_b64")
                || op.contains("read2_b64");
            found.wide_loads += usize::from(wide);
        }
    }
    found
}

/// Whether what an instruction of four operands adds to is what it writes.
fn onto_itself(code: &str) -> bool {
    let operands = code.split_once(' ').map_or("", |(_, operands)| operands);
    let mut operands = operands.split(',').map(|operand| operand.split_whitespace().next().unwrap_or_default());
    operands.next().is_some_and(|written| operands.nth(2) == Some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_innermost_loop_is_counted() {
        let text = "BB0:\n s_mov_b32 s0, 0 ; 1234\nBB1:\n v_add_u32 v1, v1, v2\nBB2:\n ds_load_b128 v[0:3], v9\n s_waitcnt lgkmcnt(0)\n \
                    v_fmac_f32_e32 v4, v0, v1\n v_dual_fmac_f32 v5, v0, v1 :: v_dual_fmac_f32 v6, v2, v3\n v_pk_fma_f16 v7, v0, v1, v7\n \
                    s_cbranch_scc1 BB2\nBB3:\n buffer_load_dword v0, v1\n s_cbranch_scc1 BB3\n s_cbranch_scc1 BB1\n s_endpgm";
        let found = inner_loop(text).expect("a loop");
        assert_eq!(found, Loop { slots: 5, multiply_adds: 3, packed: 2, products: 5, loads: 1, wide_loads: 1 });
        assert!((found.share() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn conversions_and_unpacked_weights_are_not_multiply_adds() {
        let text = "BB0:\n v_fma_mix_f32 v63, v32, 1.0, neg(0) op_sel_hi:[1,0,0]\n v_fma_f32 v1, v2, v3, v4\n v_fma_f32 v1, v2, v3, v1\n \
                    v_fma_mix_f32 v5, v32, v6, v5 op_sel_hi:[1,0,0]\n v_fma_mix_f32 v5, v32, 1.0, v5 op_sel_hi:[1,0,0]\n s_cbranch_scc1 BB0";
        let found = inner_loop(text).expect("a loop");
        assert_eq!((found.slots, found.multiply_adds), (6, 2));
    }

    #[test]
    fn both_halves_of_a_dual_instruction_are_seen() {
        let text = "BB0:\n v_dual_mul_f32 v0, v1, v2 :: v_dual_fmac_f32 v3, v4, v5\n \
                    v_dual_dot2acc_f32_f16 v0, v1, v2 :: v_dual_mov_b32 v3, v4\n \
                    v_dual_mul_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5\n s_cbranch_scc1 BB0";
        let found = inner_loop(text).expect("a loop");
        assert_eq!((found.slots, found.multiply_adds, found.packed), (4, 2, 1));
    }

    #[test]
    fn the_compilers_own_list_is_read() {
        let text = "BB0\n/* kind: top-level, */\n\t v1: %3:v[9] = v_mov_b32 0\nBB1\n/* kind: loop-header, */\n\ts_waitcnt_depctr va_vcc(0)\n\
                    \t v1: %397:v[23] = v_fmac_f32 %1640:v[96], %1624:v[80], %255:v[23]\n\
                    \t v1: %398:v[24] = v_fma_f32 %1640:v[96], %1624:v[80], %255:v[24]\n\
                    \t v1: %399:v[25] = v_fma_f32 %1640:v[96], %1624:v[80], %255:v[24]\n\
                    \t v4: %7:v[0-3] = ds_read_b128 %300:v[74] storage:shared\n\
                    \t s1: %96:s[29],  s1: %1538:scc = s_add_u32 3, %95:s[28]\n\ts_cbranch_scc1 block:BB1\nBB2\n\ts_endpgm";
        let found = inner_loop(text).expect("a loop");
        assert_eq!(found, Loop { slots: 6, multiply_adds: 2, packed: 0, products: 2, loads: 1, wide_loads: 1 });
    }

    #[test]
    fn no_loop_is_none() {
        assert_eq!(inner_loop("BB0:\n v_fmac_f32 v0, v1, v2\n s_cbranch_scc1 BB1\nBB1:\n s_endpgm"), None);
    }
}
