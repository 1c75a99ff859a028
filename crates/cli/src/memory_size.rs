//! Amounts of memory as they are typed.

use std::str::FromStr;

use chiaro::{Error, Result};

/// Bytes, typed with a unit: 4GB is 4·10⁹, 4GiB is 4·2³⁰.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemorySize(pub(crate) u64);

const UNITS: [(&str, u64); 6] =
    [("kb", 1_000), ("mb", 1_000_000), ("gb", 1_000_000_000), ("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];

impl FromStr for MemorySize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused =
            || Error::refused(format!("--vram: expected a size such as 4GB, 1.5GiB or 1500MiB, got {text:?}"));
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refused)?;
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start().to_ascii_lowercase();
        let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
        let number: f64 = number.parse().map_err(|_| refused())?;
        let size = number * *bytes as f64;
        // Everything below 2^53 is exact, and more is no memory.
        if (1.0..9e15).contains(&size) { Ok(MemorySize(size as u64)) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4GB", 4_000_000_000),
            ("4 gb", 4_000_000_000),
            ("1500MiB", 1500 << 20),
            ("1.5GiB", 3 << 29),
            ("0.25kB", 250),
            ("2.3GB", 2_300_000_000),
        ] {
            assert_eq!(text.parse::<MemorySize>().expect(text), MemorySize(bytes), "{text}");
        }
        for text in ["", "4", "GB", "4G", "-4GB", "0GB", "4GBs", "1.2.3GB", "99999999999GB", ".GB", "NaNGB", "4 GB 3"] {
            let error = text.parse::<MemorySize>().expect_err(text).to_string();
            assert!(error.contains("--vram: expected a size"), "{text:?}: {error}");
        }
    }
}
