//! ComfyUI's weights: `comfy/sd1_clip.py`, `parse_parentheses` and `token_weights`.
//!
//! `(a)` multiplies the weight around it by 1.1; `(a:1.2)` *sets* it to 1.2, whatever is around. `\(` and `\)` are the signs themselves.
//! What does not balance is text.

use super::syntax::Piece;

const STRONGER: f64 = 1.1;
/// Stand-ins for escaped parentheses while the others are read.
const ESCAPED: [(&str, &str, &str); 2] = [("\\)", "\0\u{1}", ")"), ("\\(", "\0\u{2}", "(")];

pub(super) fn parse(text: &str) -> Vec<Piece> {
    let escaped = ESCAPED.iter().fold(text.to_owned(), |text, (from, to, _)| text.replace(from, to));
    let mut pieces = Vec::new();
    // What is still to be read, the next at the end. Brackets can nest deeper than the call stack.
    let mut todo = vec![(escaped.as_str(), 1.0, false)];
    while let Some((part, weight, is_item)) = todo.pop() {
        match group(part).filter(|_| is_item) {
            Some(inner) => {
                let (inner, weight) = match split_weight(inner) {
                    Some((inner, weight)) => (inner, weight),
                    None => (inner, weight * STRONGER),
                };
                todo.push((inner, weight, false));
            }
            None if is_item => {
                let text = ESCAPED.iter().fold(part.to_owned(), |text, (_, from, to)| text.replace(from, to));
                pieces.push(Piece::text(text, weight));
            }
            None => todo.extend(items(part).into_iter().rev().map(|item| (item, weight, true))),
        }
    }
    pieces
}

/// The inside of `(…)`.
fn group(item: &str) -> Option<&str> {
    item.strip_prefix('(')?.strip_suffix(')')
}

/// `a:1.2` as text and weight, if there is text and the weight is a number.
fn split_weight(inner: &str) -> Option<(&str, f64)> {
    let (text, number) = inner.rsplit_once(':').filter(|(text, _)| !text.is_empty())?;
    let weight = number.trim().parse::<f64>().ok().filter(|weight| weight.is_finite())?;
    Some((text, weight))
}

/// Parenthesized groups at the top, and the texts between them.
fn items(text: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut level, mut from) = (0i64, 0);
    let mut end_item = |from: &mut usize, to: usize| {
        if *from < to {
            items.push(&text[*from..to]);
        }
        *from = to;
    };
    for (at, sign) in text.char_indices() {
        match sign {
            '(' => {
                if level == 0 {
                    end_item(&mut from, at);
                }
                level += 1;
            }
            ')' => {
                level -= 1;
                if level == 0 {
                    end_item(&mut from, at + 1);
                }
            }
            _ => {}
        }
    }
    end_item(&mut from, text.len());
    items
}
