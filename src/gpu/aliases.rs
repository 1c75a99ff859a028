//! Writes out the types that WGSL's `alias` names, so that no alias reaches a compiler.
//!
//! naga takes an alias for a type of its own. Where the type stands beside it, naga's HLSL defines the same helper
//! (`ZeroValuefloat4`, `Constructarray2_float4_`) once for each of the two, and DirectX's compilers refuse that.

use std::collections::HashMap;

/// `text` with each `alias NAME = TYPE;` gone and TYPE in place of NAME; every line keeps its number.
///
/// NAME is a whole word outside comments that is no member (`.NAME`) and is not declared there (`NAME:`).
///
/// # Errors
/// When an alias is not complete, stands twice, or is made of itself.
pub(super) fn write_out(text: &str) -> Result<String, String> {
    let pieces = cut(text);
    let mut aliases = HashMap::new();
    let mut rest = Vec::with_capacity(pieces.len());
    let mut at = 0;
    while let Some(&piece) = pieces.get(at) {
        if piece != Piece::Word("alias") {
            rest.push(piece);
            at += 1;
            continue;
        }
        let end = pieces[at..].iter().position(|p| *p == Piece::Other(";"));
        let declaration = &pieces[at + 1..end.map_or(pieces.len(), |end| at + end)];
        let mut written = declaration.iter().filter(|p| p.is_written());
        let (Some(&Piece::Word(name)), Some(Piece::Other("=")), Some(end)) = (written.next(), written.next(), end)
        else {
            return Err("expected alias NAME = TYPE;".into());
        };
        // A type that is written over several lines becomes part of one.
        let kind: Vec<_> = written.copied().collect();
        if kind.is_empty() {
            return Err(format!("alias {name} has no type"));
        }
        if aliases.insert(name, kind).is_some() {
            return Err(format!("alias {name} is declared twice"));
        }
        rest.extend(declaration.iter().filter(|p| **p == Piece::Line));
        at += end + 1;
    }
    if aliases.is_empty() {
        return Ok(text.to_owned());
    }
    let mut names: Vec<_> = aliases.keys().copied().collect();
    // The same message for the same text.
    names.sort_unstable();
    let mut types = HashMap::new();
    for name in names {
        let resolved = resolve(name, &aliases, aliases.len())?;
        types.insert(name, resolved);
    }
    Ok(replace(text.len(), &rest, &types))
}

/// The type of alias `name`; at most `depth` aliases deep.
fn resolve(name: &str, aliases: &HashMap<&str, Vec<Piece<'_>>>, depth: usize) -> Result<String, String> {
    if depth == 0 {
        return Err(format!("alias {name} is made of itself"));
    }
    let mut text = String::new();
    for piece in &aliases[name] {
        match piece {
            Piece::Word(word) if aliases.contains_key(word) => text.push_str(&resolve(word, aliases, depth - 1)?),
            // As naga and people write them.
            Piece::Other(",") => text.push_str(", "),
            piece => text.push_str(piece.text()),
        }
    }
    Ok(text)
}

/// Names, keywords and numbers outside comments.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    cut(text).into_iter().filter_map(|piece| match piece {
        Piece::Word(word) => Some(word),
        _ => None,
    })
}

fn replace(bytes: usize, pieces: &[Piece<'_>], types: &HashMap<&str, String>) -> String {
    let mut text = String::with_capacity(bytes + bytes / 4);
    let mut before = "";
    for (at, piece) in pieces.iter().enumerate() {
        let kind = match piece {
            Piece::Word(word) if before != "." => types.get(word),
            _ => None,
        };
        let declared = || pieces[at + 1..].iter().find(|p| p.is_written()) == Some(&Piece::Other(":"));
        match kind {
            Some(kind) if !declared() => text.push_str(kind),
            _ => text.push_str(piece.text()),
        }
        if piece.is_written() {
            before = piece.text();
        }
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    /// A name, a keyword or a number.
    Word(&'a str),
    /// One character that is none of the other kinds.
    Other(&'a str),
    /// Blanks, or a comment's part of one line.
    Blank(&'a str),
    /// The end of a line.
    Line,
}

impl<'a> Piece<'a> {
    fn text(&self) -> &'a str {
        match self {
            Piece::Word(text) | Piece::Other(text) | Piece::Blank(text) => text,
            Piece::Line => "\n",
        }
    }

    fn is_written(&self) -> bool {
        matches!(self, Piece::Word(_) | Piece::Other(_))
    }
}

fn cut<'a>(text: &'a str) -> Vec<Piece<'a>> {
    let mut pieces = Vec::with_capacity(text.len() / 3);
    let mut rest = text;
    // Block comments nest.
    let mut comments = 0;
    while let Some(first) = rest.chars().next() {
        let opens = rest.starts_with("/*");
        let length_of = |part: &dyn Fn(char) -> bool| rest.find(|c| !part(c)).unwrap_or(rest.len());
        let (length, make): (usize, fn(&'a str) -> Piece<'a>) = match first {
            '\n' => (1, |_: &'a str| Piece::Line),
            _ if opens || comments > 0 && rest.starts_with("*/") => {
                comments = if opens { comments + 1 } else { comments - 1 };
                (2, Piece::Blank)
            }
            _ if comments > 0 => (first.len_utf8(), Piece::Blank),
            _ if rest.starts_with("//") => (length_of(&|c| c != '\n'), Piece::Blank),
            c if is_part_of_word(c) => (length_of(&is_part_of_word), Piece::Word),
            c if c.is_whitespace() => (length_of(&|c| c.is_whitespace() && c != '\n'), Piece::Blank),
            c => (c.len_utf8(), Piece::Other),
        };
        pieces.push(make(&rest[..length]));
        rest = &rest[length..];
    }
    pieces
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let written = write_out(text).unwrap();
        assert_eq!(written.lines().count(), text.lines().count(), "{text:?}");
        written
    }

    #[test]
    fn an_alias_becomes_its_type_and_its_line_stays() {
        assert_eq!(written("alias x4 = vec4<f32>;\nvar a: array<x4>;\n"), "\nvar a: array<vec4<f32>>;\n");
        assert_eq!(
            written("let a = x4(x4(b));\n  alias x4=vec4 <f16> ; // why"),
            "let a = vec4<f16>(vec4<f16>(b));\n   // why"
        );
        let over_lines = "alias Pair =\n  array<x4, // two\n  2>;\nalias x4 = u32; let a = Pair(); let b: Pair = a;";
        assert_eq!(written(over_lines), "\n\n\n let a = array<u32, 2>(); let b: array<u32, 2> = a;");
        assert_eq!(written("fn f() { no_alias(); }"), "fn f() { no_alias(); }");
    }

    #[test]
    fn an_alias_of_an_alias_is_followed_to_its_end() {
        let text = "alias tile4 = k4;\nalias Pair = array<tile4, 2>;\nalias k4 = vec4<f16>;\nPair tile4 k4";
        assert_eq!(written(text), "\n\n\narray<vec4<f16>, 2> vec4<f16> vec4<f16>");
    }

    #[test]
    fn only_whole_words_outside_comments_are_types() {
        let text = "alias x4 = u32;\nx4_ _x4 ax4 x44 x4é x4 // x4\n/* x4 /* x4 */ x4\nalias x4 = i32; */ x4 /";
        assert_eq!(written(text), "\nx4_ _x4 ax4 x44 x4é u32 // x4\n/* x4 /* x4 */ x4\nalias x4 = i32; */ u32 /");
    }

    #[test]
    fn members_and_what_is_declared_keep_their_names() {
        let text = "alias x4 = u32;\nstruct S { x4: x4, y: x4 }\nfn f(s: S) -> x4 { return s.x4 + s . x4; }";
        assert_eq!(written(text), "\nstruct S { x4: u32, y: u32 }\nfn f(s: S) -> u32 { return s.x4 + s . x4; }");
    }

    #[test]
    fn aliases_without_a_type_are_errors() {
        for (text, message) in [
            ("alias", "expected alias NAME = TYPE;"),
            ("alias x4 = u32", "expected alias NAME = TYPE;"),
            ("alias x4 u32;", "expected alias NAME = TYPE;"),
            ("alias x4 = ;", "alias x4 has no type"),
            ("alias x4 = u32; alias x4 = u32;", "alias x4 is declared twice"),
            ("alias x4 = y4; alias y4 = array<x4, 2>;", "alias x4 is made of itself"),
        ] {
            assert_eq!(write_out(text).unwrap_err(), message, "{text:?}");
        }
    }
}
