//! `--lora`: a file, and perhaps a weight behind it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `FILE` or `FILE:WEIGHT` as typed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoraArg {
    /// The file.
    pub(crate) path: PathBuf,
    /// The number behind it.
    pub(crate) weight: Option<f64>,
}

impl FromStr for LoraArg {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        let number = text.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
        let (path, weight) = match number.filter(|_| !Path::new(text).exists()) {
            Some((path, weight)) => (path, Some(weight)),
            None => (text, None),
        };
        Ok(LoraArg { path: path.into(), weight })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_the_file_is_its_weight() {
        let read = |text: &str| text.parse::<LoraArg>().map(|l| (l.path, l.weight)).unwrap_or_else(|e| match e {});
        assert_eq!(read("a.safetensors"), ("a.safetensors".into(), None));
        assert_eq!(read("C:\\a.safetensors:0.5"), ("C:\\a.safetensors".into(), Some(0.5)));
        assert_eq!(read("dir/a:b"), ("dir/a:b".into(), None));
    }
}
