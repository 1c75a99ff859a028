//! JSON that is held against the rows of the fields before anything is made of it: a name that is not known is an error that names the
//! nearest, never a default.

use serde_json::Value;

use crate::order::fields::JOB;
use crate::pipeline::{Field, REQUEST};
use crate::{Error, Result};

/// How alike names have to be to be offered, of 1.
const ALIKE: f64 = 0.72;

/// Where a request's fields stand in a job.
const INSIDE: &str = "request.";

/// Every field by its place in a job.
fn rows() -> impl Iterator<Item = (String, &'static Field)> {
    let request = REQUEST.iter().map(|field| (format!("{INSIDE}{}", field.key), field));
    JOB.iter().map(|field| (field.key.to_owned(), field)).chain(request)
}

/// # Errors
/// [`Error::Request`] that begins with the place: `adapters[0].weihgt: unknown, did you mean weight?`.
pub(super) fn check(job: &Value) -> Result<()> {
    Schema { rows: rows().collect() }.check(job, "", "")
}

/// Leaves out what is `null`, which says nothing.
pub(super) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

struct Schema {
    rows: Vec<(String, &'static Field)>,
}

impl Schema {
    /// `pattern` is the value's place as rows have it, `place` as the job has it.
    fn check(&self, value: &Value, pattern: &str, place: &str) -> Result<()> {
        let row = self.rows.iter().find(|(key, _)| key == pattern).map(|(_, field)| field);
        let at =
            |why: String| if place.is_empty() { Error::refused(why) } else { Error::request(place.to_owned(), why) };
        match (value, row) {
            (Value::Null, _) => Ok(()),
            (Value::Object(fields), _) if self.has_below(pattern, ".") => {
                let below = |name: &str, on: &str| if on.is_empty() { name.to_owned() } else { format!("{on}.{name}") };
                for (name, value) in fields {
                    let inner = below(name, pattern);
                    if !self.knows(&inner) {
                        return Err(self.unknown(name, pattern, &below(name, place)));
                    }
                    self.check(value, &inner, &below(name, place))?;
                }
                Ok(())
            }
            (Value::Array(values), None) if self.has_below(pattern, "[]") => {
                let one = |(i, value)| self.check(value, &format!("{pattern}[]"), &format!("{place}[{i}]"));
                values.iter().enumerate().try_for_each(one)
            }
            (_, Some(field)) => field.kind.check(value).map_err(at),
            (_, None) if self.has_below(pattern, "[]") => Err(at("expected a list".into())),
            (_, None) => Err(at(format!("expected an object with {}", self.names_below(pattern).join(", ")))),
        }
    }

    fn has_below(&self, pattern: &str, sign: &str) -> bool {
        pattern.is_empty()
            || self.rows.iter().any(|(key, _)| key.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(sign)))
    }

    fn knows(&self, pattern: &str) -> bool {
        self.rows.iter().any(|(key, _)| {
            key.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Names that may stand in an object, in the rows' order.
    fn names_below(&self, pattern: &str) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (key, _) in &self.rows {
            if let Some(name) = name_below(key, pattern).filter(|name| !names.contains(name)) {
                names.push(name);
            }
        }
        names
    }

    /// What is meant may be a name beside it under this or the command's name, or one of another object.
    fn unknown(&self, name: &str, pattern: &str, place: &str) -> Error {
        let plain = |name: &str| name.to_lowercase().replace('-', "_");
        let (wanted, mut near): (String, Vec<(f64, String)>) = (plain(name), Vec::new());
        for (key, field) in &self.rows {
            let beside = name_below(key, pattern);
            let last = key.rsplit('.').next().unwrap_or(key);
            let option = field.option.map(plain);
            // Of names as alike, one that stands beside is meant, then the command's name for one, then one from further away.
            let further = if key.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.')) { 0.01 } else { 0.05 };
            let shown = if further < 0.02 { key[pattern.len()..].trim_start_matches('.') } else { key.as_str() };
            let names = [
                (beside, beside.unwrap_or_default(), 0.0),
                (option.as_deref(), shown, further),
                (Some(last), shown, further + 0.005),
            ];
            for (known, shown, less) in names {
                let Some(known) = known else { continue };
                near.push((strsim::jaro_winkler(&wanted, &plain(known)) - less, shown.to_owned()));
            }
        }
        // The first of the best: rows stand in the order in which people look.
        let nearest = near.into_iter().rev().filter(|(alike, _)| *alike > ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((_, near)) => format!("did you mean {near}?"),
            None => format!("there are {}", self.names_below(pattern).join(", ")),
        };
        Error::request(place.to_owned(), format!("unknown, {hint}"))
    }
}

/// The name of an object's field on the way to a row.
fn name_below<'a>(key: &'a str, pattern: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(pattern)?;
    let rest = if pattern.is_empty() { rest } else { rest.strip_prefix('.')? };
    rest.split(['.', '[']).next()
}
