//! Writes out the loops that FXC cannot compile.
//!
//! FXC, DX12's compiler where there is no `dxcompiler.dll`, unrolls a loop whose variable is the place in a local array or a vector. naga writes every
//! loop as `while(true)` with a flag for the first turn, in which FXC finds the number of turns by trying: a tiled product takes it 160 s, and then
//! the loop around the unrolled ones is refused (X3511). With those loops written out here, each turn with its variable as a constant, it takes 2 s.

use std::collections::{HashMap, HashSet};

use super::pieces::{Piece, cut};

/// More turns than any kernel's arrays have.
const MOST_TURNS: usize = 64;

/// `text`, WGSL without aliases, with each `for` written out that goes from one constant to another and whose variable is in the place of a local
/// array or vector. Loops that are left before their end stay.
pub fn unroll(text: &str) -> String {
    let pieces: Vec<Piece<'_>> =
        cut(text).into_iter().filter(|piece| !matches!(piece, Piece::Blank(t) if t.starts_with("//"))).collect();
    let names = Names::of(&pieces);
    let mut out = String::with_capacity(2 * text.len());
    names.write(&pieces, &mut out);
    out
}

/// What a module declares.
struct Names<'a> {
    constants: HashMap<&'a str, Vec<&'a str>>,
    globals: HashSet<&'a str>,
}

/// The pieces that are neither blank nor a comment, with their places.
fn written<'p, 'a>(pieces: &'p [Piece<'a>]) -> impl Iterator<Item = (usize, &'a str)> + Clone + 'p {
    pieces.iter().enumerate().filter(|(_, piece)| piece.is_written()).map(|(at, piece)| (at, piece.text()))
}

impl<'a> Names<'a> {
    fn of(pieces: &[Piece<'a>]) -> Self {
        let words: Vec<&str> = written(pieces).map(|(_, text)| text).collect();
        let mut names = Names { constants: HashMap::new(), globals: HashSet::new() };
        let mut depth = 0;
        for (at, &word) in words.iter().enumerate() {
            match word {
                "{" => depth += 1,
                "}" => depth -= 1,
                // `const NAME: u32 = VALUE;`
                "const" if depth == 0 => {
                    let end = words[at..].iter().position(|w| *w == ";").map_or(words.len(), |end| at + end);
                    if let [name, ":", "u32", "=", value @ ..] = &words[at + 1..end] {
                        names.constants.insert(name, value.to_vec());
                    }
                }
                // `var<SPACE> NAME: TYPE;`
                "var" if depth == 0 => {
                    let name = words[at..].iter().position(|w| *w == ">").and_then(|end| words.get(at + end + 1));
                    names.globals.extend(name);
                }
                _ => {}
            }
        }
        names
    }

    fn write(&self, pieces: &[Piece<'a>], out: &mut String) {
        let mut at = 0;
        while let Some(piece) = pieces.get(at) {
            let found = (*piece == Piece::Word("for")).then(|| Loop::at(&pieces[at..])).flatten();
            match found.and_then(|found| Some((self.turns(&found)?, found))) {
                Some((turns, found)) => {
                    for turn in turns {
                        out.push_str(&format!("{{ const {} = {turn}u; ", found.variable));
                        self.write(found.body, out);
                        out.push_str(" }");
                    }
                    at += found.len;
                }
                None => {
                    out.push_str(piece.text());
                    at += 1;
                }
            }
        }
    }

    /// The values of a loop's variable, if it is one to write out.
    fn turns(&self, found: &Loop<'_, 'a>) -> Option<Vec<u32>> {
        let [first, end, step] = [&found.first, &found.end, &found.step].map(|words| self.value(words, 0));
        let (first, end, step) = (first?, end?, usize::try_from(step?).ok().filter(|&step| step > 0)?);
        let turns: Vec<u32> = (first..end).step_by(step).collect();
        let leaves = written(found.body).any(|(_, word)| ["break", "continue"].contains(&word));
        (turns.len() <= MOST_TURNS && !leaves && self.is_place(found)).then_some(turns)
    }

    /// Whether the variable is part of what stands in the brackets behind a name that is not of the module.
    fn is_place(&self, found: &Loop<'_, 'a>) -> bool {
        let words: Vec<&str> = written(found.body).map(|(_, word)| word).collect();
        // Of each open bracket, whether a local array or vector is before it.
        let mut open: Vec<bool> = Vec::new();
        for (at, &word) in words.iter().enumerate() {
            match word {
                "[" => {
                    let mut base = at.saturating_sub(1);
                    while base >= 2 && words[base - 1] == "." {
                        base -= 2;
                    }
                    open.push(!self.globals.contains(words[base]));
                }
                "]" => {
                    open.pop();
                }
                word if word == found.variable && open.contains(&true) => return true,
                _ => {}
            }
        }
        false
    }

    /// The value of an expression of numbers and constants with `+ - * / % | ( )`, `min` and `max`.
    fn value(&self, words: &[&str], depth: usize) -> Option<u32> {
        // Constants are not made of themselves: WGSL forbids it, naga has checked.
        if depth > 32 {
            return None;
        }
        let mut rest = words;
        let value = self.sum(&mut rest, 0, depth)?;
        rest.is_empty().then_some(value)
    }

    /// Operators of at least `binding`, left to right.
    fn sum(&self, rest: &mut &[&str], binding: u8, depth: usize) -> Option<u32> {
        let mut left = self.operand(rest, depth)?;
        while let Some(&operator) = rest.first() {
            let strength = match operator {
                "|" => 1,
                "+" | "-" => 2,
                "*" | "/" | "%" => 3,
                _ => break,
            };
            if strength <= binding {
                break;
            }
            *rest = &rest[1..];
            let right = self.sum(rest, strength, depth)?;
            left = match operator {
                "|" => left | right,
                "+" => left.checked_add(right)?,
                "-" => left.checked_sub(right)?,
                "*" => left.checked_mul(right)?,
                "/" => left.checked_div(right)?,
                _ => left.checked_rem(right)?,
            };
        }
        Some(left)
    }

    fn operand(&self, rest: &mut &[&str], depth: usize) -> Option<u32> {
        let (&first, after) = rest.split_first()?;
        *rest = after;
        match first {
            "(" => {
                let value = self.sum(rest, 0, depth)?;
                Self::expect(rest, ")")?;
                Some(value)
            }
            "min" | "max" => {
                Self::expect(rest, "(")?;
                let one = self.sum(rest, 0, depth)?;
                Self::expect(rest, ",")?;
                let other = self.sum(rest, 0, depth)?;
                Self::expect(rest, ")")?;
                Some(if first == "min" { one.min(other) } else { one.max(other) })
            }
            name if self.constants.contains_key(name) => self.value(&self.constants[name], depth + 1),
            number => number.strip_suffix('u').unwrap_or(number).parse().ok(),
        }
    }

    fn expect(rest: &mut &[&str], word: &str) -> Option<()> {
        let (&first, after) = rest.split_first()?;
        *rest = after;
        (first == word).then_some(())
    }
}

/// `for (var VARIABLE = FIRST; VARIABLE < END; STEP) BODY`
struct Loop<'p, 'a> {
    variable: &'a str,
    first: Vec<&'a str>,
    end: Vec<&'a str>,
    step: Vec<&'a str>,
    /// From brace to brace.
    body: &'p [Piece<'a>],
    /// Pieces from `for` to the end of the body.
    len: usize,
}

impl<'p, 'a> Loop<'p, 'a> {
    /// The loop that begins with the first piece, if it is of that shape: `STEP` is `VARIABLE++` or `VARIABLE += NUMBER`.
    fn at(pieces: &'p [Piece<'a>]) -> Option<Self> {
        let mut depth = 0usize;
        let mut open = None;
        for (at, word) in written(pieces) {
            match word {
                "{" => {
                    open = open.or(Some(at));
                    depth += 1;
                }
                "}" => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        let open = open?;
                        return Self::of(&pieces[..open], &pieces[open..=at]);
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn of(head: &'p [Piece<'a>], body: &'p [Piece<'a>]) -> Option<Self> {
        let words: Vec<&str> = written(head).map(|(_, word)| word).collect();
        let ["for", "(", inner @ .., ")"] = words.as_slice() else {
            return None;
        };
        let parts: Vec<&[&str]> = inner.split(|word| *word == ";").collect();
        let [["var", variable, "=", first @ ..], [tested, "<", end @ ..], [stepped, step @ ..]] = parts.as_slice()
        else {
            return None;
        };
        let step = match step {
            ["+", "+"] => vec!["1u"],
            ["+", "=", step @ ..] => step.to_vec(),
            _ => return None,
        };
        let len = head.len() + body.len();
        let same = tested == variable && stepped == variable;
        same.then(|| Loop { variable, first: first.to_vec(), end: end.to_vec(), step, body, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "const N: u32 = 2u * M;\nconst M: u32 = max(1u, 3u % 2u);\nvar<workgroup> tile: array<u32, 8>;\n";

    /// What becomes of a function's body, without what does not matter.
    fn unrolled(body: &str) -> String {
        let text = unroll(&format!("{HEAD}fn f() {{ {body} }}"));
        let function = text.strip_prefix(HEAD).unwrap().strip_prefix("fn f() { ").unwrap().strip_suffix(" }").unwrap();
        function.to_owned()
    }

    #[test]
    fn a_loop_over_a_local_array_is_written_out() {
        let body = "for (var i = 0u; i < N; i++) { sums[2u * i].x += 1.0; } end();";
        assert_eq!(
            unrolled(body),
            "{ const i = 0u; { sums[2u * i].x += 1.0; } }{ const i = 1u; { sums[2u * i].x += 1.0; } } end();"
        );
        let steps = "for (var i = 1u; i < 2u * N + 1u; i += N) { a.b[i] = 0u; }";
        assert_eq!(unrolled(steps), "{ const i = 1u; { a.b[i] = 0u; } }{ const i = 3u; { a.b[i] = 0u; } }");
    }

    #[test]
    fn loops_in_loops_are_each_judged() {
        let body = "for (var i = 0u; i < count; i++) { for (var j = 0u; j < N; j++) { a[j] = tile[i]; } }";
        assert_eq!(
            unrolled(body),
            "for (var i = 0u; i < count; i++) { { const j = 0u; { a[j] = tile[i]; } }{ const j = 1u; { a[j] = tile[i]; } } }"
        );
        let around = "for (var i = 0u; i < N; i++) { for (var j = 0u; j < 1u; j++) { a[i][j] = 0u; } }";
        assert_eq!(unrolled(around).matches("a[i][j] = 0u;").count(), 2);
        assert!(!unrolled(around).contains("for"), "{}", unrolled(around));
    }

    #[test]
    fn other_loops_stay() {
        for body in [
            // A place in workgroup memory alone.
            "for (var i = 0u; i < N; i++) { sum += tile[i]; }",
            // Not of constants.
            "for (var i = local; i < N; i += 64u) { a[i] = 0u; }",
            "for (var i = 0u; i < quads; i++) { a[i] = 0u; }",
            // Left before the end.
            "for (var i = 0u; i < N; i++) { if (b) { continue; } a[i] = 0u; }",
            "for (var i = 0u; i < N; i++) { if (b) { break; } a[i] = 0u; }",
            // Of other shapes, or too long.
            "for (var i = N; i > 0u; i /= 2u) { a[i] = 0u; }",
            "for (var i = 0u; i < 65u; i++) { a[i] = 0u; }",
            "for (var i = 0u; i < 4u; i -= 1u) { a[i] = 0u; }",
            "loop { a[i] = 0u; }",
        ] {
            assert_eq!(unrolled(body), body);
        }
    }

    #[test]
    fn expressions_are_those_of_wgsl() {
        let pieces = cut(HEAD);
        let names = Names::of(&pieces);
        let value = |text: &str| {
            let pieces = cut(text);
            let words: Vec<&str> = written(&pieces).map(|(_, word)| word).collect();
            names.value(&words, 0)
        };
        for (text, expected) in [
            ("7u", Some(7)),
            ("2u + 3u * 4u - 1u", Some(13)),
            ("(2u + 3u) * 4u", Some(20)),
            ("9u - 4u - 3u", Some(2)),
            ("17u / 5u % 2u", Some(1)),
            ("N | 1u + 4u", Some(7)),
            ("min(N, max(M, 5u))", Some(2)),
            ("1u / 0u", None),
            ("1u - 2u", None),
            ("unknown", None),
            ("1u 2u", None),
            ("f(1u)", None),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }
}
