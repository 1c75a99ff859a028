//! Taking names apart.

use std::collections::BTreeSet;

use crate::weights::TensorSet;
use crate::{Error, Result};

/// How many numbered children `prefix` has: `prefix0.…`, `prefix1.…`, without gaps.
///
/// # Errors
/// When a number is left out.
pub(super) fn count(tensors: &TensorSet, prefix: &str) -> Result<usize> {
    let below = tensors.tensors().range(prefix.to_owned()..).map(|(name, _)| name);
    let below = below.take_while(|name| name.starts_with(prefix));
    let numbers: BTreeSet<usize> =
        below.filter_map(|name| name[prefix.len()..].split('.').next()?.parse().ok()).collect();
    match numbers.iter().enumerate().find(|(i, n)| i != *n) {
        None => Ok(numbers.len()),
        Some((i, n)) => Err(Error::model(format!(
            "{}: expected {prefix}{i} before {prefix}{n}, the file has none; it is incomplete",
            tensors.label()
        ))
        .in_file(tensors.label())),
    }
}

/// `"3.rest"` → `(3, "rest")`.
pub(super) fn number(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// One of the pairs' first halves at the beginning of a name, replaced by the second.
pub(super) fn replace_head(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(old, new)| name.strip_prefix(old).map(|rest| format!("{new}{rest}")))
}

/// A few of the names in a file.
pub(super) fn some(tensors: &TensorSet) -> String {
    let count = tensors.tensors().len();
    let names: Vec<&str> = tensors.tensors().keys().take(3).map(String::as_str).collect();
    match count {
        0 => "no tensors".into(),
        _ => format!("{count} tensors such as {}", names.join(", ")),
    }
}
