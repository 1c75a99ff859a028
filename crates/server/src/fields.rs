//! JSON of other programs' requests, field by field. What is left at the end is unknown, which callers are told.

use serde_json::{Map, Value};

use crate::refusal::{Answer, Refusal};

/// The fields of an object that nobody has taken.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// What messages put in front of names.
    prefix: &'static str,
}

impl Fields {
    pub(crate) fn of(value: Value, prefix: &'static str) -> Answer<Self> {
        match value {
            Value::Object(map) => Ok(Fields { map, prefix }),
            other => {
                let what = if prefix.is_empty() { "the request" } else { prefix.trim_end_matches('.') };
                Err(Refusal::bad(format!("{what}: expected an object, got {}", short(&other))))
            }
        }
    }

    /// Takes a field; `null` says nothing.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn typed<T>(&mut self, name: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Answer<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refuse(name, format!("expected {what}, got {}", short(&value)))),
        }
    }

    pub(crate) fn refuse(&self, name: &str, message: impl Into<String>) -> Refusal {
        Refusal::field(format!("{}{name}", self.prefix), message)
    }

    pub(crate) fn text(&mut self, name: &str) -> Answer<Option<String>> {
        self.typed(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A text that says something.
    pub(crate) fn word(&mut self, name: &str) -> Answer<Option<String>> {
        Ok(self.text(name)?.filter(|text| !text.trim().is_empty()))
    }

    /// A whole number, also one that a form sent as a text or a number like 20.0.
    pub(crate) fn whole(&mut self, name: &str) -> Answer<Option<i64>> {
        self.typed(name, "a whole number", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_i64().or_else(|| {
                let number = value.as_f64()?;
                (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
            }),
        })
    }

    pub(crate) fn number(&mut self, name: &str) -> Answer<Option<f64>> {
        self.typed(name, "a number", |value| match value {
            Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            value => value.as_f64(),
        })
    }

    pub(crate) fn flag(&mut self, name: &str) -> Answer<Option<bool>> {
        self.typed(name, "true or false", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            Value::Number(number) => number.as_u64().filter(|number| *number < 2).map(|number| number == 1),
            value => value.as_bool(),
        })
    }

    pub(crate) fn list(&mut self, name: &str) -> Answer<Vec<Value>> {
        Ok(self.typed(name, "a list", |value| value.as_array().cloned())?.unwrap_or_default())
    }

    pub(crate) fn object(&mut self, name: &str) -> Answer<Option<Map<String, Value>>> {
        self.typed(name, "an object", |value| value.as_object().cloned())
    }

    /// A field that is known and has one value that can be honoured.
    pub(crate) fn only(&mut self, name: &str, allowed: impl Fn(&Value) -> bool, why: &str) -> Answer<()> {
        match self.take(name) {
            Some(value) if !allowed(&value) => Err(self.refuse(name, format!("{why}, got {}", short(&value)))),
            _ => Ok(()),
        }
    }

    /// Fields that are known and change nothing here.
    pub(crate) fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// What nobody has taken.
    pub(crate) fn rest(self) -> Vec<String> {
        self.map.into_iter().map(|(name, _)| name).collect()
    }
}

/// Whether a value asks for nothing: what stands for "not set" in other programs' requests.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.trim().is_empty() || text == "None",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A value as messages show it.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_read_in_their_kinds() {
        let value = json!({ "a": 20.0, "b": "7", "c": null, "d": 1.5, "e": "true", "f": "x", "g": [], "h": 3 });
        let mut fields = Fields::of(value, "").expect("an object");
        assert_eq!(fields.whole("a").expect("whole"), Some(20));
        assert_eq!(fields.whole("b").expect("whole"), Some(7));
        assert_eq!(fields.whole("c").expect("nothing"), None);
        assert_eq!(fields.whole("d").expect_err("1.5").told(), "d: expected a whole number, got 1.5");
        assert_eq!(fields.flag("e").expect("a flag"), Some(true));
        assert!(fields.number("f").is_err());
        assert!(fields.only("g", is_off, "styles are not known here").is_ok());
        assert_eq!(fields.rest(), ["h"]);
        assert!(Fields::of(json!([1]), "").is_err());
        assert!(short(&json!("é".repeat(100))).len() < 200);
    }
}
