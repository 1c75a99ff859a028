//! Labelled pictures side by side.

use super::{Rgb8Image, font};
use crate::{Error, Result};

const BACKGROUND: u8 = 128;
const INK: u8 = 255;
const GAP: usize = 8;
const SCALE: usize = 2;

/// Pictures next to each other on neutral grey (so that neither black nor white is flattered), each under its label.
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
    let top = 2 * GAP + SCALE * font::HEIGHT;
    let width = GAP + pictures.iter().map(|(_, p)| p.width + GAP).sum::<usize>();
    let height = top + first.height + GAP;
    let mut out = Rgb8Image { width, height, data: vec![BACKGROUND; width * height * 3] };
    let mut left = GAP;
    for (label, picture) in pictures {
        draw_text(&mut out, label, left, GAP, picture.width);
        for y in 0..picture.height {
            let (from, to) = (y * picture.width * 3, ((top + y) * width + left) * 3);
            out.data[to..to + picture.width * 3].copy_from_slice(&picture.data[from..from + picture.width * 3]);
        }
        left += picture.width + GAP;
    }
    Ok(out)
}

/// Draws as many letters as fit in `room` pixels.
fn draw_text(image: &mut Rgb8Image, text: &str, left: usize, top: usize, room: usize) {
    let advance = SCALE * (font::WIDTH + 1);
    for (i, letter) in text.chars().take(room / advance).enumerate() {
        for (row, bits) in font::glyph(letter).into_iter().enumerate() {
            for column in (0..font::WIDTH).filter(|column| bits >> (font::WIDTH - 1 - column) & 1 == 1) {
                for (dy, dx) in (0..SCALE * SCALE).map(|k| (k / SCALE, k % SCALE)) {
                    let (x, y) = (left + i * advance + column * SCALE + dx, top + row * SCALE + dy);
                    image.data[(y * image.width + x) * 3..][..3].fill(INK);
                }
            }
        }
    }
}
