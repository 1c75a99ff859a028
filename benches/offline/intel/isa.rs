//! Reading Intel's machine code as Mesa prints it: labels `LABEL3:`, one instruction a line, `while(8)  JIP:  LABEL3` at the end of a loop, which names the
//! label it goes back to.

use std::collections::HashMap;

/// What the loops consist of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loops {
    /// Of the loop with the most multiply-adds of its own, not of the loops inside: instructions.
    pub(crate) instructions: usize,
    /// Those that multiply and add floating-point numbers.
    pub(crate) multiply_adds: usize,
    /// Messages to memory and to workgroup memory.
    pub(crate) messages: usize,
    /// Messages to scratch memory, of loops with no loop inside and that one, and of all loops.
    pub(crate) scratch: [usize; 2],
}

impl Loops {
    pub(crate) fn of(assembly: &str) -> Self {
        let lines: Vec<&str> = assembly.lines().collect();
        let label = |(at, line): (usize, &&'_ str)| Some((line.trim().strip_suffix(':')?.to_owned(), at));
        let labels: HashMap<String, usize> = lines.iter().enumerate().filter_map(label).collect();
        let mut loops: Vec<(usize, usize)> = Vec::new();
        for (end, line) in
            lines.iter().enumerate().filter(|(_, line)| instruction(line).is_some_and(|(code, _)| code == "while"))
        {
            let target = line.split("JIP:").nth(1).and_then(|rest| rest.split_whitespace().next());
            if let Some(&start) = target.and_then(|target| labels.get(target)) {
                // `continue` is a `while` too: the last goes furthest.
                match loops.iter_mut().find(|(known, _)| *known == start) {
                    Some(known) => known.1 = end,
                    None => loops.push((start, end)),
                }
            }
        }
        let own = |outer: &(usize, usize)| {
            let inside = |at: &usize| {
                loops.iter().any(|l| l != outer && outer.0 <= l.0 && l.1 <= outer.1 && (l.0..=l.1).contains(at))
            };
            count((outer.0..=outer.1).filter(|at| !inside(at)).map(|at| lines[at]))
        };
        let mut hottest = loops.iter().map(own).max_by_key(|found| found.multiply_adds).unwrap_or_default();
        let within = |outer: &(usize, usize), at: usize| (outer.0..=outer.1).contains(&at);
        let is_inner = |l: &(usize, usize)| !loops.iter().any(|other| other != l && within(l, other.0));
        let scratch = || lines.iter().enumerate().filter(|(_, line)| is_scratch(line)).map(|(at, _)| at);
        let inner = scratch().filter(|&at| loops.iter().any(|l| is_inner(l) && within(l, at))).count();
        let all = scratch().filter(|&at| loops.iter().any(|l| within(l, at))).count();
        hottest.scratch = [hottest.scratch[0].max(inner), all];
        hottest
    }

    pub(crate) fn instructions_a_multiply_add(&self) -> f64 {
        self.instructions as f64 / self.multiply_adds.max(1) as f64
    }
}

fn count<'a>(lines: impl Iterator<Item = &'a str>) -> Loops {
    let mut found = Loops::default();
    for line in lines {
        // On a line of its own, behind the message.
        found.scratch[0] += usize::from(is_scratch(line));
        let Some((code, written)) = instruction(line) else { continue };
        found.instructions += 1;
        found.multiply_adds += usize::from(["mad", "mac"].contains(&code) && written.ends_with('F'));
        found.messages += usize::from(code.starts_with("send"));
    }
    found
}

/// `mad` and `g12<1>F` of `(+f0.0) mad.sat(8) g12<1>F ...`: what it does, and what it writes.
fn instruction(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let line = if line.starts_with('(') { line.split_once(") ")?.1.trim_start() } else { line };
    let (code, rest) = line.split_once('(')?;
    let plain = code.starts_with(|c: char| c.is_ascii_lowercase()) && !code.contains(' ');
    let (lanes, operands) = rest.split_once(')')?;
    let numbered = lanes.starts_with(|c: char| c.is_ascii_digit());
    let code = code.split('.').next().unwrap_or(code);
    (plain && numbered).then(|| (code, operands.split_whitespace().next().unwrap_or_default()))
}

/// How the disassembler shows a message to scratch memory: by its surface state from Xe-HPG on, by a binding of its own before.
fn is_scratch(line: &str) -> bool {
    line.contains("MsgDesc:") && (line.contains(", ss )") || line.contains("OWORD block") && line.contains("bti 25"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: &str =
        "send(8)         nullUD          g66UD           g64UD           0x42000504                a0.2<0>UD";
    const ARC: &str = "                ugm MsgDesc: ( store, a32, d32, V1, dst_len = 0, src0_len = 1, ss )  src1_len = 1 ex_bso { align1 1Q $0 };";
    const XE_LP: &str = "                hdc0 MsgDesc: (DC OWORD block write, bti 253, owords = 2, aligned = 0)  mlen 1 { align1 1Q $2 };";
    const OTHER: &str = "                slm MsgDesc: ( load, a32, d32, V4, dst_len = 4, src0_len = 1, flat )  src1_len = 0 { align1 1Q $1 };";

    #[test]
    fn loops_are_counted_without_those_inside() {
        let mad = "mad(8)          g12<1>F         g13<8,8,1>F     g14<8,8,1>F     g15<1,1,1>F      { align1 1Q @3 };";
        let place =
            "mad(8)          g66<1>UD        0x0180UW        g66<8,8,1>UW    0x0004UW { align1 WE_all 1Q I@4 };";
        let guarded =
            "(+f0.0) mad.sat(8) g12<1>HF        g13<8,8,1>HF    g14<8,8,1>HF    g15<1,1,1>HF     { align1 1Q };";
        let inner = ["LABEL2:", mad, mad, place, guarded, SEND, OTHER, "(+f0.0) while(8) JIP:  LABEL2 { align1 1Q };"];
        let outer =
            [SEND, ARC, mad, SEND, XE_LP, "LABEL0:", "while(8)        JIP:  LABEL1     { align1 1Q };", SEND, ARC];
        let text = [&["LABEL1:"] as &[_], &inner, &outer].concat().join("\n");
        let found = Loops::of(&text);
        assert_eq!(found, Loops { instructions: 6, multiply_adds: 3, messages: 1, scratch: [0, 2] });
        assert!((found.instructions_a_multiply_add() - 2.0).abs() < 1e-9);
        let spilling = Loops::of(&text.replace(OTHER, ARC));
        assert_eq!(spilling.scratch, [1, 3]);
    }

    #[test]
    fn no_loop_has_no_multiply_adds() {
        assert_eq!(Loops::of(&[SEND, ARC].join("\n")), Loops::default());
    }
}
