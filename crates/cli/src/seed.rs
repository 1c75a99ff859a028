//! `--seed`: a number, or one that is drawn.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// A seed as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeedArg {
    /// This one.
    Number(u64),
    /// `random`, or -1 as other programs have it: another one each time.
    Random,
}

impl SeedArg {
    /// The seed; a random one is drawn anew by each call. It has 32 bits, which every other program takes.
    pub(super) fn number(self) -> u64 {
        match self {
            SeedArg::Number(number) => number,
            // The standard library keys its hashes with the system's random numbers.
            SeedArg::Random => RandomState::new().hash_one(std::process::id()) & u64::from(u32::MAX),
        }
    }
}

impl FromStr for SeedArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("random") || text == "-1" {
            return Ok(SeedArg::Random);
        }
        let expected = || format!("expected a whole number from 0 to {}, or random, which is also -1", u64::MAX);
        text.parse().map(SeedArg::Number).map_err(|_| expected())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_or_drawn() {
        assert_eq!("7".parse(), Ok(SeedArg::Number(7)));
        assert_eq!(u64::MAX.to_string().parse(), Ok(SeedArg::Number(u64::MAX)));
        for text in ["random", "Random", "-1"] {
            assert_eq!(text.parse(), Ok(SeedArg::Random), "{text}");
        }
        for text in ["-2", "1.5", "", "18446744073709551616", "x"] {
            assert!(text.parse::<SeedArg>().is_err_and(|e| e.contains("random")), "{text}");
        }
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| SeedArg::Random.number()).collect();
        assert!(drawn.len() > 95 && drawn.iter().all(|seed| *seed <= u32::MAX.into()), "{drawn:?}");
    }
}
