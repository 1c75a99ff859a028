//! What `ftfy.fix_text` (6.3) does to a text, as AUTOMATIC1111's program does before it looks for words: entities of HTML, text that was
//! read in a wrong encoding, ligatures, full and half width, curly quotes, line breaks, terminal codes, control characters, NFC.
//!
//! All but one of these are tables. Which text was read in a wrong encoding is a guess there and here; this one looks at what the bytes would
//! be as UTF-8, and how likely such letters stand beside each other otherwise.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::NormalizedString;

use super::pages::PAGES;

/// Rounds after which a text that still changes is left.
const MOST_ROUNDS: usize = 16;

/// The text as `ftfy` leaves it.
pub(super) fn mended(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte == b'\n' || (byte != b'&' && (0x20..0x7f).contains(&byte));
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut unescape = true;
    let lines = text.split_inclusive('\n').map(|line| {
        // What holds tags is HTML, whose entities are meant.
        unescape &= !line.contains('<');
        mended_line(line, unescape)
    });
    Cow::Owned(lines.collect())
}

fn mended_line(line: &str, unescape: bool) -> String {
    let mut text = line.to_owned();
    for _ in 0..MOST_ROUNDS {
        let before = text.clone();
        if unescape && text.contains('&') {
            text = html_escape::decode_html_entities(&text).into_owned();
        }
        // Text may have gone through more than once.
        for _ in 0..MOST_ROUNDS {
            let once = recoded(text.clone());
            if std::mem::replace(&mut text, once.clone()) == once {
                break;
            }
        }
        text = letters(&text);
        let mut normal = NormalizedString::from(text);
        normal.nfc();
        text = normal.get().to_owned();
        if text == before {
            break;
        }
    }
    text
}

/// Letter by letter: what is replaced and what goes.
fn letters(text: &str) -> String {
    let text = without_codes(text);
    let mut out = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\r' => {
                signs.next_if_eq(&'\n');
                out.push('\n');
            }
            '\u{2028}' | '\u{2029}' | '\u{85}' => out.push('\n'),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            '\u{3000}' => out.push(' '),
            '\u{ff01}'..='\u{ffef}' => {
                let mut wide = NormalizedString::from(sign.to_string());
                wide.nfkc();
                out += wide.get();
            }
            '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}' => {}
            _ => match ligature(sign) {
                Some(letters) => out += letters,
                None => out.push(sign),
            },
        }
    }
    out
}

fn ligature(sign: char) -> Option<&'static str> {
    Some(match sign {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

/// Without a terminal's colour codes: escape, bracket, numbers, a letter.
fn without_codes(text: &str) -> Cow<'_, str> {
    if !text.contains('\u{1b}') {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out += before;
        let end = after.find(|sign: char| !(sign.is_ascii_digit() || sign == ';'));
        rest = match end {
            Some(end) if after.as_bytes()[end].is_ascii_alphabetic() => &after[end + 1..],
            _ => {
                out += "\u{1b}[";
                after
            }
        };
    }
    Cow::Owned(out + rest)
}

/// The byte of each letter in each page.
static BYTES: LazyLock<[HashMap<char, u8>; PAGES.len()]> = LazyLock::new(|| {
    let map = |page: &str| page.chars().zip(0x80..=0xff).collect::<HashMap<char, u8>>();
    let mut maps = PAGES.map(map);
    // Latin-1's control characters stand among Windows-1252's letters in text that went through both.
    for byte in 0x80..=0xff {
        maps[0].entry(char::from(byte)).or_insert(byte);
    }
    maps
});

/// The text in the encoding that it was meant to be in.
fn recoded(text: String) -> String {
    if text.is_ascii() {
        return text;
    }
    for page in 0..PAGES.len() {
        if let Some(whole) = whole(&text, page) {
            return whole;
        }
    }
    let pieces = pieces(&text);
    if pieces.chars().any(is_c1) {
        let right =
            |sign: char| if is_c1(sign) { PAGES[0].chars().nth(sign as usize - 0x80).unwrap_or(sign) } else { sign };
        return pieces.chars().map(right).collect();
    }
    pieces
}

fn is_c1(sign: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&sign)
}

/// All of the text as UTF-8 that was read as a page, where it can be, and is likely.
fn whole(text: &str, page: usize) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    for sign in text.chars() {
        bytes.push(if sign.is_ascii() { sign as u8 } else { *BYTES[page].get(&sign)? });
    }
    if page == 0
        && let Some(restored) = restored(text, &bytes)
    {
        return Some(restored);
    }
    let decoded = String::from_utf8(bytes).ok()?;
    let likely = sequences(text, page).map(|(_, weight)| weight).sum::<usize>() >= 2;
    likely.then_some(decoded)
}

/// "à" whose second byte, a space that does not break, became an ordinary one: alone between spaces.
fn restored(text: &str, bytes: &[u8]) -> Option<String> {
    let lost = |at: usize| {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + 2);
        bytes[at] == 0xc3
            && bytes.get(at + 1) == Some(&b' ')
            && before.is_none_or(|before| before == b' ')
            && after.is_some_and(|after| *after == b' ' || after.is_ascii_lowercase())
    };
    if !text.contains("Ã ") {
        return None;
    }
    let mut whole = Vec::with_capacity(bytes.len() + 8);
    let mut at = 0;
    while at < bytes.len() {
        if lost(at) {
            whole.extend([0xc3, 0xa0]);
            // Of two spaces one was the letter's.
            at += if bytes[at + 2] == b' ' { 2 } else { 1 };
        } else {
            whole.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(whole).ok()
}

/// The text with single sequences decoded that are UTF-8 beyond doubt.
fn pieces(text: &str) -> String {
    let found: Vec<(std::ops::Range<usize>, usize)> = sequences(text, 0).collect();
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for (range, weight) in found {
        let bytes: Option<Vec<u8>> = text[range.clone()].chars().map(|sign| BYTES[0].get(&sign).copied()).collect();
        let decoded = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        if let (Some(decoded), true) = (decoded, weight >= 2) {
            out += &text[from..range.start];
            out += &decoded;
            from = range.end;
        }
    }
    out + &text[from..]
}

/// Where letters stand whose bytes in a page are one letter of UTF-8, and how sure it is that they were meant to be: 2 is beyond doubt.
fn sequences(text: &str, page: usize) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
    let signs: Vec<(usize, char)> = text.char_indices().collect();
    let byte = move |sign: char| BYTES[page].get(&sign).copied();
    let length = text.len();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < signs.len() {
            let count = match byte(signs[at].1) {
                Some(0xc2..=0xdf) => 2,
                Some(0xe0..=0xef) => 3,
                Some(0xf0..=0xf4) => 4,
                _ => 0,
            };
            let bytes: Option<Vec<u8>> =
                signs.get(at..at + count).and_then(|s| s.iter().map(|(_, c)| byte(*c)).collect());
            let decoded =
                bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
            match decoded.and_then(|text| text.chars().next()) {
                Some(letter) => {
                    let own: Vec<char> = signs[at..at + count].iter().map(|(_, c)| *c).collect();
                    let start = signs[at].0;
                    at += count;
                    let end = signs.get(at).map_or(length, |(end, _)| *end);
                    return Some((start..end, weight(&own, letter, page)));
                }
                None => at += 1,
            }
        }
        None
    })
}

/// Signs that stand behind a letter at the end of a word in sound text.
const CLOSING: &str = "\u{201d}\u{201c}\u{2019}\u{2018}\u{2026}\u{2013}\u{2014}\u{2122}\u{ae}\u{bb}\u{ab}\u{203a}\u{2039}\u{201e}\u{201a}\u{a0}\u{b0}\u{b7}\u{a9}";

/// How sure it is that letters are one of UTF-8: 0 not at all, 1 if there are more, 2 beyond doubt.
fn weight(own: &[char], letter: char, page: usize) -> usize {
    if own.iter().any(|sign| is_c1(*sign)) && page != 7 {
        return 2;
    }
    match (page, own) {
        // "à" and a space that does not break, as French has it in front of signs.
        (_, ['à', '\u{a0}', _]) => 0,
        (0, ['Â' | 'Ã', _]) => 2,
        // Letters of the page's own language, or lines, which stand so in sound text.
        (1, ['Г' | 'В' | 'Д' | 'Е' | 'Ч' | 'Ш' | 'Щ', _]) | (3, ['Β' | 'Γ' | 'Ε' | 'Ψ' | 'Ω', _]) => 0,
        (1, ['н' | 'к' | 'м', ..]) | (5, ['Ā' | 'Ł' | 'Ų', _]) | (7, ['Ÿ' | 'ÿ', _]) | (8, ['┬' | '┼', _]) => {
            0
        }
        (2 | 6, [_, second]) if second.is_alphabetic() => 0,
        (0 | 2..=6, [_, second]) => {
            // Letters of scripts that no prompt is written in are not what was meant.
            let likely = matches!(letter, '\u{a0}'..='\u{17f}' | '\u{2b0}'..='\u{6ff}');
            match (CLOSING.contains(*second), likely) {
                (true, _) | (_, false) => usize::from(likely),
                (false, true) => 2 - usize::from((3..=5).contains(&page)),
            }
        }
        (0 | 2..=6, _) => 2,
        (1, ['в', 'Ђ', _]) => 2,
        (7, ['√' | '¬', _] | ['‚', ..]) => 2,
        (8, ['├', _] | ['Γ', ..]) => 2,
        (7 | 8, [_, _]) => 1,
        _ => 1,
    }
}
