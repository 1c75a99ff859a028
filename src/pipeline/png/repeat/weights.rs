//! Weights in prompts as NovelAI and InvokeAI (compel) write them → as AUTOMATIC1111 and ComfyUI do.

/// What NovelAI's brackets are worth each.
const NOVELAI: f64 = 1.05;

/// `{a}` is 1.05 times as strong, `[a]` 1/1.05 times; round brackets are text. The result is in AUTOMATIC1111's syntax.
pub(super) fn from_novelai(text: &str, not_repeated: &mut Vec<String>) -> String {
    if text.contains("::") {
        not_repeated.push("weights of the form 1.2::text::".into());
    }
    let mut open: Vec<char> = Vec::new();
    let mut out = String::with_capacity(text.len() + 16);
    for sign in text.chars() {
        match sign {
            '(' | ')' | '\\' => out.extend(['\\', sign]),
            '{' | '[' => {
                open.push(sign);
                out.push('(');
            }
            '}' | ']' => match open.pop() {
                Some('{') if sign == '}' => out += &format!(":{NOVELAI})"),
                Some('[') if sign == ']' => out += &format!(":{:.6})", 1.0 / NOVELAI),
                // What does not fit has no meaning there either.
                Some(other) => open.push(other),
                None => {}
            },
            _ => out.push(sign),
        }
    }
    for bracket in open.into_iter().rev() {
        out += &match bracket {
            '{' => format!(":{NOVELAI})"),
            _ => format!(":{:.6})", 1.0 / NOVELAI),
        };
    }
    out
}

/// What a `+` and a `-` of compel are worth each.
const MORE: f64 = 1.1;
const LESS: f64 = 0.9;

/// `(a b)1.2`, `(a b)++`, `word+`, `word--`; brackets without a weight are text, and what is escaped stays so. The result is in ComfyUI's
/// syntax, whose arithmetic compel's is for weights above 1.
pub(super) fn from_compel(text: &str, not_repeated: &mut Vec<String>) -> String {
    for function in ["and", "blend", "swap"] {
        if text.contains(&format!(".{function}(")) {
            not_repeated.push(format!(".{function}() in the prompt"));
        }
    }
    let letters: Vec<char> = text.chars().collect();
    if letters.len() > MOST_LETTERS {
        return text.to_owned();
    }
    let (out, _, lowered) = phrase(&letters, 0, 0);
    if lowered {
        not_repeated.push("weights below 1 as compel applies them".into());
    }
    out
}

/// A longer prompt is refused anyway.
const MOST_LETTERS: usize = 32_768;

/// How deep brackets are read as brackets.
const MOST_DEEP: usize = 50;

/// From a place on to the end, or to the bracket that closes; whether there was a weight below 1.
fn phrase(letters: &[char], from: usize, depth: usize) -> (String, usize, bool) {
    let (mut out, mut at, mut lowered) = (String::new(), from, false);
    // Where the last word began in `out`.
    let mut word = 0;
    while let Some(&sign) = letters.get(at) {
        match sign {
            '\\' if at + 1 < letters.len() => {
                out.extend(&letters[at..at + 2]);
                at += 2;
            }
            ')' if depth > 0 => break,
            '(' if depth < MOST_DEEP && closes(letters, at) => {
                let (inner, end, low) = phrase(letters, at + 1, depth + 1);
                let (weight, after) = weight(letters, end + 1);
                lowered |= low || weight.is_some_and(|weight| weight < 1.0);
                word = out.len();
                out += &match weight {
                    Some(weight) => format!("({inner}:{})", rounded(weight)),
                    None => format!("\\({inner}\\)"),
                };
                at = after;
            }
            '(' | ')' => {
                out.extend(['\\', sign]);
                at += 1;
            }
            '+' | '-' if word < out.len() && ends_word(letters, at) => {
                let (weight, after) = weight(letters, at);
                let text = out.split_off(word);
                let weight = weight.unwrap_or(1.0);
                lowered |= weight < 1.0;
                out += &format!("({text}:{})", rounded(weight));
                word = out.len();
                at = after;
            }
            _ => {
                out.push(sign);
                at += 1;
                if sign.is_whitespace() || sign == ',' {
                    word = out.len();
                }
            }
        }
    }
    (out, at, lowered)
}

/// Whether a bracket is closed somewhere.
fn closes(letters: &[char], from: usize) -> bool {
    let mut depth = 0i64;
    let mut escaped = false;
    for &sign in &letters[from..] {
        match sign {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether signs of more or less stand at a word's end, rather than in it.
fn ends_word(letters: &[char], at: usize) -> bool {
    let sign = letters[at];
    let after = letters[at..].iter().find(|own| **own != sign);
    after.is_none_or(|after| after.is_whitespace() || matches!(after, ',' | ')' | '.'))
}

/// The weight that stands at a place, and what comes after it.
fn weight(letters: &[char], at: usize) -> (Option<f64>, usize) {
    let count = |sign: char| letters[at.min(letters.len())..].iter().take_while(|own| **own == sign).count();
    let (more, less) = (count('+'), count('-'));
    if more > 0 {
        return (Some(MORE.powi(more as i32)), at + more);
    }
    let digits: String =
        letters[at.min(letters.len())..].iter().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | '-')).collect();
    match digits.parse::<f64>() {
        Ok(weight) => (Some(weight), at + digits.len()),
        Err(_) if less > 0 => (Some(LESS.powi(less as i32)), at + less),
        Err(_) => (None, at),
    }
}

/// A weight without the noise of its arithmetic.
fn rounded(weight: f64) -> f64 {
    (weight * 1e6).round() / 1e6
}
