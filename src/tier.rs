//! What kernels use of a device, in tiers that can be left out one by one. Beside `error`, importable by all.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// What a kernel needs of a device. A driver may offer a tier and get it wrong: then the device is used without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// f32 arithmetic on storage buffers, which everything else stands on.
    Single,
    /// 16-bit types in shaders (`SHADER_F16`): activations and weights in f16, sums in f32.
    Half,
    /// Products of f16 values two at once, in sums of four. Only GPUs take them, and not Intel's.
    Packed,
    /// Subgroup operations.
    Subgroups,
    /// Cooperative matrices of f16 operands with f32 sums. Only GPUs take them.
    Matrices,
}

impl Tier {
    /// All, each after those that it stands on.
    pub const ALL: [Tier; 5] = [Tier::Single, Tier::Half, Tier::Packed, Tier::Subgroups, Tier::Matrices];

    /// The tiers that this one stands on, f32 aside.
    pub const fn needs(self) -> &'static [Tier] {
        match self {
            Tier::Single | Tier::Half | Tier::Subgroups => &[],
            Tier::Packed => &[Tier::Half],
            Tier::Matrices => &[Tier::Half, Tier::Subgroups],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Tier::Single => "f32",
            Tier::Half => "f16",
            Tier::Packed => "packed-f16",
            Tier::Subgroups => "subgroups",
            Tier::Matrices => "matrices",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tier {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let names = || Tier::ALL.map(Tier::name).join(", ");
        let found = Tier::ALL.into_iter().find(|tier| tier.name() == name);
        found.ok_or_else(|| Error::request("tier", format!("expected one of {}, got {name:?}", names())))
    }
}

serde_by_name!(Tier);

/// The tiers that may be used; all of them by default. [`Tier::Single`] always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiers([bool; Tier::ALL.len()]);

impl Default for Tiers {
    fn default() -> Self {
        Tiers([true; Tier::ALL.len()])
    }
}

impl Tiers {
    /// f32 alone.
    pub fn none() -> Self {
        Tiers(Tier::ALL.map(|tier| tier == Tier::Single))
    }

    /// Whether a tier may be used: it, and all that it stands on.
    pub fn has(&self, tier: Tier) -> bool {
        self.0[tier as usize] && tier.needs().iter().all(|&needed| self.has(needed))
    }

    /// The same with a tier, and what it stands on.
    #[must_use]
    pub fn with(mut self, tier: Tier) -> Self {
        self.0[tier as usize] = true;
        tier.needs().iter().fold(self, |tiers, &needed| tiers.with(needed))
    }

    /// The same without a tier, and so without those that stand on it.
    #[must_use]
    pub fn without(mut self, tier: Tier) -> Self {
        self.0[tier as usize] = tier == Tier::Single;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_falls_with_what_it_stands_on() {
        let all = Tiers::default();
        assert!(Tier::ALL.iter().all(|&tier| all.has(tier)));
        let without_half = all.without(Tier::Half);
        assert_eq!(Tier::ALL.map(|tier| without_half.has(tier)), [true, false, false, true, false]);
        assert!(!all.without(Tier::Subgroups).has(Tier::Matrices));
        assert!(all.without(Tier::Single).has(Tier::Single));
        assert_eq!(Tier::ALL.map(|tier| Tiers::none().has(tier)), [true, false, false, false, false]);
        let with = Tiers::none().with(Tier::Matrices);
        assert_eq!(Tier::ALL.map(|tier| with.has(tier)), [true, true, false, true, true]);
    }

    #[test]
    fn names_are_read_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse::<Tier>().expect("its name"), tier);
        }
        assert!("f64".parse::<Tier>().expect_err("no tier").to_string().contains("f32, f16, packed-f16"));
    }
}
