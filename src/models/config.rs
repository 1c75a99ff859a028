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
            OneOrMany::Many(values) => Err(Error::model(format!(
                "config.json: {field}: expected one number or {levels}, got {}; the file is damaged",
                values.len()
            ))),
        }
    }
}

/// A field and the JSON list of its values that this engine computes; the first is what diffusers or transformers assume
/// when the field is absent.
pub(super) type Supported = (&'static str, &'static str);

/// A field, and the least and the most of each of its numbers. What no published network exceeds, with room: nothing is allocated, no loop
/// is entered and no product is taken with a number outside.
pub(super) type Bound = (&'static str, f64, f64);

/// Levels of a network; published ones have 5 at most. Each doubles the picture's side.
pub(super) const MAX_LEVELS: usize = 12;
/// Channels of any layer.
pub(super) const CHANNELS: f64 = 16_384.0;
/// Channels of states, embeddings and inner layers.
pub(super) const WIDTH: f64 = 65_536.0;
/// Channels of latents and of pictures.
pub(super) const PLANES: f64 = 1024.0;
/// Blocks of a level, layers of a block.
pub(super) const LAYERS: f64 = 64.0;
/// Heads, and groups of norms.
pub(super) const SHARES: f64 = 1024.0;

/// Refuses numbers outside their bounds and lists of more than [`MAX_LEVELS`], before anything is made of them.
fn check_bounds(config: &Value, origin: &str, bounds: &[Bound]) -> Result<()> {
    let refuse = |field: &str, expected: String, got: String| {
        Err(Error::model(format!(
            "{origin}: {field}: expected {expected}, got {got}; no published model has that, the file is damaged"
        ))
        .in_file(origin))
    };
    for (field, least, most) in bounds {
        let Some(value) = config.get(field).filter(|value| !value.is_null()) else { continue };
        let list = value.as_array();
        if let Some(list) = list.filter(|list| list.len() > MAX_LEVELS) {
            return refuse(field, format!("at most {MAX_LEVELS} numbers"), list.len().to_string());
        }
        let numbers = list.map_or(std::slice::from_ref(value), Vec::as_slice);
        // What is no number is refused for its type.
        for number in numbers.iter().filter_map(|number| number.as_f64()) {
            if !(*least..=*most).contains(&number) {
                return refuse(field, format!("{least} to {most}"), number.to_string());
            }
        }
    }
    Ok(())
}

/// Reads a config; `origin` names it in messages.
///
/// # Errors
/// When the text is not JSON, a field has the wrong type, a field of `supported` has another value, or a number is out of its bounds.
pub(super) fn parse<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    supported: &[Supported],
    bounds: &[Bound],
) -> Result<T> {
    let refuse = |error: serde_json::Error| {
        Error::model(format!("{origin}: expected the config.json of a model this engine knows: {error}"))
            .in_file(origin)
    };
    let config: Value = serde_json::from_str(text).map_err(refuse)?;
    for (field, values) in supported {
        let accepted: Vec<Value> = serde_json::from_str(values).expect("the tables of accepted values are JSON");
        match config.get(field) {
            Some(value) if !accepts(&accepted, value) => {
                return Err(Error::model(format!(
                    "{origin}: {field}: expected {}, got {value}; this kind of network is not supported",
                    accepted.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ")
                ))
                .in_file(origin));
            }
            _ => {}
        }
    }
    check_bounds(&config, origin, bounds)?;
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
    Err(Error::model(format!("config.json: {field}: expected {}; the file is damaged or not supported", expected())))
}
