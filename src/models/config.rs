//! What all configs share: reading JSON, and refusing by name what is not supported.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// A number for all levels of a network, or one per level.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// The same at every level.
    One(usize),
    /// By level, the finest first.
    Many(Vec<usize>),
}

impl OneOrMany {
    /// The values of `levels` levels.
    ///
    /// # Errors
    /// When there is a value per level and the count differs.
    pub(super) fn levels(&self, field: &str, levels: usize) -> Result<Vec<usize>> {
        match self {
            OneOrMany::One(value) => Ok(vec![*value; levels]),
            OneOrMany::Many(values) if values.len() == levels => Ok(values.clone()),
            OneOrMany::Many(values) => Err(Error::Model(format!(
                "config.json: {field}: expected one number or {levels}, got {}; the file is damaged",
                values.len()
            ))),
        }
    }
}

/// A field and the JSON list of its values that this engine computes; the first is what diffusers or transformers assume
/// when the field is absent.
pub(super) type Supported = (&'static str, &'static str);

/// Reads a config; `origin` names it in messages.
///
/// # Errors
/// When the text is not JSON, a field has the wrong type, or a field of `supported` has another value.
pub(super) fn parse<T: DeserializeOwned>(text: &str, origin: &str, supported: &[Supported]) -> Result<T> {
    let refuse = |error: serde_json::Error| {
        Error::Model(format!("{origin}: expected the config.json of a model this engine knows: {error}"))
    };
    let config: Value = serde_json::from_str(text).map_err(refuse)?;
    for (field, values) in supported {
        let accepted: Vec<Value> = serde_json::from_str(values).expect("the tables of accepted values are JSON");
        match config.get(field) {
            Some(value) if !accepts(&accepted, value) => {
                return Err(Error::Model(format!(
                    "{origin}: {field}: expected {}, got {value}; this kind of network is not supported",
                    accepted.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
                )));
            }
            _ => {}
        }
    }
    // From the text once more, for the line and column in messages.
    serde_json::from_str(text).map_err(refuse)
}

/// Whether a value, or every element of a list, is among the accepted ones; 1 and 1.0 are the same number.
fn accepts(accepted: &[Value], value: &Value) -> bool {
    let is = |a: &Value| a == value || a.as_f64().is_some_and(|a| value.as_f64() == Some(a));
    accepted.iter().any(is) || value.as_array().is_some_and(|list| list.iter().all(|v| accepts(accepted, v)))
}

/// An error naming the field unless the condition holds.
pub(super) fn expect(field: &str, holds: bool, expected: impl FnOnce() -> String) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Model(format!("config.json: {field}: expected {}; the file is damaged or not supported", expected())))
}
