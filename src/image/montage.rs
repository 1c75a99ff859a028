//! Labelled pictures beside and below one another, on neutral grey so that neither black nor white is flattered.

use super::{Rgb8Image, draw_text, text_size};
use crate::{Error, Result};

const BACKGROUND: u8 = 128;
const INK: [u8; 3] = [255; 3];
const GAP: usize = 8;
const SCALE: usize = 2;

/// Pictures next to each other at their own size, each under its label.
///
/// # Errors
/// When there is none, or heights differ.
pub fn side_by_side(pictures: &[(&str, &Rgb8Image)]) -> Result<Rgb8Image> {
    let Some((_, first)) = pictures.first() else {
        return Err(Error::shape("side_by_side", "no picture was given"));
    };
    if let Some((label, other)) = pictures.iter().find(|(_, p)| p.height != first.height) {
        return Err(Error::shape(
            "side_by_side",
            format!("{label}: expected height {}, got {}", first.height, other.height),
        ));
    }
    let top = 2 * GAP + text_size("", SCALE).1;
    let width = GAP + pictures.iter().map(|(_, p)| p.width + GAP).sum::<usize>();
    let mut out = plain(width, top + first.height + GAP);
    let mut left = GAP;
    for (label, picture) in pictures {
        draw_text(&mut out, label, (left, GAP), picture.width, SCALE, INK);
        paste(&mut out, picture, left, top);
        left += picture.width + GAP;
    }
    Ok(out)
}

/// Pictures below one another under one label, a cell of a [`contact_sheet`].
pub struct Stack<'a> {
    /// The text above, in up to four lines as wide as a picture; what does not fit is left out.
    pub label: String,
    /// From top to bottom.
    pub pictures: Vec<&'a Rgb8Image>,
}

/// Stacks in rows of `columns`, every picture reduced to `side`×`side` pixels.
///
/// # Errors
/// When there is no picture, stacks differ in length, or `columns` or `side` is 0.
pub fn contact_sheet(stacks: &[Stack<'_>], columns: usize, side: usize) -> Result<Rgb8Image> {
    let high = stacks.first().map_or(0, |s| s.pictures.len());
    if high == 0 || columns == 0 || side == 0 {
        return Err(Error::shape("contact_sheet", "expected a picture, a column and a pixel at least"));
    }
    if let Some(other) = stacks.iter().find(|s| s.pictures.len() != high) {
        return Err(Error::shape(
            "contact_sheet",
            format!("{}: expected {high} pictures, got {}", other.label, other.pictures.len()),
        ));
    }
    let gap = GAP / 2;
    let line = text_size("", 1).1 + 2;
    let labels: Vec<Vec<String>> = stacks.iter().map(|s| wrapped(&s.label, side.saturating_sub(gap))).collect();
    let head = labels.iter().map(Vec::len).max().unwrap_or(0) * line + gap;
    let columns = columns.min(stacks.len());
    let cell = (side + gap, head + high * (side + gap / 2) + gap);
    let mut out = plain(gap + columns * cell.0, gap + stacks.len().div_ceil(columns) * cell.1);
    for (i, stack) in stacks.iter().enumerate() {
        let (left, top) = (gap + i % columns * cell.0, gap + i / columns * cell.1);
        for (k, words) in labels[i].iter().enumerate() {
            draw_text(&mut out, words, (left, top + k * line), side, 1, INK);
        }
        for (row, picture) in stack.pictures.iter().enumerate() {
            paste(&mut out, &picture.shrunk(side, side)?, left, top + head + row * (side + gap / 2));
        }
    }
    Ok(out)
}

/// A text in at most four lines of `room` pixels, broken between words.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    const LINES: usize = 4;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_size(&format!("{line} {word}"), 1).0 <= room => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.truncate(LINES);
    lines
}

fn plain(width: usize, height: usize) -> Rgb8Image {
    Rgb8Image { width, height, data: vec![BACKGROUND; width * height * 3] }
}

/// Copies a picture to where it fits whole.
fn paste(out: &mut Rgb8Image, picture: &Rgb8Image, left: usize, top: usize) {
    for y in 0..picture.height {
        let (from, to) = (y * picture.width * 3, ((top + y) * out.width + left) * 3);
        out.data[to..to + picture.width * 3].copy_from_slice(&picture.data[from..from + picture.width * 3]);
    }
}
