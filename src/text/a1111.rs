//! AUTOMATIC1111's weights: `modules/prompt_parser.py`, `parse_prompt_attention`, of stable-diffusion-webui.
//!
//! `(a)` is 1.1 times as strong, `(a:1.2)` 1.2 times, `[a]` 1/1.1 times; nested marks multiply. A bracket that is never closed counts until
//! the end; one that was never opened is text. `\(`, `\)`, `\[`, `\]` and `\\` are the signs themselves, any other backslash is dropped.
//! `BREAK` as a word of its own ends the chunk. One difference: here that holds inside brackets too, where the original turns it into the
//! word "break" with a negative weight.

use super::syntax::Piece;
use crate::{Error, Result};

const STRONGER: f64 = 1.1;
const WEAKER: f64 = 1.0 / 1.1;

pub(super) fn parse(text: &str) -> Result<Vec<Piece>> {
    let mut parser = Parser::default();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = parser.take(first, rest)?;
    }
    Ok(parser.finish())
}

#[derive(Default)]
struct Parser {
    pieces: Vec<Piece>,
    /// For each open bracket the piece that it begins with.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    /// Reads one mark or one run of text from the front; gives what is left.
    fn take<'t>(&mut self, first: char, rest: &'t str) -> Result<&'t str> {
        let after = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let len = usize::from(after.starts_with(['(', ')', '[', ']', '\\']));
                self.pieces.push(Piece::text(&after[..len], 1.0));
                return Ok(&after[len..]);
            }
            '(' => self.round.push(self.pieces.len()),
            '[' => self.square.push(self.pieces.len()),
            ':' => return self.colon(rest),
            ')' => match self.round.pop() {
                Some(from) => self.multiply(from, STRONGER),
                None => self.text(")"),
            },
            ']' => match self.square.pop() {
                Some(from) => self.multiply(from, WEAKER),
                None => self.text("]"),
            },
            _ => {
                let end = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                self.text(&rest[..end]);
                return Ok(&rest[end..]);
            }
        }
        Ok(after)
    }

    /// A colon: with a number and a closing bracket behind it, the weight of what the last open round bracket holds.
    fn colon<'t>(&mut self, rest: &'t str) -> Result<&'t str> {
        let number = rest[1..].trim_start();
        let unsigned = number.strip_prefix(['+', '-']).unwrap_or(number);
        let behind = unsigned.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let after = behind.trim_start().strip_prefix(')');
        let (Some(after), true) = (after, behind.len() < unsigned.len()) else {
            self.text(":");
            return Ok(&rest[1..]);
        };
        match self.round.pop() {
            Some(from) => {
                let number = &number[..number.len() - behind.len()];
                let weight = number.parse::<f64>().ok().filter(|weight| weight.is_finite()).ok_or_else(|| {
                    Error::request("prompt", format!(
                        "expected a number as the weight in \":{number})\"; write \\( and \\) for brackets that mean themselves"
                    ))
                })?;
                self.multiply(from, weight);
            }
            None => self.text(&rest[..rest.len() - after.len()]),
        }
        Ok(after)
    }

    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((before, after)) = split_break(rest) {
            self.pieces.extend([Piece::text(before, 1.0), Piece::Break]);
            rest = after;
        }
        self.pieces.push(Piece::text(rest, 1.0));
    }

    fn multiply(&mut self, from: usize, factor: f64) {
        for piece in &mut self.pieces[from..] {
            if let Piece::Text { weight, .. } = piece {
                *weight *= factor;
            }
        }
    }

    /// Closes what is open, and joins neighbours of one weight.
    fn finish(mut self) -> Vec<Piece> {
        for from in std::mem::take(&mut self.round) {
            self.multiply(from, STRONGER);
        }
        for from in std::mem::take(&mut self.square) {
            self.multiply(from, WEAKER);
        }
        let mut joined: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            if let (Some(Piece::Text { text: last, weight: w }), Piece::Text { text, weight }) =
                (joined.last_mut(), &piece)
                && w == weight
            {
                last.push_str(text);
            } else {
                joined.push(piece);
            }
        }
        if joined.is_empty() {
            joined.push(Piece::text("", 1.0));
        }
        joined
    }
}

/// The text before and after the first `BREAK` that is a word of its own, without the white space around it.
fn split_break(text: &str) -> Option<(&str, &str)> {
    const BREAK: &str = "BREAK";
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(BREAK).find_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + BREAK.len()..]);
        let alone = !is_word(before.chars().next_back()) && !is_word(after.chars().next());
        alone.then(|| (before.trim_end(), after.trim_start()))
    })
}
