//! WGSL cut into words, signs and blanks.

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
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
    pub(super) fn text(&self) -> &'a str {
        match self {
            Piece::Word(text) | Piece::Other(text) | Piece::Blank(text) => text,
            Piece::Line => "\n",
        }
    }

    /// Whether it is neither blank nor a comment.
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Piece::Word(_) | Piece::Other(_))
    }
}

/// The pieces of `text`, which together are `text`.
pub(super) fn cut<'a>(text: &'a str) -> Vec<Piece<'a>> {
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

/// Names, keywords and numbers outside comments.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    cut(text).into_iter().filter_map(|piece| match piece {
        Piece::Word(word) => Some(word),
        _ => None,
    })
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
