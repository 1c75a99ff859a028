//! Faults that a device pretends to have, to test what finds and avoids them. They change the text that the compiler gets, what the
//! driver says of itself, or how a call ends; nothing of them is in a device that was opened without one.

use std::str::FromStr;

use super::template::tier_of;
use crate::record::{Caps, Kernel, Variant};
use crate::{Error, Tier};

/// A fault of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverFault {
    /// The device does not open.
    Open,
    /// Kernels with 16-bit types get NaN from `exp` and `exp2`.
    HalfExp,
    /// Subgroups have half of the size that the driver says.
    SubgroupSize,
    /// Workgroup memory holds what was there before, whether or not zeroes were asked for.
    WorkgroupMemory,
    /// Cooperative matrices are loaded transposed.
    TransposedMatrix,
    /// Kernels of a tier do not compile.
    Kernel(Tier),
    /// The compiler takes the process down with it at a kernel of a tier.
    Crash(Tier),
    /// Device memory ends at the call of this number, counted from 0; later calls succeed.
    Memory(u64),
    /// The call of this number is refused; later calls succeed.
    Refusal(u64),
    /// The device is lost at the call of this number.
    Loss(u64),
}

const NAMES: &str = "open, half-exp, subgroup-size, workgroup-memory, transposed-matrix, kernel:TIER, crash:TIER, memory:CALL, \
                     refusal:CALL, loss:CALL";

impl FromStr for DriverFault {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name.split_once(':') {
            Some(("kernel", tier)) => DriverFault::Kernel(tier.parse()?),
            Some(("crash", tier)) => DriverFault::Crash(tier.parse()?),
            Some(("memory", call)) => DriverFault::Memory(number(call)?),
            Some(("refusal", call)) => DriverFault::Refusal(number(call)?),
            Some(("loss", call)) => DriverFault::Loss(number(call)?),
            None if name == "open" => DriverFault::Open,
            None if name == "half-exp" => DriverFault::HalfExp,
            None if name == "subgroup-size" => DriverFault::SubgroupSize,
            None if name == "workgroup-memory" => DriverFault::WorkgroupMemory,
            None if name == "transposed-matrix" => DriverFault::TransposedMatrix,
            _ => return Err(Error::refused(format!("driver fault: expected one of {NAMES}, got {name:?}"))),
        })
    }
}

fn number(call: &str) -> Result<u64, Error> {
    call.parse().map_err(|_| Error::refused(format!("driver fault: expected the number of a call, got {call:?}")))
}

impl std::fmt::Display for DriverFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DriverFault::Open => f.write_str("open"),
            DriverFault::HalfExp => f.write_str("half-exp"),
            DriverFault::SubgroupSize => f.write_str("subgroup-size"),
            DriverFault::WorkgroupMemory => f.write_str("workgroup-memory"),
            DriverFault::TransposedMatrix => f.write_str("transposed-matrix"),
            DriverFault::Kernel(tier) => write!(f, "kernel:{tier}"),
            DriverFault::Crash(tier) => write!(f, "crash:{tier}"),
            DriverFault::Memory(call) => write!(f, "memory:{call}"),
            DriverFault::Refusal(call) => write!(f, "refusal:{call}"),
            DriverFault::Loss(call) => write!(f, "loss:{call}"),
        }
    }
}

impl DriverFault {
    /// What the driver then says of itself.
    pub(super) fn change_caps(self, caps: &mut Caps) {
        if self == DriverFault::SubgroupSize {
            caps.subgroup_size = (2 * caps.subgroup_size.0, 2 * caps.subgroup_size.1);
        }
    }

    /// What the driver then compiles in place of a kernel's text.
    pub(super) fn change_text(self, wgsl: String) -> String {
        match self {
            DriverFault::HalfExp if wgsl.contains("enable f16;") => exp_is_nan(&wgsl),
            DriverFault::WorkgroupMemory => with_garbage(&wgsl),
            DriverFault::TransposedMatrix => {
                let marked = wgsl.replace("coopLoadT<", "coopLoad\u{1}<").replace("coopLoad<", "coopLoadT<");
                marked.replace("coopLoad\u{1}<", "coopLoad<")
            }
            _ => wgsl,
        }
    }

    /// Whether the driver then refuses a kernel.
    pub(super) fn refuses(self, kernel: &Kernel, variant: &Variant) -> bool {
        let tier = tier_of(kernel, variant);
        if self == DriverFault::Crash(tier) {
            std::process::abort();
        }
        self == DriverFault::Kernel(tier)
    }
}

/// `exp(x)` as the root of something negative.
fn exp_is_nan(wgsl: &str) -> String {
    let mut changed = String::with_capacity(wgsl.len() + 256);
    let mut rest = wgsl;
    while let Some(at) = ["exp(", "exp2("].iter().filter_map(|name| rest.find(name)).min() {
        let open = at + rest[at..].find('(').expect("the name ends in a bracket");
        let close = open + closing(&rest[open..]);
        changed.push_str(&rest[..at]);
        changed.push_str(&format!("sqrt(-1.0 - {}", &rest[at..=open]));
        // What stands between the brackets may have an exponential too.
        changed.push_str(&exp_is_nan(&rest[open + 1..close]));
        changed.push_str("))");
        rest = &rest[close + 1..];
    }
    changed + rest
}

/// Where the bracket that `text` begins with is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return at,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len() - 1
}

/// Every workgroup array is filled with a large number before the kernel's first statement.
fn with_garbage(wgsl: &str) -> String {
    let Some(main) = wgsl.find("fn main(") else { return wgsl.to_owned() };
    let Some(body) = wgsl[main..].find(") {").map(|at| main + at + 3) else { return wgsl.to_owned() };
    let builtin = "@builtin(local_invocation_index) ";
    let Some(local) = wgsl[main..body].split_once(builtin).and_then(|(_, rest)| rest.split(':').next()) else {
        return wgsl.to_owned();
    };
    let mut filling = String::new();
    for declared in wgsl.lines().filter_map(|line| line.trim().strip_prefix("var<workgroup> ")) {
        let Some((name, array)) = declared.split_once(": array<") else { continue };
        let Some(comma) = end_of_type(array) else { continue };
        let (element, length) = (&array[..comma], array[comma + 1..].trim_end_matches(';').trim_end_matches('>'));
        filling.push_str(&format!(
            "\n    for (var garbage = {local}; garbage < {length}; garbage += INVOCATIONS_OF_FAULT) {{ {name}[garbage] = {}; }}",
            garbage(wgsl, element)
        ));
    }
    let size =
        wgsl[..main].rfind("@workgroup_size(").map(|at| &wgsl[at + 16..]).and_then(|rest| rest.split(')').next());
    filling = filling.replace("INVOCATIONS_OF_FAULT", &format!("({})", size.unwrap_or("1")));
    format!("{}{filling}\n    workgroupBarrier();{}", &wgsl[..body], &wgsl[body..])
}

/// A value of `element`, which is a number, a vector or a struct of these: large numbers that half precision holds.
fn garbage(wgsl: &str, element: &str) -> String {
    let Some((_, members)) = wgsl.split_once(&format!("struct {element} {{")) else {
        return format!("{element}({})", if element.contains("u32") { "77u" } else { "30000.0" });
    };
    let types = members.lines().take_while(|line| !line.contains('}')).filter_map(|line| line.split_once(": "));
    let values = types.map(|(_, of)| garbage(wgsl, of.trim_end_matches(',')));
    format!("{element}({})", values.collect::<Vec<_>>().join(", "))
}

/// Where the first type of `vec4<f32>, 8>` ends.
fn end_of_type(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_become_roots_of_something_negative() {
        assert_eq!(exp_is_nan("a = exp(b + exp2(c)) * d;"), "a = sqrt(-1.0 - exp(b + sqrt(-1.0 - exp2(c)))) * d;");
        assert_eq!(exp_is_nan("a = b;"), "a = b;");
    }

    #[test]
    fn workgroup_memory_is_filled_first() {
        let text = "var<workgroup> a: array<vec4<f32>, 2u * N>;\nvar<workgroup> flag: u32;\n\
                    @compute @workgroup_size(N)\nfn main(@builtin(local_invocation_index) lane: u32) {\n    a[0] = vec4<f32>();\n}";
        let changed = with_garbage(text);
        assert!(
            changed.contains(
                "for (var garbage = lane; garbage <  2u * N; garbage += (N)) { a[garbage] = vec4<f32>(30000.0); }"
            ),
            "{changed}"
        );
        assert!(changed.contains("workgroupBarrier();\n    a[0]"), "{changed}");
        assert_eq!(with_garbage("fn main() {}"), "fn main() {}");
        let unit = "struct Unit {\n    first: vec4<f16>,\n    count: u32,\n}\n";
        assert_eq!(garbage(unit, "Unit"), "Unit(vec4<f16>(30000.0), u32(77u))");
    }

    #[test]
    fn names_are_read_back() {
        for name in [
            "open",
            "half-exp",
            "subgroup-size",
            "workgroup-memory",
            "transposed-matrix",
            "kernel:f16",
            "crash:matrices",
            "memory:0",
            "refusal:12",
            "loss:345",
        ] {
            assert_eq!(name.parse::<DriverFault>().expect("a name").to_string(), name);
        }
        assert!("none".parse::<DriverFault>().is_err() && "kernel:f64".parse::<DriverFault>().is_err());
        assert!("memory:some".parse::<DriverFault>().is_err());
    }
}
