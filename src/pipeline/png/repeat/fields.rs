//! Named values of a picture's parameters: each is asked for by somebody, or told as not repeated.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// How much of a value a line shows.
const SHOWN: usize = 40;

/// Values by name, and which of them were asked for.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: Vec<(String, Value)>,
    asked: RefCell<BTreeSet<usize>>,
}

impl From<Vec<(String, Value)>> for Fields {
    fn from(values: Vec<(String, Value)>) -> Self {
        Fields { values, asked: RefCell::default() }
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(values: Map<String, Value>) -> Self {
        values.into_iter().collect::<Vec<_>>().into()
    }
}

impl Fields {
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(own, value)| own == name && !value.is_null())
    }

    /// The first value of a name that is not null; all of that name are asked for then.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.skip(&[name]);
        self.values.iter().find(|(own, value)| own == name && !value.is_null()).map(|(_, value)| value)
    }

    /// A value as text; numbers as they are written.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// A text that says something: neither empty nor "None".
    pub(super) fn named(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.trim().to_owned()).filter(|text| !matches!(text.as_str(), "" | "None" | "none"))
    }

    /// # Errors
    /// When there is a value, and it is no number of this kind.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.text(name).map(|text| number(name, &text)).transpose()
    }

    /// Width and height, as in `512x768`, `(512, 768)` or `[512, 768]`.
    ///
    /// # Errors
    /// When there is a value, and it is not that.
    pub(super) fn size(&self, name: &str) -> Result<Option<(usize, usize)>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let bare = text.trim_matches(|sign: char| "()[] ".contains(sign));
        let sides = bare.split_once(['x', ',', '×']);
        let sides = sides.and_then(|(width, height)| Some((width.trim().parse().ok()?, height.trim().parse().ok()?)));
        sides.map(Some).ok_or_else(|| Error::refused(format!("{name}: expected a size as in 512x768, got {text:?}")))
    }

    /// What has no effect on pixels, or is repeated in another way.
    pub(super) fn skip(&self, names: &[&str]) {
        let of = self.values.iter().enumerate().filter(|(_, (own, _))| names.contains(&own.as_str()));
        self.asked.borrow_mut().extend(of.map(|(i, _)| i));
    }

    /// The same for values that say no more than what is done anyway.
    pub(super) fn skip_if(&self, name: &str, says_nothing: impl Fn(&str) -> bool) {
        let nothing = |value: &Value| says_nothing(value.as_str().map_or(value.to_string(), str::to_owned).trim());
        if self.values.iter().filter(|(own, _)| own == name).all(|(_, value)| nothing(value)) {
            self.skip(&[name]);
        }
    }

    /// Every name with a prefix, in order.
    pub(super) fn names_with(&self, prefix: &str) -> Vec<String> {
        self.values.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(name, _)| name.clone()).collect()
    }

    /// What nobody asked for: names with their values, shortened. Of nulls there is nothing to say.
    pub(super) fn left(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let left = self.values.iter().enumerate().filter(|(i, (_, value))| !asked.contains(i) && !value.is_null());
        left.map(|(_, (name, value))| told(name, value)).collect()
    }
}

fn told(name: &str, value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.is_empty() { shortened(name) } else { format!("{} {}", shortened(name), shortened(&text)) }
}

/// A text of at most [`SHOWN`] letters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A number as programs write it: whole ones also with a point and zeros.
///
/// # Errors
/// When it is none of this kind.
pub(super) fn number<T: FromStr>(name: &str, text: &str) -> Result<T> {
    let bare = text.trim();
    let whole = bare.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0')).map(|(whole, _)| whole);
    let parsed = bare.parse().ok().or_else(|| whole?.parse().ok());
    parsed.ok_or_else(|| Error::refused(format!("{name}: expected a number, got {:?}", shortened(text))))
}
