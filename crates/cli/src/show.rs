//! Pictures in a terminal: kitty's, iTerm2's and sixel graphics, and half blocks where only colours are to be had.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chiaro::image::{Rgb8Image, open_picture};
use chiaro::{Error, Result};
use clap::ValueEnum;

/// How a picture is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowArg {
    /// as the terminal can, if it is known to show pictures
    Auto,
    /// kitty's graphics (also Ghostty, Konsole, WezTerm)
    Kitty,
    /// iTerm2's inline images (also WezTerm, mintty)
    Iterm,
    /// sixels (foot, mlterm, xterm -ti vt340)
    Sixel,
    /// two pixels a letter, in any terminal with 24 bits of colour
    Blocks,
    /// not at all
    Off,
}

/// Columns that a picture takes at most.
const COLUMNS: usize = 40;
/// Pixels of a column, as terminals usually have them.
const COLUMN_PIXELS: usize = 8;
/// More pictures than these are not shown by themselves.
const MOST: usize = 4;
/// Letters of base64 in one of kitty's commands.
const CHUNK: usize = 4096;

/// Shows pictures that were written, on standard output.
///
/// # Errors
/// When one cannot be read again, or standard output fails.
pub(super) fn pictures(how: ShowArg, files: &[&Path]) -> Result<()> {
    let most = if how == ShowArg::Auto { MOST } else { usize::MAX };
    let how = match how {
        ShowArg::Auto if std::io::stdout().is_terminal() => known(|name| std::env::var(name).ok()),
        ShowArg::Auto => ShowArg::Off,
        how => how,
    };
    for file in files.iter().take(most) {
        let text = match how {
            ShowArg::Auto | ShowArg::Off => return Ok(()),
            ShowArg::Iterm => iterm(&std::fs::read(file).map_err(|e| Error::io(file, e))?),
            ShowArg::Kitty => kitty(&open_picture(file)?),
            ShowArg::Sixel => sixel(&fitted(&open_picture(file)?, COLUMNS * COLUMN_PIXELS)),
            ShowArg::Blocks => blocks(&fitted(&open_picture(file)?, COLUMNS)),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))?;
    }
    Ok(())
}

/// What a terminal is known to show, by what it says of itself in the environment. Inside of tmux and screen nothing passes through.
fn known(var: impl Fn(&str) -> Option<String>) -> ShowArg {
    let set = |name: &str| var(name).is_some_and(|value| !value.is_empty());
    let term = var("TERM").unwrap_or_default();
    let program = var("TERM_PROGRAM").unwrap_or_default();
    match () {
        () if set("TMUX") || set("STY") || term.starts_with("screen") || term.starts_with("tmux") => ShowArg::Off,
        () if set("KITTY_WINDOW_ID") || term.contains("kitty") || term.contains("ghostty") => ShowArg::Kitty,
        () if set("KONSOLE_VERSION") || program == "WezTerm" || program == "ghostty" => ShowArg::Kitty,
        () if program == "iTerm.app" || program == "mintty" || var("LC_TERMINAL").as_deref() == Some("iTerm2") => {
            ShowArg::Iterm
        }
        () if term.starts_with("foot") || term.starts_with("mlterm") => ShowArg::Sixel,
        () => ShowArg::Off,
    }
}

/// At most so wide; smaller pictures stay.
fn fitted(image: &Rgb8Image, width: usize) -> Rgb8Image {
    if image.width <= width {
        return image.clone();
    }
    let height = (image.height * width / image.width).max(1);
    image.shrunk(width, height).expect("no side is 0")
}

/// kitty's graphics protocol: pixels of 24 bits, in pieces, answers not wanted.
fn kitty(image: &Rgb8Image) -> String {
    let columns = (image.width / COLUMN_PIXELS).clamp(1, COLUMNS);
    let encoded = STANDARD.encode(&image.data);
    let pieces: Vec<&[u8]> = encoded.as_bytes().chunks(CHUNK).collect();
    let mut text = String::with_capacity(encoded.len() + 64 * pieces.len());
    for (i, piece) in pieces.iter().enumerate() {
        let more = u8::from(i + 1 < pieces.len());
        let head = match i {
            0 => format!("a=T,f=24,s={},v={},c={columns},q=2,m={more}", image.width, image.height),
            _ => format!("m={more}"),
        };
        let piece = std::str::from_utf8(piece).expect("base64 is ASCII");
        let _ = write!(text, "\x1b_G{head};{piece}\x1b\\");
    }
    text.push('\n');
    text
}

/// iTerm2's inline images: the file as it is.
fn iterm(file: &[u8]) -> String {
    let (size, encoded) = (file.len(), STANDARD.encode(file));
    format!("\x1b]1337;File=inline=1;size={size};width={COLUMNS};preserveAspectRatio=1:{encoded}\x07\n")
}

/// Levels of red, green and blue: 252 colours, of the 256 that terminals have.
const LEVELS: [usize; 3] = [6, 7, 6];
/// Thresholds of ordered dithering, in sixteenths.
const BAYER: [[usize; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];

/// DEC's sixels: bands of six rows, each colour's pixels of a band after another.
fn sixel(image: &Rgb8Image) -> String {
    let mut text = format!("\x1bPq\"1;1;{};{}", image.width, image.height);
    let shares = |index: usize| [index / (LEVELS[1] * LEVELS[2]), index / LEVELS[2] % LEVELS[1], index % LEVELS[2]];
    for index in 0..LEVELS.iter().product() {
        let percent: Vec<usize> = shares(index).iter().zip(LEVELS).map(|(level, of)| level * 100 / (of - 1)).collect();
        let _ = write!(text, "#{index};2;{};{};{}", percent[0], percent[1], percent[2]);
    }
    let colour = |x: usize, y: usize| {
        let pixel = &image.data[(y * image.width + x) * 3..][..3];
        let threshold = BAYER[y % 4][x % 4];
        pixel.iter().zip(LEVELS).fold(0, |index, (&value, of)| {
            // In sixteenths of a level, plus what rounds it up now and then.
            let level = (usize::from(value) * (of - 1) * 16 / 255 + threshold) / 16;
            index * of + level.min(of - 1)
        })
    };
    for top in (0..image.height).step_by(6) {
        let rows = top..(top + 6).min(image.height);
        let mut bands: std::collections::BTreeMap<usize, Vec<u8>> = std::collections::BTreeMap::new();
        for x in 0..image.width {
            for y in rows.clone() {
                bands.entry(colour(x, y)).or_insert_with(|| vec![0; image.width])[x] |= 1 << (y - top);
            }
        }
        for (index, bits) in bands {
            let _ = write!(text, "#{index}");
            for run in bits.chunk_by(|a, b| a == b) {
                let letter = char::from(b'?' + run[0]);
                match run.len() {
                    1..=3 => text.extend(std::iter::repeat_n(letter, run.len())),
                    count => {
                        let _ = write!(text, "!{count}{letter}");
                    }
                }
            }
            text.push('$');
        }
        text.push('-');
    }
    text.push_str("\x1b\\\n");
    text
}

/// The upper half of a letter in one colour, the lower in another.
fn blocks(image: &Rgb8Image) -> String {
    let mut text = String::new();
    let pixel = |x: usize, y: usize| &image.data[(y * image.width + x) * 3..][..3];
    for y in (0..image.height).step_by(2) {
        for x in 0..image.width {
            let (up, down) = (pixel(x, y), pixel(x, (y + 1).min(image.height - 1)));
            let _ = write!(
                text,
                "\x1b[38;2;{};{};{};48;2;{};{};{}m\u{2580}",
                up[0], up[1], up[2], down[0], down[1], down[2]
            );
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red on the left, blue on the right, 16×8.
    fn halves() -> Rgb8Image {
        let pixel = |i: usize| if i % 16 < 8 { [255, 0, 0] } else { [0, 0, 255] };
        Rgb8Image { width: 16, height: 8, data: (0..128).flat_map(pixel).collect() }
    }

    #[test]
    fn terminals_say_who_they_are() {
        let with = |set: &'static [(&str, &str)]| {
            known(move |name| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(with(&[("TERM", "xterm-kitty")]), ShowArg::Kitty);
        assert_eq!(with(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")]), ShowArg::Iterm);
        assert_eq!(with(&[("TERM", "foot")]), ShowArg::Sixel);
        assert_eq!(with(&[("TERM", "xterm-256color")]), ShowArg::Off, "half blocks only when asked for");
        assert_eq!(with(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x")]), ShowArg::Off);
        assert_eq!(with(&[]), ShowArg::Off);
    }

    /// The pixels come out of kitty's pieces as they went in.
    #[test]
    fn kitty_gets_every_pixel() {
        let data: Vec<u8> = (0..64 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let text = kitty(&Rgb8Image { width: 64, height: 48, data: data.clone() });
        let pieces: Vec<&str> = text.trim_end().split("\x1b\\").filter(|piece| !piece.is_empty()).collect();
        assert!(pieces.len() > 1 && pieces[0].starts_with("\x1b_Ga=T,f=24,s=64,v=48,c=8,q=2,m=1;"), "{}", pieces[0]);
        let last = pieces.len() - 1;
        assert!(pieces.iter().enumerate().all(|(i, piece)| piece.contains("m=1;") == (i < last)));
        let letters: String = pieces.iter().map(|piece| piece.split_once(';').expect("a head").1).collect();
        assert!(pieces.iter().all(|piece| piece.split_once(';').expect("a head").1.len() <= CHUNK));
        assert_eq!(STANDARD.decode(letters).expect("base64"), data);
    }

    /// A reader of sixels by DEC's rules (VT330/VT340 Programmer Reference Manual, chapter 14) gets the colours back.
    #[test]
    fn sixels_are_the_picture() {
        let image = halves();
        let text = sixel(&image);
        let body =
            text.strip_prefix("\x1bPq\"1;1;16;8").and_then(|rest| rest.strip_suffix("\x1b\\\n")).expect("a frame");
        let mut palette = std::collections::HashMap::new();
        let mut pixels = vec![[0u32; 3]; 16 * 12];
        let (mut at, mut x, mut top, mut colour) = (0, 0, 0, [0; 3]);
        let letters: Vec<char> = body.chars().collect();
        let number = |at: &mut usize| {
            let begin = *at;
            while letters.get(*at).is_some_and(char::is_ascii_digit) {
                *at += 1;
            }
            letters[begin..*at].iter().collect::<String>().parse::<u32>().expect("a number")
        };
        while at < letters.len() {
            let letter = letters[at];
            at += 1;
            let (count, sixel) = match letter {
                '#' => {
                    let index = number(&mut at);
                    if letters.get(at) == Some(&';') {
                        let mut value = || {
                            at += 1;
                            number(&mut at)
                        };
                        assert_eq!(value(), 2, "RGB");
                        palette.insert(index, [value(), value(), value()]);
                    } else {
                        colour = palette[&index];
                    }
                    continue;
                }
                '$' => {
                    x = 0;
                    continue;
                }
                '-' => {
                    (x, top) = (0, top + 6);
                    continue;
                }
                '!' => {
                    let count = number(&mut at);
                    at += 1;
                    (count, letters[at - 1])
                }
                sixel => (1, sixel),
            };
            for _ in 0..count {
                for bit in (0..6).filter(|bit| (sixel as u32 - '?' as u32) >> bit & 1 == 1) {
                    pixels[(top + bit) * 16 + x] = colour;
                }
                x += 1;
            }
        }
        for y in 0..8 {
            for x in 0..16 {
                let wanted = if x < 8 { [100, 0, 0] } else { [0, 0, 100] };
                assert_eq!(pixels[y * 16 + x], wanted, "{x}, {y}");
            }
        }
        assert!(pixels[8 * 16..].iter().all(|pixel| *pixel == [0; 3]), "nothing below the picture");
    }

    #[test]
    fn blocks_have_two_rows_a_line() {
        let text = blocks(&halves());
        assert_eq!(text.lines().count(), 4);
        assert!(text.starts_with("\x1b[38;2;255;0;0;48;2;255;0;0m\u{2580}") && text.contains("48;2;0;0;255m"));
        assert_eq!(fitted(&halves(), 8).width, 8);
    }

    #[test]
    fn iterm_gets_the_file() {
        let text = iterm(b"PNG");
        assert!(text.contains("inline=1;size=3;") && text.ends_with(":UE5H\x07\n"), "{text:?}");
    }
}
