//! What a field takes, in JSON and in words.

use std::fmt;

use serde_json::Value;

use crate::{Error, Result};

/// What a field takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// Yes or no.
    Switch,
    /// A whole number from `low` to `high`, a multiple of `step`.
    Whole {
        /// The least.
        low: u64,
        /// The most.
        high: u64,
        /// 1, or what it is a multiple of.
        step: u64,
    },
    /// Two whole numbers.
    Wholes {
        /// The least of each.
        low: u64,
        /// The most of each.
        high: u64,
    },
    /// A number.
    Number(Range),
    /// Two numbers.
    Pair(Range),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A name that is parsed; the error lists what there is.
    Named(fn(&str) -> Result<()>),
    /// A folder, a file, or a name that is looked up.
    Place,
    /// A file: its path, or in JSON `{"bytes": "base64"}`.
    File,
}

/// Numbers between two ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Whether the lower end belongs to it.
    pub low_is_in: bool,
    /// Whether the upper end belongs to it.
    pub high_is_in: bool,
}

/// Both ends belong to it.
pub(crate) const fn from_to(low: f64, high: f64) -> Range {
    Range { low, high, low_is_in: true, high_is_in: true }
}

/// The upper end belongs to it.
pub(crate) const fn above(low: f64, high: f64) -> Range {
    Range { low, high, low_is_in: false, high_is_in: true }
}

impl Range {
    /// Whether a number is in it; NaN is in none.
    pub fn has(&self, value: f64) -> bool {
        (value > self.low || self.low_is_in && value == self.low)
            && (value < self.high || self.high_is_in && value == self.high)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { low, high, .. } = self;
        match (self.low_is_in, self.high_is_in) {
            (true, true) => write!(f, "a number from {low} to {high}"),
            (false, true) => write!(f, "a number above {low} and up to {high}"),
            (true, false) => write!(f, "a number from {low} and below {high}"),
            (false, false) => write!(f, "a number above {low} and below {high}"),
        }
    }
}

impl Kind {
    /// Whether a JSON value is of the kind and in range.
    ///
    /// # Errors
    /// What was expected and what came: "expected 1 to 1000, got 0".
    pub fn check(&self, value: &Value) -> std::result::Result<(), String> {
        let refused = || Err(format!("expected {self}, got {}", shortened(value)));
        let fits = match self {
            Kind::Text | Kind::Place => value.is_string(),
            Kind::File => value.is_string() || value.get("bytes").is_some_and(Value::is_string),
            Kind::Switch => value.is_boolean(),
            Kind::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Kind::Number(range) => value.as_f64().is_some_and(|value| range.has(value)),
            Kind::Pair(range) => {
                two(value).is_some_and(|two| two.iter().all(|one| one.as_f64().is_some_and(|one| range.has(one))))
            }
            Kind::Wholes { low, high } => {
                let is_in = |one: &Value| one.as_u64().is_some_and(|one| (*low..=*high).contains(&one));
                two(value).is_some_and(|two| two.iter().all(is_in))
            }
            Kind::Whole { low, high, step } => {
                let Some(number) = value.as_u64() else { return refused() };
                if *step > 1 && !((*low..=*high).contains(&number) && number.is_multiple_of(*step)) {
                    let near = (number.clamp(*low, *high) + step / 2) / step * step;
                    return Err(format!("expected {self}, got {number}; the nearest is {near}"));
                }
                (*low..=*high).contains(&number)
            }
            Kind::Named(parse) => match value.as_str() {
                Some(text) => {
                    return parse(text).map_err(|error| match error.cause() {
                        Error::Request { message, .. } => message.clone(),
                        other => other.to_string(),
                    });
                }
                None => false,
            },
        };
        if fits { Ok(()) } else { refused() }
    }
}

/// In words, as behind "expected".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text"),
            Kind::Switch => f.write_str("true or false"),
            Kind::Whole { low: 0, high: u64::MAX, .. } => f.write_str("a whole number"),
            Kind::Whole { low, high, step: 1 } => write!(f, "{low} to {high}"),
            Kind::Whole { low, high, step } => write!(f, "a multiple of {step} from {low} to {high}"),
            Kind::Wholes { low, high } => write!(f, "two whole numbers from {low} to {high}"),
            Kind::Number(range) => range.fmt(f),
            Kind::Pair(range) => write!(f, "two of {range}"),
            Kind::OneOf(words) => f.write_str(&words.join(" or ")),
            Kind::Named(_) => f.write_str("a name"),
            Kind::Place => f.write_str("a path or a name"),
            Kind::File => f.write_str("a path, or an object with bytes in base64"),
        }
    }
}

fn two(value: &Value) -> Option<&[Value; 2]> {
    value.as_array()?.as_slice().try_into().ok()
}

/// How much of a value a message shows.
const SHOWN: usize = 60;

/// JSON of at most [`SHOWN`] letters.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_of_another_kind_or_out_of_range_is_refused_in_words() {
        let steps = Kind::Whole { low: 1, high: 1000, step: 1 };
        let side = Kind::Whole { low: 64, high: 8192, step: 8 };
        let cases = [
            (steps, json!(0), "expected 1 to 1000, got 0"),
            (steps, json!(2.5), "expected 1 to 1000, got 2.5"),
            (side, json!(100), "expected a multiple of 8 from 64 to 8192, got 100; the nearest is 104"),
            (side, json!(7), "expected a multiple of 8 from 64 to 8192, got 7; the nearest is 64"),
            (Kind::Number(from_to(0.0, 1.0)), json!(1.5), "expected a number from 0 to 1, got 1.5"),
            (Kind::Number(above(0.0, 1.0)), json!(0), "expected a number above 0 and up to 1, got 0"),
            (Kind::Number(from_to(0.0, 1.0)), json!("x"), "expected a number from 0 to 1, got \"x\""),
            (Kind::Wholes { low: 0, high: 9 }, json!([1]), "expected two whole numbers from 0 to 9, got [1]"),
            (Kind::OneOf(&["a", "b"]), json!("c"), "expected a or b, got \"c\""),
            (Kind::Switch, json!("yes"), "expected true or false, got \"yes\""),
            (
                Kind::File,
                json!({ "byte": "" }),
                "expected a path, or an object with bytes in base64, got {\"byte\":\"\"}",
            ),
        ];
        for (kind, value, why) in cases {
            assert_eq!(kind.check(&value), Err(why.to_owned()), "{value}");
        }
        for (kind, value) in [(steps, json!(1000)), (side, json!(64)), (Kind::Pair(from_to(0.0, 1.0)), json!([0, 0.5]))]
        {
            assert_eq!(kind.check(&value), Ok(()), "{value}");
        }
        assert!(!from_to(0.0, 1.0).has(f64::NAN) && !above(0.0, 1.0).has(0.0));
    }
}
