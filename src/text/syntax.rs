//! Which marks in a prompt mean something, and what a prompt becomes before it is cut into tokens.

use std::fmt;
use std::str::FromStr;

use super::{a1111, comfy};
use crate::{Error, Result};

/// Which marks in a prompt mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PromptSyntax {
    /// None: the text as it is, cut after one chunk, as diffusers does.
    #[default]
    Plain,
    /// AUTOMATIC1111's: `(a)` ×1.1, `(a:1.2)`, `[b]` ÷1.1, escapes, `BREAK`, `[from:to:when]`, `[a|b]`, chunks without end.
    A1111,
    /// ComfyUI's: `(a)` ×1.1, `(a:1.2)`, escaped parentheses, chunks without end. Square brackets are text.
    Comfy,
}

impl PromptSyntax {
    /// Every syntax with the name that users type.
    pub const ALL: &'static [(&'static str, PromptSyntax)] =
        &[("plain", PromptSyntax::Plain), ("a1111", PromptSyntax::A1111), ("comfy", PromptSyntax::Comfy)];
}

impl FromStr for PromptSyntax {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let plain = name.trim().to_lowercase();
        PromptSyntax::ALL.iter().find(|(known, _)| *known == plain).map(|(_, syntax)| *syntax).ok_or_else(|| {
            let known: Vec<&str> = PromptSyntax::ALL.iter().map(|(known, _)| *known).collect();
            Error::refused(format!("unknown prompt syntax {name:?}; there are {}", known.join(", ")))
        })
    }
}

impl fmt::Display for PromptSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PromptSyntax::ALL.iter().find(|(_, syntax)| syntax == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

serde_by_name!(PromptSyntax);

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of one weight.
    Text {
        /// The text, without marks.
        text: String,
        /// What its states are weighted with; 1 changes nothing.
        weight: f64,
    },
    /// The chunk ends here (`BREAK`).
    Break,
}

impl Piece {
    pub(super) fn text(text: impl Into<String>, weight: f64) -> Self {
        Piece::Text { text: text.into(), weight }
    }
}

/// A prompt's pieces. What [`Schedule`](super::Schedule) reads must be resolved before.
///
/// # Errors
/// When a weight is not a number, as in `(a:1.2.3)`.
pub fn parse(text: &str, syntax: PromptSyntax) -> Result<Vec<Piece>> {
    match syntax {
        PromptSyntax::Plain => Ok(vec![Piece::text(text, 1.0)]),
        PromptSyntax::A1111 => a1111::parse(text),
        PromptSyntax::Comfy => Ok(comfy::parse(text)),
    }
}
